//! How far a command with many items is, for whoever waits for it.

use std::time::Duration;

use hardroot_runtime::duration;
use tokio::time::Instant;

/// Shortest time between two lines, and until the first one where nobody watches.
const EVERY: Duration = Duration::from_secs(1);
/// Time between two lines where each stays.
const EVERY_KEPT: Duration = Duration::from_secs(10);
/// Shortest time between two looks of a line that changes.
const REFRESH: Duration = Duration::from_millis(200);

/// Decides when to tell, and what.
pub(super) struct Progress {
    total: Option<usize>,
    watched: bool,
    began: Instant,
    told: Option<Instant>,
}

impl Progress {
    /// `watched` means that a line may change in place.
    pub(super) fn new(total: Option<usize>, watched: bool, now: Instant) -> Self {
        Self { total, watched, began: now, told: None }
    }

    /// Whether anything was told.
    pub(super) fn is_shown(&self) -> bool {
        self.told.is_some()
    }

    /// What to tell after `sent` items, if it is time to.
    pub(super) fn tick(&mut self, sent: usize, failed: usize, now: Instant) -> Option<String> {
        let total = self.total?;
        let due = match (self.told, self.watched) {
            (Some(told), true) => now.duration_since(told) >= REFRESH,
            (Some(told), false) => now.duration_since(told) >= EVERY_KEPT,
            (None, true) => sent < total,
            (None, false) => now.duration_since(self.began) >= EVERY && sent < total,
        };
        if !due {
            return None;
        }
        self.told = Some(now);
        let percent = sent.saturating_mul(100).checked_div(total).unwrap_or(100);
        let left = total.saturating_sub(sent) as u128;
        let took = now.duration_since(self.began).as_millis();
        let left = took.saturating_mul(left).checked_div(sent as u128).unwrap_or_default() / 1000;
        let left = duration::format(Duration::from_secs(u64::try_from(left).unwrap_or(u64::MAX)));
        Some(format!("{sent} of {total} items ({percent} %) sent, {failed} failed, about {left} left"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_watches_sees_it_at_once_and_a_log_after_a_second() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut watched = Progress::new(Some(2000), true, start);
        assert_eq!(
            watched.tick(500, 1, after(100)).unwrap(),
            "500 of 2000 items (25 %) sent, 1 failed, about 0s left"
        );
        assert_eq!(watched.tick(1000, 1, after(250)), None);
        assert!(watched.tick(1500, 1, after(300)).is_some());
        let mut log = Progress::new(Some(100_000), false, start);
        assert_eq!(log.tick(500, 0, after(999)), None);
        assert!(!log.is_shown());
        assert_eq!(
            log.tick(1000, 0, after(1000)).unwrap(),
            "1000 of 100000 items (1 %) sent, 0 failed, about 1m39s left"
        );
        assert_eq!(log.tick(1500, 0, after(10_999)), None);
        assert!(log.tick(2000, 0, after(11_000)).is_some());
        let mut quick = Progress::new(Some(1), false, start);
        assert_eq!(quick.tick(1, 0, after(5000)), None, "the end speaks for itself");
        assert_eq!(Progress::new(None, true, start).tick(1, 0, after(5000)), None);
    }
}
