//! The reason that a `PermissionDenied` status carries for agents: a `google.rpc.Status` in the
//! `grpc-status-details-bin` trailer whose detail is SPIRE's `PermissionDeniedDetails`.

use prost::Message;
use tonic::{Code, Status};

use crate::spire::api::types::{PermissionDeniedDetails, permission_denied_details::Reason};

const DETAILS_TYPE: &str = "spire.api.types.PermissionDeniedDetails";

/// `google.rpc.Status` (googleapis, google/rpc/status.proto).
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// A `PermissionDenied` that tells an agent what to do about it.
#[must_use]
pub fn permission_denied(reason: Reason, message: impl Into<String>) -> Status {
    let message = message.into();
    let detail = prost_types::Any {
        type_url: format!("type.googleapis.com/{DETAILS_TYPE}"),
        value: PermissionDeniedDetails { reason: reason.into() }.encode_to_vec(),
    };
    let status =
        RpcStatus { code: Code::PermissionDenied.into(), message: message.clone(), details: vec![detail] };
    Status::with_details(Code::PermissionDenied, message, status.encode_to_vec().into())
}

/// The reason in a status, if it is a `PermissionDenied` that carries one.
#[must_use]
pub fn reason_of(status: &Status) -> Option<Reason> {
    if status.code() != Code::PermissionDenied {
        return None;
    }
    let details = RpcStatus::decode(status.details()).ok()?.details;
    details
        .iter()
        .filter(|any| any.type_url.rsplit('/').next() == Some(DETAILS_TYPE))
        .find_map(|any| PermissionDeniedDetails::decode(any.value.as_slice()).ok())
        .map(|details| details.reason())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_trip() {
        let status = permission_denied(Reason::AgentBanned, "agent is banned");
        assert_eq!(reason_of(&status), Some(Reason::AgentBanned));
        assert_eq!(status.message(), "agent is banned");
    }

    #[test]
    fn other_statuses_have_no_reason() {
        assert_eq!(reason_of(&Status::permission_denied("no")), None);
        let wrong_code = Status::with_details(
            Code::Internal,
            "x",
            permission_denied(Reason::AgentBanned, "x").details().to_vec().into(),
        );
        assert_eq!(reason_of(&wrong_code), None);
        let garbage = Status::with_details(Code::PermissionDenied, "x", vec![0xff; 40].into());
        assert_eq!(reason_of(&garbage), None);
    }
}
