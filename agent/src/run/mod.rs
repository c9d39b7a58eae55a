//! Running the agent: everything is opened in order, and each step's failure has one sentence and one exit code.

mod attestor;
mod keys;
mod node;
mod reload;

use std::io;
use std::process::ExitCode;

pub use attestor::TokenSource;
use hardroot_config::LoadError;
use hardroot_runtime::logs::LogError;
use hardroot_telemetry::TelemetryError;
pub(crate) use keys::open_tpm;
pub use node::{Started, node, start};
pub use reload::Reader;

use crate::attest::BootstrapError;
use crate::lifecycle::Ended;
use crate::storage::StorageError;

/// Why the agent did not start or did not stay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration is missing or has faults.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// Logging cannot start.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The process cannot be set up.
    #[error("cannot {what}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The key manager cannot be opened.
    #[error("the key manager {name} cannot be opened")]
    Keys {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The TPM cannot be opened.
    #[error("the TPM at {tcti} cannot be opened")]
    Tpm {
        /// Where it was looked for.
        tcti: String,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node attestor cannot be set up.
    #[error("the node attestor {name} cannot be set up")]
    Attestor {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no bundle to begin with.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The Workload API cannot be served.
    #[error("the Workload API cannot be served")]
    WorkloadApi(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The admin API cannot be served.
    #[error("the admin API cannot be served")]
    AdminApi(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Metrics cannot be served.
    #[error("metrics cannot be served")]
    Telemetry(#[from] TelemetryError),
    /// Health cannot be told over HTTP.
    #[error("cannot listen on {address} for health checks; is something else running there?")]
    HealthListener {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The agent may not go on.
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl RunError {
    /// The process's exit code. The table is in docs/guide/commands-agent.md.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) | Self::Log(_) | Self::Process { .. } => 1,
            Self::Storage(_) => 3,
            Self::Keys { .. } => 4,
            Self::Tpm { .. } => 5,
            Self::Attestor { .. } => 6,
            Self::Bootstrap(_) => 7,
            Self::WorkloadApi(_) | Self::AdminApi(_) | Self::Telemetry(_) | Self::HealthListener { .. } => 8,
            Self::Ended(Ended::Refused { .. }) => 9,
            Self::Ended(Ended::Banned) => 10,
        })
    }
}
