//! What workloads may have: authorised entries, their SVIDs and the bundles, and who wants to know of changes.
//!
//! The cache does no I/O. The synchronisation puts entries and bundles in, asks what is [`Cache::wanted`] and
//! puts SVIDs in; the Workload API subscribes. Every change is pushed to the subscribers it concerns at once.

mod entry;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

pub use entry::{AuthorizedEntry, BadEntry, EntryChanges, EntryVersion, MAX_HINT_BYTES};
use hardroot_identity::{Bundle, Selector, TrustDomain, verify_x509_svid};
use table::{Held, Record, Table};
use tokens::Tokens;
pub use tokens::{CachedToken, Token, TokenKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::source::{Availability, WorkloadSvid};
use view::replace_if_other;

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
    /// JWT-SVIDs held.
    pub tokens: usize,
    /// Distinct selector sets subscribed to.
    pub subscriptions: usize,
}

/// The cache. See the module.
pub struct Cache {
    trust_domain: TrustDomain,
    limit: usize,
    clock: WallClock,
    demand: Notify,
    own: watch::Sender<Option<Arc<Bundle>>>,
    inner: Mutex<Inner>,
}

struct Inner {
    ready: bool,
    table: Table,
    tokens: Tokens,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    subscriptions: HashMap<Arc<[Selector]>, watch::Sender<Availability>>,
    uses: u64,
}

impl Cache {
    /// An empty cache of one trust domain that keeps about `limit` X509-SVIDs (those somebody is subscribed
    /// to are kept even beyond it, others make room) and never more than `token_limit` JWT-SVIDs.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, limit: usize, token_limit: usize, clock: WallClock) -> Self {
        let inner = Inner {
            ready: false,
            table: Table::default(),
            tokens: Tokens::new(token_limit),
            bundles: BTreeMap::new(),
            subscriptions: HashMap::new(),
            uses: 0,
        };
        let own = watch::Sender::new(None);
        Self { trust_domain, limit, clock, demand: Notify::new(), own, inner: Mutex::new(inner) }
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
        let first = !std::mem::replace(&mut inner.ready, true);
        let mut keep = changes.unchanged;
        keep.extend(changes.upserts.iter().filter(|entry| !entry.store_svid).map(|entry| entry.id.clone()));
        let put = inner.put(changes.upserts);
        let dropped = inner.table.retain(|id| keep.contains(id)) > 0;
        if dropped {
            inner.tokens.retain(|token| keep.contains(token.entry_id()));
        }
        self.changed(&mut inner, first || put || dropped);
    }

    /// Takes some changes; every entry that they do not name stays. Only after [`Self::apply`] was called once.
    pub fn patch(&self, upserts: Vec<AuthorizedEntry>, removed: &[String]) {
        let mut inner = self.lock();
        let gone: Vec<String> =
            upserts.iter().filter(|entry| entry.store_svid).map(|entry| entry.id.clone()).collect();
        let mut dropped = false;
        for id in removed.iter().chain(&gone) {
            if inner.table.remove(id) {
                dropped = true;
                inner.tokens.retain(|token| token.entry_id() != id);
            }
        }
        let put = inner.put(upserts);
        self.changed(&mut inner, put || dropped);
    }

    /// Tells those who wait, if there is news.
    fn changed(&self, inner: &mut Inner, news: bool) {
        if news {
            self.publish(inner);
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
        let own = inner.bundles.get(&self.trust_domain).cloned();
        inner.drop_untrusted_tokens(own.as_deref());
        self.own.send_if_modified(|held| {
            let changed = held.as_ref().map(Arc::as_ptr) != own.as_ref().map(Arc::as_ptr);
            *held = own;
            changed
        });
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
        inner.tokens.retain(|_| false);
        self.publish(&mut inner);
    }

    /// What is held now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        Counts {
            entries: inner.table.len(),
            svids: inner.table.held(),
            tokens: inner.tokens.len(),
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

impl Inner {
    /// Puts entries in; those for SVID stores are nobody's here. Whether anything is new.
    fn put(&mut self, entries: Vec<AuthorizedEntry>) -> bool {
        let mut news = false;
        for entry in entries.into_iter().filter(|entry| !entry.store_svid) {
            let id = entry.id.clone();
            if self.table.upsert(entry) {
                news = true;
                // Its next token may differ in lifetime or in name.
                self.tokens.retain(|token| token.entry_id() != id);
            }
        }
        news
    }

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
}

/// The bundle without its tainted X.509 authorities.
#[must_use]
pub fn untainted(bundle: &Bundle) -> Bundle {
    let mut good = bundle.clone();
    good.x509_authorities.retain(|a| !a.tainted);
    good
}
