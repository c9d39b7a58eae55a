//! Why a command failed. The texts follow SPIRE's where scripts may look at them.

use std::path::PathBuf;

use tonic::{Code, Status};

/// Why a command failed. Each is printed as `Error: ...` and ends with exit code 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The flags do not say what is needed.
    #[error("{0}")]
    Usage(String),
    /// No server behind the socket.
    #[error(
        "cannot reach the server at {socket}: {reason}\nIs it running? Another socket is named with -socketPath."
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The server refused or failed.
    #[error("{context}rpc error: code = {} desc = {}", code_name(.status.code()), .status.message())]
    Rpc {
        /// What was attempted, ending with `: `, or nothing.
        context: String,
        /// What the server said.
        status: Box<Status>,
    },
    /// A call about many items failed as a whole.
    #[error(
        "failed to {verb} items {first} to {last}: rpc error: code = {} desc = {}\n\
        What came before was told; whether these were done is not known. Run the command again: {}.",
        code_name(.status.code()), .status.message(), again(.repeated)
    )]
    Interrupted {
        /// `create`, `update`, `delete`.
        verb: &'static str,
        /// The first item of the call, counted from 1.
        first: usize,
        /// The last one.
        last: usize,
        /// What is said of items that are done already, or nothing.
        repeated: &'static str,
        /// What the server said.
        status: Box<Status>,
    },
    /// A file (or standard input, named `-`) cannot be read, written or understood.
    #[error("{op} {path}: {reason}")]
    File {
        /// `reading`, `parsing`.
        op: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The server did its part, and the outcome is a failure that was printed.
    #[error("{0}")]
    Outcome(String),
}

impl CliError {
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// A call that failed, with what it was for (`failed to delete federated bundle: `).
    pub(super) fn rpc(context: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let context = context.into();
        move |status| Self::Rpc { context, status: Box::new(status) }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Rpc { context: String::new(), status: Box::new(status) }
    }
}

/// What happens to items that are done already when a command is repeated.
fn again(repeated: &str) -> String {
    match repeated {
        "" => "what is done is done once more".to_owned(),
        repeated => format!("those that are done are told as \"{repeated}\" and stay as they are"),
    }
}

/// A code as gRPC's Go library names it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The code and text of a batch item's status.
pub(super) fn item_failure(
    status: Option<&hardroot_api::spire::api::types::Status>,
) -> Option<(&'static str, String)> {
    let status = status?;
    (status.code != 0).then(|| (code_name(Code::from(status.code)), status.message.clone()))
}
