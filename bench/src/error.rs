//! What can go wrong: with a call (counted and gone on) and with the whole run (told and ended).

use std::path::PathBuf;
use std::time::Duration;

use hardroot_api::status::retry_after;
use hardroot_transport::ConnectError;
use tonic::{Code, Status};

/// A call that failed. It is counted; the run goes on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error("no connection: {reason}")]
    Connect {
        /// What the transport said.
        reason: String,
        /// Whether the server is there and closed the connection before it was set up.
        turned_away: bool,
    },
    /// The server said no.
    #[error("{rpc}: {code:?}: {message}")]
    Status {
        /// Which call.
        rpc: &'static str,
        /// The gRPC code.
        code: Code,
        /// The server's words.
        message: String,
        /// When the server asks to be called again (google.rpc.RetryInfo).
        retry_after: Option<Duration>,
    },
    /// The server broke the protocol.
    #[error("{rpc}: {reason}")]
    Protocol {
        /// Which call.
        rpc: &'static str,
        /// How.
        reason: String,
    },
    /// No answer in time.
    #[error("{rpc}: no answer within {} ms", limit.as_millis())]
    TimedOut {
        /// Which call.
        rpc: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
}

impl CallError {
    /// From a call's status.
    pub fn of(rpc: &'static str) -> impl Fn(Status) -> Self {
        move |status| Self::Status {
            rpc,
            code: status.code(),
            message: status.message().to_owned(),
            retry_after: retry_after(&status),
        }
    }

    pub(crate) fn protocol(rpc: &'static str, reason: impl Into<String>) -> Self {
        Self::Protocol { rpc, reason: reason.into() }
    }

    /// When the server asks to be called again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the server is there and had no room for another connection.
    #[must_use]
    pub fn is_turned_away(&self) -> bool {
        matches!(self, Self::Connect { turned_away: true, .. })
    }

    /// Whether the connection is of no use any more.
    #[must_use]
    pub fn breaks_connection(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::TimedOut { .. } => true,
            Self::Status { code, retry_after, .. } => {
                retry_after.is_none()
                    && matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
            }
            Self::Protocol { .. } => false,
        }
    }

    /// What failures are counted by: without what differs from one to the next.
    #[must_use]
    pub fn class(&self) -> String {
        let text = self.to_string();
        let mut class = String::with_capacity(text.len().min(MAX_CLASS));
        let mut digits = false;
        for c in text.chars().take(MAX_CLASS) {
            match c {
                '0'..='9' if digits => {}
                '0'..='9' => {
                    digits = true;
                    class.push('#');
                }
                c => {
                    digits = false;
                    class.push(if c.is_control() { ' ' } else { c });
                }
            }
        }
        class
    }
}

impl From<ConnectError> for CallError {
    fn from(error: ConnectError) -> Self {
        Self::Connect {
            reason: error.to_string(),
            turned_away: matches!(error, ConnectError::TurnedAway { .. }),
        }
    }
}

/// Longest text that failures are counted by.
const MAX_CLASS: usize = 160;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A file of this tool.
    #[error("{op} {}: {cause}{}", path.display(), hint)]
    File {
        /// What was attempted.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A file holds something else than expected.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A flag's value.
    #[error("-{flag}: {reason}")]
    Flag {
        /// Which flag, without its dash.
        flag: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The server's admin socket.
    #[error("{op} through the admin socket {}: {cause}{}", socket.display(), hint)]
    Admin {
        /// What was attempted.
        op: &'static str,
        /// The socket.
        socket: PathBuf,
        /// What came back.
        cause: CallError,
        /// What to do.
        hint: &'static str,
    },
    /// The first agent could not join, so no other will.
    #[error("the first simulated agent could not join: {cause}. {}", hint)]
    FirstAgent {
        /// What came back.
        cause: CallError,
        /// What to do.
        hint: String,
    },
    /// The agents have nothing to work with.
    #[error(
        "the server gives the simulated agents no entries; run: hardroot-bench entries -agents N -perAgent M"
    )]
    NoEntries,
    /// Cryptography or randomness.
    #[error("{op}: {reason}")]
    Crypto {
        /// What was attempted.
        op: &'static str,
        /// Why it failed.
        reason: String,
    },
}
