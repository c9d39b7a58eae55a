//! What can go wrong with an emulator.

use std::io;

/// An emulator could not be made, started or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The program is not there.
    #[error("cannot run {program}: install the Debian package {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The program ended with an error or did not get ready.
    #[error("{program}: {reason}\n{log}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What happened.
        reason: String,
        /// What it wrote.
        log: String,
    },
    /// A file or socket operation of ours failed.
    #[error("{op}")]
    Io {
        /// The operation.
        op: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

/// Names the operation of an I/O error.
pub(crate) fn io(op: &'static str) -> impl FnOnce(io::Error) -> EmulatorError {
    move |cause| EmulatorError::Io { op, cause }
}
