//! What a connection is doing: its open calls, and answers that its peer does not take.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// The open calls of one connection.
#[derive(Debug, Default)]
pub(super) struct Calls {
    begun: AtomicU64,
    now: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, Option<Unsent>>,
    /// When a call ended last.
    ended: Option<Instant>,
}

/// Something the peer has not taken.
#[derive(Debug, Clone, Copy)]
struct Unsent {
    since: Instant,
    bytes: usize,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one operation on the map: a panic elsewhere leaves it whole.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins; it is open until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> OpenCall {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.lock().open.insert(number, None);
        OpenCall { calls: Arc::clone(self), number }
    }

    /// Whether there has ever been a call.
    pub(super) fn any_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0
    }

    /// Whether a call is open.
    pub(super) fn any_open(&self) -> bool {
        !self.lock().open.is_empty()
    }

    /// When a call ended last: calls may come and go between two looks.
    pub(super) fn last_ended(&self) -> Option<Instant> {
        self.lock().ended
    }

    /// Bytes of answers that wait for the peer.
    pub(super) fn unsent(&self) -> usize {
        self.lock().open.values().flatten().map(|unsent| unsent.bytes).sum()
    }

    /// Since when the peer has taken nothing of the answer that waits longest.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.lock().open.values().flatten().map(|unsent| unsent.since).min()
    }
}

/// One open call.
#[derive(Debug)]
pub(super) struct OpenCall {
    calls: Arc<Calls>,
    number: u64,
}

impl OpenCall {
    fn waits(&self, bytes: usize) {
        let unsent = Unsent { since: Instant::now(), bytes };
        self.calls.lock().open.insert(self.number, Some(unsent));
    }

    fn goes_on(&self) {
        self.calls.lock().open.insert(self.number, None);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut now = self.calls.lock();
        now.open.remove(&self.number);
        now.ended = Some(Instant::now());
    }
}

/// An answer's body. It is asked for the next piece only when the peer has room for one: between a piece and
/// that question, the peer is the one to wait for.
pub(super) struct Watched {
    inner: Body,
    call: OpenCall,
}

impl Watched {
    /// Watches an answer from now on: the peer has to take the first piece, too.
    pub(super) fn new(inner: Body, call: OpenCall) -> Self {
        call.waits(0);
        Self { inner, call }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => this.call.waits(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(_) | Poll::Pending => this.call.goes_on(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    /// One piece, then nothing for ever.
    struct Endless(Option<Bytes>);

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_is_waited_for_from_a_piece_to_the_next_question() {
        let calls = Arc::new(Calls::default());
        assert!(!calls.any_begun());
        let call = calls.begin();
        assert!(calls.any_open() && calls.stalled_since().is_none(), "a handler at work is no peer's fault");
        tokio::time::advance(Duration::from_secs(5)).await;
        let start = Instant::now();
        let mut body = Watched::new(Body::new(Endless(Some(Bytes::from_static(b"12345")))), call);
        assert_eq!(calls.stalled_since(), Some(start), "the first piece, too, has to be asked for");
        tokio::time::advance(Duration::from_secs(1)).await;
        let piece = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert!(piece.unwrap().is_ok());
        assert_eq!((calls.unsent(), calls.stalled_since()), (5, Some(start + Duration::from_secs(1))));
        let idle = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending())).await;
        assert!(idle);
        assert_eq!((calls.unsent(), calls.stalled_since()), (0, None), "nothing to send");
        drop(body);
        assert!(!calls.any_open() && calls.any_begun());
    }
}
