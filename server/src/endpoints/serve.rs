//! Opening the listeners, serving and stopping.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hardroot_transport::{
    BoundSocket, BundleSource, IdentitySlot, Limits, UdsError, UdsLimits, bind_uds, server_config,
    tls_incoming, uds_incoming,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::layer::util::{Identity, Stack};
use tracing::{error, info, warn};

use crate::authz::{AuthzLayer, Gate};

/// Mode of the admin socket: its owner and group.
const ADMIN_SOCKET_MODE: u32 = 0o770;

/// Streams of one connection at once. An agent uses a handful.
const MAX_STREAMS: u32 = 256;
/// All headers of a call together, in bytes.
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// Streams that a peer may open and reset before it must wait (HTTP/2 rapid reset).
const MAX_PENDING_RESETS: usize = 20;
/// Streams that we reset for a peer's errors before the connection is closed.
const MAX_LOCAL_RESETS: usize = 256;
/// A silent connection is asked this often whether somebody is there; agents keep theirs for hours.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long calls may go on after the stop was asked for.
pub const GRACE: Duration = Duration::from_secs(5);

/// Why the listeners could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The TLS port.
    #[error("cannot listen on {address}; is another server running there?")]
    Bind {
        /// Host and port.
        address: String,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The admin socket.
    #[error("cannot open the admin socket")]
    Admin(#[from] UdsError),
}

/// Open listeners that nobody serves yet: clients may connect and wait.
pub struct Listeners {
    remote: TcpListener,
    remote_address: SocketAddr,
    admin: BoundSocket,
}

impl Listeners {
    /// Opens both.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub async fn open(host: &str, port: u16, socket: &Path) -> Result<Self, EndpointError> {
        let address = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let failed = |cause| EndpointError::Bind { address: address.clone(), cause };
        let remote = TcpListener::bind(&address).await.map_err(failed)?;
        let remote_address = remote.local_addr().map_err(failed)?;
        let admin = bind_uds(socket, ADMIN_SOCKET_MODE)?;
        Ok(Self { remote, remote_address, admin })
    }
}

/// Both listeners being served.
pub struct Serving {
    remote_address: SocketAddr,
    admin_socket: PathBuf,
    stop: CancellationToken,
    remote: JoinHandle<()>,
    admin: JoinHandle<()>,
}

/// Serves `remote` on the TLS port and `local` on the admin socket, each call judged by `gate`.
#[must_use]
pub fn serve(
    listeners: Listeners,
    identity: IdentitySlot,
    bundles: Arc<dyn BundleSource>,
    gate: Arc<Gate>,
    remote: Routes,
    local: Routes,
) -> Serving {
    let stop = CancellationToken::new();
    let remote_address = listeners.remote_address;
    let admin_socket = listeners.admin.path().to_owned();
    let incoming = tls_incoming(listeners.remote, server_config(identity, bundles), Limits::default());
    let done = stop.clone().cancelled_owned();
    let router = tuned(Arc::clone(&gate)).add_routes(remote);
    let remote = tokio::spawn(async move {
        ended("TLS port", router.serve_with_incoming_shutdown(incoming, done).await);
    });
    let incoming = uds_incoming(listeners.admin, UdsLimits::default());
    let done = stop.clone().cancelled_owned();
    let router = tuned(gate).add_routes(local);
    let admin = tokio::spawn(async move {
        ended("admin socket", router.serve_with_incoming_shutdown(incoming, done).await);
    });
    info!(address = %remote_address, socket = %admin_socket.display(), "serving");
    Serving { remote_address, admin_socket, stop, remote, admin }
}

fn ended(what: &'static str, outcome: Result<(), tonic::transport::Error>) {
    if let Err(cause) = outcome {
        error!(error = &cause as &dyn std::error::Error, "the {what} is served no more");
    }
}

fn tuned(gate: Arc<Gate>) -> Server<Stack<AuthzLayer, Identity>> {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(AuthzLayer::new(gate))
}

impl Serving {
    /// Where the TLS port listens; with port 0 in the configuration the one the system chose.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.remote_address
    }

    /// The admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// Whether both are still being served.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.remote.is_finished() && !self.admin.is_finished()
    }

    /// Stops: no new calls, running ones get [`GRACE`] to end, then they are cut.
    pub async fn stop(self) {
        self.stop.cancel();
        for (what, mut task) in [("TLS port", self.remote), ("admin socket", self.admin)] {
            if tokio::time::timeout(GRACE, &mut task).await.is_err() {
                warn!("calls on the {what} did not end within {} s and are cut", GRACE.as_secs());
                task.abort();
                // The listener goes with its task: wait for it, so that a successor can have the address.
                drop(task.await);
            }
        }
    }
}
