//! Following the database.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use hardroot_identity::{SpiffeId, TrustDomain};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::history::History;
use super::index::Index;
use super::{AuthorizedEntries, POLL};
use crate::datastore::{Change, Changes, Datastore, Entry, Node, SnapshotReader, StoreError};

/// The most connections that a start reads with.
const MAX_READERS: usize = 4;
/// Answers that nobody asked for since the last time go this often.
const CLEAN: Duration = Duration::from_secs(300);

impl AuthorizedEntries {
    /// Applies what changed since the last time.
    ///
    /// # Errors
    /// The database cannot be read; what is in memory stays as it was.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _turn = self.refreshing.lock().await;
        self.catch_up().await
    }

    /// As [`Self::refresh`], by whoever has the turn.
    pub(super) async fn catch_up(&self) -> Result<(), StoreError> {
        let shown = *self.shown.borrow();
        let asked = Instant::now();
        let changes = self.store.changes_since(shown).await?;
        if leads_on(&changes, shown) {
            if changes.version != shown {
                let version = changes.version;
                if apply(&mut self.write(), shown, &changes) {
                    self.bundles.send_modify(|changes| *changes = changes.wrapping_add(1));
                }
                self.shown.send_replace(version);
            }
        } else {
            // Too far behind, or the database is another one than it was, or something of the log was lost.
            self.reload().await?;
        }
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(())
    }

    /// Reads everything anew.
    pub(super) async fn reload(&self) -> Result<(), StoreError> {
        let mut index = read_everything(self.store.as_ref(), &self.trust_domain).await?;
        let version = index.version;
        let older = {
            let mut held = self.write();
            index.adopt(&mut held);
            std::mem::replace(&mut *held, index)
        };
        // It may be large: nobody waits for it to go.
        drop(older);
        self.shown.send_replace(version);
        self.bundles.send_modify(|changes| *changes = changes.wrapping_add(1));
        Ok(())
    }

    /// Follows the database until `stop`.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut written = self.written.clone();
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut failing, mut cleaned) = (false, Instant::now());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                changed = written.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tick.reset();
                }
            }
            if cleaned.elapsed() >= CLEAN {
                cleaned = Instant::now();
                self.write().clean();
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
}

/// Whether these are all changes from `shown` to the version they tell, and none twice.
fn leads_on(changes: &Changes, shown: i64) -> bool {
    let count = changes.changed.as_ref().and_then(|changed| i64::try_from(changed.len()).ok());
    count == Some(changes.version.wrapping_sub(shown))
}

/// Applies changes after `shown`; whether bundles are among them.
fn apply(index: &mut Index, shown: i64, changes: &Changes) -> bool {
    for damage in &changes.damaged {
        tracing::error!(error = %damage, "A damaged row is left out");
    }
    let entries: HashMap<&str, &Entry> = changes.entries.iter().map(|e| (e.id.as_str(), e)).collect();
    let nodes: HashMap<&str, &Node> = changes.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
    let (mut seen, mut bundles) = (std::collections::HashSet::new(), false);
    let changed = changes.changed.as_deref().unwrap_or_default();
    let mut last = Vec::with_capacity(changed.len());
    // What changed often is set once, as of its last change.
    for (version, change) in (shown.saturating_add(1)..).zip(changed).collect::<Vec<_>>().into_iter().rev() {
        match change {
            Change::Bundle(_) => bundles = true,
            Change::Entry(_) | Change::Node(_) if seen.insert(change_key(change)) => {
                last.push((version, change))
            }
            _ => {}
        }
    }
    index.version = changes.version;
    for (version, change) in last.into_iter().rev() {
        match change {
            Change::Entry(id) => index.set_entry(version, id, entries.get(id.as_str()).copied()),
            Change::Node(id) => {
                if let Ok(parsed) = id.parse::<SpiffeId>() {
                    index.set_node(&parsed, nodes.get(id.as_str()).copied());
                }
            }
            Change::Bundle(_) => {}
        }
    }
    bundles
}

fn change_key(change: &Change) -> (u8, &str) {
    match change {
        Change::Entry(id) => (0, id),
        Change::Node(id) => (1, id),
        Change::Bundle(id) => (2, id),
    }
}

/// Puts rows into an index, one after the other.
struct Loader {
    index: Index,
}

impl SnapshotReader for Loader {
    fn version(&mut self, version: i64) {
        self.index.version = version;
        self.index.history = History::since(version);
    }

    fn entry(&mut self, entry: Entry) {
        self.index.load_entry(&entry);
    }

    fn node(&mut self, node: Node) {
        self.index.set_node(&node.id.clone(), Some(&node));
    }

    fn damaged(&mut self, damage: StoreError) {
        tracing::error!(error = %damage, "A damaged row is left out");
    }
}

/// Every entry and node, as of one moment.
pub(super) async fn read_everything(
    store: &dyn Datastore,
    trust_domain: &TrustDomain,
) -> Result<Index, StoreError> {
    let connections =
        std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1).min(MAX_READERS);
    let mut index = read(store, trust_domain, connections).await?;
    // Several connections read as of several moments. What changed since the first of them is set once more, whether it
    // was read before its change or after it, and then all is as of the last.
    let read_from = index.version;
    let changes = store.changes_since(read_from).await?;
    if !leads_on(&changes, read_from) {
        // So much changed meanwhile that the log does not tell it any more.
        return read(store, trust_domain, 1).await;
    }
    apply(&mut index, read_from, &changes);
    // Not all of that was told as a change from what was before.
    index.history = History::since(index.version);
    Ok(index)
}

async fn read(
    store: &dyn Datastore,
    trust_domain: &TrustDomain,
    connections: usize,
) -> Result<Index, StoreError> {
    let mut loader = Loader { index: Index::new(trust_domain.clone()) };
    store.snapshot(&mut loader, connections).await?;
    Ok(loader.index)
}
