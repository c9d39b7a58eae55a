//! When to renew and when to try again: pure functions of time and a random number.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use crate::sync::Hint;

/// Longest mean pause after the server turned a connection away. It is not the pause of a server that is gone: where
/// thousands come back at once, those who wait for a minute or two are those for whom the whole fleet is not healed yet.
const TURNED_AWAY: Duration = Duration::from_secs(10);
/// How far renewal is spread around half of the lifetime.
const RENEWAL_SPREAD: f64 = 0.1;

/// When an SVID valid from `not_before` to `not_after` should be replaced: at half of its lifetime, earlier or
/// later by up to a tenth of that half. `jitter` is from -1 to 1.
#[must_use]
pub fn refresh_at(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let half = not_after.duration_since(not_before).unwrap_or_default() / 2;
    not_before + half.mul_f64(1.0 + jitter.clamp(-1.0, 1.0) * RENEWAL_SPREAD)
}

/// A random number from -1 to 1, so that machines that started together do not stay together. 0 if the system has
/// no randomness to give.
#[must_use]
pub fn jitter() -> f64 {
    let mut bytes = [0u8; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX) * 2.0 - 1.0,
        Err(_) => 0.0,
    }
}

/// Pauses between attempts: from `min`, doubled after each failure up to `max`, each shorter or longer by up to half.
#[derive(Debug, Clone)]
pub struct Retry {
    min: Duration,
    max: Duration,
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    /// Ready at once; after failures in `min` to `max`.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0, at: None }
    }

    /// Whether the next attempt may be made.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| at <= now)
    }

    /// When the next attempt may be made, if that is not now.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// How many attempts failed in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a failure; says how long the pause is. `jitter` is from -1 to 1.
    pub fn failed(&mut self, now: Instant, jitter: f64) -> Duration {
        self.failed_up_to(self.max, now, jitter)
    }

    fn failed_up_to(&mut self, max: Duration, now: Instant, jitter: f64) -> Duration {
        let pause = self.min.saturating_mul(1 << self.failures.min(20)).min(max);
        let pause = pause.mul_f64(1.0 + jitter.clamp(-1.0, 1.0) / 2.0);
        self.failures = self.failures.saturating_add(1);
        self.at = Some(now + pause);
        pause
    }

    /// Notes a failure after which the server said when to come back; never sooner, and spread over a quarter more, so that
    /// agents that were told the same do not come together. `jitter` is from -1 to 1.
    pub fn told(&mut self, now: Instant, after: Duration, jitter: f64) -> Duration {
        let pause = after.max(self.min).mul_f64(1.0 + (jitter.clamp(-1.0, 1.0) + 1.0) / 8.0);
        self.failures = self.failures.saturating_add(1);
        self.at = Some(now + pause);
        pause
    }

    /// [`Retry::told`] when the server said when to come back, [`Retry::failed`] when it did not; no long pauses
    /// when it is there and has no room.
    pub fn after(&mut self, now: Instant, hint: Hint, jitter: f64) -> Duration {
        match hint {
            Hint::Asked(after) => self.told(now, after, jitter),
            Hint::TurnedAway => self.failed_up_to(self.max.min(TURNED_AWAY), now, jitter),
            Hint::Nothing => self.failed(now, jitter),
        }
    }

    /// Notes a success.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn renewal_is_at_half_life_spread_by_a_tenth() {
        assert_eq!(refresh_at(at(1000), at(5000), 0.0), at(3000));
        assert_eq!(refresh_at(at(1000), at(5000), 1.0), at(3200));
        assert_eq!(refresh_at(at(1000), at(5000), -1.0), at(2800));
        assert_eq!(refresh_at(at(1000), at(5000), 99.0), at(3200), "jitter out of range is cut");
        assert_eq!(refresh_at(at(5000), at(1000), 1.0), at(5000), "a lifetime below zero is none");
    }

    proptest::proptest! {
        #[test]
        fn renewal_is_within_the_lifetime(start in 0u64..4_000_000_000, life in 0u64..400_000_000, jitter in -1.0f64..1.0) {
            let refresh = refresh_at(at(start), at(start + life), jitter);
            proptest::prop_assert!(refresh >= at(start) && refresh <= at(start + life));
        }

        #[test]
        fn jitter_stays_in_range(_n in 0..50) {
            proptest::prop_assert!((-1.0..=1.0).contains(&jitter()));
        }

        #[test]
        fn pauses_grow_to_the_cap_and_no_further(failures in 1u32..80, jitter in -1.0f64..1.0) {
            let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
            let mut retry = Retry::new(min, max);
            let now = Instant::now();
            let mut pause = Duration::ZERO;
            for _ in 0..failures {
                pause = retry.failed(now, jitter);
            }
            proptest::prop_assert!(pause >= min / 2 && pause <= max * 3 / 2);
            proptest::prop_assert!(!retry.is_ready(now) && retry.is_ready(now + pause));
        }
    }

    #[test]
    fn the_servers_word_is_kept_and_spread() {
        let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(60));
        let (now, asked) = (Instant::now(), Duration::from_secs(80));
        let pauses: Vec<u64> =
            [-1.0, 0.0, 1.0, 7.0].map(|jitter| retry.told(now, asked, jitter).as_secs()).to_vec();
        assert_eq!(pauses, [80, 90, 100, 100], "never sooner than asked");
        assert_eq!(retry.failures(), 4);
        assert_eq!(retry.told(now, Duration::ZERO, -1.0), Duration::from_secs(1));
        retry.succeeded();
        assert_eq!(retry.after(now, Hint::Nothing, 0.0), Duration::from_secs(1));
        assert_eq!(retry.after(now, Hint::Asked(asked), 0.0).as_secs(), 90);
    }

    #[test]
    fn a_server_without_room_is_asked_again_soon() {
        let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(60));
        let now = Instant::now();
        let pauses = [0.0; 6].map(|jitter| retry.after(now, Hint::TurnedAway, jitter).as_secs());
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(retry.after(now, Hint::Nothing, 0.0).as_secs(), 60, "gone altogether");
        assert_eq!(retry.after(now, Hint::TurnedAway, 1.0).as_secs(), 15, "spread like all others");
    }

    #[test]
    fn the_first_pauses() {
        let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(60));
        let now = Instant::now();
        assert!(retry.is_ready(now));
        let pauses: Vec<u64> = (0..8).map(|_| retry.failed(now, 0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        retry.succeeded();
        assert!(retry.is_ready(now) && retry.failures() == 0);
    }
}
