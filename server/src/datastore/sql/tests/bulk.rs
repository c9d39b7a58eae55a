//! Many entries at once: the same outcomes as one after the other.

use super::*;
use crate::datastore::{Change, EntryFilter, Page};

fn numbered(n: usize) -> Entry {
    Entry {
        id: format!("e-{n}"),
        dns_names: vec!["b.test".into(), "a.test".into()],
        ..entry(&format!("/e{n}"), "/p", &["unix:uid:1", "unix:gid:1"])
    }
}

/// What became of each, short enough to compare.
fn told(outcomes: &[Result<(Entry, bool), StoreError>]) -> Vec<String> {
    let tell = |outcome: &Result<(Entry, bool), StoreError>| match outcome {
        Ok((made, existed)) => format!("{} {existed}", made.id),
        Err(error) => error.to_string(),
    };
    outcomes.iter().map(tell).collect()
}

async fn each_entry_of_a_batch_has_its_own_outcome(on: On) {
    let f = Fixture::new(on).await;
    f.store.put_bundle(&td("a.test"), b"x", None).await.unwrap();
    let (there, _) = f.store.create_entry(numbered(0)).await.unwrap();
    let before = f.store.entries_version().await.unwrap();
    let federated = |n: usize, with: &str| Entry { federates_with: vec![td(with)], ..numbered(n) };
    let wanted = vec![
        numbered(1),
        Entry { id: "another-id".into(), ..numbered(0) },
        Entry { selectors: vec![], ..numbered(2) },
        federated(3, "a.test"),
        federated(4, "unknown.test"),
        Entry { id: "twin".into(), selectors: selectors(&["unix:gid:1", "unix:uid:1"]), ..numbered(1) },
        numbered(5),
    ];
    let expected = [
        "e-1 false",
        "e-0 true",
        "invalid registration entry: missing selector list",
        "e-3 false",
        "unable to find federated bundle \"spiffe://unknown.test\"",
        "e-1 true",
        "e-5 false",
    ];
    let outcomes = f.store.create_entries(wanted.clone()).await;
    assert_eq!(told(&outcomes), expected);
    for outcome in outcomes.iter().flatten() {
        assert_eq!(f.store.entry(&outcome.0.id).await.unwrap().as_ref(), Some(&outcome.0), "as it is stored");
    }
    assert_eq!(outcomes[1].as_ref().unwrap().0, there);
    let changed = |ids: &[&str]| Some(ids.iter().map(|id| Change::Entry((*id).to_owned())).collect());
    let changes = f.store.changes_since(before).await.unwrap();
    assert_eq!(changes.changed, changed(&["e-1", "e-3", "e-5"]));

    // An id that is taken by another entry takes nobody else along.
    let taken = Entry { id: "e-3".into(), ..numbered(7) };
    let outcomes = f.store.create_entries(vec![numbered(6), taken, numbered(8)]).await;
    assert_eq!(told(&outcomes), ["e-6 false", "entry e-3 already exists", "e-8 false"]);
    assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), 6);
    assert!(f.store.create_entries(vec![]).await.is_empty());
}

async fn more_than_a_lot_of_them_are_all_there(on: On) {
    let mut f = Fixture::new(on).await;
    let wanted: Vec<_> = (0..450).map(numbered).collect();
    let outcomes = f.store.create_entries(wanted.clone()).await;
    assert_eq!(told(&outcomes), (0..450).map(|n| format!("e-{n} false")).collect::<Vec<_>>());
    let again = f.store.create_entries(wanted).await;
    assert_eq!(told(&again), (0..450).map(|n| format!("e-{n} true")).collect::<Vec<_>>());
    f.restart().await;
    let (all, _) = f.store.list_entries(&EntryFilter::default(), &Page::default()).await.unwrap();
    let made: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().0).collect();
    assert_eq!(all, made, "in order, whole");
    let (alone, _) = f.store.create_entry(Entry { id: String::new(), ..numbered(900) }).await.unwrap();
    let like_the_others = Entry { id: made[0].id.clone(), spiffe_id: made[0].spiffe_id.clone(), ..alone };
    assert_eq!(like_the_others, made[0], "as one that is made by itself");
}

/// Two servers with the same batch: each entry is there once.
async fn the_same_batch_from_two_servers_is_made_once(on: On) {
    let f = Fixture::new(on).await;
    let mut tasks = tokio::task::JoinSet::new();
    for store in [f.store.clone(), f.another().await] {
        let wanted: Vec<_> = (0..300).map(|n| Entry { id: String::new(), ..numbered(n) }).collect();
        tasks.spawn(async move { store.create_entries(wanted).await });
    }
    let all = tasks.join_all().await;
    let new = |outcomes: &Vec<Result<(Entry, bool), StoreError>>| {
        outcomes.iter().filter(|outcome| !outcome.as_ref().unwrap().1).count()
    };
    assert_eq!(all.iter().map(new).sum::<usize>(), 300);
    assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), 300);
}

on_every_engine! {
    each_entry_of_a_batch_has_its_own_outcome,
    more_than_a_lot_of_them_are_all_there,
    the_same_batch_from_two_servers_is_made_once,
}

/// An agent with very many entries, or an identity that very many agents give: neither makes a new entry slow.
#[tokio::test]
async fn a_similar_entry_is_found_by_parent_and_identity_together() {
    let f = Fixture::new(On::Sqlite).await;
    let mut query = sql("EXPLAIN QUERY PLAN SELECT e.id FROM entries e");
    crate::datastore::sql::filters::push_similar(&mut query, &entry("/a", "/p", &["unix:uid:1"])).unwrap();
    let mut session = f.store.pools.reader("look").await.unwrap();
    let plan = session.fetch_all("look", query).await.unwrap();
    let first = plan[0].text("detail").unwrap();
    assert!(first.contains("entries_by_parent_and_spiffe_id (parent_id=? AND spiffe_id=?)"), "{first}");
}
