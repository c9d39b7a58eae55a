//! How agents get and renew their SVIDs.

mod adapters;
mod exchange;
mod refusal;
mod seam;
mod service;
#[cfg(test)]
mod tests;

pub use adapters::{StoredEnrolments, StoredRecords, StoredTokens};
pub use hardroot_runtime::chain;
pub use seam::{AgentSvids, AttestStream};
pub use service::{AttestConfig, Attestation};
