//! When an authority is followed by the next one (spire-compatible thresholds, pure functions).

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The successor is made this long before the end: half of the lifetime, 30 days at most.
const LONGEST_PREPARATION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The successor takes over this long before the end: a sixth of the lifetime, 7 days at most.
const LONGEST_ACTIVATION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An authority stays in the bundle this long after its end, because peers' clocks and caches lag.
pub const KEEP_AFTER_EXPIRY: Duration = DAY;

fn lifetime(issued_at: SystemTime, not_after: SystemTime) -> Duration {
    not_after.duration_since(issued_at).unwrap_or_default()
}

fn before(not_after: SystemTime, threshold: Duration) -> SystemTime {
    not_after.checked_sub(threshold).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// When the successor is prepared and published.
#[must_use]
pub fn prepare_at(issued_at: SystemTime, not_after: SystemTime) -> SystemTime {
    before(not_after, (lifetime(issued_at, not_after) / 2).min(LONGEST_PREPARATION))
}

/// When the successor begins to sign.
#[must_use]
pub fn activate_at(issued_at: SystemTime, not_after: SystemTime) -> SystemTime {
    before(not_after, (lifetime(issued_at, not_after) / 6).min(LONGEST_ACTIVATION))
}

/// When a certificate with this validity is renewed: at half of it.
#[must_use]
pub fn half_life(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    not_before + lifetime(not_before, not_after) / 2
}

/// The longest SVID lifetime that is never cut short by the authority's own end.
#[must_use]
pub fn longest_unharmed_svid(ca_ttl: Duration) -> Duration {
    (ca_ttl / 6).min(LONGEST_ACTIVATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn at(offset: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + offset
    }

    #[test]
    fn a_day_long_authority_is_followed_after_twelve_and_twenty_hours() {
        let (from, to) = (at(Duration::ZERO), at(DAY));
        assert_eq!(prepare_at(from, to), at(12 * HOUR));
        assert_eq!(activate_at(from, to), at(20 * HOUR));
    }

    #[test]
    fn long_authorities_are_capped_at_thirty_and_seven_days() {
        let (from, to) = (at(Duration::ZERO), at(DAY * 365));
        assert_eq!(prepare_at(from, to), at(DAY * 335));
        assert_eq!(activate_at(from, to), at(DAY * 358));
    }

    #[test]
    fn a_validity_that_ends_before_it_begins_is_due_at_once() {
        assert_eq!(prepare_at(at(HOUR), at(Duration::ZERO)), at(Duration::ZERO));
        assert_eq!(half_life(at(HOUR), at(Duration::ZERO)), at(HOUR));
    }

    #[test]
    fn half_life_is_the_middle() {
        assert_eq!(half_life(at(Duration::ZERO), at(HOUR)), at(HOUR / 2));
    }

    #[test]
    fn svids_of_a_sixth_of_the_ca_ttl_are_never_cut() {
        assert_eq!(longest_unharmed_svid(DAY), 4 * HOUR);
        assert_eq!(longest_unharmed_svid(DAY * 365), 7 * DAY);
    }
}
