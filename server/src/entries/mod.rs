//! Which entries an agent may see (spire-map 1.8), held in memory and kept current.
//!
//! [`AuthorizedEntries`] follows the datastore's log of changes: a write of this process is seen by the next
//! question, a write of another process within [`POLL`]. Asking costs no query while nothing changes. What is known of
//! agents' rows (their serials, the version they reported) follows the same log, so that an agent that calls costs no
//! query either. Now and then the whole is compared with the database ([`CHECK`]).

mod check;
mod follow;
mod held;
mod history;
mod index;
mod names;
mod stream;
#[cfg(test)]
mod tests;
mod view;

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use hardroot_identity::{SpiffeId, TrustDomain};
use tokio::sync::watch;
use tokio::time::Instant;

pub use check::{CHECK, Checked};
pub use held::Held;
pub use stream::{Followed, Start, Taken, Token};
pub use view::Sorted;

use crate::datastore::{Datastore, Entry, StoreError};
use index::Index;

/// How often the version in the database is compared with ours, for writes of other processes.
pub const POLL: Duration = Duration::from_millis(600);

/// The entries cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntriesError {
    /// The database did not answer for too long.
    #[error("the entries in memory are {age:?} old and the database does not answer")]
    Stale {
        /// Since the last answer.
        age: Duration,
        /// What the database said last.
        #[source]
        cause: StoreError,
    },
}

/// The entries each agent is authorised for.
pub struct AuthorizedEntries {
    store: Arc<dyn Datastore>,
    trust_domain: TrustDomain,
    /// How long what is in memory is still used while the database does not answer.
    outage_staleness: Duration,
    index: RwLock<Index>,
    /// Taken while changes are read and applied, so that they are applied in order.
    refreshing: tokio::sync::Mutex<()>,
    /// When the database last answered.
    answered: Mutex<Instant>,
    /// Writes of this process.
    written: watch::Receiver<i64>,
    /// The version that the index shows.
    shown: watch::Sender<i64>,
    /// Grows when bundles changed in the database.
    bundles: watch::Sender<u64>,
    checked: Mutex<Option<Checked>>,
}

impl AuthorizedEntries {
    /// Reads every entry and agent. While the database does not answer, those in memory are used for
    /// `outage_staleness`.
    ///
    /// # Errors
    /// The database cannot be read. Damaged rows are logged and authorise nobody.
    pub async fn load(
        store: Arc<dyn Datastore>,
        trust_domain: TrustDomain,
        outage_staleness: Duration,
    ) -> Result<Arc<Self>, StoreError> {
        let written = store.subscribe();
        let index = follow::read_everything(store.as_ref(), &trust_domain).await?;
        let version = index.version;
        Ok(Arc::new(Self {
            store,
            trust_domain,
            outage_staleness,
            index: RwLock::new(index),
            refreshing: tokio::sync::Mutex::new(()),
            answered: Mutex::new(Instant::now()),
            written,
            shown: watch::Sender::new(version),
            bundles: watch::Sender::new(0),
            checked: Mutex::new(None),
        }))
    }

    /// The entries of an agent, in order of their ids. No waiting, no query: see [`Self::current`].
    #[must_use]
    pub fn of(&self, agent: &SpiffeId) -> Sorted {
        if let Some(ready) = self.read().ready(agent) {
            return ready;
        }
        self.write().view(agent).map(|view| Arc::clone(&view.entries)).unwrap_or_default()
    }

    /// The entry `id`, if the agent is authorised for it.
    #[must_use]
    pub fn find(&self, agent: &SpiffeId, id: &str) -> Option<Entry> {
        let held = self.read().find(agent, id)?;
        held.entry()
    }

    /// Whether any entry that is alive at `now` (seconds since 1970) gives the identity `id` the rights of an admin,
    /// and whether any gives those of a downstream server; whoever their parents.
    #[must_use]
    pub fn rights(&self, id: &SpiffeId, now: i64) -> (bool, bool) {
        let given = self.read().with_spiffe_id(id);
        let alive =
            given.iter().map(|held| held.message()).filter(|e| e.expires_at == 0 || e.expires_at > now);
        alive.fold((false, false), |(admin, down), entry| (admin || entry.admin, down || entry.downstream))
    }

    /// The serials of an agent's row as of [`Self::current`]: the current one, and the one that waits to be used, which
    /// may be empty. `None` when it is banned, not attested, or nothing may be relied on: then the database must be asked.
    #[must_use]
    pub fn serials(&self, agent: &SpiffeId) -> Option<(String, String)> {
        self.read().serials(agent).map(|(serial, new)| (serial.to_owned(), new.to_owned()))
    }

    /// The version that an agent reported last, if the agent is known.
    #[must_use]
    pub fn agent_version(&self, agent: &SpiffeId) -> Option<String> {
        self.read().agent_version(agent).map(ToOwned::to_owned)
    }

    /// Somebody wants this agent banned or gone: until its row is read again, nobody relies on what is in memory.
    pub fn distrust(&self, agent: &SpiffeId) {
        self.write().distrust(agent);
    }

    /// How many entries are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// How many agents are known.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.read().nodes()
    }

    /// Whether no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The datastore's version that is shown.
    #[must_use]
    pub fn version(&self) -> i64 {
        *self.shown.borrow()
    }

    /// Wakes after every change that is visible in [`Self::of`]; the value is the datastore's version.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.shown.subscribe()
    }

    /// Wakes when bundles changed in the database.
    #[must_use]
    pub fn bundles_changed(&self) -> watch::Receiver<u64> {
        self.bundles.subscribe()
    }

    /// How the last comparison with the database went.
    #[must_use]
    pub fn last_check(&self) -> Option<Checked> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes sure that what this process wrote is visible, and that what is in memory is not too old.
    ///
    /// # Errors
    /// [`EntriesError::Stale`] after the bound given to [`Self::load`] without an answer of the database.
    pub async fn current(&self) -> Result<(), EntriesError> {
        let bound = self.outage_staleness.max(POLL * 4);
        // Whoever follows the database asks it: callers need not.
        if !self.is_behind() && self.age() <= bound {
            return Ok(());
        }
        let turn = self.refreshing.lock().await;
        if !self.is_behind() && self.age() <= bound {
            return Ok(());
        }
        let done = self.catch_up().await;
        drop(turn);
        let Err(cause) = done else { return Ok(()) };
        let age = self.age();
        if age > self.outage_staleness {
            return Err(EntriesError::Stale { age, cause });
        }
        tracing::debug!(error = %cause, age_seconds = age.as_secs(), "Entries in memory are used: the database does not answer");
        Ok(())
    }

    /// Whether what is in memory may still be used.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.age() <= self.outage_staleness.max(POLL * 4)
    }

    fn is_behind(&self) -> bool {
        *self.written.borrow() > *self.shown.borrow()
    }

    /// How long ago the database last answered that all this is current.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// A panic while the lock was held cannot have left more than one entry half changed, and the next check of
    /// the whole finds it.
    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}
