//! Floods of HTTP/2 frames that cost us work and the peer nothing.
//!
//! `h2` bounds what a peer makes it keep (header lists, CONTINUATION frames, resets before a stream is
//! accepted), not how often it is asked: PING and SETTINGS each want an answer, an empty DATA frame waits in a
//! queue for a handler that does not read, a reset throws away a call that was just begun (CVE-2019-9512, -9515,
//! -9518, CVE-2023-44487). A connection that sends such frames faster than [`RATE`] is closed.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::through::writes_through;

/// `PRI * HTTP/2.0 … SM …` (RFC 9113 3.4).
const PREFACE: u32 = 24;
const FRAME_HEADER: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;

/// Points that come back each second. A PING costs ten, a reset a hundred, a WINDOW_UPDATE one.
const RATE: f64 = 10_000.0;
/// Points at most, and at the beginning: 10,000 PINGs or 1,000 resets at once.
const BURST: f64 = 100_000.0;

/// A peer sent too many frames of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer floods the connection, at last with {} frames", name(*.kind))]
pub struct Flood {
    /// Type of the frame that was one too many (RFC 9113 6).
    pub kind: u8,
}

fn name(kind: u8) -> &'static str {
    match kind {
        DATA => "empty or tiny DATA",
        HEADERS => "empty HEADERS",
        RST_STREAM => "RST_STREAM",
        SETTINGS => "SETTINGS",
        PING => "PING",
        WINDOW_UPDATE => "WINDOW_UPDATE",
        CONTINUATION => "empty CONTINUATION",
        _ => "other control",
    }
}

/// DATA frames shorter than this cost a point: queued for a handler, each weighs more than its bytes.
const TINY: u32 = 32;

/// What a frame costs; calls and their data cost nothing here.
fn cost(kind: u8, flags: u8, length: u32) -> f64 {
    match kind {
        DATA if flags & END_STREAM != 0 || length >= TINY => 0.0,
        DATA if length > 0 => 1.0,
        HEADERS | CONTINUATION if length > 0 => 0.0,
        WINDOW_UPDATE => 1.0,
        RST_STREAM => 100.0,
        _ => 10.0,
    }
}

/// A connection that fails to be read from once its peer floods it (see the module).
pub struct Guarded<S> {
    stream: S,
    frames: Frames,
    points: f64,
    since: Instant,
}

impl<S> Guarded<S> {
    /// Wraps a connection from which nothing has been read.
    pub fn new(stream: S) -> Self {
        Self { stream, frames: Frames::default(), points: BURST, since: Instant::now() }
    }

    fn judge(&mut self, from: usize, buf: &ReadBuf<'_>) -> io::Result<()> {
        let Self { frames, points, since, .. } = self;
        let Some(new) = buf.filled().get(from..) else { return Ok(()) };
        frames.pass(new, |kind, flags, length| {
            let cost = cost(kind, flags, length);
            if cost == 0.0 {
                return Ok(());
            }
            if *points < cost {
                let now = Instant::now();
                *points = (*points + RATE * now.duration_since(*since).as_secs_f64()).min(BURST);
                *since = now;
            }
            if *points < cost {
                return Err(io::Error::other(Flood { kind }));
            }
            *points -= cost;
            Ok(())
        })
    }
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("points", &self.points).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => Poll::Ready(this.judge(before, buf)),
            other => other,
        }
    }
}

writes_through!(Guarded<S>, S);

/// Where in the sequence of frames the next byte stands.
#[derive(Debug)]
struct Frames {
    /// Bytes to pass over: the preface, then each frame's payload.
    skip: u32,
    header: [u8; FRAME_HEADER],
    have: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { skip: PREFACE, header: [0; FRAME_HEADER], have: 0 }
    }
}

impl Frames {
    /// Calls `seen` with type, flags and length of each frame that begins in `bytes`.
    fn pass(
        &mut self,
        mut bytes: &[u8],
        mut seen: impl FnMut(u8, u8, u32) -> io::Result<()>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let some = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.get(some..).unwrap_or_default();
                self.skip -= u32::try_from(some).unwrap_or(self.skip);
                continue;
            }
            let some = (FRAME_HEADER - self.have).min(bytes.len());
            let (head, rest) = bytes.split_at(some);
            if let Some(part) = self.header.get_mut(self.have..self.have + some) {
                part.copy_from_slice(head);
            }
            self.have += some;
            bytes = rest;
            if self.have == FRAME_HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                let length = u32::from_be_bytes([0, a, b, c]);
                self.skip = length;
                seen(kind, flags, length)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend(payload);
        bytes
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frames.concat()].concat()
    }

    /// Everything that `bytes` lets through, and the flood that ended it.
    async fn read(bytes: Vec<u8>) -> (usize, Option<Flood>) {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let writer = tokio::spawn(async move { far.write_all(&bytes).await.is_ok() });
        let mut guarded = Guarded::new(near);
        let (mut total, mut buffer) = (0, vec![0; 1 << 14]);
        let flood = loop {
            match guarded.read(&mut buffer).await {
                Ok(0) => break None,
                Ok(read) => total += read,
                Err(error) => break error.get_ref().and_then(|e| e.downcast_ref::<Flood>()).copied(),
            }
        };
        drop(guarded);
        writer.await.unwrap();
        (total, flood)
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_flood_ends_the_connection() {
        for (kind, flags, payload) in [
            (PING, 0, &[0; 8][..]),
            (SETTINGS, 0, &[][..]),
            (DATA, 0, &[][..]),
            (HEADERS, 0, &[][..]),
            (CONTINUATION, 0, &[][..]),
            (RST_STREAM, 0, &[0; 4][..]),
            (0x77, 0, &[][..]),
        ] {
            let (_, flood) = read(connection(&vec![frame(kind, flags, payload); 10_001])).await;
            assert_eq!(flood, Some(Flood { kind }), "{}", name(kind));
            assert!(flood.unwrap().to_string().contains(name(kind)));
        }
        let (_, flood) = read(connection(&vec![frame(WINDOW_UPDATE, 0, &[0; 4]); 100_001])).await;
        assert_eq!(flood, Some(Flood { kind: WINDOW_UPDATE }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_works_hard_is_no_flood() {
        let call = [
            frame(HEADERS, 4, &[0; 40]),
            frame(DATA, 0, &[0; 100]),
            frame(DATA, END_STREAM, &[]),
            frame(WINDOW_UPDATE, 0, &[0; 4]),
            frame(WINDOW_UPDATE, 0, &[0; 4]),
        ];
        let bytes = connection(&vec![call.concat(); 20_000]);
        assert_eq!(read(bytes.clone()).await, (bytes.len(), None));
    }

    #[tokio::test(start_paused = true)]
    async fn points_come_back_with_time() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut guarded = Guarded::new(near);
        let mut buffer = vec![0; 1 << 20];
        far.write_all(&connection(&vec![frame(PING, 0, &[0; 8]); 10_000])).await.unwrap();
        assert!(guarded.read(&mut buffer).await.is_ok());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        far.write_all(&vec![frame(PING, 0, &[0; 8]); 1_000].concat()).await.unwrap();
        assert!(guarded.read(&mut buffer).await.is_ok());
        far.write_all(&frame(PING, 0, &[0; 8])).await.unwrap();
        assert!(guarded.read(&mut buffer).await.is_err());
    }

    proptest::proptest! {
        #[test]
        fn frames_are_found_however_the_bytes_are_cut(
            frames in proptest::collection::vec((0_u8..12, 0_u8..2, 0_usize..40), 0..20),
            size in 1..50_usize,
        ) {
            let written: Vec<_> = frames.iter().map(|&(kind, flags, n)| frame(kind, flags, &vec![7; n])).collect();
            let mut found = Vec::new();
            let mut state = Frames::default();
            for piece in connection(&written).chunks(size) {
                state.pass(piece, |kind, flags, length| { found.push((kind, flags, length as usize)); Ok(()) }).unwrap();
            }
            proptest::prop_assert_eq!(found, frames);
        }
    }
}
