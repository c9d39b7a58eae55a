//! A row that was tampered with or half lost is refused, and the others are served.

use super::*;
use crate::datastore::{EntryFilter, NodeFilter, Page};

async fn a_damaged_entry_is_refused_named_and_can_be_deleted_or_repaired(on: On) {
    for tamper in [
        "UPDATE entries SET spiffe_id = 'spiffe://EXAMPLE.org/a' WHERE entry_id = 'bad'",
        "UPDATE entries SET parent_id = '' WHERE entry_id = 'bad'",
        "UPDATE entries SET admin = 2 WHERE entry_id = 'bad'",
        "UPDATE entries SET x509_svid_ttl = -1 WHERE entry_id = 'bad'",
        "UPDATE entries SET jwt_svid_ttl = 99999999999 WHERE entry_id = 'bad'",
        "UPDATE entries SET revision_number = -1 WHERE entry_id = 'bad'",
        "DELETE FROM entry_selectors WHERE entry = (SELECT id FROM entries WHERE entry_id = 'bad')",
        "UPDATE entry_selectors SET kind = 'a:b' WHERE entry = (SELECT id FROM entries WHERE entry_id = 'bad')",
        "UPDATE entry_selectors SET value = '' WHERE entry = (SELECT id FROM entries WHERE entry_id = 'bad')",
        "INSERT INTO entry_federates SELECT id, 'NOT A DOMAIN' FROM entries WHERE entry_id = 'bad'",
    ] {
        let f = Fixture::new(on).await;
        let (good, _) = f.store.create_entry(entry("/good", "/p", &["unix:uid:1"])).await.unwrap();
        let bad = Entry { id: "bad".into(), ..entry("/bad", "/p", &["unix:uid:2"]) };
        f.store.create_entry(bad.clone()).await.unwrap();
        f.sql(tamper).await;
        let error = f.store.entry("bad").await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged { what: "entry", key, .. } if key == "bad"),
            "{tamper}: {error}"
        );
        let list = f.store.list_entries(&EntryFilter::default(), &Page::default()).await;
        assert!(matches!(list, Err(StoreError::Damaged { .. })), "{tamper}");
        let snapshot = whole(&f.store).await;
        assert_eq!((snapshot.entries, snapshot.damaged.len()), (vec![good], 1), "{tamper}");
        if !tamper.contains("revision_number") {
            f.store.update_entry(bad, &EntryMask::ALL).await.unwrap();
            assert!(f.store.entry("bad").await.unwrap().is_some(), "{tamper}: a whole update repairs it");
        }
        f.store.delete_entry("bad").await.unwrap();
        assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), 1);
    }
}

async fn a_damaged_node_is_refused_and_can_be_deleted(on: On) {
    for tamper in [
        "UPDATE nodes SET serial_number = 'abc'",
        "UPDATE nodes SET new_serial_number = '-1'",
        "UPDATE nodes SET serial_number = '', new_serial_number = '5'",
        "UPDATE nodes SET expires_at = -5",
        "UPDATE nodes SET can_reattest = 7",
        "UPDATE node_selectors SET value = ''",
    ] {
        let f = Fixture::new(on).await;
        let n = node("/spire/agent/a", "1", &["tpm_quote:vendor:a"]);
        f.store.attested(n.clone(), None).await.unwrap();
        f.sql(tamper).await;
        assert!(
            matches!(f.store.node(&n.id).await, Err(StoreError::Damaged { what: "agent", .. })),
            "{tamper}"
        );
        let list = f.store.list_nodes(&NodeFilter::default(), &Page::default()).await;
        assert!(matches!(list, Err(StoreError::Damaged { .. })));
        let snapshot = whole(&f.store).await;
        assert!(snapshot.nodes.is_empty() && snapshot.damaged.len() == 1);
        f.store.delete_node(&n.id).await.unwrap();
        assert_eq!(f.store.node(&n.id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn columns_keep_their_types() {
    let f = Fixture::new(On::Sqlite).await;
    f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let mut session = f.store.pools.writer("tamper").await.unwrap();
    let odd = session.script("tamper", "UPDATE entries SET spiffe_id = x'00ff'").await;
    assert!(odd.is_err(), "a STRICT table takes no blob for a text");
}

async fn damaged_bundles_and_enrolments_are_named(on: On) {
    use crate::datastore::TpmEnrolments;
    let f = Fixture::new(on).await;
    let zero = if on == On::Postgres { r"'\x00'" } else { "x'00'" };
    f.sql(&format!("INSERT INTO bundles VALUES ('Not A Domain', {zero}, 1)")).await;
    assert!(matches!(f.store.list_bundles().await, Err(StoreError::Damaged { what: "bundle", .. })));
    f.sql(
        "INSERT INTO tpm_enrolments (ek_hash, agent_path, note, created_at) VALUES ('aa', 'no-slash', '', 1)",
    )
    .await;
    let read = f.store.enrolment("aa").await;
    assert!(matches!(read, Err(StoreError::Damaged { what: "TPM enrolment", .. })), "{read:?}");
}

on_every_engine! {
    a_damaged_entry_is_refused_named_and_can_be_deleted_or_repaired,
    a_damaged_node_is_refused_and_can_be_deleted,
    damaged_bundles_and_enrolments_are_named,
}
