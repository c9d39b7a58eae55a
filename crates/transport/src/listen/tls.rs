//! The TLS listener.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::accept::{Backoff, ListenStats, Place, Places, Throttle};
use crate::config::ALPN_H2;
use crate::connect::keep_alive;
use crate::peer::PeerInfo;

/// Bounds of a TLS listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections in all, handshakes included. Each is a file descriptor.
    pub max_connections: usize,
    /// Open connections per address. Fleets behind one NAT share an address.
    pub max_per_ip: usize,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Server signatures that wait for the key at the same time; the others queue without holding a thread.
    pub max_signing: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_per_ip: 5_000,
            handshake_timeout: Duration::from_secs(10),
            max_signing: 32,
        }
    }
}

/// An established TLS connection.
#[derive(Debug)]
pub struct TlsConn {
    stream: TlsStream<TcpStream>,
    peer: Arc<PeerInfo>,
    _place: Place<IpAddr>,
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

impl AsyncWrite for TlsConn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

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
    incoming(listener, config, limits)
}

fn incoming(listener: impl Accept, config: Arc<ServerConfig>, limits: Limits) -> TlsIncoming {
    let (sender, ready) = mpsc::channel(64);
    let stats = Arc::new(ListenStats::default());
    let handshake = Arc::new(Handshake {
        config,
        signing: Semaphore::new(limits.max_signing.max(1)),
        timeout: limits.handshake_timeout,
        stats: Arc::clone(&stats),
        quiet: Throttle::default(),
    });
    tokio::spawn(accept_loop(listener, limits, handshake, sender));
    TlsIncoming { ready, stats }
}

async fn accept_loop(
    mut listener: impl Accept,
    limits: Limits,
    handshake: Arc<Handshake>,
    sender: mpsc::Sender<TlsConn>,
) {
    let places = Places::new(limits.max_connections, limits.max_per_ip);
    let (mut backoff, full, failing) = (Backoff::default(), Throttle::default(), Throttle::default());
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
        let Some(place) = places.take(addr.ip().to_canonical()) else {
            ListenStats::count(&handshake.stats.refused);
            if let Some(held_back) = full.speak() {
                tracing::warn!(
                    peer = %addr, held_back, max_connections = limits.max_connections,
                    max_per_ip = limits.max_per_ip, "connection closed: too many are open"
                );
            }
            continue;
        };
        let (handshake, sender) = (Arc::clone(&handshake), sender.clone());
        handshakes.spawn(async move { handshake.run(stream, addr, place, sender).await });
    }
}

/// What every handshake needs.
struct Handshake {
    config: Arc<ServerConfig>,
    signing: Semaphore,
    timeout: Duration,
    stats: Arc<ListenStats>,
    quiet: Throttle,
}

impl Handshake {
    async fn run(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
        place: Place<IpAddr>,
        ready: mpsc::Sender<TlsConn>,
    ) {
        let outcome = tokio::time::timeout(self.timeout, self.establish(stream, addr)).await;
        let error: Box<dyn std::error::Error + Send + Sync> = match outcome {
            Ok(Ok((stream, peer))) => {
                ListenStats::count(&self.stats.accepted);
                // Fails only when nobody serves any more.
                drop(ready.send(TlsConn { stream, peer: Arc::new(peer), _place: place }).await);
                return;
            }
            Ok(Err(error)) => error,
            Err(_elapsed) => format!("no handshake within {} ms", self.timeout.as_millis()).into(),
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
        stream: TcpStream,
        addr: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, PeerInfo), Box<dyn std::error::Error + Send + Sync>> {
        keep_alive(&stream);
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let handshake = {
            // The server signs while it answers the ClientHello, which is here. A peer that only dawdles
            // before or after holds no place in this queue.
            let _turn = self.signing.acquire().await?;
            hello.into_stream(Arc::clone(&self.config))
        };
        let stream = handshake.await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN_H2) {
            return Err("the client did not offer ALPN h2".into());
        }
        let chain = session.peer_certificates().unwrap_or_default().iter().map(|der| der.to_vec()).collect();
        let peer = PeerInfo::from_handshake(addr, chain)?;
        Ok((stream, peer))
    }
}

#[cfg(test)]
mod tests;
