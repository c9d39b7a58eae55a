#![no_main]
//! What a local client sends, through the mender of `:authority`: no byte is lost or added, nothing but bytes that may
//! not stand in an authority is changed, and it does not matter how the bytes are cut into reads.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hardroot_transport::MendedAuthority;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

/// Hands out its bytes in pieces of 1 to `most`.
struct Pieces<'a> {
    left: &'a [u8],
    most: usize,
    turn: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.turn = self.turn.wrapping_add(1);
        let size = (1 + self.turn % self.most).min(self.left.len()).min(buf.remaining());
        let (now, later) = self.left.split_at(size);
        buf.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

fn mended(bytes: &[u8], most: usize) -> Vec<u8> {
    let mut reader = MendedAuthority::new(Pieces { left: bytes, most, turn: 0 });
    let mut cx = Context::from_waker(Waker::noop());
    let mut out = Vec::with_capacity(bytes.len());
    loop {
        let mut space = [0; 64];
        let mut buf = ReadBuf::new(&mut space);
        assert!(Pin::new(&mut reader).poll_read(&mut cx, &mut buf).is_ready());
        if buf.filled().is_empty() {
            return out;
        }
        out.extend_from_slice(buf.filled());
    }
}

fuzz_target!(|data: &[u8]| {
    let whole = mended(data, 64);
    assert_eq!(whole.len(), data.len());
    assert!(data.iter().zip(&whole).all(|(was, is)| was == is || (*is == b'-' && !was.is_ascii_alphanumeric())));
    assert_eq!(mended(data, 1), whole);
    assert_eq!(mended(data, 7), whole);
    assert_eq!(mended(&whole, 64), whole, "mended once is mended");
});
