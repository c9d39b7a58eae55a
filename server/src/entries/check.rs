//! Comparing what is in memory with the database, in case an event was lost or a row was changed by hand.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::Duration;

use hardroot_identity::SpiffeId;

use super::AuthorizedEntries;
use super::held::fingerprint_of;
use crate::datastore::{Change, Entry, Node, SnapshotReader, StoreError};

/// About how often the whole is compared. Not all servers at once.
pub const CHECK: Duration = Duration::from_secs(15 * 60);

/// More differences than this are mended by reading everything anew.
const MAX_MENDED: usize = 1_000;

/// How a comparison went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The version at which memory and database were compared.
    pub version: i64,
    /// Ids of entries and agents that differed although no change says so; what differed is mended.
    pub drift: Vec<String>,
}

/// Compares rows with the index, and keeps those that differ.
struct Comparing<'a> {
    entries: &'a AuthorizedEntries,
    version: i64,
    seen: HashSet<u64>,
    seen_nodes: HashSet<SpiffeId>,
    differing: HashMap<String, Entry>,
    differing_nodes: HashMap<SpiffeId, Node>,
}

impl SnapshotReader for Comparing<'_> {
    fn version(&mut self, version: i64) {
        self.version = version;
    }

    fn entry(&mut self, entry: Entry) {
        let print = fingerprint_of(&entry);
        let index = self.entries.read();
        let same = index.entry(&entry.id).is_some_and(|held| held.fingerprint() == print);
        if index.is_own(&entry) {
            self.seen.insert(print);
            if !same && self.differing.len() <= MAX_MENDED {
                self.differing.insert(entry.id.clone(), entry);
            }
        }
    }

    fn node(&mut self, node: Node) {
        self.seen_nodes.insert(node.id.clone());
        if !self.entries.read().shows(&node) && self.differing_nodes.len() <= MAX_MENDED {
            self.differing_nodes.insert(node.id.clone(), node);
        }
    }

    fn damaged(&mut self, damage: StoreError) {
        tracing::error!(error = %damage, "A damaged row is left out");
    }
}

impl AuthorizedEntries {
    /// Compares everything in memory with the database as of one moment, tells of what differs, and mends it.
    /// `None` when so much changed meanwhile that nothing can be said.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn check(&self) -> Result<Option<Checked>, StoreError> {
        self.refresh().await?;
        let before = self.version();
        let mut found = Comparing {
            entries: self,
            version: 0,
            seen: HashSet::new(),
            seen_nodes: HashSet::new(),
            differing: HashMap::new(),
            differing_nodes: HashMap::new(),
        };
        // One connection: nobody waits for this, and agents are served meanwhile.
        self.store.snapshot(&mut found, 1).await?;
        let version = found.version;
        // What changed while we looked is no drift, and neither is what we already know to have changed.
        let _turn = self.refreshing.lock().await;
        self.catch_up().await?;
        let Some(changed) = self.store.changes_since(before.min(version)).await?.changed else {
            return Ok(None);
        };
        let changed: HashSet<&str> = changed
            .iter()
            .map(|change| match change {
                Change::Entry(id) | Change::Node(id) | Change::Bundle(id) => id.as_str(),
            })
            .collect();
        let mut drift = self.mend(&found, |id| changed.contains(id));
        if drift.len() > MAX_MENDED {
            self.reload().await?;
        }
        drift.sort();
        self.shown.send_modify(|_| {});
        let checked = Checked { version, drift };
        if checked.drift.is_empty() {
            tracing::debug!(version, "entries and agents in memory are those of the database");
        } else {
            tracing::error!(
                version,
                count = checked.drift.len(),
                examples = ?checked.drift.iter().take(10).collect::<Vec<_>>(),
                "entries or agents in memory differed from the database although no change was recorded; mended. Was the \
                 database changed by hand?"
            );
        }
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = Some(checked.clone());
        Ok(Some(checked))
    }

    /// Puts right what differs and `changed` does not explain; the ids.
    fn mend(&self, found: &Comparing<'_>, changed: impl Fn(&str) -> bool) -> Vec<String> {
        let mut drift = Vec::new();
        let mut index = self.write();
        let extra: Vec<String> = index
            .entries()
            .filter(|held| !found.seen.contains(&held.fingerprint()))
            .map(|held| held.id().to_owned())
            .filter(|id| !found.differing.contains_key(id))
            .collect();
        let differing = found.differing.iter().map(|(id, entry)| (id, Some(entry)));
        for (id, entry) in differing.chain(extra.iter().map(|id| (id, None))) {
            if !changed(id) {
                index.set_entry(found.version, id, entry);
                drift.push(id.clone());
            }
        }
        let nodes = found.differing_nodes.iter().map(|(id, node)| (id.clone(), Some(node)));
        let extra: Vec<SpiffeId> = index.node_ids().filter(|id| !found.seen_nodes.contains(id)).collect();
        for (id, node) in nodes.chain(extra.into_iter().map(|id| (id, None))) {
            if !changed(id.as_str()) {
                index.set_node(&id, node);
                drift.push(id.to_string());
            }
        }
        drift
    }
}
