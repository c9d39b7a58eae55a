//! Durations as Go writes them: `1h30m`, `500ms`, `1.5h`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadDuration {
    /// Empty, no digits, or no number before a unit.
    #[error("a duration is numbers with units, such as 1h30m, 24h or 500ms")]
    Syntax,
    /// A number without a unit, or one that is not known.
    #[error("a duration needs a unit after each number: h, m, s, ms, us or ns (a day is 24h)")]
    Unit,
    /// Less than nothing.
    #[error("a duration cannot be negative")]
    Negative,
    /// More than 2^63 nanoseconds, about 292 years.
    #[error("the duration is too long")]
    Range,
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a Go duration; `0` needs no unit.
///
/// # Errors
/// The text is not one, is negative, or exceeds 2^63 - 1 nanoseconds.
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    if let Some(rest) = text.strip_prefix('-') {
        return Err(parse(rest).err().unwrap_or(BadDuration::Negative));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(BadDuration::Syntax);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, tail) = digits(rest);
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => digits(tail),
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(BadDuration::Syntax);
        }
        let end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(BadDuration::Unit)?;
        let part = nanoseconds(whole, fraction, *scale).ok_or(BadDuration::Range)?;
        total = total.checked_add(part).ok_or(BadDuration::Range)?;
        rest = tail;
    }
    if i64::try_from(total).is_err() {
        return Err(BadDuration::Range);
    }
    Ok(Duration::from_nanos(total))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn nanoseconds(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (mut part, mut div) = (0_u128, 1_u128);
    // Digits past the nineteenth are below a nanosecond for every unit.
    for digit in fraction.chars().take(19).filter_map(|c| c.to_digit(10)) {
        part = part * 10 + u128::from(digit);
        div *= 10;
    }
    let part = u64::try_from(part.checked_mul(u128::from(scale))? / div).ok()?;
    whole.checked_mul(scale)?.checked_add(part)
}

/// Writes a duration as Go does (`1h30m0s`, `500ms`, `0s`), so that it can be parsed again.
#[must_use]
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, scale) in [("ns", 1_u128), ("µs", 1_000), ("ms", 1_000_000)] {
        if nanos < scale * 1000 {
            return format!("{}{unit}", decimal(nanos, scale));
        }
    }
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

fn decimal(value: u128, scale: u128) -> String {
    let (whole, rest) = (value / scale, value % scale);
    if rest == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::{BadDuration, format, parse};
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn go_durations() {
        for (text, nanos) in [
            ("0", 0_u64),
            ("0s", 0),
            ("1h30m", 5_400_000_000_000),
            ("500ms", 500_000_000),
            ("1.5h", 5_400_000_000_000),
            ("+5m", 300_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("1m1m", 120_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for (text, error) in [
            ("", BadDuration::Syntax),
            ("h", BadDuration::Syntax),
            (".s", BadDuration::Syntax),
            ("5", BadDuration::Unit),
            ("1d", BadDuration::Unit),
            ("1 h", BadDuration::Unit),
            ("-1h", BadDuration::Negative),
            ("-x", BadDuration::Syntax),
            ("9223372036854775808ns", BadDuration::Range),
            ("99999999999999999999h", BadDuration::Range),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(format(Duration::from_secs(5400)), "1h30m0s");
        assert_eq!(format(Duration::from_millis(1500)), "1.5s");
        assert_eq!(format(Duration::from_nanos(1_500)), "1.5µs");
    }

    proptest! {
        #[test]
        fn written_durations_read_back(nanos in 0_u64..=i64::MAX as u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") { prop_assert!(parse(&text).is_ok() || parse(&text).is_err()); }
    }
}
