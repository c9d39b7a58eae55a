//! From errors to gRPC statuses. The peer gets the class and what it can act on; the log gets the chain.

use hardroot_api::spire::api::types;
use tonic::{Code, Status};

use crate::datastore::StoreError;

/// The status of a batch item that succeeded.
pub(super) fn ok() -> types::Status {
    types::Status { code: Code::Ok.into(), message: "OK".to_owned() }
}

/// The status of a batch item that failed.
pub(super) fn item(status: &Status) -> types::Status {
    types::Status { code: status.code().into(), message: status.message().to_owned() }
}

/// `InvalidArgument` as SPIRE words it: what was attempted, then what is wrong.
pub(super) fn invalid(what: &str, why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{what}: {why}"))
}

/// A call that the datastore refused or failed. `what` is what was attempted (`failed to create entry`).
pub(super) fn store(what: &str, error: &StoreError) -> Status {
    let (code, message) = match error {
        // SPIRE gives the class alone.
        StoreError::NotFound { .. } => (Code::NotFound, what.to_owned()),
        StoreError::Exists { .. } => (Code::AlreadyExists, format!("{what}: {error}")),
        StoreError::Conflict { .. } => (Code::Aborted, format!("{what}: {error}")),
        StoreError::Invalid { reason } => {
            (Code::InvalidArgument, format!("{what}: datastore-validation: {reason}"))
        }
        StoreError::InUse { .. } => (Code::FailedPrecondition, format!("{what}: datastore-sql: {error}")),
        StoreError::NoFederatedBundle { .. } | StoreError::Damaged { .. } => {
            (Code::Internal, format!("{what}: {error}"))
        }
        StoreError::Foreign | StoreError::NewerSchema { .. } | StoreError::Database { .. } => {
            (Code::Internal, format!("{what}: the datastore failed; see the server's log"))
        }
    };
    if code == Code::Internal {
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
