//! Node attestors: how a node proves what it is. One folder per attestor, both halves and their shared
//! payload side by side.
//!
//! On the wire every payload, challenge and response is opaque bytes inside SPIRE's `AttestAgent` stream.

pub mod join_token;
pub mod template;
pub mod tpm_quote;
pub mod x509pop;

use std::net::IpAddr;
use std::time::SystemTime;

use hardroot_identity::{Selector, SpiffeId, TrustDomain};

/// What an agent's half proves itself for: the key that will be in the agent's SVID.
#[derive(Debug, Clone)]
pub struct AttestationSubject {
    /// The trust domain the node joins.
    pub trust_domain: TrustDomain,
    /// The agent key's `SubjectPublicKeyInfo`, DER; the same key as in the CSR.
    pub csr_spki_der: Vec<u8>,
}

/// The agent's half of an attestor.
#[async_trait::async_trait]
pub trait AgentAttestor: Send + Sync {
    /// The attestor's name, also the type of its selectors: `tpm_quote`, `x509pop`, `join_token`.
    fn name(&self) -> &'static str;

    /// Begins one attestation: the payload that opens the stream and the session that answers challenges.
    ///
    /// # Errors
    /// The evidence could not be collected.
    async fn begin(
        &self,
        subject: &AttestationSubject,
    ) -> Result<(Vec<u8>, Box<dyn AgentSession>), AttestError>;

    /// Called once after the server accepted (`true`) or the attempt ended otherwise (`false`).
    async fn ended(&self, _accepted: bool) {}
}

/// One running attestation on the agent.
#[async_trait::async_trait]
pub trait AgentSession: Send {
    /// Answers one challenge of the server.
    ///
    /// # Errors
    /// The challenge is malformed or the proof cannot be made.
    async fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, AttestError>;
}

/// What the server knows about an attempt besides the attestor's own bytes.
#[derive(Debug, Clone)]
pub struct ServerContext {
    /// The server's trust domain.
    pub trust_domain: TrustDomain,
    /// The CSR's `SubjectPublicKeyInfo`, DER, so that an attestor can bind it.
    pub csr_spki_der: Vec<u8>,
    /// The peer's address as observed.
    pub peer: Option<IpAddr>,
    /// When the attempt began.
    pub now: SystemTime,
}

/// The server's half of an attestor.
#[async_trait::async_trait]
pub trait ServerAttestor: Send + Sync {
    /// The attestor's name.
    fn name(&self) -> &'static str;

    /// Judges a payload.
    ///
    /// # Errors
    /// Any error means "not trusted".
    async fn begin(&self, context: &ServerContext, payload: &[u8]) -> Result<Step, AttestError>;
}

/// One running attestation on the server.
#[async_trait::async_trait]
pub trait ServerSession: Send {
    /// Judges a response to the last challenge. A session whose call failed is spent.
    ///
    /// # Errors
    /// Any error means "not trusted".
    async fn respond(self: Box<Self>, response: &[u8]) -> Result<Step, AttestError>;
}

/// What follows a message from the agent.
pub enum Step {
    /// Ask this, then hand the response to the session.
    Challenge(Vec<u8>, Box<dyn ServerSession>),
    /// The node is who it says it is.
    Attested(AttestedNode),
}

/// A node that has proven itself.
#[derive(Debug, Clone)]
pub struct AttestedNode {
    /// The agent ID, normally below `/spire/agent/<attestor>/`.
    pub agent_id: SpiffeId,
    /// Its selectors, all of the attestor's type.
    pub selectors: Vec<Selector>,
    /// Whether the node can attest again with the same means.
    pub can_reattest: bool,
    /// SHA-256 of the evidence in lower-case hex, for the audit record.
    pub evidence_digest: String,
    /// What the attestor wants to know next time; stored in the same transaction as the node itself.
    pub record: Option<NodeRecord>,
    /// Facts for the audit record, such as `ek_hash`.
    pub audit: Vec<(&'static str, String)>,
}

/// What an attestor remembers of a node between attestations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Key within the attestor's records (for `tpm_quote` the agent ID).
    pub key: String,
    /// The record, the attestor's own JSON.
    pub data: Vec<u8>,
}

/// Where the server's half finds what was recorded before.
#[async_trait::async_trait]
pub trait NodeRecords: Send + Sync {
    /// The record under `key` of `attestor`.
    ///
    /// # Errors
    /// The store cannot be read, which must end the attempt.
    async fn record(&self, attestor: &str, key: &str) -> Result<Option<NodeRecord>, AttestError>;
}

/// A TPM the operator has enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// SHA-256 of the EK's `SubjectPublicKeyInfo`, lower-case hex.
    pub ek_hash: String,
    /// A fixed agent path below `/spire/agent`, beginning with `/`; none means the default.
    pub agent_path: Option<String>,
    /// The operator's note.
    pub note: String,
}

/// Which TPMs are enrolled.
#[async_trait::async_trait]
pub trait Enrolments: Send + Sync {
    /// The enrolment of an EK hash.
    ///
    /// # Errors
    /// The store cannot be read, which must end the attempt.
    async fn enrolment(&self, ek_hash: &str) -> Result<Option<Enrolment>, AttestError>;
}

/// Why an attestation did not succeed. Each variant maps to one gRPC class at the edge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The peer's bytes are not what the protocol asks for (InvalidArgument).
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// Which message or structure.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The peer's bytes are well formed and good for nothing, such as a token that is not known (InvalidArgument).
    #[error("{reason}")]
    Unusable {
        /// Why, in words that SPIRE's operators know.
        reason: &'static str,
    },
    /// The evidence was understood and does not hold (PermissionDenied). `reason` is a stable slug for the
    /// audit log, such as `quote_nonce_mismatch`.
    #[error("{reason}: {detail}")]
    Rejected {
        /// Stable slug.
        reason: &'static str,
        /// What was expected and found, and what to do.
        detail: String,
    },
    /// Our own side failed: store, device, configuration (Internal or Unavailable).
    #[error("{op} failed")]
    Unavailable {
        /// The operation.
        op: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}
