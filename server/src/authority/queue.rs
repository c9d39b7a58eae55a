//! Whose signature is made next, and who is told to come back.
//!
//! A token makes so many signatures a second and no more. Requests wait here, not in front of the token: by class, agents
//! before workloads before new connections before tokens, and within a class in the order in which they came. The key manager gets as many as it
//! works on at a time, and a few more while its answers are quick, so that it never waits for the next one.
//! Whoever would wait for too long is told so at once, with a time to come back; whoever goes away leaves the queue.
//! Why so: docs/decisions/0022-signatures-in-order.md.

mod handshakes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hardroot_telemetry::{count, gauge, sample_with};
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use handshakes::Handshakes;

/// A class that waits gets at least one of so many signatures, whatever waits in the classes before it.
pub const SHARE: u32 = 8;
/// Below this time for one signature of one lane, waking the next request takes a part that counts: then each lane has
/// more requests waiting in the key manager, as many as it makes in [`LEAD`], at least one and at most [`MOST_BEHIND`].
const QUICK: Duration = Duration::from_millis(5);
/// So much work is at hand for each lane of a quick key manager, while the next request is woken on cores that are busy.
const LEAD: Duration = Duration::from_millis(1);
/// Requests behind the one that a lane works on, at most.
const MOST_BEHIND: u128 = 16;
/// Requests admitted at a time: a bound on memory, far above what any token makes within the longest wait.
const MOST_ADMITTED: usize = 65_536;
/// Shortest and longest time after which somebody is asked to come back.
const RETURN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// Signatures that one refused call keeps free for its return.
const MOST_INVITED: usize = 50;
/// Part of a new measurement in the estimate of a signature's time.
const WEIGHT: f64 = 1.0 / 16.0;
/// What an answer needs besides its signature.
const MARGIN: Duration = Duration::from_millis(20);

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Agents' own SVIDs, servers' own and downstream ones: nothing else works without them.
    Agent,
    /// Workloads' certificates.
    Workload,
    /// TLS handshakes. After the certificates of those who are connected already: whoever has begun is to end, and
    /// strangers, who can make handshakes and nothing else, stand behind those who are known.
    Connection,
    /// JWT-SVIDs.
    Token,
}

impl Class {
    /// All, first served first.
    pub const ALL: [Self; 4] = [Self::Agent, Self::Workload, Self::Connection, Self::Token];

    /// For metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Workload => "workload",
            Self::Connection => "connection",
            Self::Token => "token",
        }
    }

    /// Longest wait that is begun: SPIRE's agents give a call up after 30 s, a handshake has 10 s (`handshake_timeout`) of
    /// which the peers need some, and a program that wants a token is waiting.
    #[must_use]
    pub fn longest_wait(self) -> Duration {
        match self {
            Self::Agent | Self::Workload => Duration::from_secs(20),
            Self::Connection => Duration::from_secs(8),
            Self::Token => Duration::from_secs(10),
        }
    }
}

/// The classes that do not sign with the key of JWT-SVIDs.
const OTHERS: &[Class] = &[Class::Agent, Class::Workload, Class::Connection];

/// The signature cannot be made in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server has more to sign than its key manager can sign in time (class {}); come back in {} s",
    class.name(),
    retry_after.as_secs().max(1)
)]
pub struct Busy {
    /// Who was refused.
    pub class: Class,
    /// When there will be room.
    pub retry_after: Duration,
}

/// One value for each class.
#[derive(Debug, Default)]
struct Of<T>([T; 4]);

impl<T> Of<T> {
    fn get(&self, class: Class) -> &T {
        let [agent, workload, connection, token] = &self.0;
        match class {
            Class::Agent => agent,
            Class::Workload => workload,
            Class::Connection => connection,
            Class::Token => token,
        }
    }

    fn get_mut(&mut self, class: Class) -> &mut T {
        let [agent, workload, connection, token] = &mut self.0;
        match class {
            Class::Agent => agent,
            Class::Workload => workload,
            Class::Connection => connection,
            Class::Token => token,
        }
    }
}

type Waiters = BTreeMap<u64, (Instant, oneshot::Sender<Turn>)>;

#[derive(Debug, Default)]
struct State {
    /// Signatures that the key manager was given.
    busy: usize,
    /// Those of them that are for tokens.
    busy_tokens: usize,
    /// Requests that were admitted and are not done.
    admitted: Of<usize>,
    /// Those of them that wait for their turn now, by the order in which they were admitted.
    waiting: Of<Waiters>,
    /// How often in a row a waiting class was passed over.
    passed: Of<u32>,
    next_ticket: u64,
    /// Time between two signatures when the key manager is busy, seconds; 0 while it is not known.
    interval: f64,
    /// Until when the time is kept for those who were asked to come back.
    invited: Of<Option<Instant>>,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    lanes: usize,
    state: Mutex<State>,
}

impl Queue {
    /// For a key manager that makes `lanes` signatures at a time.
    #[must_use]
    pub fn new(lanes: usize) -> Arc<Self> {
        Arc::new(Self { lanes: lanes.max(1), state: Mutex::default() })
    }

    // Holders only move whole values.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many items of one call should be under way at a time, so that the key manager has enough to do.
    #[must_use]
    pub fn width(&self) -> usize {
        (self.lanes * 4).clamp(16, 256)
    }

    /// Admits `count` requests (at least 1), or as many of them as can be done within the class's longest wait and
    /// `patience`, which is the caller's own deadline. When nobody is ahead, one is always admitted.
    ///
    /// # Errors
    /// Not even one can be done in time.
    pub fn admit(
        self: &Arc<Self>,
        class: Class,
        count: usize,
        patience: Option<Duration>,
    ) -> Result<Places, Busy> {
        let now = Instant::now();
        let mut state = self.lock();
        let limit = limit(class, patience);
        let Some(fit) = state.fit(class, limit) else {
            return Err(self.refuse(&mut state, class, count, now));
        };
        let granted = count.clamp(1, fit);
        *state.admitted.get_mut(class) += granted;
        let first = state.next_ticket;
        state.next_ticket += u64::try_from(granted).unwrap_or(u64::MAX);
        Ok(Places {
            queue: Arc::clone(self),
            class,
            left: Mutex::new(Left { next: first, count: granted }),
            // A wait that turned out longer than it looked ends here.
            until: now + limit,
        })
    }

    /// A place for what must be signed whoever waits: the server's own SVID.
    pub fn admit_own(self: &Arc<Self>) -> Places {
        let mut state = self.lock();
        *state.admitted.get_mut(Class::Agent) += 1;
        let next = state.next_ticket;
        state.next_ticket += 1;
        Places {
            queue: Arc::clone(self),
            class: Class::Agent,
            left: Mutex::new(Left { next, count: 1 }),
            until: Instant::now() + Duration::from_secs(3600),
        }
    }

    /// Whether one request would be admitted now: for those who would prepare much before they ask.
    ///
    /// # Errors
    /// It would not.
    pub fn room(&self, class: Class, patience: Option<Duration>) -> Result<(), Busy> {
        let now = Instant::now();
        let mut state = self.lock();
        match state.fit(class, limit(class, patience)) {
            Some(_) => Ok(()),
            None => Err(self.refuse(&mut state, class, 1, now)),
        }
    }

    fn refuse(&self, state: &mut State, class: Class, count: usize, now: Instant) -> Busy {
        count_refused(class, "full");
        Busy { class, retry_after: state.invite(class, count, now) }
    }

    /// As many as the key manager may have at a time.
    fn depth(&self, state: &State) -> usize {
        let lanes = u32::try_from(self.lanes).map_or(f64::from(u32::MAX), f64::from);
        let each = Duration::try_from_secs_f64(state.interval * lanes).unwrap_or(Duration::MAX);
        if each >= QUICK {
            return self.lanes;
        }
        // Before anything is known it may turn out to be slow.
        let behind =
            LEAD.as_nanos().checked_div(each.as_nanos()).map_or(1, |made| made.clamp(1, MOST_BEHIND));
        self.lanes * (1 + usize::try_from(behind).unwrap_or(1))
    }

    /// Gives turns away for as long as there are lanes and waiters.
    fn dispatch(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            // One of the others goes to the key manager even when tokens have every lane: their key may hang, or take long.
            let full = state.busy >= self.depth(&state);
            if full && state.busy > state.busy_tokens {
                return;
            }
            let among = if full { OTHERS } else { &Class::ALL };
            let Some((class, (since, waiter))) = state.next(among) else { return };
            state.busy += 1;
            state.busy_tokens += usize::from(class == Class::Token);
            drop(state);
            sample_with(
                "hardroot.signing.wait_ms",
                since.elapsed().as_secs_f64() * 1000.0,
                &[("class", class.name())],
            );
            let turn = Turn { queue: Arc::clone(self), class, began: Instant::now(), place: None };
            // Whoever has gone meanwhile drops the turn, which gives the lane back.
            drop(waiter.send(turn));
        }
    }

    /// Tells the gauges.
    pub fn tell(&self) {
        let state = self.lock();
        for class in Class::ALL {
            #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
            gauge("hardroot.signing.queue", *state.admitted.get(class) as f64, &[("class", class.name())]);
        }
        gauge("hardroot.signing.interval_ms", state.interval * 1000.0, &[]);
    }

    /// As if signatures had been seen to come at this distance.
    #[cfg(test)]
    pub(crate) fn believe(&self, interval: Duration) {
        self.lock().interval = interval.as_secs_f64();
    }

    /// Admitted and not done, by class.
    #[cfg(test)]
    pub(crate) fn admitted(&self) -> [usize; 4] {
        Class::ALL.map(|class| *self.lock().admitted.get(class))
    }
}

/// How long a request of a class may wait for its signature.
fn limit(class: Class, patience: Option<Duration>) -> Duration {
    patience.map_or(class.longest_wait(), |own| own.saturating_sub(MARGIN).min(class.longest_wait()))
}

fn count_refused(class: Class, reason: &'static str) {
    count("hardroot.signing.refused", &[("class", class.name()), ("reason", reason)]);
}

impl State {
    /// How many more of a class can be done within `limit`; `None` for none.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "numbers of requests, bounded by MOST_ADMITTED"
    )]
    fn fit(&self, class: Class, limit: Duration) -> Option<usize> {
        let all: usize = Class::ALL.iter().map(|class| self.admitted.get(*class)).sum();
        let room = MOST_ADMITTED.checked_sub(all).filter(|room| *room > 0)?;
        let (ahead, own) = (self.ahead(class), *self.admitted.get(class));
        let fit = if self.interval > 0.0 {
            let done =
                |each: f64| (limit.as_secs_f64() / each).floor().clamp(0.0, MOST_ADMITTED as f64) as usize;
            let in_order = done(self.each(class)).saturating_sub(ahead);
            // However many are ahead in other classes, this one has its share.
            let by_share = done(self.interval * f64::from(SHARE)).saturating_sub(own);
            in_order.max(by_share)
        } else {
            MOST_ADMITTED
        };
        // With nobody ahead there is no better time to come than now.
        let fit = if ahead == 0 { fit.max(1) } else { fit };
        (fit > 0).then(|| fit.min(room))
    }

    fn ahead(&self, class: Class) -> usize {
        Class::ALL.iter().filter(|other| **other <= class).map(|other| self.admitted.get(*other)).sum()
    }

    /// Seconds between two signatures for the classes up to this one, when later classes take their share.
    fn each(&self, class: Class) -> f64 {
        let later =
            Class::ALL.iter().filter(|other| **other > class && *self.admitted.get(**other) > 0).count();
        let later = u32::try_from(later).unwrap_or(0);
        self.interval * f64::from(SHARE) / f64::from(SHARE - later)
    }

    /// When a refused call should come back: when half of the queue is over, and after those who were refused before.
    fn invite(&mut self, class: Class, count: usize, now: Instant) -> Duration {
        let each = self.each(class);
        let share = self.interval * f64::from(SHARE);
        #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
        let (backlog, mine) = (
            (self.ahead(class) as f64 * each).min(*self.admitted.get(class) as f64 * share),
            count.min(MOST_INVITED) as f64 * each,
        );
        let half = class.longest_wait().as_secs_f64() / 2.0;
        let seconds =
            |value: f64| Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(RETURN.1).min(RETURN.1);
        let earliest = now + seconds(backlog - half);
        let invited = self.invited.get_mut(class);
        let at = invited.map_or(earliest, |until| until.max(earliest)).min(now + RETURN.1);
        *invited = Some(at + seconds(mine));
        at.saturating_duration_since(now).clamp(RETURN.0, RETURN.1)
    }

    /// The next waiter: of the first class that waits, unless one has been passed over for too long.
    fn next(&mut self, among: &[Class]) -> Option<(Class, (Instant, oneshot::Sender<Turn>))> {
        let waits = |state: &Self, class: Class| !state.waiting.get(class).is_empty();
        let due = |class: &Class| waits(self, *class) && *self.passed.get(*class) + 1 >= SHARE;
        let class = among
            .iter()
            .copied()
            .find(due)
            .or_else(|| among.iter().copied().find(|class| waits(self, *class)))?;
        for other in Class::ALL {
            let waiting = waits(self, other);
            let passed = self.passed.get_mut(other);
            *passed = if waiting && other != class { *passed + 1 } else { 0 };
        }
        let (_ticket, waiter) = self.waiting.get_mut(class).pop_first()?;
        Some((class, waiter))
    }

    fn learn(&mut self, elapsed: Duration, lanes: usize) {
        let together = u32::try_from(self.busy.max(lanes)).map_or(1.0, f64::from);
        let sample = elapsed.as_secs_f64() / together;
        if self.interval == 0.0 {
            self.interval = sample;
        } else {
            self.interval += (sample - self.interval) * WEIGHT;
        }
    }
}

#[derive(Debug)]
struct Left {
    next: u64,
    count: usize,
}

/// Admitted requests of one call. Those that are not used are given back when this is dropped.
#[derive(Debug)]
pub struct Places {
    queue: Arc<Queue>,
    class: Class,
    left: Mutex<Left>,
    until: Instant,
}

impl Places {
    /// How many are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. Dropping the call leaves the queue.
    ///
    /// # Errors
    /// No place is left, or the wait took longer than it looked when it was admitted.
    pub async fn turn(&self) -> Result<Turn, Busy> {
        let now = Instant::now();
        let taken = {
            let mut left = self.lock();
            let ticket = left.next;
            left.count.checked_sub(1).map(|rest| {
                left.count = rest;
                left.next += 1;
                (ticket, Place { queue: Arc::clone(&self.queue), class: self.class })
            })
        };
        let Some((ticket, place)) = taken else {
            return Err(self.queue.refuse(&mut self.queue.lock(), self.class, 1, now));
        };
        let (give, given) = oneshot::channel();
        self.queue.lock().waiting.get_mut(self.class).insert(ticket, (now, give));
        let waiting = Waiting { queue: &self.queue, class: self.class, ticket };
        self.queue.dispatch();
        let outcome = tokio::time::timeout_at(self.until, given).await;
        drop(waiting);
        match outcome {
            Ok(Ok(mut turn)) => {
                turn.place = Some(place);
                Ok(turn)
            }
            // The sender is only dropped with the queue's entry, which is gone when this call is.
            Ok(Err(_)) | Err(_) => {
                drop(place);
                count_refused(self.class, "late");
                let retry_after = self.queue.lock().invite(self.class, 1, Instant::now());
                Err(Busy { class: self.class, retry_after })
            }
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let left = self.left();
        let mut state = self.queue.lock();
        let admitted = state.admitted.get_mut(self.class);
        *admitted = admitted.saturating_sub(left);
    }
}

/// One admitted request that is in use.
#[derive(Debug)]
struct Place {
    queue: Arc<Queue>,
    class: Class,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        let admitted = state.admitted.get_mut(self.class);
        *admitted = admitted.saturating_sub(1);
    }
}

/// An entry of the queue, taken out when whoever waits is gone.
struct Waiting<'a> {
    queue: &'a Queue,
    class: Class,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // A sender that goes with it is dropped outside of the lock: it may hold nothing, but need not be known here.
        let entry = self.queue.lock().waiting.get_mut(self.class).remove(&self.ticket);
        drop(entry);
    }
}

/// A lane of the key manager, until dropped.
#[derive(Debug)]
pub struct Turn {
    queue: Arc<Queue>,
    class: Class,
    began: Instant,
    place: Option<Place>,
}

impl Turn {
    /// The signature was made: how long it took is learnt from. Gives the lane back.
    pub fn done(self) {
        self.queue.lock().learn(self.began.elapsed(), self.queue.lanes);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.place.take());
        let mut state = self.queue.lock();
        state.busy = state.busy.saturating_sub(1);
        if self.class == Class::Token {
            state.busy_tokens = state.busy_tokens.saturating_sub(1);
        }
        drop(state);
        self.queue.dispatch();
    }
}
