//! The records of the cache: which entries are known, found by a workload's selectors.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use hardroot_identity::Selector;
use tokio::time::Instant;

use super::entry::AuthorizedEntry;
use crate::source::WorkloadSvid;

/// An SVID that is held for an entry.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) svid: Arc<WorkloadSvid>,
    pub(super) refresh_at: SystemTime,
    /// The entry or the bundle changed since: replace it as soon as possible, serve it until then.
    pub(super) outdated: bool,
}

/// An entry and what is held for it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) entry: Arc<AuthorizedEntry>,
    pub(super) held: Option<Held>,
    /// Higher is more recent; counts subscriptions, not time.
    pub(super) last_used: u64,
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
    /// The selector this record is filed under.
    filed_under: Selector,
}

impl Record {
    /// The SVID, unless it has expired.
    pub(super) fn servable(&self, now: SystemTime) -> Option<&Arc<WorkloadSvid>> {
        self.held.as_ref().map(|h| &h.svid).filter(|svid| svid.not_after > now)
    }

    /// Whether a new SVID is needed now.
    pub(super) fn is_due(&self, now: SystemTime, instant: Instant) -> bool {
        let due =
            self.held.as_ref().is_none_or(|h| h.outdated || h.refresh_at <= now || h.svid.not_after <= now);
        due && self.retry_at.is_none_or(|at| at <= instant)
    }
}

/// All records, by entry id, with an index by selector.
#[derive(Debug, Default)]
pub(super) struct Table {
    records: BTreeMap<String, Record>,
    // Every entry is filed under one of its selectors only: a workload that has them all has that one too.
    index: HashMap<Selector, BTreeSet<String>>,
}

impl Table {
    pub(super) fn get(&self, id: &str) -> Option<&Record> {
        self.records.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Record> {
        self.records.get_mut(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Record)> {
        self.records.iter()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.records.values_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many SVIDs are held.
    pub(super) fn held(&self) -> usize {
        self.records.values().filter(|r| r.held.is_some()).count()
    }

    /// Adds or replaces an entry; says whether anything changed.
    pub(super) fn upsert(&mut self, entry: AuthorizedEntry) -> bool {
        let (mut held, mut last_used) = (None, 0);
        if let Some(old) = self.records.get(&entry.id) {
            if *old.entry == entry {
                return false;
            }
            last_used = old.last_used;
            // An SVID that says another name than the entry must not be served a moment longer; one that
            // merely may differ (lifetime, DNS names) is served until its successor is here.
            if old.entry.spiffe_id == entry.spiffe_id {
                held = old.held.clone().map(|h| Held { outdated: true, ..h });
            }
            let id = entry.id.clone();
            self.remove(&id);
        }
        let Some(filed_under) =
            entry.selectors.iter().min_by_key(|s| self.index.get(s).map_or(0, BTreeSet::len)).cloned()
        else {
            // No selectors means no workload can ever match.
            return false;
        };
        self.index.entry(filed_under.clone()).or_default().insert(entry.id.clone());
        let record =
            Record { held, last_used, failures: 0, retry_at: None, filed_under, entry: Arc::new(entry) };
        self.records.insert(record.entry.id.clone(), record);
        true
    }

    pub(super) fn remove(&mut self, id: &str) -> bool {
        let Some(record) = self.records.remove(id) else { return false };
        if let Some(filed) = self.index.get_mut(&record.filed_under) {
            filed.remove(id);
            if filed.is_empty() {
                self.index.remove(&record.filed_under);
            }
        }
        true
    }

    /// Removes every entry that `keep` does not name; says how many went.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) -> usize {
        let gone: Vec<String> = self.records.keys().filter(|id| !keep(id)).cloned().collect();
        for id in &gone {
            self.remove(id);
        }
        gone.len()
    }

    /// The ids of all entries whose selectors are a subset of `selectors`, sorted.
    pub(super) fn matching(&self, selectors: &[Selector]) -> Vec<String> {
        let set: HashSet<&Selector> = selectors.iter().collect();
        let mut ids: Vec<String> = set
            .iter()
            .filter_map(|selector| self.index.get(*selector))
            .flatten()
            .filter(|id| {
                self.records.get(*id).is_some_and(|r| r.entry.selectors.iter().all(|s| set.contains(s)))
            })
            .cloned()
            .collect();
        ids.sort();
        self.without_duplicate_hints(ids)
    }

    // Hints are unique within a response (Workload API 5.1); the oldest entry keeps its hint, then the lowest id,
    // and the others are not served, which is what SPIRE's agent does.
    fn without_duplicate_hints(&self, ids: Vec<String>) -> Vec<String> {
        let mut winners: HashMap<&str, (i64, &str)> = HashMap::new();
        for id in &ids {
            let Some(record) = self.records.get(id) else { continue };
            if record.entry.hint.is_empty() {
                continue;
            }
            let candidate = (record.entry.created_at, id.as_str());
            winners
                .entry(record.entry.hint.as_str())
                .and_modify(|best| *best = candidate.min(*best))
                .or_insert(candidate);
        }
        let loses = |id: &String| {
            self.records
                .get(id)
                .and_then(|r| winners.get(r.entry.hint.as_str()))
                .is_some_and(|(_, winner)| *winner != id.as_str())
        };
        let losers: HashSet<String> = ids.iter().filter(|id| loses(id)).cloned().collect();
        ids.into_iter().filter(|id| !losers.contains(id)).collect()
    }
}
