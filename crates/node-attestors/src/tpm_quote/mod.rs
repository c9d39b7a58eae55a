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

/// The attestor's name in configurations, IDs, selectors and `AttestAgent`.
pub const NAME: &str = "tpm_quote";

#[cfg(all(test, feature = "agent", feature = "server"))]
mod tests;
