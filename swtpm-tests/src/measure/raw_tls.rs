//! The raw limit of synchronisation: as many bytes over the same TLS, from a process of its own, with nothing around them.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::site::unused_address;

const NAME: &str = "raw.example.org";
const PORT: u16 = 8082;
const CHUNK: usize = 64 << 10;

/// The sending process.
pub struct RawTls {
    child: Child,
    address: SocketAddr,
    trusted: CertificateDer<'static>,
}

impl RawTls {
    /// Starts it.
    ///
    /// # Errors
    /// It did not start.
    pub fn start() -> Result<Self> {
        let address = SocketAddr::from((unused_address(PORT)?, PORT));
        let mut child = Command::new(std::env::current_exe()?)
            .args(["raw-tls", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the raw sender")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let trusted =
            CertificateDer::from(hex::decode(line.trim()).context("the raw sender said no certificate")?);
        Ok(Self { child, address, trusted })
    }

    /// Reads so many bytes, several times over one connection; the median time.
    ///
    /// # Errors
    /// The sender failed.
    pub async fn copy(&self, bytes: u64, times: usize) -> Result<Duration> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone())?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut stream =
            TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, stream).await?;
        let (mut buffer, mut took) = (vec![0; CHUNK], Vec::new());
        for _ in 0..times {
            let begun = Instant::now();
            stream.write_all(&bytes.to_be_bytes()).await?;
            stream.flush().await?;
            let mut missing = bytes;
            while missing > 0 {
                let count = stream.read(&mut buffer).await?;
                ensure!(count > 0, "the raw sender went away");
                missing = missing.saturating_sub(u64::try_from(count)?);
            }
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        took.get(took.len() / 2).copied().context("no copy was made")
    }
}

impl Drop for RawTls {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What the daemons use, with its own preferences.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Run in the child: says its certificate, and sends to whoever asks as many bytes as it asks for.
///
/// # Errors
/// The address cannot be listened on.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub async fn child(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
    let der = certificate.der().clone();
    println!("{}", hex::encode(&der));
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![der], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move { send(acceptor, stream).await });
    }
}

async fn send(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    // Not zeros, which a processor may treat as it likes.
    let chunk: Vec<u8> = (0..CHUNK).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    loop {
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await?;
        let mut missing = u64::from_be_bytes(asked);
        while missing > 0 {
            let part = usize::try_from(missing).unwrap_or(usize::MAX).min(CHUNK);
            stream.write_all(chunk.get(..part).unwrap_or_default()).await?;
            missing -= u64::try_from(part).unwrap_or(missing);
        }
        stream.flush().await?;
    }
}
