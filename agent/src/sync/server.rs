//! What the agent asks of its server, and what can go wrong with it.

use std::error::Error as _;

use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::reason_of;
use hardroot_identity::{Bundle, TrustDomain};
use hardroot_node_attestors::AttestError;
use hardroot_transport::{ConnectError, TlsIdentity, refusal_of};
use tonic::{Code, Status};

use crate::cache::{Cache, EntryChanges};

/// A node's proof was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The agent's certificates, DER, leaf first; not yet checked.
    pub chain: Vec<Vec<u8>>,
    /// Whether the node renews by attesting again.
    pub reattestable: bool,
    /// The server's bundle, over the same connection.
    pub bundle: Bundle,
}

/// An SVID to be issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssueRequest {
    /// For which entry.
    pub entry_id: String,
    /// For which key.
    pub csr: Vec<u8>,
}

/// Why one SVID of a batch was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server refused: {message} (gRPC code {code})")]
pub struct Refused {
    /// gRPC status code.
    pub code: i32,
    /// The server's words.
    pub message: String,
}

/// The server, as the agent's life cycle sees it.
#[async_trait::async_trait]
pub trait Server: Send + Sync {
    /// Proves the node anew, with `csr` for the key that `spki_der` names.
    async fn attest(&self, spki_der: &[u8], csr: &[u8]) -> Result<Attested, ServerError>;
    /// Tells the attestor how its last attempt ended.
    async fn attestation_ended(&self, accepted: bool);
    /// A new certificate for a node that cannot attest again.
    async fn renew(&self, csr: &[u8]) -> Result<Vec<Vec<u8>>, ServerError>;
    /// Shows this identity from now on, on a new connection; `None` closes the connection.
    async fn use_identity(&self, identity: Option<TlsIdentity>);
    /// What changed in the entries since they were put into `known`.
    async fn entries(&self, known: &Cache) -> Result<EntryChanges, ServerError>;
    /// The server's own bundle.
    async fn bundle(&self) -> Result<Bundle, ServerError>;
    /// A foreign bundle; `None` when the server has none.
    async fn federated_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, ServerError>;
    /// SVIDs, one outcome per request and in their order.
    async fn issue(
        &self,
        requests: Vec<IssueRequest>,
    ) -> Result<Vec<Result<Vec<Vec<u8>>, Refused>>, ServerError>;
    /// Tells the server which version runs here and which bundle it has.
    async fn post_status(&self, bundle_sequence: u64) -> Result<(), ServerError>;
}

/// Why the server could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A call failed or was refused.
    #[error("{rpc}: {} ({:?})", status.message(), status.code())]
    Call {
        /// Which.
        rpc: &'static str,
        /// What came back.
        status: Box<Status>,
    },
    /// No answer in time.
    #[error("{rpc}: no answer within {seconds} s")]
    TimedOut {
        /// Which.
        rpc: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// This node's own evidence could not be made.
    #[error("the node's evidence cannot be made")]
    Evidence(#[from] AttestError),
    /// The server broke the protocol.
    #[error("{rpc}: {reason}; are the versions of server and agent compatible?")]
    Protocol {
        /// Which.
        rpc: &'static str,
        /// What was wrong.
        reason: String,
    },
}

impl ServerError {
    pub(crate) fn call(rpc: &'static str) -> impl Fn(Status) -> Self {
        move |status| Self::Call { rpc, status: Box::new(status) }
    }

    /// The reason a server gives an agent it will not serve.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Call { status, .. } => reason_of(status),
            _ => None,
        }
    }

    /// Whether the server understood an attestation and said no, so that the same evidence will not do.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Call { status, .. } => matches!(
                status.code(),
                Code::PermissionDenied | Code::InvalidArgument | Code::Unauthenticated | Code::NotFound
            ),
            _ => false,
        }
    }

    /// Whether the agent is banned. Servers say so without a reason when it attests.
    #[must_use]
    pub fn is_ban(&self) -> bool {
        self.reason() == Some(Reason::AgentBanned)
            || matches!(self, Self::Call { rpc, status }
                if *rpc == "AttestAgent" && status.code() == Code::PermissionDenied && status.message().contains("banned"))
    }

    /// Whether the server's certificate is not trusted here.
    #[must_use]
    pub fn is_distrust(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Untrusted { .. }))
    }

    /// Whether the server refused this agent's certificate in the TLS handshake.
    #[must_use]
    pub fn is_certificate_refused(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Refused { .. }) => true,
            Self::Call { status, .. } => status.source().and_then(refusal_of).is_some(),
            _ => false,
        }
    }

    /// Whether a new connection should be made before the next call.
    #[must_use]
    pub fn breaks_connection(&self) -> bool {
        match self {
            Self::Call { status, .. } => {
                matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
            }
            Self::TimedOut { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use hardroot_api::status::permission_denied;

    use super::*;

    fn call(rpc: &'static str, status: Status) -> ServerError {
        ServerError::Call { rpc, status: Box::new(status) }
    }

    #[test]
    fn refusals_bans_and_failures_are_told_apart() {
        let banned = call("SyncAuthorizedEntries", permission_denied(Reason::AgentBanned, "banned"));
        assert!(banned.is_ban());
        assert!(call("AttestAgent", Status::permission_denied("failed to attest: agent is banned")).is_ban());
        assert!(!call("RenewAgent", Status::permission_denied("agent is banned, maybe")).is_ban());
        let expired = call("AttestAgent", Status::invalid_argument("join token expired"));
        assert!(expired.is_refusal() && !expired.is_ban() && !expired.breaks_connection());
        let away = call("GetBundle", Status::unavailable("transport error"));
        assert!(!away.is_refusal() && away.breaks_connection());
        let distrust = ServerError::Connect(ConnectError::Untrusted {
            address: "x:1".into(),
            cause: "unknown issuer".into(),
        });
        assert!(distrust.is_distrust() && !distrust.is_certificate_refused());
    }
}
