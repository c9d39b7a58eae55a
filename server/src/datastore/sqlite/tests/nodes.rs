use hardroot_node_attestors::NodeRecord;

use super::*;
use crate::datastore::{EntryFilter, NodeFilter, Page};

const N: &str = "/spire/agent/tpm_quote/aa";

fn record(key: &str, data: &str) -> Option<NodeRecord> {
    Some(NodeRecord { key: key.into(), data: data.into() })
}

#[tokio::test]
async fn attestation_replaces_everything_at_once() {
    let mut f = Fixture::new().await;
    let first = node(N, "1", &["tpm_quote:vendor:a", "tpm_quote:vendor:a", "tpm_quote:model:b"]);
    f.store.attested(first.clone(), record("ek1", "one")).await.unwrap();
    f.store.set_agent_version(&first.id, "1.0").await.unwrap();
    f.store.node_renewed(&first.id, "2", at(5)).await.unwrap();
    let again = node(N, "3", &["tpm_quote:vendor:z"]);
    f.store.attested(again.clone(), record("ek2", "two")).await.unwrap();
    f.restart().await;
    let read = f.store.node(&again.id).await.unwrap().unwrap();
    assert_eq!(read, Node { agent_version: "1.0".into(), ..again }, "no pending serial, old selectors gone");
    assert_eq!(f.store.node_record("tpm_quote", "ek1").await.unwrap(), None);
    assert_eq!(f.store.node_record("tpm_quote", "ek2").await.unwrap(), record("ek2", "two"));
    assert_eq!(f.store.node_record("x509pop", "ek2").await.unwrap(), None);
    assert_eq!(f.store.node(&id("/spire/agent/none")).await.unwrap(), None);
}

#[tokio::test]
async fn a_banned_node_stays_banned_until_it_is_deleted() {
    let f = Fixture::new().await;
    let n = node(N, "1", &["tpm_quote:vendor:a"]);
    f.store.attested(n.clone(), record("ek1", "one")).await.unwrap();
    f.store.node_renewed(&n.id, "2", at(5)).await.unwrap();
    f.store.ban_node(&n.id).await.unwrap();
    let read = f.store.node(&n.id).await.unwrap().unwrap();
    assert!(read.is_banned() && read.new_serial_number.is_empty() && read.new_expires_at.is_none());
    let again = Node { selectors: vec![], serial_number: "9".into(), ..n.clone() };
    assert!(matches!(
        f.store.attested(again, record("ek1", "evil")).await,
        Err(StoreError::Conflict { what: "agent", .. })
    ));
    assert_eq!(f.store.node(&n.id).await.unwrap(), Some(read), "nothing of a refused attestation stays");
    assert_eq!(f.store.node_record("tpm_quote", "ek1").await.unwrap(), record("ek1", "one"));
    assert!(matches!(f.store.node_renewed(&n.id, "3", at(6)).await, Err(StoreError::Conflict { .. })));
    f.store.promote_serial(&n.id, "2").await.unwrap();
    assert!(f.store.node(&n.id).await.unwrap().unwrap().is_banned(), "a serial of before does not unban");
    f.store.delete_node(&n.id).await.unwrap();
    assert_eq!(f.store.node_record("tpm_quote", "ek1").await.unwrap(), None);
    f.store.attested(n.clone(), None).await.unwrap();
    assert!(!f.store.node(&n.id).await.unwrap().unwrap().is_banned());
}

#[tokio::test]
async fn at_most_two_serials_live() {
    let f = Fixture::new().await;
    let n = node(N, "10", &[]);
    f.store.attested(n.clone(), None).await.unwrap();
    let serials = async || {
        let n = f.store.node(&n.id).await.unwrap().unwrap();
        (n.serial_number, n.new_serial_number)
    };
    f.store.node_renewed(&n.id, "11", at(50)).await.unwrap();
    assert_eq!(serials().await, ("10".into(), "11".into()));
    // The answer was lost: the agent renews again with its old certificate.
    f.store.node_renewed(&n.id, "12", at(60)).await.unwrap();
    assert_eq!(serials().await, ("10".into(), "12".into()));
    f.store.promote_serial(&n.id, "11").await.unwrap();
    assert_eq!(serials().await, ("10".into(), "12".into()), "11 is not pending any more");
    f.store.promote_serial(&n.id, "12").await.unwrap();
    assert_eq!(serials().await, ("12".into(), String::new()));
    let read = f.store.node(&n.id).await.unwrap().unwrap();
    assert_eq!((read.expires_at, read.new_expires_at), (at(60), None));
    f.store.promote_serial(&n.id, "12").await.unwrap();
    f.store.promote_serial(&n.id, "").await.unwrap();
    assert_eq!(serials().await, ("12".into(), String::new()), "once is enough");
}

#[tokio::test]
async fn calls_on_unknown_nodes_say_so() {
    let f = Fixture::new().await;
    let n = id("/spire/agent/none");
    assert!(matches!(f.store.ban_node(&n).await, Err(StoreError::NotFound { what: "agent", .. })));
    assert!(matches!(f.store.delete_node(&n).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(f.store.node_renewed(&n, "1", at(1)).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(f.store.set_agent_version(&n, "1").await, Err(StoreError::NotFound { .. })));
    f.store.promote_serial(&n, "1").await.unwrap();
    let no_serial = node(N, "", &[]);
    assert!(matches!(f.store.attested(no_serial, None).await, Err(StoreError::Invalid { .. })));
}

#[tokio::test]
async fn an_evicted_join_token_node_takes_its_token_and_alias_along() {
    use crate::datastore::{JoinToken, JoinTokens, Redeemed};
    let f = Fixture::new().await;
    let agent = "/spire/agent/join_token/secret";
    let own = format!("spiffe_id:spiffe://example.org{agent}");
    let token = JoinToken { value: "secret".into(), expires_at: at(1_000) };
    f.store.create_join_token(&token).await.unwrap();
    f.store.redeem_join_token("secret", "k", at(1)).await.unwrap();
    f.store
        .attested(Node { attestation_type: "join_token".into(), ..node(agent, "1", &[]) }, None)
        .await
        .unwrap();
    f.store.create_entry(entry("/alias", agent, &[&own])).await.unwrap();
    let (workload, _) = f.store.create_entry(entry("/workload", agent, &["unix:uid:1"])).await.unwrap();
    let (both, _) = f.store.create_entry(entry("/both", agent, &["unix:uid:1", &own])).await.unwrap();
    f.store.delete_node(&id(agent)).await.unwrap();
    let (left, _) = f.store.list_entries(&EntryFilter::default(), &Page::default()).await.unwrap();
    assert_eq!(left, [workload, both], "entries that people made stay");
    assert_eq!(f.store.redeem_join_token("secret", "k", at(2)).await.unwrap(), Redeemed::Unknown);
    // Another attestor's node with such an entry keeps it.
    let other = "/spire/agent/x509pop/a";
    let own = format!("spiffe_id:spiffe://example.org{other}");
    f.store
        .attested(Node { attestation_type: "x509pop".into(), ..node(other, "1", &[]) }, None)
        .await
        .unwrap();
    f.store.create_entry(entry("/alias2", other, &[&own])).await.unwrap();
    f.store.delete_node(&id(other)).await.unwrap();
    assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), 3);
    assert_eq!(f.store.count_nodes(&NodeFilter::default()).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_serial_is_promoted_once_whoever_comes_first() {
    let f = Fixture::new().await;
    let other = f.another().await;
    let n = node(N, "1", &[]);
    f.store.attested(n.clone(), None).await.unwrap();
    f.store.node_renewed(&n.id, "2", at(50)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for k in 0..12 {
        let (store, id) = (if k % 2 == 0 { f.store.clone() } else { other.clone() }, n.id.clone());
        tasks.spawn(async move { store.promote_serial(&id, "2").await.unwrap() });
    }
    tasks.join_all().await;
    let read = f.store.node(&n.id).await.unwrap().unwrap();
    assert_eq!((read.serial_number.as_str(), read.new_serial_number.as_str()), ("2", ""));
}
