//! What the tests of all subjects use.

use std::time::{Duration, SystemTime};

use hardroot_runtime::doctor::{Finding, Level, worst};

/// The moment at which the tests judge, in seconds since 1970.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Whatever is not fine says what to do.
pub(super) fn judged(findings: &[Finding], expected: Level) {
    assert_eq!(worst(findings), expected, "{findings:#?}");
    assert!(findings.iter().all(|f| (f.level == Level::Fine) == f.advice.is_none()), "{findings:#?}");
}

/// Some finding says this.
pub(super) fn says(findings: &[Finding], text: &str) {
    assert!(findings.iter().any(|finding| finding.text.contains(text)), "no {text:?} in {findings:#?}");
}
