//! The TLS listener.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::accept::{Backoff, ListenStats, Place, Places, Throttle};
use super::hello::Gate;
use super::order::{FirstCome, SigningOrder};
use super::proxy::{self, Cidr, Parsed, Proxied};
use crate::config::ALPN_H2;
use crate::connect::keep_alive;
use crate::peer::PeerInfo;
use crate::through::writes_through;

/// Bounds of a TLS listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections in all, handshakes included. Each is a file descriptor.
    pub max_connections: usize,
    /// Open connections per client (see [`client_of`]). Fleets behind one NAT share an address.
    pub max_per_ip: usize,
    /// Open connections without a client certificate in all; one client has at most half of them.
    pub max_anonymous: usize,
    /// Connections whose handshake is not done.
    pub max_handshakes: usize,
    /// As [`Self::max_handshakes`], per client.
    pub max_handshakes_per_ip: usize,
    /// From accept to the end of the handshake, a PROXY header included.
    pub handshake_timeout: Duration,
    /// Who may send a PROXY header, which says the client's true address. Without a header their connections
    /// are their own. From others such a header is refused; empty: from everybody.
    pub proxies: Vec<Cidr>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_per_ip: 5_000,
            max_anonymous: 2_000,
            max_handshakes: 2_000,
            max_handshakes_per_ip: 1_000,
            handshake_timeout: Duration::from_secs(10),
            proxies: Vec::new(),
        }
    }
}

/// Who shares a limit: an IPv4 address, or an IPv6 /64, which is what one machine is given.
#[must_use]
pub fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// An established TLS connection.
#[derive(Debug)]
pub struct TlsConn {
    stream: TlsStream<Gate>,
    peer: Arc<PeerInfo>,
    _places: (Place<IpAddr>, Option<Place<IpAddr>>),
}

impl TlsConn {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Arc<PeerInfo> {
        &self.peer
    }
}

impl Connected for TlsConn {
    type ConnectInfo = Arc<PeerInfo>;

    fn connect_info(&self) -> Arc<PeerInfo> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for TlsConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

writes_through!(TlsConn);

/// A stream of established connections, for `serve_with_incoming`. It never yields an error and ends only with
/// its runtime; dropping it closes the listener and ends the handshakes that are under way.
#[derive(Debug)]
pub struct TlsIncoming {
    ready: mpsc::Receiver<TlsConn>,
    stats: Arc<ListenStats>,
}

impl TlsIncoming {
    /// The listener's counters.
    #[must_use]
    pub fn stats(&self) -> Arc<ListenStats> {
        Arc::clone(&self.stats)
    }
}

impl Stream for TlsIncoming {
    type Item = io::Result<TlsConn>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|conn| conn.map(Ok))
    }
}

/// Something that accepts TCP connections; the tests put a failing one here.
pub(super) trait Accept: Send + 'static {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// Serves TLS on `listener`: handshakes run beside each other, off the accept loop, each with a deadline.
///
/// Must be called within a multi-thread tokio runtime (see [`crate::RemoteKey`]).
#[must_use]
pub fn tls_incoming(listener: TcpListener, config: Arc<ServerConfig>, limits: Limits) -> TlsIncoming {
    incoming(listener, config, limits, Arc::new(FirstCome::default()))
}

/// As [`tls_incoming`], with handshakes that have the server's key in this order.
#[must_use]
pub fn tls_incoming_with(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: Limits,
    order: Arc<dyn SigningOrder>,
) -> TlsIncoming {
    incoming(listener, config, limits, order)
}

fn incoming(
    listener: impl Accept,
    config: Arc<ServerConfig>,
    limits: Limits,
    order: Arc<dyn SigningOrder>,
) -> TlsIncoming {
    let (sender, ready) = mpsc::channel(64);
    let stats = Arc::new(ListenStats::default());
    let handshake = Arc::new(Handshake {
        config,
        order,
        anonymous: Places::new(limits.max_anonymous, limits.max_anonymous.div_ceil(2)),
        full: Throttle::default(),
        stats: Arc::clone(&stats),
        quiet: Throttle::default(),
        limits,
    });
    tokio::spawn(accept_loop(listener, handshake, sender));
    TlsIncoming { ready, stats }
}

async fn accept_loop(mut listener: impl Accept, handshake: Arc<Handshake>, sender: mpsc::Sender<TlsConn>) {
    let limits = &handshake.limits;
    let open = Places::new(limits.max_connections, limits.max_per_ip);
    let begun = Places::new(limits.max_handshakes, limits.max_handshakes_per_ip);
    let (mut backoff, failing) = (Backoff::default(), Throttle::default());
    let mut handshakes = JoinSet::new(); // Dropped at the end, which ends them.
    loop {
        while handshakes.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                ListenStats::count(&handshake.stats.accept_errors);
                if let Some(held_back) = failing.speak() {
                    tracing::warn!(%error, held_back, "a connection could not be accepted; the listener goes on");
                }
                if let Some(wait) = backoff.after(&error) {
                    tokio::time::sleep(wait).await;
                }
                continue;
            }
        };
        backoff.reset();
        // Whose connection a proxy passes on shows later; until then it has places without a name.
        let by_proxy = limits.proxies.iter().any(|proxies| proxies.contains(addr.ip()));
        let places = open.take_unnamed().zip(begun.take_unnamed());
        let places = places.map(|(open, begun)| Taken { open, begun });
        let Some(mut places) = places else {
            handshake.refuse(addr, "all places are taken");
            continue;
        };
        if !by_proxy && let Err(why) = places.name(addr) {
            handshake.refuse(addr, why);
            continue;
        }
        let (handshake, sender) = (Arc::clone(&handshake), sender.clone());
        handshakes.spawn(async move { handshake.run(stream, addr, by_proxy, places, sender).await });
    }
}

/// The places of a connection that is being set up.
struct Taken {
    open: Place<IpAddr>,
    begun: Place<IpAddr>,
}

impl Taken {
    fn name(&mut self, addr: SocketAddr) -> Result<(), &'static str> {
        let client = client_of(addr.ip());
        if !self.open.name(client) {
            return Err("too many connections of this client are open");
        }
        if !self.begun.name(client) {
            return Err("too many handshakes of this client are under way");
        }
        Ok(())
    }
}

/// What every handshake needs.
struct Handshake {
    config: Arc<ServerConfig>,
    order: Arc<dyn SigningOrder>,
    anonymous: Arc<Places<IpAddr>>,
    limits: Limits,
    stats: Arc<ListenStats>,
    full: Throttle,
    quiet: Throttle,
}

/// Why a connection was not set up.
enum Failure {
    /// A limit was reached.
    Full(SocketAddr, &'static str),
    /// The peer's doing, or our key's.
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

impl Handshake {
    fn refuse(&self, peer: SocketAddr, why: &'static str) {
        ListenStats::count(&self.stats.refused);
        if let Some(held_back) = self.full.speak() {
            tracing::warn!(
                %peer, held_back, max_connections = self.limits.max_connections,
                max_connections_per_address = self.limits.max_per_ip, "connection closed: {why}"
            );
        }
    }

    async fn run(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
        by_proxy: bool,
        places: Taken,
        ready: mpsc::Sender<TlsConn>,
    ) {
        let establish = Box::pin(self.establish(stream, addr, by_proxy, places));
        let error = match tokio::time::timeout(self.limits.handshake_timeout, establish).await {
            Ok(Ok(conn)) => {
                ListenStats::count(&self.stats.accepted);
                // Fails only when nobody serves any more.
                drop(ready.send(conn).await);
                return;
            }
            Ok(Err(Failure::Full(client, why))) => return self.refuse(client, why),
            Ok(Err(Failure::Broken(error))) => error,
            Err(_elapsed) => {
                format!("no handshake within {} ms", self.limits.handshake_timeout.as_millis()).into()
            }
        };
        ListenStats::count(&self.stats.failed_handshakes);
        if let Some(held_back) = self.quiet.speak() {
            tracing::info!(peer = %addr, %error, held_back, "TLS handshake failed");
        } else {
            tracing::debug!(peer = %addr, %error, "TLS handshake failed");
        }
    }

    async fn establish(
        &self,
        mut stream: TcpStream,
        addr: SocketAddr,
        by_proxy: bool,
        mut places: Taken,
    ) -> Result<TlsConn, Failure> {
        keep_alive(&stream);
        let (client, via) = match self.client(&mut stream, by_proxy).await? {
            Some(client) => (client, Some(addr)),
            None => (addr, None),
        };
        if by_proxy {
            places.name(client).map_err(|why| Failure::Full(client, why))?;
        }
        let gate = Gate::new(stream, Arc::clone(&self.order));
        let stream = TlsAcceptor::from(Arc::clone(&self.config)).accept(gate).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN_H2) {
            return Err(Failure::Broken("the client did not offer ALPN h2".into()));
        }
        let chain = session.peer_certificates().unwrap_or_default().iter().map(|der| der.to_vec()).collect();
        let peer = PeerInfo::from_handshake(client, via, chain)?;
        let nameless = match peer.id {
            Some(_) => None,
            None => {
                let place = self.anonymous.take(client_of(client.ip()));
                let full = "too many connections without a client certificate are open";
                Some(place.ok_or(Failure::Full(client, full))?)
            }
        };
        Ok(TlsConn { stream, peer: Arc::new(peer), _places: (places.open, nameless) })
    }

    /// Whose connection a proxy passes on, if it says so. Reads a PROXY header and not a byte more.
    async fn client(&self, stream: &mut TcpStream, by_proxy: bool) -> Result<Option<SocketAddr>, Failure> {
        if self.limits.proxies.is_empty() {
            return Ok(None);
        }
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let [first] = first;
        if !proxy::begins(first) {
            return Ok(None);
        }
        if !by_proxy {
            let why = "a PROXY header from an address outside proxy_protocol_trusted_cidrs";
            return Err(Failure::Broken(why.into()));
        }
        let mut header = Vec::new();
        loop {
            match proxy::parse(&header)? {
                Parsed::Whole(Proxied::Client(client)) => return Ok(Some(client)),
                Parsed::Whole(Proxied::Itself) => return Ok(None),
                Parsed::More(more) => {
                    let have = header.len();
                    header.resize(have + more, 0);
                    stream.read_exact(header.get_mut(have..).unwrap_or_default()).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
