//! What changed lately, so that an agent which was away for a while need not be told everything.

use std::collections::VecDeque;
use std::sync::Arc;

use super::names::Number;

/// Changes that are remembered; an agent that missed more is told everything.
const KEPT: usize = 16_384;

/// An entry as it was before or after a change: under which parent, and its fingerprint.
pub(super) type Side = Option<(Number, u64)>;

/// One change of an entry.
#[derive(Debug, Clone)]
pub(super) struct Past {
    /// The version it made.
    pub(super) version: i64,
    pub(super) id: Arc<str>,
    pub(super) before: Side,
    pub(super) after: Side,
}

/// The changes after some version.
#[derive(Debug)]
pub(super) struct History {
    /// Everything after this version is here.
    since: i64,
    changes: VecDeque<Past>,
}

impl History {
    /// Nothing is known of what was before `version`.
    pub(super) fn since(version: i64) -> Self {
        Self { since: version, changes: VecDeque::new() }
    }

    pub(super) fn push(&mut self, change: Past) {
        if self.changes.len() == KEPT
            && let Some(oldest) = self.changes.pop_front()
        {
            self.since = self.since.max(oldest.version);
        }
        self.changes.push_back(change);
    }

    /// The changes after `version`, oldest first; `None` when not all of them are known.
    pub(super) fn after(&self, version: i64) -> Option<impl Iterator<Item = &Past>> {
        if version < self.since {
            return None;
        }
        // Versions of one list of changes are not in order: an entry is read once, at its last change.
        Some(self.changes.iter().filter(move |change| change.version > version))
    }
}
