use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

#[tokio::test]
async fn files_are_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, b"").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let file = dir.path().join(format!("db{suffix}"));
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{}", file.display());
    }
    store.close().await;
    assert!(!dir.path().join("db-wal").exists(), "a clean stop folds the WAL into the file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_open_a_fresh_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let path = path.clone();
        tasks.spawn(async move {
            let store = SqliteStore::open(&path).await.unwrap();
            store.create_entry(entry(&format!("/e{n}"), "/p", &["unix:uid:1"])).await.unwrap();
            store
        });
    }
    let stores = tasks.join_all().await;
    assert_eq!(stores[0].count_entries(&crate::datastore::EntryFilter::default()).await.unwrap(), 6);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let mut f = Fixture::new().await;
    f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    f.sql("PRAGMA user_version = 99").await;
    f.store.close().await;
    let error = SqliteStore::open(&f.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 99, .. }), "{error}");
    let again = SqliteStore::open(&f.path()).await.unwrap_err();
    assert!(matches!(again, StoreError::NewerSchema { found: 99, .. }));
    f.dir.path().metadata().unwrap();
    f.store = Fixture::new().await.store;
}

#[tokio::test]
async fn another_programs_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE registered_entries (id INTEGER)").execute(&pool).await.unwrap();
    pool.close().await;
    assert!(matches!(SqliteStore::open(&path).await, Err(StoreError::Foreign)));
}

#[tokio::test]
async fn no_database_at_all_is_an_error_with_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, b"this is a text file, long enough to have a header of a hundred bytes, which it is not; no, really not, is it").unwrap();
    assert!(matches!(SqliteStore::open(&path).await, Err(StoreError::Database { .. })));
    assert!(std::fs::read(&path).unwrap().starts_with(b"this is a text"), "left alone");
    let error = SqliteStore::open(&dir.path().join("no/such/dir/db")).await.unwrap_err();
    let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(chain.contains("no/such/dir/db"), "{chain}");
}
