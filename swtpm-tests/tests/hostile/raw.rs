//! HTTP/2 as nobody should speak it: frames written by hand over TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// RFC 7541 5.1, with a prefix of seven bits.
fn length(n: usize) -> Vec<u8> {
    if n < 127 {
        return vec![u8::try_from(n).unwrap()];
    }
    let (mut bytes, mut rest) = (vec![127], n - 127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// A field that is not indexed, without Huffman coding.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &length(name.len()), name.as_bytes(), &length(value.len()), value.as_bytes()].concat()
}

/// A field that goes into the dynamic table.
pub fn indexed_field(name: &str, value: &str) -> Vec<u8> {
    [&[0x40][..], &length(name.len()), name.as_bytes(), &length(value.len()), value.as_bytes()].concat()
}

/// The header block of a gRPC call.
pub fn call(path: &str) -> Vec<u8> {
    [
        field(":method", "POST"),
        field(":scheme", "https"),
        field(":path", path),
        field(":authority", "server"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat()
}

/// A connection that has done TLS and nothing more.
pub struct Raw(pub TlsStream<TcpStream>);

/// A connection from an address of one's own: who attacks is somebody else than who works.
pub async fn tcp(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

impl Raw {
    pub async fn tls(from: IpAddr, to: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Self> {
        let tcp = tcp(from, to).await?;
        let name = "localhost".try_into().unwrap();
        Ok(Self(TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?))
    }

    /// TLS, the preface and these settings.
    pub async fn http2(
        from: IpAddr,
        to: SocketAddr,
        config: &Arc<ClientConfig>,
        settings: &[u8],
    ) -> std::io::Result<Self> {
        let mut raw = Self::tls(from, to, config).await?;
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.send(&frame(SETTINGS, 0, 0, settings)).await;
        Ok(raw)
    }

    /// Says whether the connection is open still: on a busy machine the server may have been faster.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok() && self.0.flush().await.is_ok()
    }

    /// Sends `batch` again and again while reading and dropping what comes; says how many were sent until the
    /// server closed the connection, or `most`.
    pub async fn flood(self, most: usize, mut batch: impl FnMut(usize) -> Vec<u8>) -> usize {
        let (mut read, mut write) = tokio::io::split(self.0);
        let drain = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        });
        let mut sent = 0;
        while sent < most && !drain.is_finished() {
            let bytes = batch(sent);
            if write.write_all(&bytes).await.is_err() {
                break;
            }
            sent += 1;
        }
        if sent == most {
            drain.abort();
        }
        sent
    }
}

/// Type, flags and payload of the next frame; none once the connection is closed.
pub async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, Vec<u8>)> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((header[3], header[4], payload))
}
