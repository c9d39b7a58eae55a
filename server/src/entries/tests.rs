//! Authorised entries: examples, a naive model, and how fast a change is seen.

use std::collections::HashSet;
use std::time::UNIX_EPOCH;

use hardroot_identity::Selector;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::datastore::{Entries, Node, Nodes, OUTAGE_STALENESS, SqlStore};

mod faults;
mod measure;
mod starts;
mod streams;

fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org{path}").parse().unwrap()
}

fn selectors(texts: &[&str]) -> Vec<Selector> {
    let mut selectors: Vec<Selector> = texts.iter().map(|text| text.parse().unwrap()).collect();
    selectors.sort();
    selectors.dedup();
    selectors
}

fn entry(name: &str, spiffe_id: &str, parent: &str, with: &[&str]) -> Entry {
    Entry {
        id: name.into(),
        spiffe_id: id(spiffe_id),
        parent_id: id(parent),
        selectors: selectors(with),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: vec![],
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: vec![],
        revision_number: 0,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

fn index(entries: &[Entry], nodes: &[(&str, &[&str])]) -> Index {
    let mut index = empty();
    for entry in entries {
        index.set_entry(1, &entry.id, Some(entry));
    }
    for (path, with) in nodes {
        index.set_node(&id(path), Some(&node(path, with)));
    }
    index
}

fn empty() -> Index {
    Index::new(TrustDomain::new("example.org").unwrap())
}

fn names(found: &[Held]) -> Vec<&str> {
    found.iter().map(|held| held.id()).collect()
}

/// An agent's entries as its view has them and as they are worked out from nothing: never another set.
fn authorized(index: &mut Index, agent: &SpiffeId) -> Vec<String> {
    let ids = |found: &Sorted| found.iter().map(|held| held.id().to_owned()).collect::<Vec<_>>();
    let seen = ids(&index.view(agent).unwrap().entries);
    let digest = index.view(agent).unwrap().digest;
    let view = index.view(agent).unwrap();
    view.stale = true;
    assert_eq!(seen, ids(&index.view(agent).unwrap().entries), "{agent}");
    assert_eq!(digest, index.view(agent).unwrap().digest, "{agent}");
    seen
}

const A: &str = "/spire/agent/a";
const B: &str = "/spire/agent/b";

#[test]
fn children_and_their_children() {
    let mut index = index(
        &[
            entry("1", "/w1", A, &["unix:uid:1"]),
            entry("2", "/w2", "/w1", &["unix:uid:2"]),
            entry("3", "/w3", "/w2", &["unix:uid:3"]),
            entry("4", "/w4", B, &["unix:uid:4"]),
        ],
        &[],
    );
    assert_eq!(authorized(&mut index, &id(A)), ["1", "2", "3"]);
    assert_eq!(authorized(&mut index, &id(B)), ["4"]);
    assert!(authorized(&mut index, &id("/spire/agent/c")).is_empty());
}

#[test]
fn an_alias_counts_when_all_its_selectors_are_the_nodes() {
    let mut index = index(
        &[
            entry("alias", "/rack", "/spire/server", &["tpm:v:x", "tpm:m:y"]),
            entry("w", "/w", "/rack", &["unix:uid:1"]),
            entry("below", "/below", "/w", &["unix:uid:2"]),
        ],
        &[
            (A, &["tpm:m:y", "tpm:v:x", "tpm:f:1"]),
            (B, &["tpm:v:x"]),
            ("/spire/agent/c", &["tpm:m:y", "other:v:x"]),
        ],
    );
    assert_eq!(authorized(&mut index, &id(A)), ["below", "w"], "without the alias itself");
    assert!(authorized(&mut index, &id(B)).is_empty());
    assert!(authorized(&mut index, &id("/spire/agent/c")).is_empty());
    assert!(index.find(&id(A), "alias").is_none());
    assert_eq!(index.find(&id(A), "below").unwrap().id(), "below");
    assert!(index.find(&id(B), "w").is_none());
}

#[test]
fn cycles_end() {
    let mut index = index(
        &[
            entry("1", "/x", A, &["unix:uid:1"]),
            entry("2", "/y", "/x", &["unix:uid:1"]),
            entry("3", "/x", "/y", &["unix:uid:2"]),
            entry("4", "/self", "/self", &["unix:uid:2"]),
        ],
        &[],
    );
    assert_eq!(authorized(&mut index, &id(A)), ["1", "2", "3"]);
    assert!(index.find(&id(A), "4").is_none());
    assert_eq!(authorized(&mut index, &id("/self")), ["4"]);
}

#[test]
fn another_trust_domains_entries_are_left_out() {
    let foreign = |parent: &str, own: &str| Entry {
        parent_id: parent.parse().unwrap(),
        spiffe_id: own.parse().unwrap(),
        ..entry("f", "/w", A, &["unix:uid:1"])
    };
    for odd in [
        foreign("spiffe://other.test/spire/agent/a", "spiffe://example.org/w"),
        foreign("spiffe://example.org/spire/agent/a", "spiffe://other.test/w"),
    ] {
        let mut index = index(&[odd], &[]);
        assert!(authorized(&mut index, &id(A)).is_empty());
        assert!(authorized(&mut index, &"spiffe://other.test/spire/agent/a".parse().unwrap()).is_empty());
        assert!(index.find(&id(A), "f").is_none());
        assert_eq!(index.len(), 0);
    }
}

#[test]
fn an_entry_that_changes_moves_and_one_that_goes_leaves_nothing() {
    let mut index = index(&[entry("1", "/w", A, &["unix:uid:1"])], &[(B, &["t:1"])]);
    index.set_entry(2, "1", Some(&entry("1", "/w", B, &["unix:uid:1"])));
    assert!(authorized(&mut index, &id(A)).is_empty());
    assert_eq!(authorized(&mut index, &id(B)), ["1"]);
    index.set_entry(2, "1", Some(&entry("1", "/w", "/spire/server", &["t:1"])));
    index.set_entry(2, "2", Some(&entry("2", "/w2", "/w", &["unix:uid:1"])));
    assert_eq!(authorized(&mut index, &id(B)), ["2"]);
    index.set_node(&id(B), None);
    assert!(authorized(&mut index, &id(B)).is_empty(), "an evicted node's aliases end with it");
    index.set_entry(3, "1", None);
    index.set_entry(3, "2", None);
    assert!(index.is_bare());
}

/// The definition, word for word and slow.
fn naive(entries: &[Entry], agent: &SpiffeId, node: &[Selector]) -> Vec<String> {
    let own = |entry: &Entry| {
        entry.spiffe_id.trust_domain_name() == "example.org"
            && entry.parent_id.trust_domain_name() == "example.org"
    };
    let is_alias = |entry: &Entry| entry.parent_id == id("/spire/server");
    let mut parents: HashSet<SpiffeId> = HashSet::from([agent.clone()]);
    for alias in entries.iter().filter(|e| own(e) && is_alias(e)) {
        if alias.selectors.iter().all(|s| node.contains(s)) {
            parents.insert(alias.spiffe_id.clone());
        }
    }
    loop {
        let before = parents.len();
        for entry in entries.iter().filter(|e| own(e) && !is_alias(e)) {
            if parents.contains(&entry.parent_id) {
                parents.insert(entry.spiffe_id.clone());
            }
        }
        if parents.len() == before {
            break;
        }
    }
    let mut found: Vec<_> = entries
        .iter()
        .filter(|e| own(e) && !is_alias(e) && parents.contains(&e.parent_id))
        .map(|e| e.id.clone())
        .collect();
    found.sort();
    found
}

fn some_id() -> impl Strategy<Value = SpiffeId> {
    prop_oneof![
        6 => (0..6_u8).prop_map(|n| id(&format!("/w{n}"))),
        1 => Just("spiffe://other.test/w0".parse().unwrap()),
    ]
}

fn some_selectors(min: usize) -> impl Strategy<Value = Vec<Selector>> {
    proptest::sample::subsequence(&["t:a", "t:b", "t:c", "u:a"][..], min..=4)
        .prop_map(|texts| selectors(&texts))
}

fn some_entry() -> impl Strategy<Value = Entry> {
    let parent = prop_oneof![
        2 => Just(id(A)),
        1 => Just(id(B)),
        3 => Just(id("/spire/server")),
        4 => some_id(),
    ];
    (some_id(), parent, some_selectors(1)).prop_map(|(spiffe_id, parent_id, selectors)| Entry {
        spiffe_id,
        parent_id,
        selectors,
        ..entry("", "/w", A, &[])
    })
}

proptest! {
    #[test]
    fn agrees_with_the_model_also_after_changes(
        made in proptest::collection::vec(some_entry(), 0..16),
        steps in proptest::collection::vec(step(), 0..12),
        node_a in some_selectors(0),
        node_b in proptest::option::of(some_selectors(0)),
        asked_between in any::<bool>(),
    ) {
        let mut index = empty();
        let mut model: Vec<Entry> = vec![];
        for (n, made) in made.into_iter().enumerate() {
            let made = Entry { id: format!("e{n:02}"), ..made };
            index.set_entry(0, &made.id, Some(&made));
            model.push(made);
        }
        let agents = [A, B, "/w1"];
        let mut nodes = vec![Some(node_a), node_b, None];
        for (path, with) in agents.iter().zip(&nodes) {
            index.set_node(&id(path), with.as_ref().map(|with| Node { selectors: with.clone(), ..node(path, &[]) }).as_ref());
        }
        for step in steps {
            if asked_between {
                // Views are there and must follow.
                for path in agents {
                    index.view(&id(path)).unwrap();
                }
            }
            match step {
                Step::Entry(n, new) => {
                    let name = format!("e{n:02}");
                    let new = new.map(|new| Entry { id: name.clone(), ..new });
                    index.set_entry(1, &name, new.as_ref());
                    model.retain(|entry| entry.id != name);
                    model.extend(new);
                }
                Step::Node(n, with) => {
                    let new = with.clone().map(|with| Node { selectors: with, ..node(agents[n], &[]) });
                    index.set_node(&id(agents[n]), new.as_ref());
                    nodes[n] = with;
                }
            }
            for (path, with) in agents.iter().zip(&nodes) {
                let agent = id(path);
                let expected = naive(&model, &agent, &with.clone().unwrap_or_default());
                prop_assert_eq!(authorized(&mut index, &agent), expected.clone());
                for n in 0..16 {
                    let name = format!("e{n:02}");
                    prop_assert_eq!(index.find(&agent, &name).is_some(), expected.contains(&name), "{} {}", agent, name);
                }
            }
        }
        for entry in &model {
            let held = index.entry(&entry.id);
            prop_assert!(held.is_none_or(|held| held.entry().as_ref() == Some(entry)), "it comes out as it went in");
            index.set_entry(2, &entry.id, None);
        }
        for path in agents {
            index.set_node(&id(path), None);
        }
        index.clean();
        index.clean();
        prop_assert!(index.is_bare(), "nothing is left of what went");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Entry(usize, Option<Entry>),
    Node(usize, Option<Vec<Selector>>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..16_usize, proptest::option::of(some_entry())).prop_map(|(n, entry)| Step::Entry(n, entry)),
        1 => (0..2_usize, proptest::option::of(some_selectors(0))).prop_map(|(n, with)| Step::Node(n, with)),
    ]
}

struct Fixture {
    store: Arc<SqlStore>,
    entries: Arc<AuthorizedEntries>,
    dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqlStore::open_file(dir.path().join("db")).await.unwrap());
    let entries =
        AuthorizedEntries::load(store.clone(), TrustDomain::new("example.org").unwrap(), OUTAGE_STALENESS)
            .await
            .unwrap();
    Fixture { store, entries, dir }
}

fn node(path: &str, with: &[&str]) -> Node {
    Node {
        id: id(path),
        attestation_type: "t".into(),
        serial_number: "1".into(),
        expires_at: UNIX_EPOCH,
        new_serial_number: String::new(),
        new_expires_at: None,
        can_reattest: true,
        agent_version: String::new(),
        selectors: selectors(with),
    }
}

#[tokio::test]
async fn a_write_of_this_process_is_seen_by_the_next_question() {
    let f = fixture().await;
    let (made, _) = f.store.create_entry(entry("", "/w", A, &["unix:uid:1"])).await.unwrap();
    f.entries.current().await.unwrap();
    assert_eq!(names(&f.entries.of(&id(A))), [made.id.as_str()]);
    f.store.create_entry(entry("alias", "/rack", "/spire/server", &["t:1"])).await.unwrap();
    f.store.create_entry(entry("below", "/x", "/rack", &["unix:uid:1"])).await.unwrap();
    f.store.attested(node(B, &["t:1"]), None).await.unwrap();
    f.entries.current().await.unwrap();
    assert_eq!(names(&f.entries.of(&id(B))), ["below"]);
    assert_eq!(names(&f.entries.read().with_spiffe_id(&id("/rack"))), ["alias"]);
    f.store.delete_node(&id(B)).await.unwrap();
    f.store.delete_entry(&made.id).await.unwrap();
    f.entries.current().await.unwrap();
    assert!(f.entries.of(&id(A)).is_empty() && f.entries.of(&id(B)).is_empty());
    assert_eq!(f.entries.len(), 2);
}

#[tokio::test]
async fn another_processs_write_is_seen_within_a_second() {
    let f = fixture().await;
    let stop = CancellationToken::new();
    let follower = tokio::spawn({
        let (entries, stop) = (f.entries.clone(), stop.clone());
        async move { entries.follow(stop).await }
    });
    let other = SqlStore::open_file(f.dir.path().join("db")).await.unwrap();
    let mut wake = f.entries.subscribe();
    other.create_entry(entry("e", "/w", A, &["unix:uid:1"])).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), wake.changed()).await.unwrap().unwrap();
    assert_eq!(names(&f.entries.of(&id(A))), ["e"]);
    stop.cancel();
    follower.await.unwrap();
}

/// Fault 45: entries go and come again under their old ids while this server follows, in steps and in leaps.
#[tokio::test]
async fn churn_converges() {
    const ENTRIES: usize = 1_500;
    let f = fixture().await;
    let other = SqlStore::open_file(f.dir.path().join("db")).await.unwrap();
    let made = |n: usize, round: usize| Entry {
        created_at: i64::try_from(round).unwrap(),
        ..entry(&format!("e{n}"), &format!("/w{n}/{round}"), A, &["unix:uid:1"])
    };
    other.create_entries((0..ENTRIES).map(|n| made(n, 0)).collect()).await;
    for round in 1..4 {
        // A third of them at a time, another one each round, and the first few in every round.
        let those: Vec<usize> = (0..ENTRIES).filter(|n| *n < 5 || n % 3 == round % 3).take(120).collect();
        for (turn, n) in those.iter().enumerate() {
            other.delete_entry(&format!("e{n}")).await.unwrap();
            if turn % 40 == 7 {
                f.entries.refresh().await.unwrap();
                assert!(f.entries.find(&id(A), &format!("e{n}")).is_none());
            }
        }
        let again = those.iter().map(|n| made(*n, round)).collect();
        assert!(other.create_entries(again).await.iter().all(|outcome| !outcome.as_ref().unwrap().1));
    }
    f.entries.refresh().await.unwrap();
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let anew = AuthorizedEntries::load(f.store.clone(), trust_domain, OUTAGE_STALENESS).await.unwrap();
    let sorted = |entries: &AuthorizedEntries| {
        let mut all: Vec<Entry> = entries.of(&id(A)).iter().map(|held| held.entry().unwrap()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    };
    assert_eq!(sorted(&f.entries).len(), ENTRIES);
    assert_eq!(sorted(&f.entries), sorted(&anew));
    let first = f.entries.find(&id(A), "e0").unwrap();
    assert_eq!((first.spiffe_id.path(), first.created_at), ("/w0/3", 3));
    assert_ne!(first.revision_number, 0, "it is told from the one that went");
}

#[tokio::test]
async fn a_database_that_fails_leaves_what_is_in_memory_for_a_while() {
    let f = fixture().await;
    f.store.create_entry(entry("e", "/w", A, &["unix:uid:1"])).await.unwrap();
    f.entries.current().await.unwrap();
    f.store.close().await;
    let silent_for = async |age: Duration| {
        *f.entries.answered.lock().unwrap() = Instant::now().checked_sub(age).unwrap();
    };
    silent_for(Duration::from_secs(60)).await;
    f.entries.current().await.unwrap();
    assert_eq!(names(&f.entries.of(&id(A))), ["e"]);
    silent_for(OUTAGE_STALENESS + Duration::from_secs(1)).await;
    let error = f.entries.current().await.unwrap_err();
    assert!(matches!(error, EntriesError::Stale { .. }), "{error}");
}
