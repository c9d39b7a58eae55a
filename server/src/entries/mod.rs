//! Which entries an agent may see (spire-map 1.8), held in memory and kept current.
//!
//! [`AuthorizedEntries`] follows the datastore's log of changes: a write of this process is seen by the next
//! question, a write of another process within [`POLL`]. Asking costs no query while nothing changes.

mod index;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use hardroot_identity::{SpiffeId, TrustDomain};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::datastore::{Change, Datastore, Entry, StoreError};
use index::Index;

/// How often the version in the database is compared with ours, for writes of other processes.
pub const POLL: Duration = Duration::from_millis(500);

/// How long the entries in memory are still used while the database does not answer.
pub const MAX_STALENESS: Duration = Duration::from_secs(600);

/// More changes than this at once are read as a whole.
const MAX_SINGLE_READS: usize = 1_000;

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
    index: RwLock<Index>,
    /// Taken while changes are read and applied, so that they are applied in order. Holds when the database
    /// last answered.
    refreshing: Mutex<Instant>,
    /// Writes of this process.
    written: watch::Receiver<i64>,
    /// The version that the index shows.
    shown: watch::Sender<i64>,
}

impl AuthorizedEntries {
    /// Reads every entry.
    ///
    /// # Errors
    /// The database cannot be read. Damaged rows are logged and authorise nobody.
    pub async fn load(store: Arc<dyn Datastore>, trust_domain: TrustDomain) -> Result<Arc<Self>, StoreError> {
        let written = store.subscribe();
        let (index, version) = read_everything(store.as_ref(), &trust_domain).await?;
        Ok(Arc::new(Self {
            store,
            trust_domain,
            index: RwLock::new(index),
            refreshing: Mutex::new(Instant::now()),
            written,
            shown: watch::Sender::new(version),
        }))
    }

    /// The entries of an agent, in order of their ids. No waiting, no query: see [`Self::current`].
    #[must_use]
    pub fn of(&self, agent: &SpiffeId) -> Vec<Arc<Entry>> {
        self.read().authorized(agent)
    }

    /// The entry `id`, if the agent is authorised for it.
    #[must_use]
    pub fn find(&self, agent: &SpiffeId, id: &str) -> Option<Arc<Entry>> {
        self.read().find(agent, id)
    }

    /// Every entry that gives the identity `id`, whoever its parent: for the admin and downstream rights of
    /// a caller.
    #[must_use]
    pub fn with_spiffe_id(&self, id: &SpiffeId) -> Vec<Arc<Entry>> {
        self.read().with_spiffe_id(id)
    }

    /// How many entries are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes after every change that is visible in [`Self::of`]; the value is the datastore's version.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.shown.subscribe()
    }

    /// Makes sure that what this process wrote is visible, then that what is in memory is not too old.
    ///
    /// # Errors
    /// [`EntriesError::Stale`] after [`MAX_STALENESS`] without an answer of the database.
    pub async fn current(&self) -> Result<(), EntriesError> {
        let behind = *self.written.borrow() > *self.shown.borrow();
        let checked = *self.refreshing.lock().await;
        if !behind && checked.elapsed() < POLL * 4 {
            return Ok(());
        }
        let Err(cause) = self.refresh().await else { return Ok(()) };
        let age = self.refreshing.lock().await.elapsed();
        if age > MAX_STALENESS {
            return Err(EntriesError::Stale { age, cause });
        }
        tracing::warn!(error = %cause, age_seconds = age.as_secs(), "Entries in memory are used: the database does not answer");
        Ok(())
    }

    /// Applies what changed since the last time.
    ///
    /// # Errors
    /// The database cannot be read; what is in memory stays as it was.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let mut checked = self.refreshing.lock().await;
        let shown = *self.shown.borrow();
        let changes = self.store.changes_since(shown).await?;
        if changes.version != shown || changes.changed.is_none() {
            let version = match changes.changed {
                Some(changed) if changed.len() <= MAX_SINGLE_READS => {
                    self.apply(changed).await?;
                    changes.version
                }
                _ => {
                    let (index, version) = read_everything(self.store.as_ref(), &self.trust_domain).await?;
                    *self.write() = index;
                    version
                }
            };
            self.shown.send_replace(version);
        }
        *checked = Instant::now();
        Ok(())
    }

    /// Follows the database until `stop`.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut written = self.written.clone();
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                changed = written.changed() => if changed.is_err() { return },
            }
            match self.refresh().await {
                Ok(()) if failing => {
                    failing = false;
                    tracing::info!("The database answers again; entries are current");
                }
                Ok(()) => {}
                Err(error) => {
                    if !failing {
                        tracing::error!(error = %error, cause = ?std::error::Error::source(&error), "Cannot follow changes of entries; those in memory are used");
                    }
                    failing = true;
                    // A database that fails at once must not make this loop spin on wake-ups.
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    async fn apply(&self, changed: Vec<Change>) -> Result<(), StoreError> {
        let mut entries = BTreeSet::new();
        let mut nodes = BTreeSet::new();
        for change in changed {
            match change {
                Change::Entry(id) => entries.insert(id),
                Change::Node(id) => nodes.insert(id),
            };
        }
        // Read all, then apply all: an error in between changes nothing.
        let mut new_entries = Vec::with_capacity(entries.len());
        for id in entries {
            let entry = undamaged(self.store.entry(&id).await)?;
            new_entries.push((id, entry));
        }
        let mut new_nodes = Vec::with_capacity(nodes.len());
        for id in nodes {
            let Ok(id) = id.parse::<SpiffeId>() else { continue };
            let node = undamaged(self.store.node(&id).await)?;
            new_nodes.push((id, node.map(|node| node.selectors)));
        }
        let mut index = self.write();
        for (id, entry) in new_entries {
            index.set_entry(&id, entry);
        }
        for (id, selectors) in new_nodes {
            index.set_node(id, selectors);
        }
        Ok(())
    }

    /// A panic while the lock was held cannot have left a half-made change: each is one assignment deep.
    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A damaged row is one that authorises nobody.
fn undamaged<T>(row: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match row {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!(error = %error, "A damaged row is left out");
            Ok(None)
        }
        other => other,
    }
}

async fn read_everything(
    store: &dyn Datastore,
    trust_domain: &TrustDomain,
) -> Result<(Index, i64), StoreError> {
    let snapshot = store.snapshot().await?;
    for damage in &snapshot.damaged {
        tracing::error!(error = %damage, "A damaged row is left out");
    }
    let mut index = Index::new(trust_domain.clone());
    for entry in snapshot.entries {
        index.set_entry(&entry.id.clone(), Some(entry));
    }
    for (id, selectors) in snapshot.node_selectors {
        index.set_node(id, Some(selectors));
    }
    Ok((index, snapshot.version))
}
