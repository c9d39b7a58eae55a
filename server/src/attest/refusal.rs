//! Why an agent got no SVID: what it is told, and what the audit log keeps.

use std::error::Error;
use std::time::Duration;

use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::{permission_denied, retry_later};
use hardroot_runtime::chain;
use tonic::{Code, Status};

use crate::authority::queue::Busy;

/// When to come back if too many attestations are under way: each takes some round trips.
const MANY_ATTESTATIONS_PAUSE: Duration = Duration::from_secs(2);

/// A refusal: a stable slug for the audit log, a status for the peer, a detail for the log alone.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Stable slug, such as `quote_nonce_mismatch`.
    pub(super) reason: &'static str,
    /// What the peer is told.
    pub(super) status: Status,
    /// What only the audit log is told.
    pub(super) detail: Option<String>,
}

impl Refusal {
    /// The peer's bytes are not what the protocol asks for.
    #[must_use]
    pub(super) fn malformed(reason: &'static str, message: &str) -> Self {
        Self { reason, status: Status::invalid_argument(message), detail: None }
    }

    /// The evidence was understood and does not hold. The peer learns the slug, not the detail.
    #[must_use]
    pub(super) fn rejected(reason: &'static str, detail: String) -> Self {
        let message = format!("attestation refused: {reason}; the server's log tells more");
        Self { reason, status: Status::permission_denied(message), detail: Some(detail) }
    }

    /// The node is banned.
    #[must_use]
    pub(super) fn banned() -> Self {
        let status = permission_denied(Reason::AgentBanned, "failed to attest: agent is banned");
        Self { reason: "agent_banned", status, detail: None }
    }

    /// Our own side failed; the peer may try again.
    #[must_use]
    pub(super) fn ours(reason: &'static str, message: &'static str, cause: &(dyn Error + 'static)) -> Self {
        Self { reason, status: Status::unavailable(message), detail: Some(chain(cause)) }
    }

    /// Our own side is wrong; trying again does not help.
    #[must_use]
    pub(super) fn internal(reason: &'static str, message: &'static str, detail: String) -> Self {
        Self { reason, status: Status::internal(message), detail: Some(detail) }
    }

    /// No attestor of that name.
    #[must_use]
    pub(super) fn no_attestor(kind: &str) -> Self {
        let message = format!(
            "could not find node attestor type \"{}\"; name it in the server's plugins block",
            kind.escape_default()
        );
        Self { reason: "no_such_attestor", status: Status::failed_precondition(message), detail: None }
    }

    /// The conversation took too long.
    #[must_use]
    pub(super) fn late(seconds: u64) -> Self {
        let message = format!("the attestation was not finished within {seconds} s");
        Self { reason: "deadline_exceeded", status: Status::deadline_exceeded(message), detail: None }
    }

    /// Too many conversations at once.
    #[must_use]
    pub(super) fn busy() -> Self {
        let told = "too many attestations are under way; try again";
        let status = retry_later(Code::ResourceExhausted, told, MANY_ATTESTATIONS_PAUSE);
        Self { reason: "too_many_attestations", status, detail: None }
    }

    /// More is to be signed than can be in time.
    #[must_use]
    pub(super) fn too_much_to_sign(full: &Busy) -> Self {
        Self { reason: "too_much_to_sign", status: crate::api::busy(full), detail: None }
    }

    /// The stream broke.
    #[must_use]
    pub(super) fn broken(status: &Status) -> Self {
        // A message that is too large or no protobuf comes this way too: those are the peer's fault.
        let status = match status.code() {
            Code::OutOfRange | Code::InvalidArgument | Code::ResourceExhausted => status.clone(),
            _ => Status::invalid_argument("failed to receive request from stream"),
        };
        Self { reason: "stream_broken", status, detail: None }
    }

    /// The peer went away.
    #[must_use]
    pub(super) fn gone() -> Self {
        Self { reason: "peer_gone", status: Status::cancelled("the agent went away"), detail: None }
    }
}
