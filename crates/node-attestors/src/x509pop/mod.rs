//! `x509pop`: the node shows a certificate chain and proves that it has the leaf's key. Wire-exact with SPIRE.
//!
//! The node sends its chain; the server sends 32 random bytes; the node adds 32 of its own and signs the
//! SHA-256 of both, with RSASSA-PSS or ECDSA. The exchange does not cover the agent's CSR: that is SPIRE's
//! protocol, and why `tpm_quote` is the better choice where there is a TPM.

mod wire;

#[cfg(feature = "agent")]
mod agent;
#[cfg(feature = "server")]
mod certificate;
#[cfg(feature = "server")]
mod chain;
#[cfg(feature = "agent")]
mod file_key;
#[cfg(feature = "server")]
mod proof;
#[cfg(feature = "server")]
mod server;

#[cfg(feature = "agent")]
pub use agent::{NodeKey, X509popAgent};
#[cfg(feature = "agent")]
pub use file_key::BadKeyFile;
#[cfg(feature = "server")]
pub use server::{BadX509popConfig, OwnBundle, X509popPolicy, X509popServer, X509popTrust, read_roots};
pub use wire::{BadMessage, Challenge, EcdsaResponse, Payload, Response, RsaResponse};

use aws_lc_rs::digest::{Context, Digest, SHA256};

/// The attestor's name in configurations, IDs, selectors and `AttestAgent`.
pub const NAME: &str = "x509pop";
/// Bytes of each side's nonce.
pub const NONCE: usize = 32;

/// What is signed: SHA-256 over the server's nonce and the node's.
fn combined(server: &[u8; NONCE], node: &[u8; NONCE]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(server);
    context.update(node);
    context.finish()
}

#[cfg(test)]
#[cfg(all(feature = "agent", feature = "server"))]
mod tests;
