//! What the commands that mint have in common.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hardroot_identity::SpiffeId;
use hardroot_runtime::state::write_atomic;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CliError, Screen};
use crate::attest::chain;

/// `-spiffeID`.
pub(super) fn spiffe_id(text: Option<&str>) -> Result<SpiffeId, CliError> {
    match text {
        None | Some("") => Err(CliError::usage("spiffeID must be specified")),
        Some(text) => text.parse().map_err(|fault| CliError::usage(crate::api::go_text(&fault))),
    }
}

/// Whole seconds, rounded up.
pub(super) fn seconds(ttl: Duration) -> Result<i32, CliError> {
    let seconds = ttl.as_nanos().div_ceil(1_000_000_000);
    i32::try_from(seconds)
        .ok()
        .ok_or_else(|| CliError::usage(format!("invalid value for TTL: {seconds} seconds are too many")))
}

/// So much sooner than asked for an SVID may end without a word: it has whole seconds, and the answer took time.
const LEEWAY: Duration = Duration::from_secs(5);

/// Tells when what was minted ends sooner than was asked for.
pub(super) fn tell_if_capped(
    screen: &mut Screen,
    what: &str,
    expires_at: i64,
    ttl: Duration,
    now: SystemTime,
) {
    let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(expires_at).unwrap_or(0));
    if end.duration_since(now).is_ok_and(|left| left + LEEWAY >= ttl) {
        return;
    }
    let text = OffsetDateTime::from_unix_timestamp(expires_at)
        .ok()
        .and_then(|end| end.format(&Rfc3339).ok())
        .unwrap_or_else(|| expires_at.to_string());
    screen.err_line(format!("{what} lifetime was capped shorter than specified ttl; expires \"{text}\""));
}

/// As [`tell_if_capped`], with what the token itself says.
pub(super) fn tell_if_token_capped(
    screen: &mut Screen,
    what: &str,
    token: &str,
    ttl: Duration,
    now: SystemTime,
) {
    match expiry(token) {
        Ok(expires_at) => tell_if_capped(screen, what, expires_at, ttl, now),
        Err(reason) => screen.err_line(format!("Unable to determine {what} lifetime: {reason}")),
    }
}

/// `exp` of a token, unverified: the server that made it was asked a moment ago.
fn expiry(token: &str) -> Result<i64, &'static str> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("compact JWS format must have three parts");
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).ok().ok_or("the claims are not base64url")?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok().ok_or("the claims are no JSON")?;
    claims.get("exp").and_then(serde_json::Value::as_i64).ok_or("no expiry claim")
}

/// Writes a file and tells where.
pub(super) fn write(
    screen: &mut Screen,
    path: &Path,
    bytes: &[u8],
    mode: u32,
    what: (&str, &str),
) -> Result<(), CliError> {
    write_atomic(path, bytes, mode)
        .map_err(|cause| CliError::Outcome(format!("unable to write {}: {}", what.0, chain(&cause))))?;
    screen.line(format!("{} written to {}", what.1, path.display()));
    Ok(())
}
