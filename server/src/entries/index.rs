//! The index: pure data, no I/O.
//!
//! An entry is held as the bytes that agents get. Beside them the index knows identities by small numbers; each
//! number's [`Name`] lists the entries below it and those that give it. What an agent may see is worked out when it
//! first asks ([`View`]) and then follows each change: an entry with nothing below it is put in or taken out; a
//! change that may move others marks the views it can reach as stale.

mod links;
mod watching;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hardroot_identity::{Selector, SpiffeId, TrustDomain};

use super::held::{ById, Held};
use super::history::{History, Past, Side};
use super::names::{Few, Number, Table, Unused, Uses};
use super::view::{Sorted, View};
use crate::datastore::{Entry, Node};

/// Parent of node aliases.
const SERVER_PATH: &str = "/spire/server";
/// Memberships of views that are kept while nobody asks, at 8 bytes each.
const MAX_MEMBERS: usize = 16 << 20;

/// What hangs on an identity.
#[derive(Debug, Default)]
pub(super) struct Name {
    /// Entries that are no aliases, by parent.
    children: Few<Held>,
    /// Entries that give this identity.
    given_by: Few<Held>,
    node: Option<Box<KnownNode>>,
    /// Agents whose views have this name among their parents.
    watchers: Few<Number>,
    view: Option<Box<View>>,
}

impl Unused for Name {
    fn is_unused(&self) -> bool {
        self.children.is_empty()
            && self.given_by.is_empty()
            && self.node.is_none()
            && self.watchers.is_empty()
            && self.view.is_none()
    }
}

/// What is known of an attested node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownNode {
    /// Sorted.
    selectors: Box<[Number]>,
    /// Empty when the node is banned, or when nobody may rely on what is known.
    serial: Box<str>,
    new_serial: Box<str>,
    version: Number,
}

/// Entries by id, by parent and by identity, aliases by selector, nodes, views of agents.
pub(super) struct Index {
    trust_domain: TrustDomain,
    server: Number,
    names: Table<Name>,
    /// Selectors of nodes and aliases, and agents' versions.
    texts: Table<Uses>,
    entries: HashSet<ById>,
    /// Aliases, by one of their selectors.
    aliases: HashMap<Number, Few<Held>>,
    nodes: usize,
    /// Agents that have a view.
    viewed: HashSet<Number>,
    /// The version of the database that all this shows.
    pub(super) version: i64,
    pub(super) history: History,
}

impl Index {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        let mut names: Table<Name> = Table::new();
        let server = names.number(&format!("spiffe://{trust_domain}{SERVER_PATH}"));
        Self {
            trust_domain,
            server,
            names,
            texts: Table::new(),
            entries: HashSet::new(),
            aliases: HashMap::new(),
            nodes: 0,
            viewed: HashSet::new(),
            version: 0,
            history: History::since(0),
        }
    }

    /// Whether no trace of an entry or a node is left.
    #[cfg(test)]
    pub(super) fn is_bare(&self) -> bool {
        self.entries.is_empty()
            && self.aliases.is_empty()
            && self.texts.len() == 0
            && self.names.len() == 1 + self.viewed.len()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nodes that are known.
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Every known node's ID, in no order.
    pub(super) fn node_ids(&self) -> impl Iterator<Item = SpiffeId> {
        let known = self.names.iter().filter(|(_, name)| name.node.is_some());
        known.filter_map(|(text, _)| text.parse().ok())
    }

    pub(super) fn entry(&self, id: &str) -> Option<&Held> {
        self.entries.get(id).map(|ById(held)| held)
    }

    /// Every entry, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Held> {
        self.entries.iter().map(|ById(held)| held)
    }

    pub(super) fn is_own(&self, entry: &Entry) -> bool {
        entry.spiffe_id.is_member_of(&self.trust_domain) && entry.parent_id.is_member_of(&self.trust_domain)
    }

    /// Puts, replaces or removes an entry, as of a version. One of another trust domain is left out.
    pub(super) fn set_entry(&mut self, version: i64, id: &str, entry: Option<&Entry>) {
        let new = entry.filter(|entry| self.is_own(entry)).map(|entry| self.hold(entry));
        let old = self.entries.get(id).map(|ById(held)| held.clone());
        let side = |held: &Option<Held>| -> Side { held.as_ref().map(|h| (h.parent(), h.fingerprint())) };
        let (before, after) = (side(&old), side(&new));
        if before.map(|(_, print)| print) == after.map(|(_, print)| print) {
            if let Some(unused) = new {
                self.let_go(&unused);
            }
            return;
        }
        if let Some(old) = &old {
            self.disturb(old, new.as_ref());
            self.unlink(old);
        }
        if let Some(new) = &new {
            self.link(new);
            self.disturb(new, old.as_ref());
        }
        self.history.push(Past { version, id: id.into(), before, after });
        let (was, is) = (old.as_ref(), new.as_ref());
        let (was, is) = (was.filter(|held| !self.is_alias(held)), is.filter(|held| !self.is_alias(held)));
        if let Some(was) = was {
            for agent in self.watchers(was.parent()) {
                // An entry that moves from one of an agent's parents to another one stays the agent's.
                if !is.is_some_and(|is| is.parent() == was.parent() || self.watches(agent, is.parent())) {
                    self.tell(agent, id, None);
                }
            }
        }
        if let Some(is) = is {
            for agent in self.watchers(is.parent()) {
                self.tell(agent, id, Some(is));
            }
        }
        if let Some(old) = old {
            self.let_go(&old);
        }
    }

    /// Changes one entry in an agent's view.
    fn tell(&mut self, agent: Number, id: &str, held: Option<&Held>) {
        let Some(view) = self.view_mut(agent) else { return };
        if !view.stale {
            view.set(id, held.cloned());
        }
        view.wake();
    }

    /// Loads an entry before anybody asks.
    pub(super) fn load_entry(&mut self, entry: &Entry) {
        if self.is_own(entry) {
            let held = self.hold(entry);
            let old = self.entries.get(held.id()).cloned();
            if let Some(ById(old)) = &old {
                self.unlink(old);
            }
            self.link(&held);
            if let Some(ById(old)) = old {
                self.let_go(&old);
            }
        }
    }

    /// Puts, replaces or removes a node.
    pub(super) fn set_node(&mut self, id: &SpiffeId, node: Option<&Node>) {
        let new = node.map(|node| {
            let version = self.text(&node.agent_version);
            let mut selectors: Vec<_> =
                node.selectors.iter().map(|selector| self.text(&selector_text(selector))).collect();
            selectors.sort_unstable();
            Box::new(KnownNode {
                selectors: selectors.into(),
                serial: node.serial_number.as_str().into(),
                new_serial: node.new_serial_number.as_str().into(),
                version,
            })
        });
        let Some(number) = (match &new {
            Some(_) => Some(self.names.number(id.as_str())),
            None => self.names.find(id.as_str()),
        }) else {
            return;
        };
        let Some(name) = self.names.get_mut(number) else { return };
        let old = std::mem::replace(&mut name.node, new);
        match (old.is_some(), name.node.is_some()) {
            (false, true) => self.nodes += 1,
            (true, false) => self.nodes -= 1,
            _ => {}
        }
        if old != name.node
            && let Some(view) = &mut name.view
        {
            view.stale |=
                old.as_ref().map(|old| &old.selectors) != name.node.as_ref().map(|new| &new.selectors);
            if let Some(follower) = &mut view.follower {
                follower.standing = true;
            }
            view.wake();
        }
        if let Some(old) = old {
            for text in old.selectors.iter().chain([&old.version]) {
                self.drop_text(*text);
            }
        }
        self.release(number);
    }

    /// The serials of an agent's row: the current one and the pending one, which may be empty. `None` when nothing is
    /// known that may be relied on.
    pub(super) fn serials(&self, agent: &SpiffeId) -> Option<(&str, &str)> {
        let node = self.node(agent)?;
        (!node.serial.is_empty()).then_some((&node.serial, &node.new_serial))
    }

    /// The version that an agent reported last.
    pub(super) fn agent_version(&self, agent: &SpiffeId) -> Option<&str> {
        self.node(agent).map(|node| self.texts.text(node.version))
    }

    /// From now on nobody relies on what is known of an agent's serials, until its row changes.
    pub(super) fn distrust(&mut self, agent: &SpiffeId) {
        let Some(number) = self.names.find(agent.as_str()) else { return };
        let Some(name) = self.names.get_mut(number) else { return };
        if let Some(node) = &mut name.node {
            node.serial = Box::default();
            node.new_serial = Box::default();
        }
        if let Some(view) = &mut name.view {
            if let Some(follower) = &mut view.follower {
                follower.standing = true;
            }
            view.wake();
        }
    }

    /// Whether a node's row says what is known of it.
    pub(super) fn shows(&self, node: &Node) -> bool {
        let Some(known) = self.node(&node.id) else { return false };
        let serials = *known.serial == *node.serial_number && *known.new_serial == *node.new_serial_number;
        let mut selectors: Vec<_> = node.selectors.iter().map(selector_text).collect();
        let mut held: Vec<_> = known.selectors.iter().map(|number| self.texts.text(*number)).collect();
        selectors.sort_unstable();
        held.sort_unstable();
        serials && held == selectors && self.texts.text(known.version) == node.agent_version
    }

    pub(super) fn with_spiffe_id(&self, id: &SpiffeId) -> Vec<Held> {
        let number = self.names.find(id.as_str());
        let name = number.and_then(|number| self.names.get(number));
        name.map_or_else(Vec::new, |name| name.given_by.as_slice().to_vec())
    }

    /// The agent's entries, if they were worked out and nothing changed.
    pub(super) fn ready(&self, agent: &SpiffeId) -> Option<Sorted> {
        let name = self.names.get(self.names.find(agent.as_str())?)?;
        let view = name.view.as_ref().filter(|view| !view.stale)?;
        view.touch();
        Some(Arc::clone(&view.entries))
    }

    /// The agent's view, worked out now if need be.
    pub(super) fn view(&mut self, agent: &SpiffeId) -> Option<&mut View> {
        let number = self.names.number(agent.as_str());
        let name = self.names.get_mut(number)?;
        let view = name.view.get_or_insert_with(|| Box::new(View::stale()));
        if view.stale {
            self.viewed.insert(number);
            let (found, parents) = self.authorized(number);
            self.watch(number, &parents);
            self.view_mut(number)?.replace(found, parents);
        }
        let view = self.view_mut(number)?;
        view.touch();
        Some(view)
    }

    /// The agent's view as it is.
    pub(super) fn view_of(&mut self, agent: &SpiffeId) -> Option<&mut View> {
        let number = self.names.find(agent.as_str())?;
        self.view_mut(number)
    }

    /// The agent's view as it is, and what changed lately.
    pub(super) fn history_and_view(&self, agent: &SpiffeId) -> Option<(&History, &View)> {
        let view = self.names.get(self.names.find(agent.as_str())?)?.view.as_deref()?;
        Some((&self.history, view))
    }

    /// How many views a stream follows.
    pub(super) fn followers(&self) -> usize {
        let views = self.viewed.iter().filter_map(|number| self.names.get(*number)?.view.as_ref());
        views.filter(|view| view.follower.is_some()).count()
    }

    /// Forgets views that nobody asked for since the last call, and all that nobody follows when they are too many.
    pub(super) fn clean(&mut self) {
        let mut members = 0;
        let mut idle = Vec::new();
        for number in &self.viewed {
            let Some(view) = self.names.get(*number).and_then(|name| name.view.as_ref()) else { continue };
            if view.is_idle() || (members > MAX_MEMBERS && view.follower.is_none()) {
                idle.push(*number);
            } else {
                members += view.entries.len();
            }
        }
        for number in idle {
            self.watch(number, &[]);
            if let Some(name) = self.names.get_mut(number) {
                name.view = None;
            }
            self.viewed.remove(&number);
            self.release(number);
        }
    }

    /// Takes the views of an older index, to be worked out anew.
    pub(super) fn adopt(&mut self, older: &mut Self) {
        for number in std::mem::take(&mut older.viewed) {
            let text = older.names.text(number).to_owned();
            let Some(mut view) = older.names.get_mut(number).and_then(|name| name.view.take()) else {
                continue;
            };
            view.stale = true;
            view.parents.clear();
            if let Some(follower) = &mut view.follower {
                follower.standing = true;
            }
            view.wake();
            let number = self.names.number(&text);
            if let Some(name) = self.names.get_mut(number) {
                name.view = Some(view);
                self.viewed.insert(number);
            }
        }
    }

    /// Wakes every stream, so that each looks again at its agent's standing.
    pub(super) fn wake_all(&mut self) {
        for number in &self.viewed {
            let view = self.names.get_mut(*number).and_then(|name| name.view.as_mut());
            let Some(view) = view else { continue };
            if let Some(follower) = &mut view.follower {
                follower.standing = true;
            }
            view.wake();
        }
    }

    /// The entry, if the agent may see it: the question asked from the entry upwards, which visits the
    /// entry's ancestors instead of all the agent's entries.
    pub(super) fn find(&self, agent: &SpiffeId, id: &str) -> Option<Held> {
        let held = self.entry(id).filter(|held| !self.is_alias(held))?;
        let agent = self.names.find(agent.as_str())?;
        let node = self.names.get(agent).and_then(|name| name.node.as_deref());
        let mut seen = HashSet::new();
        let mut parents = vec![held.parent()];
        while let Some(parent) = parents.pop() {
            if parent == agent {
                return Some(held.clone());
            }
            if !seen.insert(parent) {
                continue;
            }
            let Some(name) = self.names.get(parent) else { continue };
            for above in name.given_by.as_slice() {
                if !self.is_alias(above) {
                    parents.push(above.parent());
                } else if node.is_some_and(|node| is_within(above, node)) {
                    return Some(held.clone());
                }
            }
        }
        None
    }

    /// What the agent may see, and the names it hangs on.
    fn authorized(&self, agent: Number) -> (Vec<Held>, Vec<Number>) {
        let mut found: Vec<Held> = Vec::new();
        let mut seen = HashSet::new();
        let mut parents = vec![agent];
        let node = self.names.get(agent).and_then(|name| name.node.as_deref());
        if let Some(node) = node {
            let filed = node.selectors.iter().filter_map(|selector| self.aliases.get(selector));
            let aliases = filed.flat_map(Few::as_slice).filter(|alias| is_within(alias, node));
            parents.extend(aliases.map(|alias| alias.name()));
        }
        while let Some(parent) = parents.pop() {
            if !seen.insert(parent) {
                continue;
            }
            let Some(name) = self.names.get(parent) else { continue };
            for held in name.children.as_slice() {
                found.push(held.clone());
                let below = self.names.get(held.name()).is_some_and(|name| !name.children.is_empty());
                if below {
                    parents.push(held.name());
                }
            }
        }
        (found, seen.into_iter().collect())
    }

    fn is_alias(&self, held: &Held) -> bool {
        held.parent() == self.server
    }

    fn node(&self, agent: &SpiffeId) -> Option<&KnownNode> {
        self.names.get(self.names.find(agent.as_str())?)?.node.as_deref()
    }
}

/// Whether a node has all selectors of an alias.
fn is_within(alias: &Held, node: &KnownNode) -> bool {
    let selectors = alias.alias_selectors();
    !selectors.is_empty() && selectors.iter().all(|s| node.selectors.binary_search(s).is_ok())
}

/// A type holds no colon, so that the text tells where it ends.
fn selector_text(selector: &Selector) -> String {
    format!("{}:{}", selector.kind(), selector.value())
}
