//! `tpm_quote`: a node is what its TPM says it is.
//!
//! In one exchange the TPM gives back a secret sealed to its endorsement key and attestation key, certifies the agent's
//! key, and quotes PCRs; all is bound to a nonce, the trust domain, the CSR's key and the server's policy. A node on
//! record renews with a quote alone (docs/decisions/0006, docs/plugin_node_attestor_tpm_quote.md).

#[cfg(feature = "agent")]
mod agent;
pub mod message;
#[cfg(feature = "server")]
mod record;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod session;
#[cfg(feature = "agent")]
mod state;

#[cfg(feature = "agent")]
pub use agent::{TpmQuoteAgent, TpmQuoteAgentConfig};
#[cfg(feature = "server")]
pub use server::{Enrolling, MonotonicClock, TpmQuoteServer, TpmQuoteServerConfig};

/// Whether the server takes these bytes for a node's record: for tests of what damaged rows cost.
#[cfg(feature = "server")]
#[doc(hidden)]
#[must_use]
pub fn reads_record(bytes: &[u8]) -> bool {
    record::Record::decode(bytes).is_some_and(|record| record.ak_public().is_some())
}

/// Whether the agent takes these bytes for its attestation state: for tests of what damaged files cost.
#[cfg(feature = "agent")]
#[doc(hidden)]
#[must_use]
pub fn reads_state(bytes: &[u8], trust_domain: &hardroot_identity::TrustDomain) -> bool {
    state::State::decode(bytes, trust_domain).is_some()
}

/// The attestor's name in configurations, IDs, selectors and `AttestAgent`.
pub const NAME: &str = "tpm_quote";

#[cfg(test)]
#[cfg(all(feature = "agent", feature = "server"))]
mod tests;
