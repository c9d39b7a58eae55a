//! List filters against a naive model.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

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
            may_lag: false,
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
            may_lag: false,
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

/// Runs a property against one database, which is emptied before each case.
pub(super) fn check<S: Strategy>(f: &Fixture, strategy: &S, property: impl AsyncFn(&S::Value)) {
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let case = |value| {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                f.clear().await;
                property(&value).await;
            });
        });
        Ok(())
    };
    runner.run(strategy, case).unwrap();
}

async fn entry_filters_agree_with_the_model(on: On) {
    let f = Fixture::new(on).await;
    let cases =
        (proptest::collection::vec(some_entry(), 1..12), proptest::collection::vec(entry_filter(), 8));
    check(&f, &cases, async |(entries, filters)| {
        for name in DOMAINS {
            f.store.put_bundle(&td(name), b"x", None).await.unwrap();
        }
        let mut model = vec![];
        for entry in entries {
            let (made, existed) = f.store.create_entry(entry.clone()).await.unwrap();
            if !existed {
                model.push(made);
            }
        }
        for filter in filters {
            let expected: Vec<_> = model.iter().filter(|e| entry_matches(e, filter)).cloned().collect();
            let (found, next) = f.store.list_entries(filter, &Page::default()).await.unwrap();
            assert_eq!(found, expected, "{filter:?}");
            assert!(next.is_empty());
            let count = f.store.count_entries(filter).await.unwrap();
            assert_eq!(count, expected.len() as u64);
        }
    });
}

async fn node_filters_agree_with_the_model(on: On) {
    let f = Fixture::new(on).await;
    let cases = (proptest::collection::vec(some_node(), 1..12), proptest::collection::vec(node_filter(), 8));
    check(&f, &cases, async |(nodes, filters)| {
        let mut model = vec![];
        for (n, (node, banned)) in nodes.iter().enumerate() {
            let node = Node { id: id(&format!("/spire/agent/{n}")), ..node.clone() };
            f.store.attested(node.clone(), None).await.unwrap();
            if *banned {
                f.store.ban_node(&node.id).await.unwrap();
            }
            model.push(f.store.node(&node.id).await.unwrap().unwrap());
        }
        for filter in filters {
            let expected: Vec<_> = model.iter().filter(|n| node_matches(n, filter)).cloned().collect();
            let (found, _) = f.store.list_nodes(filter, &Page::default()).await.unwrap();
            assert_eq!(found, expected, "{filter:?}");
            assert_eq!(f.store.count_nodes(filter).await.unwrap(), expected.len() as u64);
        }
    });
}

async fn a_large_set_is_one_statement(on: On) {
    let f = Fixture::new(on).await;
    f.store.create_entry(entry("/a", "/p", &["unix:uid:1777"])).await.unwrap();
    let many: Vec<Selector> = (0..3_000).map(|n| format!("unix:uid:{n}").parse().unwrap()).collect();
    let filter = EntryFilter { selectors: Some((many.clone(), Match::Any)), ..EntryFilter::default() };
    assert_eq!(f.store.count_entries(&filter).await.unwrap(), 1);
    let (made, _) = f.store.create_entry(Entry { selectors: many, ..entry("/b", "/p", &[]) }).await.unwrap();
    assert_eq!(f.store.entry(&made.id).await.unwrap().unwrap().selectors.len(), 3_000);
    let too_many = (0..9_000).map(|n| format!("unix:uid:{n}").parse().unwrap()).collect();
    let filter = EntryFilter { selectors: Some((too_many, Match::Any)), ..EntryFilter::default() };
    assert!(matches!(f.store.count_entries(&filter).await, Err(StoreError::Invalid { .. })));
}

async fn an_empty_set_is_no_filter_but_a_mistake(on: On) {
    let f = Fixture::new(on).await;
    let filter = NodeFilter { selectors: Some((vec![], Match::Exact)), ..NodeFilter::default() };
    assert!(matches!(f.store.count_nodes(&filter).await, Err(StoreError::Invalid { .. })));
    let filter = EntryFilter { federates_with: Some((vec![], Match::Any)), ..EntryFilter::default() };
    assert!(matches!(f.store.count_entries(&filter).await, Err(StoreError::Invalid { .. })));
}

async fn values_are_values_whatever_they_contain(on: On) {
    let f = Fixture::new(on).await;
    let odd = "unix:'; DROP TABLE entries; -- \u{1F511} \" \\ %";
    f.store.create_entry(entry("/a", "/p", &[odd])).await.unwrap();
    for how in [Match::Exact, Match::Subset, Match::Superset, Match::Any] {
        let filter = EntryFilter { selectors: Some((selectors(&[odd]), how)), ..EntryFilter::default() };
        assert_eq!(f.store.count_entries(&filter).await.unwrap(), 1);
    }
}

async fn texts_are_compared_byte_for_byte(on: On) {
    let f = Fixture::new(on).await;
    let texts = ["unix:a", "unix:a ", "unix:A", "unix:\u{e4}", "unix:a\u{308}"];
    for text in texts {
        assert!(!f.store.create_entry(entry("/a", "/p", &[text])).await.unwrap().1, "{text:?}");
    }
    for text in texts {
        let filter =
            EntryFilter { selectors: Some((selectors(&[text]), Match::Exact)), ..EntryFilter::default() };
        let (found, _) = f.store.list_entries(&filter, &Page::default()).await.unwrap();
        assert_eq!(found.len(), 1, "{text:?}");
        assert_eq!(found[0].selectors, selectors(&[text]));
    }
    assert_eq!(f.store.entry("X").await.unwrap(), None);
    let mine = |id: &str| Entry { id: id.into(), ..entry(&format!("/{id}"), "/p", &["unix:uid:1"]) };
    f.store.create_entry(mine("x")).await.unwrap();
    f.store.create_entry(mine("X")).await.unwrap();
}

on_every_engine! {
    entry_filters_agree_with_the_model,
    node_filters_agree_with_the_model,
    a_large_set_is_one_statement,
    texts_are_compared_byte_for_byte,
    an_empty_set_is_no_filter_but_a_mistake,
    values_are_values_whatever_they_contain,
}
