//! When a connection without calls is told to go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The calls of a connection.
#[derive(Debug)]
pub(super) struct Calls {
    open: AtomicUsize,
    /// When one ended last; before the first, when the connection began.
    ended: Mutex<Instant>,
}

impl Calls {
    pub(super) fn new(now: Instant) -> Self {
        Self { open: AtomicUsize::new(0), ended: Mutex::new(now) }
    }

    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Since when no call is open. Calls may come and go between two looks, so that none is open at either.
    fn idle_since(&self, now: Instant) -> Instant {
        if self.open.load(Ordering::Acquire) > 0 {
            return now;
        }
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is done with a connection after a look at its calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stays,
    /// It is told to go.
    Goes,
    /// It was told to go, has no call and is still here.
    Cut,
}

/// Ends a connection without calls.
pub(super) struct Idle {
    patience: Duration,
    /// When to look next.
    pub(super) next: Instant,
    /// Whether it was told to go.
    pub(super) going: bool,
}

impl Idle {
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, next: now + patience, going: false }
    }

    pub(super) fn look(&mut self, calls: &Calls, now: Instant) -> Verdict {
        let end = calls.idle_since(now) + self.patience;
        if end > now {
            self.next = end;
            return Verdict::Stays;
        }
        self.next = now + self.patience;
        if std::mem::replace(&mut self.going, true) { Verdict::Cut } else { Verdict::Goes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(600);

    /// Seconds until something else than staying, and what.
    async fn until(idle: &mut Idle, calls: &Calls) -> (u64, Verdict) {
        let start = Instant::now();
        loop {
            tokio::time::advance(idle.next - Instant::now()).await;
            match idle.look(calls, Instant::now()) {
                Verdict::Stays => assert!(idle.next > Instant::now()),
                other => return (start.elapsed().as_secs(), other),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_calls_goes_and_is_cut_if_it_does_not() {
        let (calls, mut idle) = (Calls::new(Instant::now()), Idle::new(PATIENCE, Instant::now()));
        assert_eq!(until(&mut idle, &calls).await, (600, Verdict::Goes));
        assert_eq!(until(&mut idle, &calls).await, (600, Verdict::Cut));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_between_two_looks_keep_a_connection() {
        let (calls, mut idle) = (Calls::new(Instant::now()), Idle::new(PATIENCE, Instant::now()));
        let start = Instant::now();
        for _ in 0..10 {
            let left = idle.next - Instant::now();
            tokio::time::advance(left / 2).await;
            calls.begin();
            calls.end();
            tokio::time::advance(idle.next - Instant::now()).await;
            assert_eq!(idle.look(&calls, Instant::now()), Verdict::Stays);
        }
        assert!(start.elapsed() > 5 * PATIENCE, "{:?}", start.elapsed());
        let (goes, verdict) = until(&mut idle, &calls).await;
        assert!(verdict == Verdict::Goes && goes <= 600, "{goes} s, {verdict:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_call_keeps_a_connection_until_it_ends() {
        let (calls, mut idle) = (Calls::new(Instant::now()), Idle::new(PATIENCE, Instant::now()));
        calls.begin();
        for _ in 0..10 {
            tokio::time::advance(idle.next - Instant::now()).await;
            assert_eq!(idle.look(&calls, Instant::now()), Verdict::Stays);
        }
        calls.end();
        assert_eq!(until(&mut idle, &calls).await, (600, Verdict::Goes));
    }
}
