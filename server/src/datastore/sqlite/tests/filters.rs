//! List filters against a naive model.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::datastore::{EntryFilter, Match, NodeFilter, Page};

const SELECTORS: [&str; 4] = ["unix:uid:1", "unix:uid:2", "unix:gid:1", "k8s:ns:a"];
const DOMAINS: [&str; 3] = ["a.test", "b.test", "c.test"];

fn matches<T: Ord>(have: &BTreeSet<T>, want: &BTreeSet<T>, how: Match) -> bool {
    !have.is_empty()
        && match how {
            Match::Exact => have == want,
            Match::Subset => have.is_subset(want),
            Match::Superset => have.is_superset(want),
            Match::Any => !have.is_disjoint(want),
        }
}

fn set<T: Clone + Ord>(items: &[T]) -> BTreeSet<T> {
    items.iter().cloned().collect()
}

fn how() -> impl Strategy<Value = Match> {
    prop_oneof![Just(Match::Exact), Just(Match::Subset), Just(Match::Superset), Just(Match::Any)]
}

fn some_selectors(min: usize) -> impl Strategy<Value = Vec<Selector>> {
    proptest::sample::subsequence(&SELECTORS[..], min..=SELECTORS.len()).prop_map(|texts| selectors(&texts))
}

fn some_domains(min: usize) -> impl Strategy<Value = Vec<TrustDomain>> {
    proptest::sample::subsequence(&DOMAINS[..], min..=DOMAINS.len())
        .prop_map(|names| names.into_iter().map(td).collect())
}

fn some_entry() -> impl Strategy<Value = Entry> {
    (0..3_u8, 0..3_u8, some_selectors(1), some_domains(0), 0..3_u8, any::<bool>()).prop_map(
        |(spiffe_id, parent, selectors, federates_with, hint, downstream)| Entry {
            selectors,
            federates_with,
            downstream,
            hint: if hint == 0 { String::new() } else { hint.to_string() },
            ..entry(&format!("/s{spiffe_id}"), &format!("/p{parent}"), &[])
        },
    )
}

fn entry_filter() -> impl Strategy<Value = EntryFilter> {
    (
        proptest::option::of(0..3_u8),
        proptest::option::of(0..3_u8),
        proptest::option::of((some_selectors(1), how())),
        proptest::option::of((some_domains(1), how())),
        proptest::option::of(0..3_u8),
        proptest::option::of(any::<bool>()),
    )
        .prop_map(|(spiffe_id, parent, selectors, federates_with, hint, downstream)| EntryFilter {
            spiffe_id: spiffe_id.map(|n| id(&format!("/s{n}"))),
            parent_id: parent.map(|n| id(&format!("/p{n}"))),
            selectors,
            federates_with,
            hint: hint.map(|n| n.to_string()),
            downstream,
        })
}

fn entry_matches(entry: &Entry, filter: &EntryFilter) -> bool {
    filter.spiffe_id.as_ref().is_none_or(|id| *id == entry.spiffe_id)
        && filter.parent_id.as_ref().is_none_or(|id| *id == entry.parent_id)
        && filter.hint.as_ref().is_none_or(|hint| *hint == entry.hint)
        && filter.downstream.is_none_or(|downstream| downstream == entry.downstream)
        && filter
            .selectors
            .as_ref()
            .is_none_or(|(want, how)| matches(&set(&entry.selectors), &set(want), *how))
        && filter
            .federates_with
            .as_ref()
            .is_none_or(|(want, how)| matches(&set(&entry.federates_with), &set(want), *how))
}

fn some_node() -> impl Strategy<Value = (Node, bool)> {
    (0..2_u8, some_selectors(0), any::<bool>(), any::<bool>(), 1_000..1_005_u64).prop_map(
        |(attestor, selectors, can_reattest, banned, expires)| {
            let node = Node {
                attestation_type: format!("t{attestor}"),
                selectors,
                can_reattest,
                expires_at: at(expires),
                ..node("/spire/agent/x", "7", &[])
            };
            (node, banned)
        },
    )
}

fn node_filter() -> impl Strategy<Value = NodeFilter> {
    (
        proptest::option::of(0..2_u8),
        proptest::option::of((some_selectors(1), how())),
        proptest::option::of(any::<bool>()),
        proptest::option::of(any::<bool>()),
        proptest::option::of(1_000..1_006_u64),
    )
        .prop_map(|(attestor, selectors, banned, can_reattest, before)| NodeFilter {
            attestation_type: attestor.map(|n| format!("t{n}")),
            selectors,
            banned,
            can_reattest,
            expires_before: before.map(at),
        })
}

fn node_matches(node: &Node, filter: &NodeFilter) -> bool {
    filter.attestation_type.as_ref().is_none_or(|t| *t == node.attestation_type)
        && filter.banned.is_none_or(|banned| banned == node.is_banned())
        && filter.can_reattest.is_none_or(|can| can == node.can_reattest)
        && filter.expires_before.is_none_or(|before| node.expires_at < before)
        && filter
            .selectors
            .as_ref()
            .is_none_or(|(want, how)| matches(&set(&node.selectors), &set(want), *how))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn entry_filters_agree_with_the_model(
        entries in proptest::collection::vec(some_entry(), 1..12),
        filters in proptest::collection::vec(entry_filter(), 8),
    ) {
        block_on(async {
            let f = Fixture::new().await;
            for name in DOMAINS {
                f.store.put_bundle(&td(name), b"x", None).await.unwrap();
            }
            let mut model = vec![];
            for entry in entries {
                let (made, existed) = f.store.create_entry(entry).await.unwrap();
                if !existed {
                    model.push(made);
                }
            }
            for filter in filters {
                let expected: Vec<_> = model.iter().filter(|e| entry_matches(e, &filter)).cloned().collect();
                let (found, next) = f.store.list_entries(&filter, &Page::default()).await.unwrap();
                assert_eq!(found, expected, "{filter:?}");
                assert!(next.is_empty());
                let count = f.store.count_entries(&filter).await.unwrap();
                assert_eq!(count, expected.len() as u64);
            }
        });
    }

    #[test]
    fn node_filters_agree_with_the_model(
        nodes in proptest::collection::vec(some_node(), 1..12),
        filters in proptest::collection::vec(node_filter(), 8),
    ) {
        block_on(async {
            let f = Fixture::new().await;
            let mut model = vec![];
            for (n, (node, banned)) in nodes.into_iter().enumerate() {
                let node = Node { id: id(&format!("/spire/agent/{n}")), ..node };
                f.store.attested(node.clone(), None).await.unwrap();
                if banned {
                    f.store.ban_node(&node.id).await.unwrap();
                }
                model.push(f.store.node(&node.id).await.unwrap().unwrap());
            }
            for filter in filters {
                let expected: Vec<_> = model.iter().filter(|n| node_matches(n, &filter)).cloned().collect();
                let (found, _) = f.store.list_nodes(&filter, &Page::default()).await.unwrap();
                assert_eq!(found, expected, "{filter:?}");
                assert_eq!(f.store.count_nodes(&filter).await.unwrap(), expected.len() as u64);
            }
        });
    }
}

#[tokio::test]
async fn an_empty_set_is_no_filter_but_a_mistake() {
    let f = Fixture::new().await;
    let filter = NodeFilter { selectors: Some((vec![], Match::Exact)), ..NodeFilter::default() };
    assert!(matches!(f.store.count_nodes(&filter).await, Err(StoreError::Invalid { .. })));
    let filter = EntryFilter { federates_with: Some((vec![], Match::Any)), ..EntryFilter::default() };
    assert!(matches!(f.store.count_entries(&filter).await, Err(StoreError::Invalid { .. })));
}

#[tokio::test]
async fn values_are_values_whatever_they_contain() {
    let f = Fixture::new().await;
    let odd = "unix:'; DROP TABLE entries; -- \u{1F511} \" \\ %";
    f.store.create_entry(entry("/a", "/p", &[odd])).await.unwrap();
    for how in [Match::Exact, Match::Subset, Match::Superset, Match::Any] {
        let filter = EntryFilter { selectors: Some((selectors(&[odd]), how)), ..EntryFilter::default() };
        assert_eq!(f.store.count_entries(&filter).await.unwrap(), 1);
    }
}
