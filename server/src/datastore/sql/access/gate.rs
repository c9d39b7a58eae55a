//! Keeps callers from piling up before a database that does not answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::datastore::StoreError;

/// How many callers may wait for a connection at once.
const QUEUE: usize = 512;
/// After the first failure nobody asks for this long; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody asks before; absent when all is well.
    pause_until: Option<Instant>,
    /// When the database answered last before it failed.
    since: Option<Instant>,
}

/// While the database fails, one caller at a time may find out whether it is back; the others are refused at
/// once, so that what can be served from memory is served without a delay.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    queue: Arc<Semaphore>,
    /// How long one who may find out is waited for.
    patience: Duration,
    #[cfg(test)]
    pub(super) pause: super::pause::Pause,
    /// Statements sent so far.
    asked: AtomicU64,
}

impl Gate {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            state: Mutex::default(),
            queue: Arc::new(Semaphore::new(QUEUE)),
            patience,
            #[cfg(test)]
            pause: super::pause::Pause::default(),
            asked: AtomicU64::new(0),
        }
    }

    /// A statement is sent.
    pub(super) fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// How many statements were sent.
    pub(super) fn statements(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// A place in the queue for a connection, if it makes sense to wait.
    pub(super) fn enter(&self, op: &'static str) -> Result<OwnedSemaphorePermit, StoreError> {
        let place = Arc::clone(&self.queue).try_acquire_owned().map_err(|_full| StoreError::Away {
            op,
            cause: format!("{QUEUE} callers wait for a connection already").into(),
        })?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = state.pause_until {
            let now = Instant::now();
            if now < until {
                let seconds = state.since.map_or(0, |since| now.duration_since(since).as_secs());
                return Err(StoreError::Away {
                    op,
                    cause: format!("it has failed for {seconds} seconds, and is asked again in a moment")
                        .into(),
                });
            }
            // This caller finds out; the others are refused meanwhile.
            state.pause_until = Some(now + self.patience);
        }
        Ok(place)
    }

    #[cfg(test)]
    pub(super) fn end_pause(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pause_until = state.pause_until.map(|_| Instant::now());
    }

    pub(super) fn answered(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.pause_until.is_some() {
            tracing::info!("the database answers again");
            *state = State::default();
        }
    }

    pub(super) fn failed(&self, error: &sqlx::Error) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.since.is_none() {
            tracing::error!(%error, "the database does not answer");
            state.since = Some(now);
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(8)).min(LONGEST_PAUSE);
        state.failures = state.failures.saturating_add(1);
        state.pause_until = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_it_fails_one_asks_and_the_others_are_refused_at_once() {
        let gate = Gate::new(Duration::from_secs(60));
        drop(gate.enter("read").unwrap());
        gate.failed(&sqlx::Error::PoolTimedOut);
        assert!(matches!(gate.enter("read"), Err(StoreError::Away { .. })));
        gate.end_pause();
        let probe = gate.enter("read").unwrap();
        assert!(gate.enter("read").is_err(), "one at a time");
        drop(probe);
        gate.answered();
        drop(gate.enter("read").unwrap());
    }

    #[test]
    fn the_queue_is_bounded() {
        let gate = Gate::new(Duration::from_secs(60));
        let waiting: Vec<_> = (0..QUEUE).map(|_| gate.enter("read").unwrap()).collect();
        let error = gate.enter("read").unwrap_err();
        assert!(error.to_string().contains("database"), "{error}");
        drop(waiting);
        drop(gate.enter("read").unwrap());
    }
}
