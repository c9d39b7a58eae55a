//! Time as an input. Logic asks a [`Clock`]; tests hold a [`ManualClock`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

/// A pause, as a boxed future so that the trait can be an object.
pub type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// How long [`Clock::sleep_until`] may sleep without looking at the wall clock again.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The wall clock, and pauses on the monotonic clock.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The wall clock's time.
    fn now(&self) -> SystemTime;

    /// A pause of monotonic time: a stepped wall clock makes it neither longer nor shorter.
    fn sleep(&self, duration: Duration) -> Sleep<'_>;

    /// A pause until the wall clock shows `at` or later. A clock that is stepped is noticed within [`LOOK_AGAIN`].
    fn sleep_until(&self, at: SystemTime) -> Sleep<'_> {
        Box::pin(async move {
            while let Ok(left) = at.duration_since(self.now())
                && !left.is_zero()
            {
                self.sleep(left.min(LOOK_AGAIN)).await;
            }
        })
    }
}

/// The system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that moves only when it is told to. Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    wall: SystemTime,
    elapsed: Duration,
}

impl ManualClock {
    /// A clock that stands at `start`.
    #[must_use]
    pub fn new(start: SystemTime) -> Self {
        Self { state: Arc::new(watch::Sender::new(State { wall: start, elapsed: Duration::ZERO })) }
    }

    /// Lets time pass: the wall clock and the pauses move on.
    pub fn advance(&self, by: Duration) {
        self.state.send_modify(|state| {
            state.wall += by;
            state.elapsed += by;
        });
    }

    /// Steps the wall clock, as an operator or NTP does; no monotonic time passes.
    pub fn set(&self, wall: SystemTime) {
        self.state.send_modify(|state| state.wall = wall);
    }

    /// How many pauses are waiting, so that a test can wait for its subject to sleep before it moves the clock.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.state.receiver_count()
    }

    /// Waits until so many pauses, or more, are waiting. Time does not pass meanwhile.
    pub async fn until_asleep(&self, sleepers: usize) {
        while self.sleepers() < sleepers {
            tokio::task::yield_now().await;
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.state.borrow().wall
    }

    fn sleep(&self, duration: Duration) -> Sleep<'_> {
        let mut watch = self.state.subscribe();
        let end = self.state.borrow().elapsed.saturating_add(duration);
        Box::pin(async move {
            // The sender lives in `self`, so waiting ends only by time.
            drop(watch.wait_for(|state| state.elapsed >= end).await);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_in_its_own_time() {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let sleeper = {
            let clock = clock.clone();
            tokio::spawn(async move {
                clock.sleep(Duration::from_secs(10)).await;
                clock.sleep_until(SystemTime::UNIX_EPOCH + Duration::from_secs(100)).await;
                clock.now()
            })
        };
        clock.until_asleep(1).await;
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        clock.until_asleep(1).await;
        // The wall clock jumps past the goal: noticed at the next look.
        clock.set(SystemTime::UNIX_EPOCH + Duration::from_secs(500));
        clock.advance(LOOK_AGAIN);
        assert_eq!(sleeper.await.unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(530));
    }

    #[tokio::test(start_paused = true)]
    async fn the_system_clock_sleeps() {
        let clock = SystemClock;
        clock.sleep(Duration::from_secs(3600)).await;
        clock.sleep_until(SystemTime::UNIX_EPOCH).await;
        assert!(clock.now() > SystemTime::UNIX_EPOCH);
    }
}
