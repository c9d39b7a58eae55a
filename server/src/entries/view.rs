//! What one agent may see, worked out once and kept current while somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hardroot_identity::TrustDomain;
use tokio::sync::Notify;

use super::held::Held;
use super::names::Number;

/// An agent's entries, in order of their ids.
pub type Sorted = Arc<Vec<Held>>;

/// An agent's entries and what they hang on.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) entries: Sorted,
    /// The sum of the entries' fingerprints.
    pub(super) digest: u64,
    /// How many entries federate with each foreign trust domain.
    federates_with: BTreeMap<TrustDomain, usize>,
    /// Names under which an entry is this agent's: itself, its aliases, and entries that have entries below them.
    pub(super) parents: Vec<Number>,
    /// It must be worked out anew before it is used.
    pub(super) stale: bool,
    /// Somebody asked since the last round of cleaning.
    used: AtomicBool,
    pub(super) follower: Option<Follower>,
}

/// A stream that is told what changes.
#[derive(Debug)]
pub(super) struct Follower {
    /// Of the stream: a newer one takes the place of an older one.
    pub(super) number: u64,
    /// Entries that differ from what the stream was told last, each with the fingerprint that it was told.
    pub(super) pending: BTreeMap<Box<str>, Option<u64>>,
    /// The agent's own row changed: its standing must be looked at again.
    pub(super) standing: bool,
    pub(super) wake: Arc<Notify>,
}

impl Follower {
    pub(super) fn new(number: u64) -> Self {
        Self { number, pending: BTreeMap::new(), standing: false, wake: Arc::default() }
    }

    /// An entry changes from one fingerprint to another. What ends as it was told is no change.
    fn note(&mut self, id: &str, before: Option<u64>, after: Option<u64>) {
        match self.pending.get(id) {
            Some(told) if *told == after => drop(self.pending.remove(id)),
            Some(_) => {}
            None if before == after => {}
            None => drop(self.pending.insert(id.into(), before)),
        }
    }
}

impl View {
    /// One that is yet to be worked out.
    pub(super) fn stale() -> Self {
        Self { stale: true, ..Self::default() }
    }

    pub(super) fn touch(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether nobody asked since the last call of this.
    pub(super) fn is_idle(&self) -> bool {
        !self.used.swap(false, Ordering::Relaxed) && self.follower.is_none()
    }

    pub(super) fn find(&self, id: &str) -> Option<&Held> {
        let at = self.entries.binary_search_by(|held| held.id().cmp(id)).ok()?;
        self.entries.get(at)
    }

    pub(super) fn federates_with(&self) -> impl Iterator<Item = &TrustDomain> {
        self.federates_with.keys()
    }

    /// Puts, replaces or removes one entry.
    pub(super) fn set(&mut self, id: &str, new: Option<Held>) {
        let place = self.entries.binary_search_by(|held| held.id().cmp(id));
        if place.is_err() && new.is_none() {
            return;
        }
        let after = new.as_ref().map(|held| held.fingerprint());
        if let Some(new) = &new {
            self.count(new);
        }
        let entries = Arc::make_mut(&mut self.entries);
        let old = match (place, new) {
            (Ok(at), Some(new)) => entries.get_mut(at).map(|old| std::mem::replace(old, new)),
            (Ok(at), None) => Some(entries.remove(at)),
            (Err(at), Some(new)) => {
                entries.insert(at, new);
                None
            }
            (Err(_), None) => None,
        };
        if let Some(old) = &old {
            self.discount(old);
        }
        self.tell(id, old.map(|old| old.fingerprint()), after);
    }

    /// Takes the entries as they were found now, in any order.
    pub(super) fn replace(&mut self, found: Vec<Held>, parents: Vec<Number>) {
        let new = sorted(found);
        let old = std::mem::replace(&mut self.entries, Arc::clone(&new));
        self.digest = 0;
        self.federates_with.clear();
        for held in new.iter() {
            self.count(held);
        }
        self.parents = parents;
        self.stale = false;
        if self.follower.is_none() {
            return;
        }
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) => old.id().cmp(new.id()),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let Some(either) = before.or(after) else { break };
            self.tell(either.id(), before.map(|h| h.fingerprint()), after.map(|h| h.fingerprint()));
        }
    }

    fn tell(&mut self, id: &str, before: Option<u64>, after: Option<u64>) {
        if let Some(follower) = &mut self.follower {
            follower.note(id, before, after);
        }
    }

    pub(super) fn wake(&self) {
        if let Some(follower) = &self.follower {
            follower.wake.notify_one();
        }
    }

    fn count(&mut self, held: &Held) {
        self.digest = self.digest.wrapping_add(held.fingerprint());
        for domain in held.federates_with() {
            *self.federates_with.entry(domain.clone()).or_default() += 1;
        }
    }

    fn discount(&mut self, held: &Held) {
        self.digest = self.digest.wrapping_sub(held.fingerprint());
        for domain in held.federates_with() {
            if let Some(count) = self.federates_with.get_mut(domain) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.federates_with.remove(domain);
                }
            }
        }
    }
}

/// Sorts by id. Ids are compared by their first bytes, side by side in memory, and seldom by the rest.
fn sorted(found: Vec<Held>) -> Sorted {
    let key = |held: &Held| {
        let mut first = [0_u8; 16];
        first.iter_mut().zip(held.id().bytes()).for_each(|(to, from)| *to = from);
        first
    };
    let mut keyed: Vec<_> = found.into_iter().map(|held| (key(&held), held)).collect();
    keyed.sort_unstable_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.id().cmp(y.id())));
    Arc::new(keyed.into_iter().map(|(_, held)| held).collect())
}
