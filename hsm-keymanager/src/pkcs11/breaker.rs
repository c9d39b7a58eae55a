//! A circuit breaker: a token that failed several times in a row is left alone for a while, so that callers
//! learn at once instead of each waiting for a dead device. It never gives up for good.

use std::time::{Duration, Instant};

/// Failures in a row that open the breaker.
const TOLERATED: u32 = 3;
/// First pause; it doubles with every failed probe.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a caller may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// The token works: go ahead.
    Normal,
    /// The pause is over: this one call tries it out, and sets the module up anew before.
    Probe,
    /// The token is left alone; the next probe may go in this time.
    Wait(Duration),
}

#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    pause: Option<(Instant, Duration)>,
}

impl Breaker {
    /// Whether a call may go to the token at `now`.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        let Some((until, pause)) = self.pause else { return Admission::Normal };
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            return Admission::Wait(left);
        }
        // Until this probe has an answer, the others wait as if it had failed.
        self.pause = Some((now + pause, pause));
        Admission::Probe
    }

    /// The token answered, be it with an error that is not its own.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The token failed or did not answer in time.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures < TOLERATED {
            return;
        }
        let pause = match self.pause {
            None => FIRST_PAUSE,
            Some((_, pause)) => (pause * 2).min(LONGEST_PAUSE),
        };
        self.pause = Some((now + pause, pause));
    }

    /// Whether callers are held off.
    pub(super) fn is_open(&self) -> bool {
        self.pause.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_three_failures_and_closes_with_a_good_probe() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed(start);
            assert_eq!(breaker.admit(start), Admission::Normal);
        }
        breaker.failed(start);
        assert_eq!(breaker.admit(start), Admission::Wait(FIRST_PAUSE));
        let later = start + FIRST_PAUSE;
        assert_eq!(breaker.admit(later), Admission::Probe);
        assert!(matches!(breaker.admit(later), Admission::Wait(_)), "one probe at a time");
        breaker.succeeded();
        assert_eq!(breaker.admit(later), Admission::Normal);
        assert!(!breaker.is_open());
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..TOLERATED {
            breaker.failed(now);
        }
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let Admission::Wait(pause) = breaker.admit(now) else { panic!("closed") };
            pauses.push(pause);
            now += pause;
            assert_eq!(breaker.admit(now), Admission::Probe);
            breaker.failed(now);
        }
        assert_eq!(pauses.first(), Some(&FIRST_PAUSE));
        assert!(pauses.is_sorted() && pauses.last() == Some(&LONGEST_PAUSE), "{pauses:?}");
    }

    #[test]
    fn a_success_between_failures_starts_the_count_anew() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failed(now);
            breaker.failed(now);
            breaker.succeeded();
        }
        assert_eq!(breaker.admit(now), Admission::Normal);
    }
}
