//! A client's TLS stream whose first bytes may be read ahead of time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::through::writes_through;

/// Enough for a server's first SETTINGS frame; what is more stays in the stream.
const AHEAD: usize = 256;

/// Reads ahead with [`Eager::first_word`], then gives those bytes back first.
#[derive(Debug)]
pub(super) struct Eager {
    stream: TlsStream<TcpStream>,
    ahead: Vec<u8>,
    given: usize,
}

impl Eager {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, ahead: Vec::new(), given: 0 }
    }

    /// Waits until the peer has said something.
    ///
    /// # Errors
    /// The peer closed the connection, with an alert or without.
    pub(super) async fn first_word(&mut self) -> io::Result<()> {
        let mut buffer = [0; AHEAD];
        let read = self.stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.ahead.extend(buffer.iter().take(read));
        Ok(())
    }
}

impl AsyncRead for Eager {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let given = self.given;
        if let Some(rest) = self.ahead.get(given..).filter(|rest| !rest.is_empty()) {
            let part = rest.get(..buf.remaining().min(rest.len())).unwrap_or_default();
            buf.put_slice(part);
            let now_given = given + part.len();
            self.given = now_given;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

writes_through!(Eager);
