//! Fault 9: a replica that lags answers operators' lists and nothing else. Here it lags for ever: it is another,
//! empty database.

use super::*;
use crate::datastore::{EntryFilter, JoinToken, JoinTokens, Journals, NodeFilter, Page, Redeemed};

async fn with_replica(on: On) -> SqlStore {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, replica) = (on.database(dir.path()), on.database(dir.path()));
    SqlStore::open(&replica).await.unwrap().close().await;
    if let (Place::Server(server), Place::Server(replica)) = (&mut config.place, replica.place) {
        server.replica = Some(replica.primary);
    }
    SqlStore::open(&config).await.unwrap()
}

async fn what_decides_something_reads_the_primary(on: On) {
    let store = with_replica(on).await;
    let (made, _) = store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let n = node("/spire/agent/a", "1", &["tpm_quote:a"]);
    store.attested(n.clone(), None).await.unwrap();
    let decides = EntryFilter { spiffe_id: Some(made.spiffe_id.clone()), ..EntryFilter::default() };
    assert_eq!(store.list_entries(&decides, &Page::default()).await.unwrap().0, std::slice::from_ref(&made));
    assert_eq!(store.entry(&made.id).await.unwrap(), Some(made.clone()));
    assert!(
        store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap().1,
        "the similar one is seen"
    );
    assert_eq!(store.node(&n.id).await.unwrap(), Some(n.clone()));
    assert_eq!(store.list_nodes(&NodeFilter::default(), &Page::default()).await.unwrap().0, [n]);
    let snapshot = whole(&store).await;
    assert_eq!((snapshot.entries, snapshot.nodes.len()), (vec![made], 1));
    assert_eq!(store.entries_version().await.unwrap(), snapshot.version);
    assert_eq!(store.changes_since(0).await.unwrap().changed.unwrap().len(), 2);
    store.put_bundle(&td("a.test"), b"x", None).await.unwrap();
    assert!(store.bundle(&td("a.test")).await.unwrap().is_some());
    assert_eq!(store.list_bundles().await.unwrap().len(), 1);
    store.put_journal(None, b"x", "a").await.unwrap();
    assert!(store.find_journal(&["a".into()]).await.unwrap().is_some());
    store.create_join_token(&JoinToken { value: "t".into(), expires_at: at(1_000) }).await.unwrap();
    assert_eq!(store.redeem_join_token("t", "k", at(1)).await.unwrap(), Redeemed::First);
    // Whoever says that the past will do gets the replica's.
    let looks = EntryFilter { may_lag: true, ..decides };
    assert!(store.list_entries(&looks, &Page::default()).await.unwrap().0.is_empty());
    assert_eq!(store.count_entries(&looks).await.unwrap(), 0);
    let looks = NodeFilter { may_lag: true, ..NodeFilter::default() };
    assert!(store.list_nodes(&looks, &Page::default()).await.unwrap().0.is_empty());
    assert_eq!(store.count_nodes(&looks).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    what_decides_something_reads_the_primary(On::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    what_decides_something_reads_the_primary(On::MariaDb).await;
}
