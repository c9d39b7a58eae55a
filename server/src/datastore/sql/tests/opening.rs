use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

#[tokio::test]
async fn files_are_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, b"").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let store = SqlStore::open_file(&path).await.unwrap();
    store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let file = dir.path().join(format!("db{suffix}"));
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{}", file.display());
    }
    store.close().await;
    assert!(!dir.path().join("db-wal").exists(), "a clean stop folds the WAL into the file");
}

async fn many_may_open_a_fresh_database_at_once(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let config = on.database(dir.path());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let config = config.clone();
        tasks.spawn(async move {
            let store = SqlStore::open(&config).await.unwrap();
            store.create_entry(entry(&format!("/e{n}"), "/p", &["unix:uid:1"])).await.unwrap();
            store
        });
    }
    let stores = tasks.join_all().await;
    assert_eq!(stores[0].count_entries(&crate::datastore::EntryFilter::default()).await.unwrap(), 6);
}

fn set_version(on: On, version: i64) -> String {
    match on {
        On::Sqlite => format!("PRAGMA user_version = {version}"),
        _ => format!("UPDATE hardroot_schema SET version = {version}"),
    }
}

async fn a_newer_schema_is_refused_and_left_alone(on: On) {
    let f = Fixture::new(on).await;
    f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    f.sql(&set_version(on, 99)).await;
    for _ in 0..2 {
        let error = SqlStore::open(&f.config).await.unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 99, .. }), "{error}");
    }
    f.sql(&set_version(on, migrations::SCHEMA_VERSION)).await;
    let store = SqlStore::open(&f.config).await.unwrap();
    assert_eq!(store.count_entries(&crate::datastore::EntryFilter::default()).await.unwrap(), 1);
}

async fn an_older_schema_is_refused_when_it_shall_stay(on: On) {
    let f = Fixture::new(on).await;
    let last = migrations::SCHEMA_VERSION - 1;
    f.sql(&set_version(on, last)).await;
    let config = DatabaseConfig { disable_migration: true, ..f.config.clone() };
    let error = SqlStore::open(&config).await.unwrap_err();
    assert!(matches!(error, StoreError::OlderSchema { found, .. } if found == last), "{error}");
    assert!(error.to_string().contains("datastore migrate"));
    let dir = tempfile::tempdir().unwrap();
    let empty = DatabaseConfig { disable_migration: true, ..on.database(dir.path()) };
    SqlStore::open(&empty).await.expect("an empty database is no older one");
}

/// A step that was cut short where DDL commits by itself is run again from its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_cut_short_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let config = On::MariaDb.database(dir.path());
    let store = SqlStore::open(&config).await.unwrap();
    let tables = "SELECT count(*) AS n FROM information_schema.tables WHERE table_schema = database()";
    let mut session = store.pools.writer("look").await.unwrap();
    let whole = session.number("look", sql(tables)).await.unwrap();
    session.script("tamper", "DROP TABLE counters").await.unwrap();
    session.script("tamper", "DROP TABLE changes").await.unwrap();
    session.script("tamper", "UPDATE hardroot_schema SET version = 0").await.unwrap();
    let again = SqlStore::open(&config).await.unwrap();
    assert_eq!(session.number("look", sql(tables)).await.unwrap(), whole);
    again.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
}

async fn who_looks_changes_nothing(on: On) {
    let dir = tempfile::tempdir().unwrap();
    assert!(SqlStore::look(&on.database(dir.path())).await.unwrap().is_none());
    let f = Fixture::new(on).await;
    f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let looking = SqlStore::look(&f.config).await.unwrap().unwrap();
    assert_eq!(whole(&looking).await.entries.len(), 1);
    looking.create_entry(entry("/b", "/p", &["unix:uid:1"])).await.unwrap_err();
    looking.put_bundle(&td("a.test"), b"x", None).await.unwrap_err();
    assert_eq!(whole(&f.store).await.entries.len(), 1);
    assert_eq!(f.store.bundle(&td("a.test")).await.unwrap(), None);
    f.sql(&set_version(on, migrations::SCHEMA_VERSION - 1)).await;
    let older = SqlStore::look(&f.config).await.unwrap_err();
    assert!(older.to_string().contains("datastore migrate"), "{older}");
}

async fn another_programs_database_is_refused(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let config = on.database(dir.path());
    let pools = Pools::open(&config).await.unwrap();
    let mut session = pools.writer("make").await.unwrap();
    session.script("make", "CREATE TABLE registered_entries (id INTEGER)").await.unwrap();
    drop(session);
    pools.close().await;
    assert!(matches!(SqlStore::open(&config).await, Err(StoreError::Foreign)));
}

#[tokio::test]
async fn a_file_of_the_first_schema_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let config = On::Sqlite.database(dir.path());
    let pools = Pools::open(&config).await.unwrap();
    let mut session = pools.writer("make").await.unwrap();
    for text in [
        include_str!("../migrations/sqlite/0001_first.sql"),
        "PRAGMA application_id = 0x48617264; PRAGMA user_version = 1",
        "INSERT INTO bundles VALUES ('a.test', x'6f6e65', 4)",
        "INSERT INTO nodes VALUES (1, 'spiffe://example.org/spire/agent/a', 'tpm_quote', '7', 2000000000, '', NULL, 1, '')",
        "INSERT INTO node_records VALUES ('tpm_quote', 'ek1', 1, x'6f6e65')",
        "INSERT INTO changes (seq, kind, key) VALUES (41, 1, 'spiffe://example.org/spire/agent/a')",
    ] {
        session.script("make", text).await.unwrap();
    }
    drop(session);
    pools.close().await;
    let store = SqlStore::open(&config).await.unwrap();
    assert_eq!(store.bundle(&td("a.test")).await.unwrap(), Some((b"one".to_vec(), 4)));
    assert_eq!(store.node_record("tpm_quote", "ek1").await.unwrap().unwrap().data, b"one");
    assert_eq!(store.entries_version().await.unwrap(), 41, "caches find their place again");
    store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    assert_eq!(store.changes_since(41).await.unwrap().changed.unwrap().len(), 1);
}

#[tokio::test]
async fn no_database_at_all_is_an_error_with_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, b"this is a text file, long enough to have a header of a hundred bytes, which it is not; no, really not, is it").unwrap();
    assert!(matches!(SqlStore::open_file(&path).await, Err(StoreError::Database { .. })));
    assert!(std::fs::read(&path).unwrap().starts_with(b"this is a text"), "left alone");
    let error = SqlStore::open_file(dir.path().join("no/such/dir/db")).await.unwrap_err();
    let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(chain.contains("no/such/dir/db"), "{chain}");
}

on_every_engine! {
    many_may_open_a_fresh_database_at_once,
    a_newer_schema_is_refused_and_left_alone,
    an_older_schema_is_refused_when_it_shall_stay,
    who_looks_changes_nothing,
    another_programs_database_is_refused,
}
