//! What changes for one agent, for a stream that pushes it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hardroot_identity::{SpiffeId, TrustDomain};
use tokio::sync::Notify;

use super::AuthorizedEntries;
use super::held::Held;
use super::index::Index;
use super::view::{Follower, Sorted};

/// The first byte of a token's only form.
const FORM: u8 = 1;

/// What an agent has: the version of the database that it was told, and the sum of the fingerprints of its
/// entries. The sum decides: it is the same on every server whose database says the same of this agent, and differs
/// for a database that was restored, whatever its version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The version.
    pub version: i64,
    /// The sum.
    pub digest: u64,
}

impl Token {
    /// As the wire has it.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![FORM];
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.digest.to_be_bytes());
        bytes
    }

    /// Reads a token; one of another form, or none, tells nothing.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (form, rest) = bytes.split_first()?;
        let (version, digest) = rest.split_first_chunk::<8>()?;
        let digest: [u8; 8] = digest.try_into().ok()?;
        (*form == FORM)
            .then(|| Self { version: i64::from_be_bytes(*version), digest: u64::from_be_bytes(digest) })
    }
}

/// What a stream must send first.
#[derive(Debug)]
pub enum Start {
    /// The agent has everything.
    Current(Token),
    /// The agent lacks what [`Followed::take`] gives.
    Changes,
    /// Nobody knows what the agent lacks: it must have everything, which is what the token says.
    Everything(Sorted, Token),
}

/// What changed since the last time.
#[derive(Debug, Default)]
pub struct Taken {
    /// New and changed entries.
    pub changed: Vec<Held>,
    /// Entries that are the agent's no more.
    pub removed: Vec<String>,
    /// What the agent has once it has applied everything so far; `None` when there is more to take.
    pub token: Option<Token>,
}

/// A stream's place. When it is dropped, nothing is gathered any more.
#[derive(Debug)]
pub struct Followed {
    number: u64,
    agent: SpiffeId,
    wake: Arc<Notify>,
    entries: std::sync::Weak<AuthorizedEntries>,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl AuthorizedEntries {
    /// Begins to gather what changes for an agent that has what `known` says. An agent has one such place: an older one
    /// ends.
    #[must_use]
    pub fn follow_agent(self: &Arc<Self>, agent: &SpiffeId, known: Option<Token>) -> (Followed, Start) {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let mut index = self.write();
        let version = index.version;
        let missed = known.and_then(|known| missed(&mut index, agent, known));
        let mut follower = Follower::new(number);
        let wake = Arc::clone(&follower.wake);
        let mut start = Start::Changes;
        if let Some(view) = index.view(agent) {
            let now = Token { version, digest: view.digest };
            match missed {
                _ if known.is_some_and(|known| known.digest == view.digest) => start = Start::Current(now),
                Some(missed) => follower.pending = missed,
                None => start = Start::Everything(Arc::clone(&view.entries), now),
            }
            if let Some(older) = view.follower.replace(follower) {
                older.wake.notify_one();
            }
        }
        (Followed { number, agent: agent.clone(), wake, entries: Arc::downgrade(self) }, start)
    }

    /// Every open stream looks again at whether its agent may go on.
    pub fn recheck_all(&self) {
        self.write().wake_all();
    }

    /// How many streams follow.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.read().followers()
    }
}

/// The entries that differ from what an agent was told, if the changes since then explain the difference exactly.
fn missed(
    index: &mut Index,
    agent: &SpiffeId,
    known: Token,
) -> Option<std::collections::BTreeMap<Box<str>, Option<u64>>> {
    index.view(agent)?;
    let mut touched: HashMap<Arc<str>, Option<u64>> = HashMap::new();
    let (history, view) = index.history_and_view(agent)?;
    for change in history.after(known.version)? {
        let mine = |side: super::history::Side| {
            side.filter(|(parent, _)| view.parents.contains(parent)).map(|(_, p)| p)
        };
        let (before, after) = (mine(change.before), mine(change.after));
        if before.is_some() || after.is_some() || touched.contains_key(&change.id) {
            touched.entry(Arc::clone(&change.id)).or_insert(before);
        }
    }
    let mut digest = view.digest;
    for (id, before) in &touched {
        digest = digest.wrapping_sub(view.find(id).map_or(0, |held| held.fingerprint()));
        digest = digest.wrapping_add(before.unwrap_or(0));
    }
    let pending = touched.into_iter().map(|(id, before)| (Box::from(&*id), before));
    (digest == known.digest).then(|| pending.collect())
}

impl Followed {
    /// Waits until there may be something to do.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether the agent's standing must be looked at again; asked once.
    #[must_use]
    pub fn standing_changed(&self) -> bool {
        let Some(entries) = self.entries.upgrade() else { return true };
        let mut index = entries.write();
        let follower = index.view_of(&self.agent).and_then(|view| view.follower.as_mut());
        follower.filter(|f| f.number == self.number).is_some_and(|f| std::mem::take(&mut f.standing))
    }

    /// At most `at_most` changes; `None` when a newer stream of the agent took this one's place.
    #[must_use]
    pub fn take(&self, at_most: usize) -> Option<Taken> {
        let entries = self.entries.upgrade()?;
        let mut index = entries.write();
        let version = index.version;
        let view = index.view(&self.agent)?;
        let mut taken = Taken::default();
        let follower = view.follower.as_mut().filter(|follower| follower.number == self.number)?;
        let mut ids = Vec::new();
        while ids.len() < at_most
            && let Some((id, _)) = follower.pending.pop_first()
        {
            ids.push(id);
        }
        let done = follower.pending.is_empty();
        for id in ids {
            match view.find(&id) {
                Some(held) => taken.changed.push(held.clone()),
                None => taken.removed.push(id.into()),
            }
        }
        taken.token = done.then_some(Token { version, digest: view.digest });
        Some(taken)
    }

    /// The foreign trust domains that the agent's entries federate with.
    #[must_use]
    pub fn federates_with(&self) -> Vec<TrustDomain> {
        let Some(entries) = self.entries.upgrade() else { return Vec::new() };
        let mut index = entries.write();
        index.view(&self.agent).map_or_else(Vec::new, |view| view.federates_with().cloned().collect())
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let Some(entries) = self.entries.upgrade() else { return };
        let mut index = entries.write();
        if let Some(view) = index.view_of(&self.agent)
            && view.follower.as_ref().is_some_and(|follower| follower.number == self.number)
        {
            view.follower = None;
        }
    }
}
