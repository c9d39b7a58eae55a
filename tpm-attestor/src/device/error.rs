//! What can go wrong with a TPM, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tss_esapi::Error as TssError;
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};

use crate::verify::EvidenceError;

/// A TPM operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// A TCTI text that is not taken as it stands.
    #[error("\"{text}\" is no TCTI: {reason}")]
    BadTcti {
        /// The text, escaped and cut.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file with an auth value cannot be used.
    #[error("the auth value in {} cannot be used: {reason}", path.display())]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
        /// The cause, when reading failed.
        #[source]
        cause: Option<io::Error>,
    },
    /// The TPM does not open: no device, no permission, or nobody listens.
    #[error(
        "the TPM at {tcti} does not open: check that it exists and that this user may use it (group tss)"
    )]
    Open {
        /// Where.
        tcti: String,
        /// The cause.
        #[source]
        cause: TssFault,
    },
    /// The TPM refused a command, or the way to it broke.
    #[error("the TPM refused to {op}")]
    Command {
        /// The operation.
        op: &'static str,
        /// The cause.
        #[source]
        cause: TssFault,
    },
    /// An auth value is wrong. It is not tried again, because tries may count towards a lockout.
    #[error(
        "the TPM does not accept our auth value to {op}: check owner_auth_file, endorsement_auth_file and key_auth_file, then restart"
    )]
    AuthRefused {
        /// The operation.
        op: &'static str,
    },
    /// The TPM is in dictionary attack lockout.
    #[error("the TPM is locked out after failed authorisations; it recovers by itself, next try in {} s", wait.as_secs())]
    LockedOut {
        /// How long nothing will be tried.
        wait: Duration,
    },
    /// The TPM answered something that makes no sense.
    #[error("the TPM answered wrongly to {op}: {reason}")]
    Answer {
        /// The operation.
        op: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// What the TPM answered could not be decoded or does not hold.
    #[error("the TPM's answer to {op} does not hold")]
    Evidence {
        /// The operation.
        op: &'static str,
        /// The cause.
        #[source]
        cause: EvidenceError,
    },
    /// A stored key blob is not of this TPM, or was damaged.
    #[error(
        "this TPM does not load the stored key: it is damaged, or belongs to another TPM, or the TPM was cleared"
    )]
    ForeignKey {
        /// The cause.
        #[source]
        cause: TssFault,
    },
    /// The TPM has another endorsement key than before.
    #[error("the TPM has another endorsement key now: it was replaced")]
    ReplacedEndorsementKey,
    /// No answer in time. The operation may still be running.
    #[error("the TPM did not {op} within {} s", after.as_secs())]
    Timeout {
        /// The operation.
        op: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The device thread has ended.
    #[error("the TPM thread has ended, nothing can {op} any more")]
    Gone {
        /// The operation.
        op: &'static str,
    },
}

impl TpmError {
    /// Whether the same call may succeed later without anyone doing something.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::LockedOut { .. } | Self::Open { .. } => true,
            Self::Command { cause, .. } => cause.class() != Class::Final,
            _ => false,
        }
    }
}

/// How to go on after a response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The TPM is busy: wait and send the same command again.
    Busy,
    /// Our handles or sessions are not what the TPM holds, or the connection broke: begin anew.
    Stale,
    /// An auth value was wrong.
    Auth,
    /// Dictionary attack lockout.
    Lockout,
    /// Not of this TPM.
    Foreign,
    /// Anything else.
    Final,
}

/// An error of the TSS library, in words that name the response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{error}{}", self.code().map(|rc| format!(" (TSS response code {rc:#x})")).unwrap_or_default())]
pub struct TssFault {
    error: TssError,
}

impl From<TssError> for TssFault {
    fn from(error: TssError) -> Self {
        Self { error }
    }
}

impl TssFault {
    /// The whole response code with its layer (TSS 2.0 Overview, 3.7), when there is one.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        // tss-esapi keeps the number private; its text is the way to it.
        let text = match self.error {
            TssError::Tss2Error(Tss2ResponseCode::FormatZero(rc)) => rc.to_string(),
            TssError::Tss2Error(Tss2ResponseCode::FormatOne(rc)) => rc.to_string(),
            _ => return None,
        };
        text.rsplit("0x").next().and_then(|hex| u32::from_str_radix(hex, 16).ok())
    }

    pub(super) fn class(&self) -> Class {
        let TssError::Tss2Error(code) = self.error else { return Class::Final };
        // Layers: 0 the TPM, 11 and 12 a resource manager that passes the TPM's codes on, 10 the transport.
        match self.code().map(|rc| rc >> 16 & 0xff) {
            Some(0 | 11 | 12) | None => {}
            Some(10) => return Class::Stale,
            Some(_) => return Class::Final,
        }
        match code.kind() {
            Some(Kind::Retry | Kind::Yielded | Kind::Testing | Kind::NvRate) => Class::Busy,
            Some(
                Kind::ObjectMemory
                | Kind::SessionMemory
                | Kind::Memory
                | Kind::ObjectHandles
                | Kind::SessionHandles
                | Kind::ContextGap
                | Kind::Handle
                | Kind::ReferenceH0
                | Kind::ReferenceH1
                | Kind::ReferenceH2
                | Kind::ReferenceS0
                | Kind::ReferenceS1
                | Kind::ReferenceS2
                | Kind::Initialize,
            ) => Class::Stale,
            Some(Kind::AuthFail | Kind::BadAuth) => Class::Auth,
            Some(Kind::Lockout) => Class::Lockout,
            Some(Kind::Integrity) => Class::Foreign,
            _ => Class::Final,
        }
    }
}
