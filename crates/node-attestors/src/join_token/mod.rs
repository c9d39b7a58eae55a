//! `join_token`: a one-time secret that the operator carries to the node. The payload is the token's bytes and
//! nothing else follows, as with SPIRE.
//!
//! A token is bound to the agent key that redeems it first; the same key may redeem it again until the token
//! expires, so that an answer lost on the way does not burn the node (docs/decisions/0005).

#[cfg(feature = "agent")]
mod agent;
#[cfg(feature = "server")]
mod server;

#[cfg(feature = "agent")]
pub use agent::{BadJoinToken, JoinTokenAgent};
#[cfg(feature = "server")]
pub use server::{JoinTokenServer, RedeemTokens, Redeemed};

/// The attestor's name in configurations, IDs and `AttestAgent`.
pub const NAME: &str = "join_token";
/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 512;

/// Whether `token` can be the last part of an agent ID: 1 to 512 bytes of `[A-Za-z0-9._-]`, not `.` or `..`.
#[must_use]
pub fn is_token(token: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(fits) && token != "." && token != ".."
}

#[cfg(test)]
#[cfg(all(feature = "agent", feature = "server"))]
mod tests;
