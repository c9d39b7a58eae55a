//! The admin API: Logger and Debug over a local socket of its own, for the agent's user and group only.

mod debug;
mod logger;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hardroot_api::spire::agent::debug::v1::debug_server::DebugServer;
use hardroot_api::spire::api::agent::logger::v1::logger_server::LoggerServer;
use hardroot_identity::TrustDomain;
use hardroot_runtime::clock::Clock;
use hardroot_runtime::logs::LogHandle;
use hardroot_runtime::shutdown::Shutdown;
use hardroot_transport::{UdsError, UdsLimits, bind_uds, uds_incoming};
use tonic::service::Routes;
use tonic::transport::Server;

use crate::cache::Cache;
use crate::status::AgentStatus;

/// The mode of the socket: its owner and group.
const SOCKET_MODE: u32 = 0o770;
/// Open connections, in all and of one user.
const CONNECTIONS: usize = 64;
/// Open calls of one connection, and bytes of a call's headers.
const CALLS: u32 = 16;
const HEADER_BYTES: u32 = 16 << 10;
/// From a call to its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Why the admin API could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminApiError {
    /// The socket could not be opened.
    #[error(transparent)]
    Socket(#[from] UdsError),
    /// The listener broke.
    #[error("the admin socket cannot be used any more")]
    Serve(#[from] tonic::transport::Error),
}

/// What the admin API shows and changes.
#[derive(Clone)]
pub struct AdminApi {
    /// The agent's trust domain.
    pub trust_domain: TrustDomain,
    /// What is held for workloads.
    pub cache: Arc<Cache>,
    /// How the agent is.
    pub status: Arc<AgentStatus>,
    /// The log.
    pub log: LogHandle,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl AdminApi {
    /// Serves on a socket until `shutdown` is requested. A socket nobody answers is replaced.
    ///
    /// # Errors
    /// The socket cannot be opened or used.
    pub async fn serve(self, socket_path: &Path, shutdown: Shutdown) -> Result<(), AdminApiError> {
        let socket = bind_uds(socket_path, SOCKET_MODE)?;
        tracing::info!(subsystem_name = "endpoints", path = %socket_path.display(), "starting the admin API");
        let limits = UdsLimits { max_connections: CONNECTIONS, max_per_uid: CONNECTIONS };
        let routes = Routes::new(LoggerServer::new(logger::Logger { log: self.log.clone() }))
            .add_service(DebugServer::new(debug::Debug { api: self }));
        Server::builder()
            .max_concurrent_streams(CALLS)
            .http2_max_header_list_size(HEADER_BYTES)
            .timeout(ANSWER)
            .add_routes(routes)
            .serve_with_incoming_shutdown(uds_incoming(socket, limits), shutdown.requested())
            .await?;
        Ok(())
    }
}
