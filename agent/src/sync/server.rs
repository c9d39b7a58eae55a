//! What the agent asks of its server, and what can go wrong with it.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::{reason_of, retry_after};
use hardroot_identity::{Bundle, TrustDomain};
use hardroot_node_attestors::AttestError;
use hardroot_transport::{ConnectError, TlsIdentity, refusal_of};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::push::{Pushed, Resume};
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

/// A JWT-SVID as the server says it is; not yet checked.
pub struct IssuedJwt {
    /// The token, compact serialisation.
    pub token: Zeroizing<String>,
    /// When it ends.
    pub expires_at: SystemTime,
    /// When it was made.
    pub issued_at: SystemTime,
}

/// Where JWT-SVIDs are signed.
#[async_trait::async_trait]
pub trait JwtIssuer: Send + Sync {
    /// A token for an entry's identity, signed now. No answer within `limit` is an error.
    async fn new_jwt_svid(
        &self,
        entry_id: &str,
        audience: &[String],
        limit: Duration,
    ) -> Result<IssuedJwt, ServerError>;
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
    /// Opens a stream over which the server pushes what the agent lacks beside `resume`, and then every change.
    /// Whether the server has such a thing; if not, it must be polled.
    async fn follow(&self, resume: Resume) -> Result<bool, ServerError>;
    /// Waits for what is pushed over the open stream. Whoever stops waiting loses nothing.
    async fn pushed(&self) -> Result<Pushed, ServerError>;
    /// What was pushed under this number is applied: the server may push more.
    async fn acknowledge(&self, number: u64);
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

/// What a failure says about when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    Nothing,
    /// The server said when to come back.
    Asked(Duration),
    /// The server is there and closed the connection before it was set up: it has no room now, and will have soon.
    TurnedAway,
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

    /// The gRPC status that a metric shows, as Go spells it.
    #[must_use]
    pub fn status_name(&self) -> &'static str {
        match self {
            Self::Call { status, .. } => hardroot_telemetry::rpc::status_name(status.code().into()),
            Self::Connect(_) => "Unavailable",
            Self::TimedOut { .. } => "DeadlineExceeded",
            _ => "Unknown",
        }
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

    /// Whether the same call may succeed in a moment: the server is away or under pressure, or is about to see
    /// this agent's new SVID.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Unreachable { .. } | ConnectError::TurnedAway { .. }) => true,
            Self::Call { status, .. } => {
                matches!(
                    status.code(),
                    Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::Internal
                ) || self.reason().is_some_and(|reason| reason != Reason::AgentBanned)
            }
            _ => false,
        }
    }

    /// When the server asks to be called again, if it does (google.rpc.RetryInfo).
    #[must_use]
    pub fn asks_to_return(&self) -> Option<Duration> {
        match self {
            Self::Call { status, .. } => retry_after(status),
            _ => None,
        }
    }

    /// What it says about when to try again.
    #[must_use]
    pub fn hint(&self) -> Hint {
        match self {
            Self::Connect(ConnectError::TurnedAway { .. }) => Hint::TurnedAway,
            other => other.asks_to_return().map_or(Hint::Nothing, Hint::Asked),
        }
    }

    /// Whether a new connection should be made before the next call.
    #[must_use]
    pub fn breaks_connection(&self) -> bool {
        match self {
            // A server under pressure that says when to come back is well, and a new connection would cost it more.
            Self::Call { status, .. } if retry_after(status).is_some() => false,
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
    use hardroot_api::status::{permission_denied, retry_later};

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
        assert!(!away.is_refusal() && away.breaks_connection() && away.is_passing());
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            let pressed = call("AttestAgent", retry_later(code, "busy", Duration::from_secs(3)));
            assert!(
                pressed.is_passing() && !pressed.breaks_connection(),
                "no new handshake for a busy server"
            );
            assert_eq!(pressed.asks_to_return(), Some(Duration::from_secs(3)));
            assert_eq!(pressed.hint(), Hint::Asked(Duration::from_secs(3)));
        }
        assert!(call("NewJWTSVID", permission_denied(Reason::AgentNotActive, "newer SVID")).is_passing());
        assert!(!banned.is_passing() && !call("NewJWTSVID", Status::not_found("no entry")).is_passing());
        let distrust = ServerError::Connect(ConnectError::Untrusted {
            address: "x:1".into(),
            cause: "unknown issuer".into(),
        });
        assert!(distrust.is_distrust() && !distrust.is_certificate_refused());
    }
}
