//! Status, backup, restore.

use std::os::unix::fs::MetadataExt as _;

use hardroot_node_attestors::{Enrolment, NodeRecord};

use super::*;
use crate::datastore::{
    Administration, BundleEndpointProfile, EntryFilter, FederationRelationship, FederationRelationships,
    JoinToken, JoinTokens, Journals, KeyRecords, Page, Redeemed, TpmEnrolments,
};

async fn filled(on: On) -> Fixture {
    let f = Fixture::new(on).await;
    f.store.take_lease(&instances::lease("of the source", at(100)), None, at(70)).await.unwrap();
    f.store.put_bundle(&td("a.test"), b"\x00\xffbundle", None).await.unwrap();
    for n in 0..5 {
        let made = Entry {
            federates_with: vec![td("a.test")],
            dns_names: vec!["z.test".into(), "a.test".into()],
            hint: format!("\u{1F511} {n}"),
            ..entry(&format!("/e{n}"), "/p", &["unix:uid:1", "unix:user:a "])
        };
        f.store.create_entry(made).await.unwrap();
    }
    let n = node("/spire/agent/a", "7", &["tpm_quote:a"]);
    let record = NodeRecord { key: "ek".into(), data: vec![0, 1, 255] };
    f.store.attested(n.clone(), Some(record)).await.unwrap();
    f.store.node_renewed(&n.id, "7", "8", at(99)).await.unwrap();
    f.store.create_join_token(&JoinToken { value: "t".into(), expires_at: at(1_000) }).await.unwrap();
    f.store.redeem_join_token("t", "k", at(1)).await.unwrap();
    f.store.put_journal(None, b"journal", "authority").await.unwrap();
    let enrolment = Enrolment { ek_hash: "a".repeat(64), agent_path: None, note: "rack".into() };
    f.store.enrol(&enrolment, at(5)).await.unwrap();
    let relationship = FederationRelationship {
        trust_domain: td("a.test"),
        bundle_endpoint_url: "https://a.test/b".into(),
        profile: BundleEndpointProfile::HttpsWeb,
    };
    f.store.create_relationship(&relationship, None).await.unwrap();
    let row = f.store.intend_key(&instances::record("x509-CA-A")).await.unwrap();
    f.store.key_made(row, &"b".repeat(64)).await.unwrap();
    f.store.intend_key(&instances::record("x509-CA-B")).await.unwrap();
    f
}

/// Everything that can be read.
async fn content(store: &SqlStore) -> String {
    let entries = store.list_entries(&EntryFilter::default(), &Page::default()).await.unwrap();
    let node = store.node(&id("/spire/agent/a")).await.unwrap();
    let record = store.node_record("tpm_quote", "ek").await.unwrap();
    let bundle = store.bundle(&td("a.test")).await.unwrap();
    let journal = store.find_journal(&["authority".into()]).await.unwrap();
    let enrolments = store.list_enrolments().await.unwrap();
    let relationships = store.list_relationships(&Page::default()).await.unwrap();
    let token = store.redeem_join_token("t", "k", at(1)).await.unwrap();
    let keys = store.key_records(instances::INSTANCE).await.unwrap();
    format!(
        "{entries:?} {node:?} {record:?} {bundle:?} {journal:?} {enrolments:?} {relationships:?} {token:?} {keys:?}"
    )
}

async fn a_backup_of_any_engine_fills_any_other(on: On) {
    let f = filled(on).await;
    let before = content(&f.store).await;
    let file = f.dir.path().join("backup");
    let admin = Administration::open(&f.config, false).await.unwrap();
    let mut told = Vec::new();
    let archived =
        admin.backup(&file, 77, &mut |table, rows| told.push((table.to_owned(), rows))).await.unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert!(told.contains(&("entry_selectors".to_owned(), 10)), "{told:?}");
    let twice = admin.backup(&file, 77, &mut |_, _| {}).await.unwrap_err();
    assert!(twice.to_string().contains("is there already"), "{twice}");
    for target in [On::Sqlite, On::Postgres, On::MariaDb] {
        let dir = tempfile::tempdir().unwrap();
        let config = target.database(dir.path());
        let other = Administration::open(&config, true).await.unwrap();
        assert_eq!(other.restore(&file, false, &mut |_, _| {}).await.unwrap(), archived);
        let store = SqlStore::open(&config).await.unwrap();
        assert_eq!(content(&store).await, before, "{on:?} to {target:?}");
        // What is made from now on comes after what came along.
        let (made, _) = store.create_entry(entry("/new", "/p", &["unix:uid:9"])).await.unwrap();
        let (all, _) = store.list_entries(&EntryFilter::default(), &Page::default()).await.unwrap();
        assert_eq!(all.last().map(|entry| &entry.id), Some(&made.id));
        store.attested(node("/spire/agent/new", "1", &[]), None).await.unwrap();
        store.put_journal(None, b"x", "y").await.unwrap();
        store.intend_key(&instances::record("x509-CA-A")).await.unwrap();
        let (lease, now) = (instances::lease("of the target", at(100)), at(90));
        assert_eq!(store.take_lease(&lease, None, now).await.unwrap(), None, "leases are in no backup");
        let full = other.restore(&file, false, &mut |_, _| {}).await.unwrap_err();
        assert!(full.to_string().contains("is not empty"), "{full}");
        other.restore(&file, true, &mut |_, _| {}).await.unwrap();
        assert_eq!(content(&store).await, before, "replaced");
        let other_process = instances::lease("another", at(100));
        let holder = store.take_lease(&other_process, None, now).await.unwrap();
        assert_eq!(holder, Some(lease), "who runs now goes on running");
        let changes = store.changes_since(archived.changes).await.unwrap();
        assert!(changes.changed.is_none(), "caches read everything again");
    }
}

async fn a_file_that_is_not_whole_touches_nothing(on: On) {
    let f = filled(on).await;
    let file = f.dir.path().join("backup");
    let admin = Administration::open(&f.config, false).await.unwrap();
    admin.backup(&file, 77, &mut |_, _| {}).await.unwrap();
    let before = content(&f.store).await;
    let whole = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let without = |n: usize| {
        let kept: Vec<_> = lines.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, line)| *line).collect();
        kept.join("\n") + "\n"
    };
    for (what, bad) in [
        ("no header", without(0)),
        ("a row is missing", without(3)),
        ("the end is missing", without(lines.len() - 1)),
        ("a row was changed", whole.replace("/e2", "/x2")),
        (
            "another schema",
            whole.replacen(&format!("\"schema\":{}", migrations::SCHEMA_VERSION), "\"schema\":9", 1),
        ),
        ("an unknown table", whole.replacen("\"t\":\"nodes\"", "\"t\":\"users\"", 1)),
        ("cut short", whole[..whole.len() - 20].to_owned()),
        ("something after the end", format!("{whole}{}\n", lines[1])),
        ("no backup", "SQLite format 3\n".to_owned()),
        ("empty", String::new()),
    ] {
        std::fs::write(&file, bad).unwrap();
        let error = admin.restore(&file, true, &mut |_, _| {}).await.expect_err(what);
        assert!(matches!(error, StoreError::Invalid { .. }), "{what}: {error}");
        assert_eq!(content(&f.store).await, before, "{what}");
    }
}

async fn status_tells_what_is_there(on: On) {
    let f = filled(on).await;
    let admin = Administration::open(&f.config, false).await.unwrap();
    let status = admin.status().await.unwrap();
    assert_eq!(
        (status.schema, status.known_schema),
        (migrations::SCHEMA_VERSION, migrations::SCHEMA_VERSION)
    );
    assert!(status.bytes > 0 && status.changes == 8, "{status:?}");
    assert!(status.rows.contains(&("entry_selectors", 10)) && status.rows.contains(&("nodes", 1)));
    assert!(!status.server_version.is_empty() && !status.place.contains(Postgres::PASSWORD));
    let dir = tempfile::tempdir().unwrap();
    let empty = Administration::open(&on.database(dir.path()), true).await.unwrap();
    let status = empty.status().await.unwrap();
    assert_eq!((status.schema, status.rows.len()), (0, 0));
    assert_eq!(empty.migrate().await.unwrap(), (0, migrations::SCHEMA_VERSION));
    assert_eq!(empty.migrate().await.unwrap(), (migrations::SCHEMA_VERSION, migrations::SCHEMA_VERSION));
}

#[tokio::test]
async fn a_sqlite_database_can_be_copied_while_it_is_used() {
    let f = filled(On::Sqlite).await;
    let copy = f.dir.path().join("copy");
    let admin = Administration::open(&f.config, false).await.unwrap();
    admin.copy_file(&copy).await.unwrap();
    assert_eq!(copy.metadata().unwrap().mode() & 0o777, 0o600);
    let store = SqlStore::open_file(&copy).await.unwrap();
    assert_eq!(content(&store).await, content(&f.store).await);
    assert_eq!(store.redeem_join_token("t", "other", at(1)).await.unwrap(), Redeemed::ByAnother);
}

/// A server has a clock, of this machine here; a file has none.
async fn the_clock_of_a_database_server_is_read(on: On) {
    let f = Fixture::new(on).await;
    let admin = Administration::open(&f.config, false).await.unwrap();
    let before = std::time::SystemTime::now() - Duration::from_secs(1);
    let shown = admin.clock().await.unwrap();
    assert_eq!(shown.is_some(), on != On::Sqlite);
    let after = std::time::SystemTime::now() + Duration::from_secs(1);
    assert!(shown.is_none_or(|shown| before <= shown && shown <= after), "{shown:?}");
}

on_every_engine! {
    a_backup_of_any_engine_fills_any_other,
    a_file_that_is_not_whole_touches_nothing,
    status_tells_what_is_there,
    the_clock_of_a_database_server_is_read,
}
