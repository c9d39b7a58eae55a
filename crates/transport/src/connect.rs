//! Channels: one long-lived HTTP/2 connection each, made anew by tonic when it breaks.

mod eager;

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::config::ALPN_H2;
use eager::Eager;

/// How long a server may take to say its first word once it has our certificate. Only a server that judges
/// the certificate says something earlier (it closes), so silence is no error.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// Largest frame that we take, in bytes: with its header it fills four TLS records to the last byte. With the 16 KiB that
/// HTTP/2 begins with, each frame is one record and a second one of nine bytes, and a write to the socket of its own.
const MAX_FRAME: u32 = (64 << 10) - 9;
/// An idle connection is probed after this; a NAT forgets quiet connections after minutes.
const TCP_IDLE_SECONDS: u32 = 30;
const TCP_PROBE_SECONDS: u32 = 10;
const TCP_PROBES: u32 = 3;
/// Unacknowledged data for this long breaks the connection.
const TCP_UNACKED_MILLISECONDS: u32 = 30_000;

/// How to connect.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Name resolution, TCP and TLS together, for the first connection and each later one.
    pub timeout: Duration,
    /// HTTP/2 ping while calls are open, in addition to TCP's own probes. gRPC servers written in Go close
    /// connections that ping more often than every five minutes.
    pub ping_every: Option<Duration>,
    /// What to call ourselves, such as `hardroot-agent/0.1.0`.
    pub user_agent: String,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            ping_every: Some(Duration::from_secs(310)),
            user_agent: concat!("hardroot/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not `host:port`.
    #[error("\"{address}\" is no address: {reason}")]
    BadAddress {
        /// As given.
        address: String,
        /// What is wrong, and what is expected.
        reason: &'static str,
    },
    /// Nobody answers there (or the name does not resolve). Worth a retry.
    #[error("{address} cannot be reached: {cause}")]
    Unreachable {
        /// Address or socket path.
        address: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Somebody is there and closed the connection before it was set up: a server that has no room for another one
    /// now, or a load balancer with no server behind it. Worth a retry, sooner than if nobody were there.
    #[error(
        "{address} closed the connection while it was set up: {cause}; is the server overloaded, or is none behind the load balancer?"
    )]
    TurnedAway {
        /// The address.
        address: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// No connection in time. Worth a retry.
    #[error("{address} did not finish the TLS handshake within {} ms", after.as_millis())]
    TimedOut {
        /// The address.
        address: String,
        /// How long we waited.
        after: Duration,
    },
    /// The server showed a certificate that is not trusted. No retry helps until the trust bundle, the trust
    /// domain's name or the clock is put right.
    #[error("the server at {address} is not trusted: {cause}")]
    Untrusted {
        /// The address.
        address: String,
        /// Why; usually a [`crate::TrustError`].
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// The server does not accept our certificate: it has expired, or the server no longer trusts its issuer.
    #[error("the server at {address} refused our certificate or TLS version ({alert:?})")]
    Refused {
        /// The address.
        address: String,
        /// TLS alert it sent.
        alert: AlertDescription,
    },
    /// TLS failed otherwise, for example because our own key could not sign.
    #[error("TLS with {address} failed: {cause}")]
    Tls {
        /// The address.
        address: String,
        /// What rustls said.
        #[source]
        cause: rustls::Error,
    },
    /// Whatever answers there speaks TLS and no HTTP/2.
    #[error("{address} does not speak gRPC (no ALPN h2); is another service on that port?")]
    NotGrpc {
        /// The address.
        address: String,
    },
    /// HTTP/2 could not be set up.
    #[error("HTTP/2 with {address} failed")]
    Http2 {
        /// The address.
        address: String,
        /// What tonic said.
        #[source]
        cause: tonic::transport::Error,
    },
}

impl ConnectError {
    /// Whether one side does not trust the other, so that retrying alone does not help.
    #[must_use]
    pub fn is_about_trust(&self) -> bool {
        matches!(self, Self::Untrusted { .. } | Self::Refused { .. })
    }

    fn from_io(address: &str, error: io::Error) -> Self {
        let address = address.to_owned();
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::TurnedAway { address, cause: error };
        };
        match tls.clone() {
            rustls::Error::AlertReceived(alert) => Self::Refused { address, alert },
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                Self::Untrusted { address, cause: Box::new(other) }
            }
            cause @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                Self::Untrusted { address, cause: Box::new(cause) }
            }
            cause => Self::Tls { address, cause },
        }
    }
}

/// The TLS alert with which the peer ended a connection, if that is what `error` (for example the source of a
/// `tonic::Status`) goes back to: a refused certificate may show only at a later call.
#[must_use]
pub fn refusal_of(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref::<rustls::Error>() {
            return Some(*alert);
        }
        if let Some(DialFailed { alert: Some(alert), .. }) = error.downcast_ref::<DialFailed>() {
            return Some(*alert);
        }
        // An io::Error's source() skips the error it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// What tonic is told when a connection could not be made; the whole error is kept for the first attempt.
#[derive(Debug)]
struct DialFailed {
    text: String,
    alert: Option<AlertDescription>,
}

impl fmt::Display for DialFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for DialFailed {}

/// Connects to `host:port` (an IPv6 address in brackets) and returns a channel that mends itself: when the
/// connection breaks, the next call makes a new one in the same way.
///
/// # Errors
/// The first connection could not be made; see [`ConnectError`].
pub async fn connect(
    address: &str,
    tls: Arc<ClientConfig>,
    options: ConnectOptions,
) -> Result<Channel, ConnectError> {
    let bad = |reason| ConnectError::BadAddress { address: address.to_owned(), reason };
    let server_name = server_name(address).map_err(bad)?;
    let uri = |scheme: &str| {
        format!("{scheme}://{address}").parse::<Uri>().ok().ok_or_else(|| bad("expected host:port"))
    };
    // tonic must not do TLS itself (hence http), but servers shall see the true scheme.
    let mut endpoint = Endpoint::from(uri("http")?).origin(uri("https")?);
    endpoint = endpoint
        .user_agent(options.user_agent.clone())
        .map_err(|cause| ConnectError::Http2 { address: address.to_owned(), cause })?
        .max_frame_size(MAX_FRAME);
    if let Some(every) = options.ping_every {
        endpoint = endpoint
            .http2_keep_alive_interval(every)
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(false);
    }
    let dial = Arc::new(Dial { address: address.to_owned(), server_name, tls, timeout: options.timeout });
    let first_failure = Arc::new(Mutex::new(None));
    let connector = {
        let first_failure = Arc::clone(&first_failure);
        service_fn(move |_: Uri| {
            let (dial, first_failure) = (Arc::clone(&dial), Arc::clone(&first_failure));
            async move {
                dial.run().await.map(TokioIo::new).map_err(|error| {
                    let alert = match &error {
                        ConnectError::Refused { alert, .. } => Some(*alert),
                        _ => None,
                    };
                    let failed = DialFailed { text: error.to_string(), alert };
                    *first_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    failed
                })
            }
        })
    };
    endpoint.connect_with_connector(connector).await.map_err(|cause| {
        let kept = first_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.unwrap_or_else(|| ConnectError::Http2 { address: address.to_owned(), cause })
    })
}

fn server_name(address: &str) -> Result<ServerName<'static>, &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("the port is missing, expected host:port")?;
    if port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err("the port is not a number from 1 to 65535");
    }
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or("the bracket of the IPv6 address is not closed")?,
        None if host.contains(':') => return Err("an IPv6 address is written in brackets, as in [::1]:8081"),
        None => host,
    };
    ServerName::try_from(host.to_owned())
        .ok()
        .ok_or("the host is neither a DNS name nor an IP address, expected host:port")
}

struct Dial {
    address: String,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    timeout: Duration,
}

impl Dial {
    async fn run(&self) -> Result<Eager, ConnectError> {
        match tokio::time::timeout(self.timeout, self.establish()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                Err(ConnectError::TimedOut { address: self.address.clone(), after: self.timeout })
            }
        }
    }

    async fn establish(&self) -> Result<Eager, ConnectError> {
        let failed = |error| ConnectError::from_io(&self.address, error);
        let unreachable = |cause| ConnectError::Unreachable { address: self.address.clone(), cause };
        let tcp = TcpStream::connect(&self.address).await.map_err(unreachable)?;
        keep_alive(&tcp);
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(self.server_name.clone(), tcp).await.map_err(failed)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            return Err(ConnectError::NotGrpc { address: self.address.clone() });
        }
        let mut stream = Eager::new(stream);
        if self.tls.client_auth_cert_resolver.has_certs() {
            // In TLS 1.3 a client is done before the server has judged its certificate. gRPC servers speak
            // first (SETTINGS), so the verdict is here within a round trip.
            if let Ok(Err(error)) = tokio::time::timeout(FIRST_WORD, stream.first_word()).await {
                return Err(failed(error));
            }
        }
        Ok(stream)
    }
}

/// Connects to a local socket.
///
/// # Errors
/// Nobody listens there, or this user may not connect.
pub async fn uds_channel(path: &Path) -> Result<Channel, ConnectError> {
    let address = path.display().to_string();
    // The first connection is tried here, where the system's own error is at hand.
    let probe = UnixStream::connect(path)
        .await
        .map_err(|cause| ConnectError::Unreachable { address: address.clone(), cause })?;
    let first = Arc::new(Mutex::new(Some(probe)));
    let path: Arc<PathBuf> = Arc::new(path.to_owned());
    let connector = service_fn(move |_: Uri| {
        let (path, first) = (Arc::clone(&path), Arc::clone(&first));
        async move {
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            match ready {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => UnixStream::connect(&*path).await.map(TokioIo::new),
            }
        }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|cause| ConnectError::Http2 { address, cause })
}

/// Notices dead peers by TCP alone, which costs no wake-up in user space; small messages go out at once.
pub(crate) fn keep_alive(stream: &TcpStream) {
    let set = || -> Result<(), Box<dyn Error>> {
        stream.set_nodelay(true)?;
        setsockopt(stream, sockopt::KeepAlive, &true)?;
        setsockopt(stream, sockopt::TcpKeepIdle, &TCP_IDLE_SECONDS)?;
        setsockopt(stream, sockopt::TcpKeepInterval, &TCP_PROBE_SECONDS)?;
        setsockopt(stream, sockopt::TcpKeepCount, &TCP_PROBES)?;
        setsockopt(stream, sockopt::TcpUserTimeout, &TCP_UNACKED_MILLISECONDS)?;
        Ok(())
    };
    if let Err(error) = set() {
        tracing::debug!(error, "a TCP option could not be set");
    }
}

#[cfg(test)]
mod tests {
    use super::server_name;

    #[test]
    fn addresses() {
        for good in ["localhost:8081", "10.0.0.1:443", "[::1]:8081", "spire_server.example.org:1"] {
            assert!(server_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost",
            ":8081",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "::1:8081",
            "[::1:8081",
        ] {
            assert!(server_name(bad).is_err(), "{bad}");
        }
    }
}
