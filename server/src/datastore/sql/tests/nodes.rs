use hardroot_node_attestors::NodeRecord;

use super::*;
use crate::datastore::{EntryFilter, NodeFilter, Page};

const N: &str = "/spire/agent/tpm_quote/aa";

fn record(key: &str, data: &str) -> Option<NodeRecord> {
    Some(NodeRecord { key: key.into(), data: data.into() })
}

async fn attestation_replaces_everything_at_once(on: On) {
    let mut f = Fixture::new(on).await;
    let first = node(N, "1", &["tpm_quote:vendor:a", "tpm_quote:vendor:a", "tpm_quote:model:b"]);
    f.store.attested(first.clone(), record("ek1", "one")).await.unwrap();
    f.store.set_agent_version(&first.id, "1.0").await.unwrap();
    f.store.node_renewed(&first.id, "1", "2", at(5)).await.unwrap();
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

async fn a_banned_node_stays_banned_until_it_is_deleted(on: On) {
    let f = Fixture::new(on).await;
    let n = node(N, "1", &["tpm_quote:vendor:a"]);
    f.store.attested(n.clone(), record("ek1", "one")).await.unwrap();
    f.store.node_renewed(&n.id, "1", "2", at(5)).await.unwrap();
    f.store.ban_node(&n.id).await.unwrap();
    let read = f.store.node(&n.id).await.unwrap().unwrap();
    assert!(read.is_banned() && read.new_serial_number.is_empty() && read.new_expires_at.is_none());
    let again = Node { selectors: vec![], serial_number: "9".into(), ..n.clone() };
    assert!(matches!(f.store.attested(again, record("ek1", "evil")).await, Err(StoreError::Banned { .. })));
    assert_eq!(f.store.node(&n.id).await.unwrap(), Some(read), "nothing of a refused attestation stays");
    assert_eq!(f.store.node_record("tpm_quote", "ek1").await.unwrap(), record("ek1", "one"));
    let renewed = f.store.node_renewed(&n.id, "1", "3", at(6)).await;
    assert!(matches!(renewed, Err(StoreError::Banned { .. })), "{renewed:?}");
    f.store.promote_serial(&n.id, "2").await.unwrap();
    assert!(f.store.node(&n.id).await.unwrap().unwrap().is_banned(), "a serial of before does not unban");
    f.store.delete_node(&n.id).await.unwrap();
    assert_eq!(f.store.node_record("tpm_quote", "ek1").await.unwrap(), None);
    f.store.attested(n.clone(), None).await.unwrap();
    assert!(!f.store.node(&n.id).await.unwrap().unwrap().is_banned());
}

async fn at_most_two_serials_live(on: On) {
    let f = Fixture::new(on).await;
    let n = node(N, "10", &[]);
    f.store.attested(n.clone(), None).await.unwrap();
    let serials = async || {
        let n = f.store.node(&n.id).await.unwrap().unwrap();
        (n.serial_number, n.new_serial_number)
    };
    f.store.node_renewed(&n.id, "10", "11", at(50)).await.unwrap();
    assert_eq!(serials().await, ("10".into(), "11".into()));
    // The answer was lost: the agent renews again with its old certificate.
    f.store.node_renewed(&n.id, "10", "12", at(60)).await.unwrap();
    assert_eq!(serials().await, ("10".into(), "12".into()));
    f.store.promote_serial(&n.id, "11").await.unwrap();
    assert_eq!(serials().await, ("10".into(), "12".into()), "11 is not pending any more");
    f.store.promote_serial(&n.id, "12").await.unwrap();
    assert_eq!(serials().await, ("12".into(), String::new()));
    // A renewal with the old certificate that was on its way meanwhile takes nothing back.
    let late = f.store.node_renewed(&n.id, "10", "13", at(70)).await;
    assert!(matches!(late, Err(StoreError::Conflict { what: "agent", .. })), "{late:?}");
    assert_eq!(serials().await, ("12".into(), String::new()));
    let read = f.store.node(&n.id).await.unwrap().unwrap();
    assert_eq!((read.expires_at, read.new_expires_at), (at(60), None));
    f.store.promote_serial(&n.id, "12").await.unwrap();
    f.store.promote_serial(&n.id, "").await.unwrap();
    assert_eq!(serials().await, ("12".into(), String::new()), "once is enough");
}

async fn calls_on_unknown_nodes_say_so(on: On) {
    let f = Fixture::new(on).await;
    let n = id("/spire/agent/none");
    assert!(matches!(f.store.ban_node(&n).await, Err(StoreError::NotFound { what: "agent", .. })));
    assert!(matches!(f.store.delete_node(&n).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(f.store.node_renewed(&n, "1", "2", at(1)).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(f.store.set_agent_version(&n, "1").await, Err(StoreError::NotFound { .. })));
    f.store.promote_serial(&n, "1").await.unwrap();
    let no_serial = node(N, "", &[]);
    assert!(matches!(f.store.attested(no_serial, None).await, Err(StoreError::Invalid { .. })));
}

async fn an_evicted_join_token_node_takes_its_token_and_alias_along(on: On) {
    use crate::datastore::{JoinToken, JoinTokens, Redeemed};
    let f = Fixture::new(on).await;
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

async fn a_new_serial_is_promoted_once_whoever_comes_first(on: On) {
    let f = Fixture::new(on).await;
    let other = f.another().await;
    let n = node(N, "1", &[]);
    f.store.attested(n.clone(), None).await.unwrap();
    f.store.node_renewed(&n.id, "1", "2", at(50)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for k in 0..12 {
        let (store, id) = (if k % 2 == 0 { f.store.clone() } else { other.clone() }, n.id.clone());
        tasks.spawn(async move { store.promote_serial(&id, "2").await.unwrap() });
    }
    tasks.join_all().await;
    let read = f.store.node(&n.id).await.unwrap().unwrap();
    assert_eq!((read.serial_number.as_str(), read.new_serial_number.as_str()), ("2", ""));
}

async fn agents_that_are_over_leave_and_nobody_else(on: On) {
    let f = Fixture::new(on).await;
    let made = |path: &str, ends: u64, again: bool| Node {
        expires_at: at(ends),
        can_reattest: again,
        ..node(path, "1", &["a:b"])
    };
    for agent in [
        made("/spire/agent/x509pop/over", 10, true),
        made("/spire/agent/x509pop/fresh", 100, true),
        made("/spire/agent/x509pop/renewed", 10, true),
        made("/spire/agent/x509pop/banned", 10, true),
        made("/spire/agent/join_token/once", 11, false),
    ] {
        f.store.attested(agent, None).await.unwrap();
    }
    f.store.node_renewed(&id("/spire/agent/x509pop/renewed"), "1", "2", at(100)).await.unwrap();
    f.store.ban_node(&id("/spire/agent/x509pop/banned")).await.unwrap();
    let version = f.store.entries_version().await.unwrap();
    let gone = f.store.prune_nodes(at(50), false, 10).await.unwrap();
    assert_eq!(gone, [id("/spire/agent/x509pop/over")]);
    assert_ne!(f.store.entries_version().await.unwrap(), version, "caches are told");
    assert_eq!(f.store.prune_nodes(at(50), false, 10).await.unwrap(), []);
    assert_eq!(f.store.prune_nodes(at(50), true, 10).await.unwrap(), [id("/spire/agent/join_token/once")]);
    assert_eq!(f.store.count_nodes(&NodeFilter::default()).await.unwrap(), 3);
    for n in 0..5 {
        f.store.attested(made(&format!("/spire/agent/x509pop/n{n}"), 20, true), None).await.unwrap();
    }
    assert_eq!(f.store.prune_nodes(at(50), false, 2).await.unwrap().len(), 2, "a batch at a time");
}

on_every_engine! {
    agents_that_are_over_leave_and_nobody_else,
    attestation_replaces_everything_at_once,
    a_banned_node_stays_banned_until_it_is_deleted,
    at_most_two_serials_live,
    calls_on_unknown_nodes_say_so,
    an_evicted_join_token_node_takes_its_token_and_alias_along,
    a_new_serial_is_promoted_once_whoever_comes_first,
}
