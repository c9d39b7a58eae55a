//! Where a handshake waits for the server's key: before the TLS library sees a ClientHello.
//!
//! The library signs while it reads a ClientHello, or a second one after it has asked for another key exchange
//! (HelloRetryRequest, RFC 8446 4.1.4). So neither is given to it before it is this handshake's turn, and the turn is over
//! when the library reads on. Whoever dawdles before, between or after holds no place.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::order::{SigningOrder, SigningTurn};
use crate::through::writes_through;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Level of an alert after which the handshake goes on (TLS 1.2, RFC 5246 7.2).
const WARNING: u8 = 1;
/// Bytes with which a ClientHello must be here. Post-quantum key shares make it two thousand.
const MAX_HELD: usize = 32 << 10;
/// Bytes that are read at once.
const CHUNK: usize = 4096;

type Waiting = Pin<Box<dyn Future<Output = Result<SigningTurn, BoxError>> + Send>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

enum Stage {
    /// It is not known yet what comes.
    Collecting,
    /// A ClientHello is here. `watched`: the peer has sent nothing after it so far, and leaves the queue when it closes.
    Waiting { turn: Waiting, watched: bool },
    /// What is held goes to the reader, from this byte on.
    Giving(usize),
    /// No ClientHello will come any more.
    Open,
}

/// A connection whose ClientHellos wait for their turn.
pub(super) struct Gate {
    stream: TcpStream,
    order: Arc<dyn SigningOrder>,
    stage: Stage,
    held: Vec<u8>,
    /// ClientHellos that may still come.
    hellos: u8,
    /// Held while the library answers.
    turn: Option<SigningTurn>,
}

impl Gate {
    /// Wraps a connection of which no TLS record has been read.
    pub(super) fn new(stream: TcpStream, order: Arc<dyn SigningOrder>) -> Self {
        Self { stream, order, stage: Stage::Collecting, held: Vec::new(), hellos: 2, turn: None }
    }

    /// Adds what the peer sends; whether there was anything.
    fn poll_collect(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [0; CHUNK];
        let mut chunk = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
        self.held.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(!chunk.filled().is_empty()))
    }

    fn wait(&self) -> Stage {
        let order = Arc::clone(&self.order);
        Stage::Waiting { turn: Box::pin(async move { order.turn().await }), watched: true }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("stream", &self.stream)
            .field("hellos", &self.hellos)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.stage {
                Stage::Open => return Pin::new(&mut this.stream).poll_read(cx, buf),
                Stage::Collecting => {
                    let more = ready!(this.poll_collect(cx))?;
                    this.stage = match client_message(&this.held) {
                        ClientMessage::Unknown if this.held.len() > MAX_HELD => {
                            return Poll::Ready(Err(io::Error::other("a ClientHello of more than 32 KiB")));
                        }
                        ClientMessage::Unknown if more => continue,
                        ClientMessage::Hello => {
                            this.hellos = this.hellos.saturating_sub(1);
                            this.wait()
                        }
                        ClientMessage::Unknown | ClientMessage::Other => {
                            this.hellos = 0;
                            Stage::Giving(0)
                        }
                    };
                }
                Stage::Waiting { turn, watched } => {
                    if let Poll::Ready(turn) = turn.as_mut().poll(cx) {
                        this.turn = Some(turn.map_err(io::Error::other)?);
                        this.stage = Stage::Giving(0);
                        continue;
                    }
                    if *watched {
                        let mut byte = [0];
                        match ready!(this.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte))) {
                            Ok(0) | Err(_) => {
                                return Poll::Ready(Err(io::Error::other("the client went away")));
                            }
                            Ok(_) => *watched = false,
                        }
                    }
                    return Poll::Pending;
                }
                Stage::Giving(given) => {
                    let rest = this.held.get(*given..).unwrap_or_default();
                    if !rest.is_empty() {
                        let some = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
                        buf.put_slice(some);
                        *given += some.len();
                        return Poll::Ready(Ok(()));
                    }
                    // Asked for more, the library has answered what it was given.
                    this.turn = None;
                    this.held = Vec::new();
                    this.stage = if this.hellos > 0 { Stage::Collecting } else { Stage::Open };
                }
            }
        }
    }
}

writes_through!(Gate);

/// What the next message of a TLS client is, as far as it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMessage {
    /// Too little of it is here.
    Unknown,
    /// A whole ClientHello.
    Hello,
    /// Nothing that is answered with a signature.
    Other,
}

/// Looks at the records that the peer has sent since its last message (RFC 8446 5.1). What the TLS library will refuse is
/// [`ClientMessage::Other`]: it is its to say so. What was found of some bytes holds whatever comes after them, but for
/// [`ClientMessage::Unknown`].
#[must_use]
pub fn client_message(mut records: &[u8]) -> ClientMessage {
    // The message's first bytes: its type and length (RFC 8446 4).
    let (mut begin, mut have) = ([0; 4], 0_usize);
    loop {
        let Some((header, rest)) = records.split_first_chunk::<5>() else {
            // It may be no TLS at all, and shorter than a record.
            let may_be = |kind: &u8| matches!(*kind, CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE);
            return if records.first().is_none_or(may_be) {
                ClientMessage::Unknown
            } else {
                ClientMessage::Other
            };
        };
        let [kind, _, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let part = rest.get(..rest.len().min(length)).unwrap_or_default();
        match kind {
            // Both may stand before a ClientHello.
            CHANGE_CIPHER_SPEC => {}
            ALERT => match part.first() {
                None if length > 0 => return ClientMessage::Unknown,
                Some(&WARNING) => {}
                _ => return ClientMessage::Other,
            },
            HANDSHAKE if length > 0 => {
                for (place, byte) in begin.iter_mut().skip(have).zip(part) {
                    *place = *byte;
                }
                have = have.saturating_add(part.len());
            }
            _ => return ClientMessage::Other,
        }
        let [message, high, middle, low] = begin;
        if have > 0 && message != CLIENT_HELLO {
            return ClientMessage::Other;
        }
        if have >= begin.len() {
            let wanted = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(usize::MAX);
            if have - begin.len() >= wanted {
                return ClientMessage::Hello;
            }
        }
        let Some(after) = rest.get(length..) else { return ClientMessage::Unknown };
        records = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3][..], &length, content].concat()
    }

    fn message(kind: u8, length: usize) -> Vec<u8> {
        let [_, header @ ..] = u32::try_from(length).unwrap().to_be_bytes();
        [&[kind][..], &header, &vec![7; length]].concat()
    }

    /// The judgement of the whole, which no beginning of it may come to, and what shorter pieces may be.
    fn judged(bytes: &[u8]) -> ClientMessage {
        let whole = client_message(bytes);
        let mut known = None;
        for length in 0..=bytes.len() {
            let now = client_message(&bytes[..length]);
            match known {
                None if now != ClientMessage::Unknown => known = Some(now),
                Some(known) => assert_eq!(now, known, "{length} of {}", bytes.len()),
                None => {}
            }
        }
        whole
    }

    #[test]
    fn a_hello_is_one_when_it_is_whole_however_it_is_cut() {
        for length in [0, 1, 200, 16_000] {
            let hello = message(CLIENT_HELLO, length);
            assert_eq!(judged(&record(HANDSHAKE, &hello)), ClientMessage::Hello);
            assert_eq!(judged(&record(HANDSHAKE, &hello[..hello.len() - 1])), ClientMessage::Unknown);
            for cut in [1, 3, 4, 5] {
                let Some((first, second)) = hello.split_at_checked(cut).filter(|(_, rest)| !rest.is_empty())
                else {
                    continue;
                };
                let two = [record(HANDSHAKE, first), record(HANDSHAKE, second)].concat();
                assert_eq!(judged(&two), ClientMessage::Hello, "{length} {cut}");
                assert_eq!(judged(&two[..two.len() - 1]), ClientMessage::Unknown, "{length} {cut}");
            }
        }
    }

    #[test]
    fn nothing_before_a_hello_hides_it() {
        let hello = record(HANDSHAKE, &message(CLIENT_HELLO, 200));
        let spec = record(CHANGE_CIPHER_SPEC, &[1]);
        let warning = record(ALERT, &[1, 90]);
        assert_eq!(judged(&[&spec[..], &hello].concat()), ClientMessage::Hello);
        assert_eq!(judged(&[&warning[..], &warning, &spec, &hello].concat()), ClientMessage::Hello);
        assert_eq!(judged(&spec), ClientMessage::Unknown);
    }

    #[test]
    fn what_is_no_hello_is_not_kept() {
        let spec = record(CHANGE_CIPHER_SPEC, &[1]);
        let finished = record(23, &[9; 40]);
        assert_eq!(judged(&[&spec[..], &finished].concat()), ClientMessage::Other);
        let key_exchange = record(HANDSHAKE, &message(16, 66));
        assert_eq!(judged(&[&key_exchange[..], &spec].concat()), ClientMessage::Other);
        assert_eq!(judged(b"GET / HTTP/1.1\r\n\r\n"), ClientMessage::Other);
        assert_eq!(judged(b"\n"), ClientMessage::Other);
        assert_eq!(judged(&record(HANDSHAKE, &[])), ClientMessage::Other);
        assert_eq!(judged(&record(ALERT, &[2, 48])), ClientMessage::Other, "the peer gives up");
        let begun = record(HANDSHAKE, &message(CLIENT_HELLO, 200)[..100]);
        assert_eq!(
            judged(&[&begun[..], &finished].concat()),
            ClientMessage::Other,
            "a record within a message"
        );
    }
}
