//! The index: pure data, no I/O.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use hardroot_identity::{Selector, SpiffeId, TrustDomain};

use crate::datastore::Entry;

/// Parent of node aliases.
const SERVER_PATH: &str = "/spire/server";

/// Entries by id, by parent, by identity; aliases by selector; nodes' selectors.
pub(super) struct Index {
    trust_domain: TrustDomain,
    entries: HashMap<Arc<str>, Arc<Entry>>,
    /// Entries that are no aliases, by parent.
    children: HashMap<SpiffeId, BTreeSet<Arc<str>>>,
    /// All entries, by identity.
    by_spiffe_id: HashMap<SpiffeId, BTreeSet<Arc<str>>>,
    /// Aliases, by one selector: the smallest. An alias that is within a node's selectors has its smallest
    /// selector among them.
    aliases: HashMap<Selector, BTreeSet<Arc<str>>>,
    nodes: HashMap<SpiffeId, HashSet<Selector>>,
}

impl Index {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            entries: HashMap::new(),
            children: HashMap::new(),
            by_spiffe_id: HashMap::new(),
            aliases: HashMap::new(),
            nodes: HashMap::new(),
        }
    }

    /// Whether no trace of an entry is left.
    #[cfg(test)]
    pub(super) fn is_bare(&self) -> bool {
        self.entries.is_empty()
            && self.children.is_empty()
            && self.aliases.is_empty()
            && self.by_spiffe_id.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts, replaces or removes an entry. One of another trust domain is left out.
    pub(super) fn set_entry(&mut self, id: &str, entry: Option<Entry>) {
        if let Some((key, old)) = self.entries.remove_entry(id) {
            remove_from(&mut self.by_spiffe_id, &old.spiffe_id, &key);
            if is_alias(&old) {
                if let Some(first) = old.selectors.first() {
                    remove_from(&mut self.aliases, first, &key);
                }
            } else {
                remove_from(&mut self.children, &old.parent_id, &key);
            }
        }
        let Some(entry) = entry else { return };
        if !entry.spiffe_id.is_member_of(&self.trust_domain)
            || !entry.parent_id.is_member_of(&self.trust_domain)
        {
            return;
        }
        let key: Arc<str> = entry.id.as_str().into();
        self.by_spiffe_id.entry(entry.spiffe_id.clone()).or_default().insert(key.clone());
        if is_alias(&entry) {
            let Some(first) = entry.selectors.first() else { return };
            self.aliases.entry(first.clone()).or_default().insert(key.clone());
        } else {
            self.children.entry(entry.parent_id.clone()).or_default().insert(key.clone());
        }
        self.entries.insert(key, Arc::new(entry));
    }

    /// Puts, replaces or removes a node's selectors.
    pub(super) fn set_node(&mut self, id: SpiffeId, selectors: Option<Vec<Selector>>) {
        match selectors {
            Some(selectors) => self.nodes.insert(id, selectors.into_iter().collect()),
            None => self.nodes.remove(&id),
        };
    }

    pub(super) fn with_spiffe_id(&self, id: &SpiffeId) -> Vec<Arc<Entry>> {
        self.by_spiffe_id
            .get(id)
            .into_iter()
            .flatten()
            .filter_map(|key| self.entries.get(key).cloned())
            .collect()
    }

    /// What the agent may see, in order of ids.
    pub(super) fn authorized(&self, agent: &SpiffeId) -> Vec<Arc<Entry>> {
        let mut found = Vec::new();
        let mut seen: HashSet<&SpiffeId> = HashSet::new();
        let mut parents: Vec<&SpiffeId> = vec![agent];
        parents.extend(self.aliases_of(agent).map(|alias| &alias.spiffe_id));
        while let Some(parent) = parents.pop() {
            if !seen.insert(parent) {
                continue;
            }
            for entry in
                self.children.get(parent).into_iter().flatten().filter_map(|key| self.entries.get(key))
            {
                found.push(Arc::clone(entry));
                parents.push(&entry.spiffe_id);
            }
        }
        found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        found
    }

    /// The entry, if the agent may see it: the same question asked from the entry upwards, which visits the
    /// entry's ancestors instead of all the agent's entries.
    pub(super) fn find(&self, agent: &SpiffeId, id: &str) -> Option<Arc<Entry>> {
        let entry = self.entries.get(id).filter(|entry| !is_alias(entry))?;
        let no_selectors = HashSet::new();
        let node = self.nodes.get(agent).unwrap_or(&no_selectors);
        let mut seen: HashSet<&SpiffeId> = HashSet::new();
        let mut parents: Vec<&SpiffeId> = vec![&entry.parent_id];
        while let Some(parent) = parents.pop() {
            if parent == agent {
                return Some(Arc::clone(entry));
            }
            if !seen.insert(parent) {
                continue;
            }
            for above in
                self.by_spiffe_id.get(parent).into_iter().flatten().filter_map(|key| self.entries.get(key))
            {
                if !is_alias(above) {
                    parents.push(&above.parent_id);
                } else if above.selectors.iter().all(|selector| node.contains(selector)) {
                    return Some(Arc::clone(entry));
                }
            }
        }
        None
    }

    fn aliases_of<'a>(&'a self, agent: &SpiffeId) -> impl Iterator<Item = &'a Entry> {
        let node = self.nodes.get(agent);
        node.into_iter()
            .flatten()
            .filter_map(|selector| self.aliases.get(selector))
            .flatten()
            .filter_map(|key| self.entries.get(key))
            .filter(move |alias| node.is_some_and(|node| alias.selectors.iter().all(|s| node.contains(s))))
            .map(AsRef::as_ref)
    }
}

fn is_alias(entry: &Entry) -> bool {
    entry.parent_id.path() == SERVER_PATH
}

fn remove_from<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<Arc<str>>>, key: &K, id: &Arc<str>) {
    if let Some(ids) = map.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}
