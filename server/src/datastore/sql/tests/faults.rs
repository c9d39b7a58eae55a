//! A full disk, and a database that is gone.

use hardroot_emulators::{Line, TcpProxy};

use super::*;
use crate::datastore::EntryFilter;

/// Fault 11: what was stored stays, what cannot be stored says so, and it goes on when there is room again.
#[tokio::test]
async fn a_full_disk_loses_nothing() {
    let mut f = Fixture::new(On::Sqlite).await;
    let pages = f.number("SELECT page_count AS n FROM pragma_page_count").await;
    let limit = async |pages: i64| {
        let mut session = f.store.pools.writer("limit").await.unwrap();
        session.script("limit", &format!("PRAGMA max_page_count = {pages}")).await.unwrap();
    };
    limit(pages + 6).await;
    let mut made = 0;
    let error = loop {
        match f.store.create_entry(entry(&format!("/e{made}"), "/p", &["unix:uid:1"])).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(matches!(error, StoreError::NoRoom { .. }) && chain.contains("full"), "{chain}");
    // The limit belongs to a connection, and one that SQLite rolled back by itself is not used again.
    limit(pages + 6).await;
    let full = f.store.attested(node("/spire/agent/a", "1", &[&"tpm_quote:x".repeat(200_000)]), None).await;
    assert!(matches!(full, Err(StoreError::NoRoom { .. })), "{full:?}");
    assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), made, "reads go on");
    limit(1_000_000).await;
    f.store.create_entry(entry("/more", "/p", &["unix:uid:1"])).await.unwrap();
    f.restart().await;
    let snapshot = whole(&f.store).await;
    assert_eq!((snapshot.entries.len() as u64, snapshot.damaged.len()), (made + 1, 0), "nothing half done");
    assert_eq!(f.store.entries_version().await.unwrap(), i64::try_from(made).unwrap() + 1);
}

/// A store whose line to the server can be cut.
async fn on_a_line(on: On) -> (SqlStore, TcpProxy) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = on.database(dir.path());
    let Place::Server(server) = &mut config.place else { panic!("a file has no line") };
    let Host::Tcp { name, port } = &server.primary.host else { panic!("no address") };
    let proxy = TcpProxy::start(format!("{name}:{port}").parse().unwrap()).unwrap();
    let address = proxy.address();
    server.primary.host = Host::Tcp { name: address.ip().to_string(), port: address.port() };
    (SqlStore::open(&config).await.unwrap(), proxy)
}

async fn an_outage_is_told_at_once_and_heals_by_itself(on: On) {
    let (store, line) = on_a_line(on).await;
    let n = node("/spire/agent/a", "1", &["tpm_quote:a"]);
    store.attested(n.clone(), None).await.unwrap();
    store.node(&n.id).await.unwrap();
    line.set(Line::Cut);
    assert!(matches!(store.node(&n.id).await, Err(StoreError::Away { .. })));
    let before = (line.accepted(), std::time::Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let (store, id) = (store.clone(), n.id.clone());
        tasks.spawn(async move { store.node(&id).await });
    }
    let done = tasks.join_all().await;
    assert!(done.iter().all(|done| matches!(done, Err(StoreError::Away { .. }))));
    let (connections, took) = (line.accepted() - before.0, before.1.elapsed());
    assert!(connections < 40 && took < Duration::from_secs(8), "{connections} connections, {took:?}");
    line.set(Line::Up);
    // The pause between two tries is over; a connection of before may still be found broken.
    for _ in 0..10 {
        store.pools.end_pause();
        if store.node(&n.id).await.is_ok() {
            break;
        }
    }
    assert_eq!(store.node(&n.id).await.unwrap(), Some(n));
}

mod postgres {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_outage_is_told_at_once_and_heals_by_itself() {
        super::an_outage_is_told_at_once_and_heals_by_itself(On::Postgres).await;
    }
}

mod mariadb {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_outage_is_told_at_once_and_heals_by_itself() {
        super::an_outage_is_told_at_once_and_heals_by_itself(On::MariaDb).await;
    }
}
