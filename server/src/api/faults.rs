//! From errors to gRPC statuses. The peer gets the class and what it can act on; the log gets the chain.

use hardroot_api::spire::api::types;
use hardroot_api::status::retry_later;
use tonic::{Code, Status};

use crate::authority::queue::Busy;
use crate::datastore::StoreError;

/// The status of a batch item that succeeded.
pub(super) fn ok() -> types::Status {
    types::Status { code: Code::Ok.into(), message: "OK".to_owned() }
}

/// The status of a batch item that failed.
pub(super) fn item(status: &Status) -> types::Status {
    types::Status { code: status.code().into(), message: status.message().to_owned() }
}

/// What the result of a batch item holds.
pub(super) fn outcome<T>(outcome: Result<T, Status>) -> (Option<types::Status>, Option<T>) {
    match outcome {
        Ok(done) => (Some(ok()), Some(done)),
        Err(failure) => (Some(item(&failure)), None),
    }
}

/// `InvalidArgument` as SPIRE words it: what was attempted, then what is wrong.
pub(super) fn invalid(what: &str, why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{what}: {why}"))
}

/// More is to be signed than can be in time. Not `Unavailable`: clients would make a new connection, which costs a
/// signature, too.
pub(crate) fn busy(busy: &Busy) -> Status {
    retry_later(Code::ResourceExhausted, busy.to_string(), busy.retry_after)
}

/// A call that the datastore refused or failed. `what` is what was attempted (`failed to create entry`).
pub(super) fn store(what: &str, error: &StoreError) -> Status {
    let (code, message) = match error {
        // SPIRE gives the class alone.
        StoreError::NotFound { .. } => (Code::NotFound, what.to_owned()),
        StoreError::Exists { .. } => (Code::AlreadyExists, format!("{what}: {error}")),
        StoreError::Conflict { .. } => (Code::Aborted, format!("{what}: {error}")),
        StoreError::Banned { .. } => (Code::PermissionDenied, format!("{what}: {error}")),
        StoreError::Invalid { reason } => {
            (Code::InvalidArgument, format!("{what}: datastore-validation: {reason}"))
        }
        StoreError::PageToken { .. } => (Code::InvalidArgument, format!("{what}: {error}")),
        StoreError::InUse { .. } => (Code::FailedPrecondition, format!("{what}: datastore-sql: {error}")),
        StoreError::NoFederatedBundle { .. } | StoreError::Damaged { .. } => {
            (Code::Internal, format!("{what}: {error}"))
        }
        StoreError::Away { .. } => {
            (Code::Unavailable, format!("{what}: the datastore is away or overloaded; try again later"))
        }
        StoreError::NoRoom { .. } => (
            Code::Unavailable,
            format!("{what}: the datastore cannot write; is its disk full? See the server's log"),
        ),
        StoreError::Foreign
        | StoreError::NewerSchema { .. }
        | StoreError::OlderSchema { .. }
        | StoreError::NeedsMigration { .. }
        | StoreError::Database { .. } => {
            (Code::Internal, format!("{what}: the datastore failed; see the server's log"))
        }
    };
    if matches!(code, Code::Internal | Code::Unavailable) {
        tracing::error!(error = error as &dyn std::error::Error, "{what}");
    }
    Status::new(code, message)
}

/// A call that reads one thing by name: `NotFound` says `missing`, everything else `what`.
pub(super) fn store_or_missing(what: &str, missing: &str, error: &StoreError) -> Status {
    match error {
        StoreError::NotFound { .. } => Status::not_found(missing),
        other => store(what, other),
    }
}
