//! What a status carries beside code and text, as a `google.rpc.Status` in the `grpc-status-details-bin` trailer: the reason
//! why an agent is refused (SPIRE's `PermissionDeniedDetails`), and when to call again (`google.rpc.RetryInfo`).

use std::time::Duration;

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

const RETRY_TYPE: &str = "google.rpc.RetryInfo";
/// Longest pause that a server is believed to mean: a wrong one must not silence a client for days.
const MAX_RETRY: Duration = Duration::from_secs(300);

/// `google.rpc.RetryInfo` (googleapis, google/rpc/error_details.proto).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// A status that tells the caller when to try again.
#[must_use]
pub fn retry_later(code: Code, message: impl Into<String>, after: Duration) -> Status {
    let delay = prost_types::Duration {
        seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(after.subsec_nanos()).unwrap_or(0),
    };
    with_detail(code, message.into(), RETRY_TYPE, RetryInfo { retry_delay: Some(delay) }.encode_to_vec())
}

/// When the server asks to be called again, five minutes at most; `None` when it does not say.
#[must_use]
pub fn retry_after(status: &Status) -> Option<Duration> {
    let value = detail(status, RETRY_TYPE)?;
    let delay = RetryInfo::decode(value.as_slice()).ok()?.retry_delay?;
    let delay = Duration::try_from(delay).ok()?;
    Some(delay.min(MAX_RETRY))
}

fn with_detail(code: Code, message: String, kind: &str, value: Vec<u8>) -> Status {
    let detail = prost_types::Any { type_url: format!("type.googleapis.com/{kind}"), value };
    let status = RpcStatus { code: code.into(), message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, status.encode_to_vec().into())
}

/// The first detail of this kind.
fn detail(status: &Status, kind: &str) -> Option<Vec<u8>> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    details.into_iter().find(|any| any.type_url.rsplit('/').next() == Some(kind)).map(|any| any.value)
}

/// A `PermissionDenied` that tells an agent what to do about it.
#[must_use]
pub fn permission_denied(reason: Reason, message: impl Into<String>) -> Status {
    let value = PermissionDeniedDetails { reason: reason.into() }.encode_to_vec();
    with_detail(Code::PermissionDenied, message.into(), DETAILS_TYPE, value)
}

/// The reason in a status, if it is a `PermissionDenied` that carries one.
#[must_use]
pub fn reason_of(status: &Status) -> Option<Reason> {
    if status.code() != Code::PermissionDenied {
        return None;
    }
    let value = detail(status, DETAILS_TYPE)?;
    PermissionDeniedDetails::decode(value.as_slice()).ok().map(|details| details.reason())
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
    fn a_pause_survives_the_trip_and_is_bounded() {
        let busy = |after| retry_later(Code::ResourceExhausted, "busy", after);
        let asked = Duration::from_millis(2345);
        assert_eq!(retry_after(&busy(asked)), Some(asked));
        assert_eq!((busy(asked).code(), busy(asked).message()), (Code::ResourceExhausted, "busy"));
        assert_eq!(retry_after(&busy(Duration::MAX)), Some(MAX_RETRY));
        assert_eq!(retry_after(&Status::unavailable("away")), None);
        assert_eq!(retry_after(&permission_denied(Reason::AgentBanned, "banned")), None);
        let negative = RetryInfo { retry_delay: Some(prost_types::Duration { seconds: -5, nanos: 0 }) };
        let hostile = with_detail(Code::Unavailable, String::new(), RETRY_TYPE, negative.encode_to_vec());
        assert_eq!(retry_after(&hostile), None);
        let garbage = with_detail(Code::Unavailable, String::new(), RETRY_TYPE, vec![0xff; 9]);
        assert_eq!(retry_after(&garbage), None);
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
