//! Views: which agents' answers a change reaches, and which names they hang on.

use super::{Index, Name, is_within};
use crate::entries::held::Held;
use crate::entries::names::Number;
use crate::entries::view::View;

impl Index {
    /// Marks the views that a change of this entry may move others in or out of; to be called while it is linked.
    pub(super) fn disturb(&mut self, held: &Held, other: Option<&Held>) {
        if self.is_alias(held) {
            let mut reached = self.watchers(held.name());
            for agent in &self.viewed {
                let node = self.names.get(*agent).and_then(|name| name.node.as_deref());
                if node.is_some_and(|node| is_within(held, node)) {
                    reached.push(*agent);
                }
            }
            self.make_stale(&reached);
            return;
        }
        let below = |number| self.names.get(number).map_or(0, |name: &Name| name.children.as_slice().len());
        let (siblings, children) = (below(held.parent()), below(held.name()));
        // Whoever may see the parent's own entry did not watch the parent while nothing was below it.
        if siblings == 1 {
            let above = self.names.get(held.parent()).map_or(&[][..], |name| name.given_by.as_slice());
            let above: Vec<_> = above.iter().filter(|e| !self.is_alias(e)).map(|e| e.parent()).collect();
            for parent in above {
                let reached = self.watchers(parent);
                self.make_stale(&reached);
            }
        }
        let same_edge =
            other.is_some_and(|other| other.name() == held.name() && other.parent() == held.parent());
        if !same_edge && children > 0 {
            let reached = self.watchers(held.parent());
            self.make_stale(&reached);
        }
    }

    pub(super) fn make_stale(&mut self, agents: &[Number]) {
        for agent in agents {
            if let Some(view) = self.view_mut(*agent) {
                view.stale = true;
                view.wake();
            }
        }
    }

    pub(super) fn watchers(&self, name: Number) -> Vec<Number> {
        self.names.get(name).map_or_else(Vec::new, |name| name.watchers.as_slice().to_vec())
    }

    pub(super) fn watches(&self, agent: Number, name: Number) -> bool {
        let view = self.names.get(agent).and_then(|name| name.view.as_ref());
        view.is_some_and(|view| view.parents.contains(&name))
    }

    pub(super) fn view_mut(&mut self, agent: Number) -> Option<&mut View> {
        self.names.get_mut(agent)?.view.as_deref_mut()
    }

    /// Makes an agent's view watch these names and no others.
    pub(super) fn watch(&mut self, agent: Number, parents: &[Number]) {
        let old = self.view_mut(agent).map(|view| std::mem::take(&mut view.parents)).unwrap_or_default();
        for number in parents {
            if let Some(name) = self.names.get_mut(*number) {
                name.watchers.push(agent);
            }
        }
        for number in old {
            if let Some(name) = self.names.get_mut(number) {
                name.watchers.remove(|watcher| *watcher == agent);
            }
            self.release(number);
        }
    }
}
