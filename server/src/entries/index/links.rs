//! Entries, names and texts: what is taken into the index is linked, what goes leaves no trace.

use super::{Index, selector_text};
use crate::datastore::Entry;
use crate::entries::held::{ById, Held, Rare};
use crate::entries::names::{Number, file, unfile};

impl Index {
    /// An entry with its numbers. Its texts and names are in use from now on.
    pub(super) fn hold(&mut self, entry: &Entry) -> Held {
        let (name, parent) =
            (self.names.number(entry.spiffe_id.as_str()), self.names.number(entry.parent_id.as_str()));
        let mut selectors = Vec::new();
        if parent == self.server {
            selectors = entry.selectors.iter().map(|selector| self.text(&selector_text(selector))).collect();
            selectors.sort_unstable();
        }
        let rare = (!selectors.is_empty() || !entry.federates_with.is_empty()).then(|| {
            Box::new(Rare {
                selectors: selectors.into(),
                federates_with: entry.federates_with.clone().into(),
            })
        });
        Held::new(entry, name, (parent, self.names.shared(parent)), rare)
    }

    /// Gives back what [`Self::hold`] took.
    pub(super) fn let_go(&mut self, held: &Held) {
        for text in held.alias_selectors() {
            self.drop_text(*text);
        }
        for number in [held.name(), held.parent()] {
            self.release(number);
        }
    }

    pub(super) fn link(&mut self, held: &Held) {
        if let Some(name) = self.names.get_mut(held.name()) {
            name.given_by.push(held.clone());
        }
        if !self.is_alias(held) {
            if let Some(parent) = self.names.get_mut(held.parent()) {
                parent.children.push(held.clone());
            }
        } else if let Some(first) = held.alias_selectors().first() {
            file(&mut self.aliases, *first, held.clone());
        }
        self.entries.insert(ById(held.clone()));
    }

    pub(super) fn unlink(&mut self, held: &Held) {
        let same = |other: &Held| other.is(held);
        if let Some(name) = self.names.get_mut(held.name()) {
            name.given_by.remove(same);
        }
        if !self.is_alias(held) {
            if let Some(parent) = self.names.get_mut(held.parent()) {
                parent.children.remove(same);
            }
        } else if let Some(first) = held.alias_selectors().first() {
            unfile(&mut self.aliases, first, same);
        }
        self.entries.remove(held.id());
    }

    /// Forgets a name that nothing hangs on.
    pub(super) fn release(&mut self, number: Number) {
        if number != self.server {
            self.names.release(number);
        }
    }

    /// Uses a text.
    pub(super) fn text(&mut self, text: &str) -> Number {
        let number = self.texts.number(text);
        if let Some(uses) = self.texts.get_mut(number) {
            uses.0 += 1;
        }
        number
    }

    pub(super) fn drop_text(&mut self, number: Number) {
        if let Some(uses) = self.texts.get_mut(number) {
            uses.0 = uses.0.saturating_sub(1);
        }
        self.texts.release(number);
    }
}
