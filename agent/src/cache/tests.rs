//! The cache on paused time, with SVIDs that are only held, never verified.

use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use super::*;
use crate::source::IdentitySource as _;

struct Rig {
    cache: Arc<Cache>,
    clock: Arc<AtomicU64>,
}

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn selectors(texts: &[&str]) -> Vec<Selector> {
    texts.iter().map(|s| s.parse().unwrap()).collect()
}

fn rig(limit: usize) -> Rig {
    let clock = Arc::new(AtomicU64::new(1000));
    let reader = Arc::clone(&clock);
    let now: WallClock = Arc::new(move || at(reader.load(Ordering::SeqCst)));
    Rig { cache: Arc::new(Cache::new(td(), limit, 1000, now)), clock }
}

fn entry(id: &str, path: &str, with: &[&str]) -> AuthorizedEntry {
    let mut selectors = selectors(with);
    selectors.sort();
    AuthorizedEntry {
        id: id.into(),
        spiffe_id: format!("spiffe://example.org{path}").parse().unwrap(),
        selectors,
        federates_with: vec![],
        hint: String::new(),
        revision: 0,
        created_at: 1,
        prefetch: true,
        jwt_include_jti: false,
        store_svid: false,
    }
}

fn changes(upserts: Vec<AuthorizedEntry>, unchanged: &[&str]) -> EntryChanges {
    EntryChanges { upserts, unchanged: unchanged.iter().map(|s| (*s).to_owned()).collect() }
}

impl Rig {
    fn fill(&self) -> Vec<String> {
        let wanted = self.cache.wanted(usize::MAX);
        for wish in &wanted {
            self.give(wish, 2000);
        }
        self.cache.settle();
        wanted.iter().map(|w| w.entry.id.clone()).collect()
    }

    fn give(&self, wish: &Wanted, not_after: u64) {
        let svid = WorkloadSvid::new(vec![vec![1]], Zeroizing::new(vec![7; 100]), at(not_after));
        self.cache.store(wish, Arc::new(svid), at(1500));
    }

    fn set_time(&self, seconds: u64) {
        self.clock.store(seconds, Ordering::SeqCst);
    }
}

fn ids(availability: &Availability) -> Vec<String> {
    match availability {
        Availability::Ready(update) => update.identities.iter().map(|i| i.entry_id.clone()).collect(),
        other => panic!("not ready: {other:?}"),
    }
}

#[test]
fn states_follow_each_other() {
    let rig = rig(10);
    let mut stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    assert!(matches!(*stream.borrow_and_update(), Availability::Starting));
    rig.cache.apply(changes(vec![], &[]));
    assert!(matches!(*stream.borrow_and_update(), Availability::None));
    rig.cache.apply(changes(vec![entry("e1", "/a", &["unix:uid:1"])], &[]));
    assert!(matches!(*stream.borrow_and_update(), Availability::Pending));
    assert_eq!(rig.fill(), ["e1"]);
    assert_eq!(ids(&stream.borrow_and_update()), ["e1"]);
    rig.cache.settle();
    assert!(!stream.has_changed().unwrap(), "nothing changed, nothing is pushed");
    rig.cache.apply(changes(vec![], &[]));
    assert!(matches!(*stream.borrow_and_update(), Availability::None), "withdrawn at once");
}

#[test]
fn an_entry_matches_only_workloads_that_have_all_its_selectors() {
    let rig = rig(10);
    let both = entry("e1", "/both", &["unix:uid:1", "unix:path:/bin/a"]);
    rig.cache.apply(changes(vec![both, entry("e2", "/uid", &["unix:uid:1"])], &[]));
    rig.fill();
    let seen = |with: &[&str]| rig.cache.subscribe(selectors(with)).borrow().clone();
    assert_eq!(ids(&seen(&["unix:uid:1"])), ["e2"]);
    assert_eq!(ids(&seen(&["unix:uid:1", "unix:path:/bin/a", "unix:gid:1"])), ["e1", "e2"]);
    assert!(matches!(seen(&["unix:path:/bin/a"]), Availability::None));
    assert!(matches!(seen(&[]), Availability::None));
}

#[test]
fn identities_are_sorted_by_entry_id_and_hints_are_unique() {
    let rig = rig(10);
    let hinted = |id: &str, created_at, hint: &str| AuthorizedEntry {
        created_at,
        hint: hint.into(),
        ..entry(id, &format!("/{id}"), &["unix:uid:1"])
    };
    rig.cache.apply(changes(
        vec![
            hinted("c", 5, "x"),
            hinted("a", 9, "x"),
            hinted("b", 5, "x"),
            hinted("d", 1, ""),
            hinted("e", 1, ""),
        ],
        &[],
    ));
    rig.fill();
    let stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    assert_eq!(ids(&stream.borrow()), ["b", "d", "e"], "the oldest keeps the hint, then the lowest id");
}

#[test]
fn a_new_revision_is_served_until_replaced_and_a_new_name_never() {
    let rig = rig(10);
    rig.cache.apply(changes(vec![entry("e1", "/a", &["unix:uid:1"])], &[]));
    rig.fill();
    let mut stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    let next = AuthorizedEntry { revision: 1, ..entry("e1", "/a", &["unix:uid:1"]) };
    rig.cache.apply(changes(vec![next.clone()], &[]));
    assert!(!stream.has_changed().unwrap(), "the old SVID is still right");
    assert_eq!(rig.cache.wanted(9).len(), 1, "but it is replaced");
    rig.fill();
    assert!(stream.has_changed().unwrap());
    stream.borrow_and_update();
    rig.cache
        .apply(changes(vec![AuthorizedEntry { revision: 2, ..entry("e1", "/b", &["unix:uid:1"]) }], &[]));
    assert!(matches!(*stream.borrow_and_update(), Availability::Pending), "the old SVID says another name");
}

#[test]
fn an_svid_for_an_entry_that_changed_meanwhile_is_dropped_or_replaced() {
    let rig = rig(10);
    rig.cache
        .apply(changes(vec![entry("e1", "/a", &["unix:uid:1"]), entry("e2", "/x", &["unix:uid:1"])], &[]));
    let wanted = rig.cache.wanted(9);
    rig.cache
        .apply(changes(vec![AuthorizedEntry { revision: 1, ..entry("e1", "/b", &["unix:uid:1"]) }], &[]));
    for wish in &wanted {
        rig.give(wish, 2000);
    }
    rig.cache.settle();
    let stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    assert!(matches!(*stream.borrow(), Availability::Pending), "neither /a nor the deleted e2 is served");
    assert_eq!(rig.cache.counts().entries, 1);
}

#[test]
fn staleness_looks_at_revision_and_creation() {
    let rig = rig(10);
    rig.cache.apply(changes(
        vec![AuthorizedEntry { revision: 3, created_at: 7, ..entry("e1", "/a", &["u:1"]) }],
        &[],
    ));
    let version = |id: &str, revision, created_at| EntryVersion { id: id.into(), revision, created_at };
    assert!(rig.cache.stale(&[version("e1", 3, 7)]).is_empty());
    assert!(rig.cache.stale(&[version("e1", 3, 0)]).is_empty(), "0: the server does not say");
    assert_eq!(rig.cache.stale(&[version("e1", 4, 7), version("e2", 0, 0)]), ["e1", "e2"]);
    assert_eq!(rig.cache.stale(&[version("e1", 3, 8)]), ["e1"], "made anew under the same id");
}

#[test]
fn expired_svids_are_not_served_but_kept_in_case_the_clock_is_wrong() {
    let rig = rig(10);
    rig.cache.apply(changes(vec![entry("e1", "/a", &["unix:uid:1"])], &[]));
    rig.fill();
    let mut stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    stream.borrow_and_update();
    rig.set_time(2000);
    rig.cache.settle();
    assert!(matches!(*stream.borrow_and_update(), Availability::Pending));
    rig.set_time(1999);
    rig.cache.settle();
    assert_eq!(ids(&stream.borrow_and_update()), ["e1"]);
}

#[test]
fn svids_are_renewed_from_their_refresh_time_on() {
    let rig = rig(10);
    rig.cache.apply(changes(vec![entry("e1", "/a", &["unix:uid:1"])], &[]));
    rig.fill();
    rig.set_time(1499);
    assert!(rig.cache.wanted(9).is_empty());
    rig.set_time(1500);
    assert_eq!(rig.cache.wanted(9).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_entry_is_retried_later_and_later_and_starves_nobody() {
    let rig = rig(10);
    rig.cache
        .apply(changes(vec![entry("bad", "/a", &["unix:uid:1"]), entry("good", "/b", &["unix:uid:1"])], &[]));
    let stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    let wanted = rig.cache.wanted(9);
    rig.give(&wanted[1], 2000);
    rig.cache.settle();
    assert!(matches!(*stream.borrow(), Availability::Pending), "the first answer waits for all");
    rig.cache.failed(&wanted[0]);
    rig.cache.settle();
    assert_eq!(ids(&stream.borrow()), ["good"]);
    assert!(rig.cache.wanted(9).is_empty());
    tokio::time::advance(MIN_ENTRY_RETRY).await;
    assert_eq!(rig.cache.wanted(9).len(), 1);
    for _ in 0..20 {
        rig.cache.failed(&wanted[0]);
    }
    tokio::time::advance(MAX_ENTRY_RETRY - Duration::from_secs(1)).await;
    assert!(rig.cache.wanted(9).is_empty());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(rig.cache.wanted(9).len(), 1);
}

#[test]
fn the_limit_yields_to_subscribers_only() {
    let rig = rig(2);
    let many =
        (0..5).map(|n| entry(&format!("e{n}"), &format!("/{n}"), &[&format!("unix:uid:{n}")])).collect();
    rig.cache.apply(changes(many, &[]));
    assert_eq!(rig.fill(), ["e0", "e1"], "no more than the limit is fetched ahead");
    let _streams: Vec<_> =
        (2..5).map(|n| rig.cache.subscribe(selectors(&[&format!("unix:uid:{n}")]))).collect();
    assert_eq!(rig.fill(), ["e2", "e3", "e4"], "what somebody waits for comes beyond the limit");
    assert_eq!(rig.cache.counts().svids, 3, "and what nobody listens to makes room");
    drop(_streams);
    rig.cache.settle();
    assert_eq!(rig.cache.counts().svids, 2);
    assert_eq!(rig.cache.counts().subscriptions, 0);
}

#[test]
fn no_prefetch_means_only_on_demand() {
    let rig = rig(10);
    rig.cache
        .apply(changes(vec![AuthorizedEntry { prefetch: false, ..entry("e1", "/a", &["unix:uid:1"]) }], &[]));
    assert!(rig.cache.wanted(9).is_empty());
    let _stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    assert_eq!(rig.fill(), ["e1"]);
}

#[test]
fn bundles_are_the_own_one_and_those_federated_with() {
    let rig = rig(10);
    let (a, b) = (TrustDomain::new("a.org").unwrap(), TrustDomain::new("b.org").unwrap());
    let bundle = |td: &TrustDomain, sequence| {
        let mut bundle = Bundle::new(td.clone());
        bundle.sequence_number = sequence;
        (td.clone(), Arc::new(bundle))
    };
    rig.cache.set_bundles([bundle(&td(), 1), bundle(&a, 1), bundle(&b, 1)].into());
    let federating =
        AuthorizedEntry { federates_with: vec![a.clone()], ..entry("e1", "/a", &["unix:uid:1"]) };
    rig.cache.apply(changes(vec![federating], &[]));
    assert_eq!(rig.cache.federated().into_iter().collect::<Vec<_>>(), std::slice::from_ref(&a));
    rig.fill();
    let mut stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    let names = |availability: &Availability| match availability {
        Availability::Ready(update) => update.bundles.keys().cloned().collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(names(&stream.borrow_and_update()), [a.clone(), td()]);
    rig.cache.set_bundles([bundle(&td(), 1), bundle(&a, 1), bundle(&b, 2)].into());
    assert!(!stream.has_changed().unwrap(), "b.org is none of its business");
    rig.cache.set_bundles([bundle(&td(), 1), bundle(&a, 2), bundle(&b, 2)].into());
    assert!(stream.has_changed().unwrap());
}

#[test]
fn svids_of_an_authority_that_left_the_bundle_are_replaced() {
    let rig = rig(10);
    let mut first = Bundle::new(td());
    first.x509_authorities.push(hardroot_identity::X509Authority { der: vec![1], tainted: false });
    rig.cache.set_bundles([(td(), Arc::new(first))].into());
    rig.cache.apply(changes(vec![entry("e1", "/a", &["unix:uid:1"])], &[]));
    rig.fill();
    assert!(rig.cache.wanted(9).is_empty());
    rig.cache.set_bundles([(td(), Arc::new(Bundle::new(td())))].into());
    assert_eq!(rig.cache.wanted(9).len(), 1);
    let stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    assert_eq!(ids(&stream.borrow()), ["e1"], "served until its successor is here");
}

#[test]
fn entries_meant_for_a_store_are_not_served() {
    let rig = rig(10);
    rig.cache.apply(changes(
        vec![AuthorizedEntry { store_svid: true, ..entry("e1", "/a", &["unix:uid:1"]) }],
        &[],
    ));
    assert!(matches!(*rig.cache.subscribe(selectors(&["unix:uid:1"])).borrow(), Availability::None));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_in_need_wakes_the_synchronisation() {
    let rig = rig(10);
    rig.cache
        .apply(changes(vec![AuthorizedEntry { prefetch: false, ..entry("e1", "/a", &["unix:uid:1"]) }], &[]));
    let cache = Arc::clone(&rig.cache);
    // The new entry itself was one reason to wake.
    cache.demand().await;
    let waiter = tokio::spawn(async move { cache.demand().await });
    tokio::task::yield_now().await;
    let _stream = rig.cache.subscribe(selectors(&["unix:uid:1"]));
    waiter.await.unwrap();
}

#[test]
fn a_thousand_streams_of_one_program_share_one_subscription() {
    let rig = rig(10);
    let streams: Vec<_> = (0..1000).map(|_| rig.cache.subscribe(selectors(&["unix:uid:1"]))).collect();
    assert_eq!(rig.cache.counts().subscriptions, 1);
    drop(streams);
    for n in 0..1000 {
        drop(rig.cache.subscribe(selectors(&[&format!("unix:uid:{n}")])));
    }
    assert!(rig.cache.lock().subscriptions.len() <= 64, "sets without listeners do not pile up");
}

proptest::proptest! {
    // The index must find exactly what comparing every entry finds, after any history of changes.
    #[test]
    fn the_index_agrees_with_a_plain_scan(
        steps in proptest::collection::vec((0u8..6, proptest::collection::vec(0u8..5, 1..4), proptest::bool::ANY), 1..40),
        probe in proptest::collection::vec(0u8..5, 0..5),
    ) {
        let mut table = Table::default();
        let mut plain: BTreeMap<String, Vec<Selector>> = BTreeMap::new();
        for (revision, (id, with, remove)) in steps.into_iter().enumerate() {
            let id = format!("e{id}");
            if remove {
                proptest::prop_assert_eq!(table.remove(&id), plain.remove(&id).is_some());
            } else {
                let texts: Vec<String> = with.iter().map(|n| format!("t:{n}")).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let entry = AuthorizedEntry { revision: revision as i64, ..entry(&id, "/x", &texts) };
                plain.insert(id, entry.selectors.clone());
                table.upsert(entry);
            }
        }
        let probe: Vec<Selector> = probe.iter().map(|n| format!("t:{n}").parse().unwrap()).collect();
        let expected: Vec<String> = plain
            .iter()
            .filter(|(_, with)| with.iter().all(|s| probe.contains(s)))
            .map(|(id, _)| id.clone())
            .collect();
        proptest::prop_assert_eq!(table.matching(&probe), expected);
    }
}
