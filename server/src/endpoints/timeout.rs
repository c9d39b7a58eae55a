//! `grpc-timeout`: how long the client will wait.

use std::time::Duration;

/// What the client asks for: at most eight digits and a unit (gRPC over HTTP/2, "Requests"); what is malformed
/// asks for nothing.
pub(crate) fn asked_timeout(header: Option<&http::HeaderValue>) -> Option<Duration> {
    parse(header?.to_str().ok()?)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_what_is_none() {
        let asked = parse;
        assert_eq!(asked("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(asked("3M"), Some(Duration::from_secs(180)));
        assert_eq!(asked("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(asked("100m"), Some(Duration::from_millis(100)));
        assert_eq!(asked("7u"), Some(Duration::from_micros(7)));
        assert_eq!(asked("7n"), Some(Duration::from_nanos(7)));
        for bad in ["", "S", "1", "123456789S", "-1S", "1.5S", "1 S", "1s"] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }
}
