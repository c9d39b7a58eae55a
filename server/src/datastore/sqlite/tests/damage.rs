//! A row that was tampered with or half lost is refused, and the others are served.

use super::*;
use crate::datastore::{EntryFilter, NodeFilter, Page};

#[tokio::test]
async fn a_damaged_entry_is_refused_named_and_can_be_deleted_or_repaired() {
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
        let f = Fixture::new().await;
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
        let snapshot = f.store.snapshot().await.unwrap();
        assert_eq!((snapshot.entries, snapshot.damaged.len()), (vec![good], 1), "{tamper}");
        if !tamper.contains("revision_number") {
            f.store.update_entry(bad, &EntryMask::ALL).await.unwrap();
            assert!(f.store.entry("bad").await.unwrap().is_some(), "{tamper}: a whole update repairs it");
        }
        f.store.delete_entry("bad").await.unwrap();
        assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_damaged_node_is_refused_and_can_be_deleted() {
    for tamper in [
        "UPDATE nodes SET serial_number = 'abc'",
        "UPDATE nodes SET new_serial_number = '-1'",
        "UPDATE nodes SET serial_number = '', new_serial_number = '5'",
        "UPDATE nodes SET expires_at = -5",
        "UPDATE nodes SET can_reattest = 7",
        "UPDATE node_selectors SET value = ''",
    ] {
        let f = Fixture::new().await;
        let n = node("/spire/agent/a", "1", &["tpm_quote:vendor:a"]);
        f.store.attested(n.clone(), None).await.unwrap();
        f.sql(tamper).await;
        assert!(
            matches!(f.store.node(&n.id).await, Err(StoreError::Damaged { what: "agent", .. })),
            "{tamper}"
        );
        let list = f.store.list_nodes(&NodeFilter::default(), &Page::default()).await;
        assert!(matches!(list, Err(StoreError::Damaged { .. })));
        let snapshot = f.store.snapshot().await.unwrap();
        assert!(snapshot.node_selectors.is_empty() && snapshot.damaged.len() == 1);
        f.store.delete_node(&n.id).await.unwrap();
        assert_eq!(f.store.node(&n.id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn columns_keep_their_types() {
    let f = Fixture::new().await;
    f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let odd = sqlx::raw_sql("UPDATE entries SET spiffe_id = x'00ff'").execute(&f.store.writer).await;
    assert!(odd.is_err(), "a STRICT table takes no blob for a text");
}

#[tokio::test]
async fn damaged_bundles_and_enrolments_are_named() {
    use crate::datastore::TpmEnrolments;
    let f = Fixture::new().await;
    f.sql("INSERT INTO bundles VALUES ('Not A Domain', x'00', 1)").await;
    assert!(matches!(f.store.list_bundles().await, Err(StoreError::Damaged { what: "bundle", .. })));
    f.sql(
        "INSERT INTO tpm_enrolments (ek_hash, agent_path, note, created_at) VALUES ('aa', 'no-slash', '', 1)",
    )
    .await;
    let read = f.store.enrolment("aa").await;
    assert!(matches!(read, Err(StoreError::Damaged { what: "TPM enrolment", .. })), "{read:?}");
}
