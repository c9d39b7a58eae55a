//! Why the server did not start, each step with one sentence and its own exit code.

use hardroot_hsm_keymanager::KeyError;
use hardroot_identity::TrustDomain;
use hardroot_runtime::state::StateError;
use hardroot_telemetry::TelemetryError;

use crate::authority::{AuthorityError, BundleError, ServerSvidError};
use crate::config::ConfigError;
use crate::datastore::StoreError;
use crate::endpoints::EndpointError;
use crate::instance::{InstanceError, LeaseError};

/// A failure of one step of starting, or of the running server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration (exit code 2).
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory (exit code 3).
    #[error("the data directory cannot be used")]
    DataDir(#[source] StateError),
    /// The datastore (exit code 4).
    #[error("the datastore cannot be opened")]
    Datastore(#[source] StoreError),
    /// The database belongs to another trust domain (exit code 4).
    #[error(
        "the database holds entries of trust domain {found}, this server is of {configured}; \
         give it the database of its own trust domain"
    )]
    OtherTrustDomain {
        /// Of the first entry.
        found: TrustDomain,
        /// Of the configuration.
        configured: TrustDomain,
    },
    /// The server's instance id (exit code 3).
    #[error("the server has no instance id")]
    Instance(#[source] InstanceError),
    /// Another process is this server instance (exit code 10).
    #[error("this server may not run")]
    Lease(#[source] LeaseError),
    /// The token, chip or key file (exit code 5).
    #[error("the key manager \"{name}\" cannot be opened")]
    KeyManager {
        /// The plugin.
        name: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The signing authority (exit code 6).
    #[error("the signing authority is not ready")]
    Authority(#[source] AuthorityError),
    /// The bundle (exit code 6).
    #[error("the bundle cannot be used")]
    Bundle(#[source] BundleError),
    /// The server's own SVID (exit code 6).
    #[error("the server has no SVID of its own")]
    ServerSvid(#[source] ServerSvidError),
    /// A node attestor (exit code 7).
    #[error("the node attestor \"{name}\" cannot be used")]
    Attestor {
        /// The plugin.
        name: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The listeners (exit code 8).
    #[error("the endpoints cannot be opened")]
    Endpoints(#[source] EndpointError),
    /// The metrics cannot be told (exit code 8).
    #[error("telemetry cannot be started")]
    Telemetry(#[source] TelemetryError),
    /// The listener for health (exit code 8).
    #[error("cannot listen on {address} for health checks; is something else running there?")]
    HealthListener {
        /// Host and port.
        address: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The listeners ended although nobody asked (exit code 9).
    #[error("an endpoint is served no more; see the log")]
    EndpointEnded,
}

impl RunError {
    /// The process's exit code for this failure. 1 is for everything that is not a start-up step.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::DataDir(_) | Self::Instance(_) => 3,
            Self::Datastore(_) | Self::OtherTrustDomain { .. } => 4,
            Self::KeyManager { .. } => 5,
            Self::Authority(_) | Self::Bundle(_) | Self::ServerSvid(_) => 6,
            Self::Attestor { .. } => 7,
            Self::Endpoints(_) | Self::Telemetry(_) | Self::HealthListener { .. } => 8,
            Self::EndpointEnded => 9,
            Self::Lease(LeaseError::Store(_)) => 4,
            Self::Lease(_) => 10,
        }
    }

    pub(super) fn key_manager(name: &'static str) -> impl FnOnce(KeyError) -> Self {
        move |cause| Self::KeyManager { name, cause: Box::new(cause) }
    }
}
