//! Opening the listeners, serving and stopping.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hardroot_runtime::process;
use hardroot_transport::{
    BoundSocket, BundleSource, IdentitySlot, ListenStats, SigningOrder, Throttle, TlsConn, UdsConn, UdsError,
    bind_uds, server_config_with, tls_incoming_with, uds_incoming,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tower::Layer;
use tracing::{info, warn};

use super::connection::{self, Shared, Terms};
use super::limits::EndpointLimits;
use crate::authz::{AuthzLayer, AuthzService, Gate};
use crate::telemetry::rpc::{RpcLayer, RpcService};

/// What answers calls: each is counted, then judged, then served.
pub(super) type Counted = RpcService<AuthzService<Routes>>;

/// Mode of the admin socket: its owner and group.
const ADMIN_SOCKET_MODE: u32 = 0o770;

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
    stats: [(&'static str, Arc<ListenStats>); 2],
}

/// What the TLS port's handshakes need.
pub struct Tls {
    /// The server's own identity.
    pub identity: IdentitySlot,
    /// Whom to trust.
    pub bundles: Arc<dyn BundleSource>,
    /// Which handshake signs next.
    pub order: Arc<dyn SigningOrder>,
}

/// Serves `remote` on the TLS port and `local` on the admin socket, each call judged by `gate`.
#[must_use]
pub fn serve(
    listeners: Listeners,
    tls: Tls,
    gate: Arc<Gate>,
    remote: Routes,
    local: Routes,
    limits: EndpointLimits,
) -> Serving {
    let stop = CancellationToken::new();
    let remote_address = listeners.remote_address;
    let admin_socket = listeners.admin.path().to_owned();
    let open_files = process::raise_open_files().unwrap_or_else(|error| {
        warn!(%error, "the limit of open files is not known and taken for 1,024");
        1_024
    });
    if !limits.proxies.is_empty() {
        info!(proxies = limits.proxies.len(), "PROXY headers are honoured from the configured addresses");
    }
    let config = server_config_with(tls.identity, tls.bundles, limits.tls.into());
    let incoming = tls_incoming_with(listeners.remote, config, limits.listener(open_files), tls.order);
    let tls_stats = incoming.stats();
    let shared = Arc::new(Shared {
        memory: Arc::new(Semaphore::new(limits.max_request_bytes.min(Semaphore::MAX_PERMITS))),
        limits,
        stop: stop.clone(),
        quiet: Throttle::default(),
    });
    let layer = AuthzLayer::new(gate);
    let service = RpcLayer.layer(layer.layer(remote.prepare()));
    let remote = tokio::spawn(connections(incoming, of_remote, service, Arc::clone(&shared)));
    let incoming = uds_incoming(listeners.admin, EndpointLimits::admin());
    let stats = [("tls", tls_stats), ("admin", incoming.stats())];
    let service = RpcLayer.layer(layer.layer(local.prepare()));
    let admin = tokio::spawn(connections(incoming, of_local, service, shared));
    info!(address = %remote_address, socket = %admin_socket.display(), "serving");
    Serving { remote_address, admin_socket, stop, remote, admin, stats }
}

fn of_remote(conn: &TlsConn) -> Terms<<TlsConn as Connected>::ConnectInfo> {
    let peer = conn.peer();
    Terms { info: conn.connect_info(), name: peer.addr.to_string(), anonymous: peer.id.is_none() }
}

fn of_local(conn: &UdsConn) -> Terms<<UdsConn as Connected>::ConnectInfo> {
    let info = conn.connect_info();
    Terms { name: format!("uid {}", info.uid), info, anonymous: false }
}

/// Serves every connection that comes until the stop, then waits for those that are open. Aborting it cuts them.
async fn connections<C>(
    mut incoming: impl Stream<Item = io::Result<C>> + Unpin,
    terms: fn(&C) -> Terms<C::ConnectInfo>,
    service: Counted,
    shared: Arc<Shared>,
) where
    C: Connected + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C::ConnectInfo: Clone + Send + Sync + 'static,
{
    let mut open = JoinSet::new();
    loop {
        let next = tokio::select! {
            () = shared.stop.cancelled() => break,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            next = incoming.next() => next,
        };
        match next {
            Some(Ok(conn)) => {
                let terms = terms(&conn);
                open.spawn(connection::serve(conn, terms, service.clone(), Arc::clone(&shared)));
            }
            // Listeners yield no errors: they survive theirs.
            Some(Err(_)) => {}
            None => break,
        }
    }
    drop(incoming);
    while open.join_next().await.is_some() {}
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

    /// Each listener's name and counters.
    #[must_use]
    pub fn stats(&self) -> Vec<(&'static str, Arc<ListenStats>)> {
        self.stats.to_vec()
    }

    /// Says later whether both are still being served.
    pub fn watch(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let both = [self.remote.abort_handle(), self.admin.abort_handle()];
        move || both.iter().all(|task| !task.is_finished())
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
