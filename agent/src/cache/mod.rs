//! What workloads may have: authorised entries, their SVIDs and the bundles, and who wants to know of changes.
//!
//! The cache does no I/O. The synchronisation puts entries and bundles in, asks what is [`Cache::wanted`] and
//! puts SVIDs in; the Workload API subscribes. Every change is pushed to the subscribers it concerns at once.

mod entry;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

pub use entry::{AuthorizedEntry, BadEntry, EntryChanges, EntryVersion, MAX_HINT_BYTES};
use hardroot_identity::{Bundle, Selector, TrustDomain, verify_x509_svid};
use table::{Held, Record, Table};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::source::{Availability, Identity, IdentitySource, WorkloadSvid, WorkloadUpdate};

/// Where the time of day comes from.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// First pause after an SVID could not be had for an entry; doubles up to [`MAX_ENTRY_RETRY`].
pub const MIN_ENTRY_RETRY: Duration = Duration::from_secs(1);
/// Longest pause between attempts to get an SVID for one entry.
pub const MAX_ENTRY_RETRY: Duration = Duration::from_secs(240);

/// An SVID that should be asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The entry, as it was when the wish arose.
    pub entry: Arc<AuthorizedEntry>,
}

/// What the cache holds, for logs and debugging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Entries known.
    pub entries: usize,
    /// X509-SVIDs held.
    pub svids: usize,
    /// Distinct selector sets subscribed to.
    pub subscriptions: usize,
}

/// The cache. See the module.
pub struct Cache {
    trust_domain: TrustDomain,
    limit: usize,
    clock: WallClock,
    demand: Notify,
    inner: Mutex<Inner>,
}

struct Inner {
    ready: bool,
    table: Table,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    subscriptions: HashMap<Arc<[Selector]>, watch::Sender<Availability>>,
    uses: u64,
}

impl Cache {
    /// An empty cache of one trust domain that keeps about `limit` X509-SVIDs: those somebody is subscribed
    /// to are kept even beyond it, others make room.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, limit: usize, clock: WallClock) -> Self {
        let inner = Inner {
            ready: false,
            table: Table::default(),
            bundles: BTreeMap::new(),
            subscriptions: HashMap::new(),
            uses: 0,
        };
        Self { trust_domain, limit, clock, demand: Notify::new(), inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves maps that are still whole: serving on beats dying.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// Waits until somebody subscribes who needs SVIDs that are not here.
    pub async fn demand(&self) {
        self.demand.notified().await;
    }

    /// Which of `versions` are unknown or differ from what is held.
    #[must_use]
    pub fn stale(&self, versions: &[EntryVersion]) -> Vec<String> {
        let inner = self.lock();
        let current = |v: &EntryVersion| {
            inner.table.get(&v.id).is_some_and(|r| {
                // Servers before the field existed send 0, which says nothing.
                r.entry.revision == v.revision && (v.created_at == 0 || r.entry.created_at == v.created_at)
            })
        };
        versions.iter().filter(|v| !current(v)).map(|v| v.id.clone()).collect()
    }

    /// Takes the outcome of a synchronisation. From the first one on, workloads get answers.
    pub fn apply(&self, changes: EntryChanges) {
        let mut inner = self.lock();
        let mut keep = changes.unchanged;
        let mut changed = !inner.ready;
        inner.ready = true;
        for entry in changes.upserts {
            if entry.store_svid {
                continue;
            }
            keep.insert(entry.id.clone());
            changed |= inner.table.upsert(entry);
        }
        changed |= inner.table.retain(|id| keep.contains(id)) > 0;
        if changed {
            self.publish(&mut inner);
            self.demand.notify_one();
        }
    }

    /// Replaces all bundles: the own trust domain's and the federated ones.
    ///
    /// SVIDs that no longer chain to an authority of the own bundle that is in good standing are replaced as
    /// soon as possible; until then they are served, for a tainted authority is still trusted.
    pub fn set_bundles(&self, bundles: BTreeMap<TrustDomain, Arc<Bundle>>) {
        let now = self.now();
        let mut inner = self.lock();
        let same = inner.bundles.len() == bundles.len()
            && inner
                .bundles
                .iter()
                .zip(&bundles)
                .all(|((a, x), (b, y))| a == b && (Arc::ptr_eq(x, y) || x == y));
        if same {
            return;
        }
        let old = inner.bundles.get(&self.trust_domain).cloned();
        // Bundles that did not change keep their place in memory, so that subscribers see what changed.
        let kept = bundles
            .into_iter()
            .map(|(td, new)| match inner.bundles.get(&td) {
                Some(old) if **old == *new => (td, Arc::clone(old)),
                _ => (td, new),
            })
            .collect();
        inner.bundles = kept;
        if let Some(own) = inner.bundles.get(&self.trust_domain).cloned()
            && old.is_some_and(|old| old.x509_authorities != own.x509_authorities)
        {
            let good = untainted(&own);
            for record in inner.table.values_mut() {
                if let Some(held) = &mut record.held {
                    held.outdated |= verify_x509_svid(&held.svid.chain, &good, now).is_err();
                }
            }
            self.demand.notify_one();
        }
        self.publish(&mut inner);
    }

    /// The bundles held now.
    #[must_use]
    pub fn bundles(&self) -> BTreeMap<TrustDomain, Arc<Bundle>> {
        self.lock().bundles.clone()
    }

    /// Every foreign trust domain that an entry federates with.
    #[must_use]
    pub fn federated(&self) -> BTreeSet<TrustDomain> {
        self.lock().table.iter().flat_map(|(_, r)| r.entry.federates_with.iter().cloned()).collect()
    }

    /// Up to `at_most` entries that need an SVID now: first what somebody waits for, then what must be renewed,
    /// then what is fetched ahead while there is room.
    #[must_use]
    pub fn wanted(&self, at_most: usize) -> Vec<Wanted> {
        let (now, instant) = (self.now(), Instant::now());
        let inner = self.lock();
        let subscribed = inner.subscribed();
        let mut room = self.limit.saturating_sub(inner.table.held());
        let (mut waiting, mut renewals, mut ahead) = (Vec::new(), Vec::new(), Vec::new());
        for (id, record) in inner.table.iter() {
            if !record.is_due(now, instant) {
                continue;
            }
            match (subscribed.contains(id.as_str()), record.held.is_some()) {
                (true, false) => waiting.push(record),
                (_, true) => renewals.push(record),
                (false, false) if record.entry.prefetch => ahead.push(record),
                (false, false) => {}
            }
        }
        // Somebody who waits shall not wait for what is only fetched ahead.
        room = if waiting.is_empty() { room } else { 0 };
        ahead.sort_by_key(|r| std::cmp::Reverse(r.last_used));
        let wanted = |r: &Record| Wanted { entry: Arc::clone(&r.entry) };
        waiting
            .into_iter()
            .chain(renewals)
            .chain(ahead.into_iter().take(room))
            .take(at_most)
            .map(wanted)
            .collect()
    }

    /// Takes a new SVID for the entry as it was wanted, to be replaced from `refresh_at` on. It is dropped when
    /// the entry has gone or names another identity by now.
    pub fn store(&self, wanted: &Wanted, svid: Arc<WorkloadSvid>, refresh_at: SystemTime) {
        let mut inner = self.lock();
        let Some(record) = inner.table.get_mut(&wanted.entry.id) else { return };
        if record.entry.spiffe_id != wanted.entry.spiffe_id {
            return;
        }
        let outdated = record.entry != wanted.entry;
        record.held = Some(Held { svid, refresh_at, outdated });
        record.failures = 0;
        record.retry_at = None;
    }

    /// Notes that no SVID could be had for an entry, so that it is tried again later and later.
    pub fn failed(&self, wanted: &Wanted) {
        let mut inner = self.lock();
        let Some(record) = inner.table.get_mut(&wanted.entry.id) else { return };
        let pause = MIN_ENTRY_RETRY.saturating_mul(1 << record.failures.min(16)).min(MAX_ENTRY_RETRY);
        record.failures = record.failures.saturating_add(1);
        record.retry_at = Some(Instant::now() + pause);
    }

    /// Makes room where too much is held and pushes what changed by new SVIDs or by time.
    pub fn settle(&self) {
        let mut inner = self.lock();
        let excess = inner.table.held().saturating_sub(self.limit);
        if excess > 0 {
            inner.evict(excess);
        }
        self.publish(&mut inner);
    }

    /// Forgets everything: a banned agent serves nobody.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.table = Table::default();
        self.publish(&mut inner);
    }

    /// What is held now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        Counts {
            entries: inner.table.len(),
            svids: inner.table.held(),
            subscriptions: inner.subscriptions.values().filter(|s| s.receiver_count() > 0).count(),
        }
    }

    fn wake_if_waiting(&self, availability: &Availability) {
        if matches!(availability, Availability::Pending) {
            self.demand.notify_one();
        }
    }

    fn publish(&self, inner: &mut Inner) {
        let now = self.now();
        inner.subscriptions.retain(|_, sender| sender.receiver_count() > 0);
        let sets: Vec<_> =
            inner.subscriptions.iter().map(|(set, tx)| (Arc::clone(set), tx.clone())).collect();
        for (set, sender) in sets {
            let fresh = inner.availability(&set, &self.trust_domain, now, &sender.borrow());
            replace_if_other(&sender, fresh);
        }
    }
}

impl IdentitySource for Cache {
    fn subscribe(&self, mut selectors: Vec<Selector>) -> watch::Receiver<Availability> {
        selectors.sort();
        selectors.dedup();
        let now = self.now();
        let mut inner = self.lock();
        inner.touch(&selectors);
        if let Some(sender) = inner.subscriptions.get(selectors.as_slice()).cloned() {
            // Nobody may have listened for a while, and then nobody was told.
            let fresh = inner.availability(&selectors, &self.trust_domain, now, &sender.borrow());
            self.wake_if_waiting(&fresh);
            replace_if_other(&sender, fresh);
            return sender.subscribe();
        }
        let fresh = inner.availability(&selectors, &self.trust_domain, now, &Availability::Starting);
        self.wake_if_waiting(&fresh);
        let (sender, receiver) = watch::channel(fresh);
        // Sets nobody listens to any more are dropped here, so that churn alone cannot fill the map.
        if inner.subscriptions.len() >= 64 {
            inner.subscriptions.retain(|_, sender| sender.receiver_count() > 0);
        }
        inner.subscriptions.insert(selectors.into(), sender);
        receiver
    }

    fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

impl Inner {
    fn subscribed(&self) -> HashSet<String> {
        self.subscriptions
            .iter()
            .filter(|(_, sender)| sender.receiver_count() > 0)
            .flat_map(|(set, _)| self.table.matching(set))
            .collect()
    }

    fn touch(&mut self, selectors: &[Selector]) {
        self.uses += 1;
        let uses = self.uses;
        for id in self.table.matching(selectors) {
            if let Some(record) = self.table.get_mut(&id) {
                record.last_used = uses;
            }
        }
    }

    fn evict(&mut self, excess: usize) {
        let subscribed = self.subscribed();
        let mut idle: Vec<(u64, String)> = self
            .table
            .iter()
            .filter(|(id, r)| r.held.is_some() && !subscribed.contains(id.as_str()))
            .map(|(id, r)| (r.last_used, id.clone()))
            .collect();
        idle.sort();
        for (_, id) in idle.into_iter().take(excess) {
            if let Some(record) = self.table.get_mut(&id) {
                record.held = None;
            }
        }
    }

    fn availability(
        &self,
        selectors: &[Selector],
        own: &TrustDomain,
        now: SystemTime,
        before: &Availability,
    ) -> Availability {
        if !self.ready {
            return Availability::Starting;
        }
        let records: Vec<&Record> =
            self.table.matching(selectors).iter().filter_map(|id| self.table.get(id)).collect();
        if records.is_empty() {
            return Availability::None;
        }
        let identities: Vec<Identity> = records
            .iter()
            .filter_map(|record| {
                let svid = Arc::clone(record.servable(now)?);
                Some(Identity {
                    entry_id: record.entry.id.clone(),
                    spiffe_id: record.entry.spiffe_id.clone(),
                    hint: record.entry.hint.clone(),
                    created_at: record.entry.created_at,
                    svid,
                    federates_with: record.entry.federates_with.clone(),
                })
            })
            .collect();
        // A first answer waits for all SVIDs, except those the server has refused so far: one entry that cannot
        // be issued must not starve the others. Later answers never wait, so that what is withdrawn goes at once.
        let waiting = records.iter().any(|r| r.servable(now).is_none() && r.failures == 0);
        if identities.is_empty() || (waiting && !matches!(before, Availability::Ready(_))) {
            return Availability::Pending;
        }
        let federated: BTreeSet<&TrustDomain> = identities.iter().flat_map(|i| &i.federates_with).collect();
        let bundles = self
            .bundles
            .iter()
            .filter(|(td, _)| *td == own || federated.contains(td))
            .map(|(td, bundle)| (td.clone(), Arc::clone(bundle)))
            .collect();
        Availability::Ready(Arc::new(WorkloadUpdate {
            identities,
            bundles: Arc::new(bundles),
            trust_domain: own.clone(),
        }))
    }
}

/// The bundle without its tainted X.509 authorities.
#[must_use]
pub fn untainted(bundle: &Bundle) -> Bundle {
    let mut good = bundle.clone();
    good.x509_authorities.retain(|a| !a.tainted);
    good
}

fn replace_if_other(sender: &watch::Sender<Availability>, fresh: Availability) {
    sender.send_if_modified(|current| {
        let changed = !same(current, &fresh);
        if changed {
            *current = fresh;
        }
        changed
    });
}

fn same(a: &Availability, b: &Availability) -> bool {
    match (a, b) {
        (Availability::Starting, Availability::Starting)
        | (Availability::Pending, Availability::Pending)
        | (Availability::None, Availability::None) => true,
        (Availability::Ready(a), Availability::Ready(b)) => {
            let identity = |(x, y): (&Identity, &Identity)| {
                x.entry_id == y.entry_id
                    && x.spiffe_id == y.spiffe_id
                    && x.hint == y.hint
                    && x.created_at == y.created_at
                    && x.federates_with == y.federates_with
                    && Arc::ptr_eq(&x.svid, &y.svid)
            };
            a.identities.len() == b.identities.len()
                && a.identities.iter().zip(&b.identities).all(identity)
                && a.bundles.len() == b.bundles.len()
                && a.bundles.iter().zip(b.bundles.iter()).all(|((t, x), (u, y))| t == u && Arc::ptr_eq(x, y))
        }
        _ => false,
    }
}
