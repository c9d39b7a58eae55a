//! The body of a request as it arrives: bounded in size, time and memory before anything decodes it. What it may grow to
//! when it is decoded, `hardroot_api::expansion` bounds.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::Status;

/// Bytes of the messages of one call that are in memory, taken from what all calls share. A message is given
/// back when its handler asks for the next one; those of an unanswered call, when it is answered.
#[derive(Debug)]
pub(super) struct Held {
    all: Arc<Semaphore>,
    most: usize,
    mine: Mutex<Option<OwnedSemaphorePermit>>,
    answered: AtomicBool,
}

impl Held {
    /// Nothing yet. At most `most` bytes are counted, for more than a message is never held.
    pub(super) fn new(all: Arc<Semaphore>, most: usize) -> Arc<Self> {
        Arc::new(Self { all, most, mine: Mutex::new(None), answered: AtomicBool::new(false) })
    }

    /// The call has its answer: what it held is given back.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
        *self.mine.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn consumed(&self) {
        if self.answered.load(Ordering::Relaxed) {
            *self.mine.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn take(&self, bytes: usize) -> Result<(), Status> {
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        let held = mine.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.min(self.most.saturating_sub(held));
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.all).try_acquire_many_owned(more).map_err(|_full| {
            Status::resource_exhausted(
                "the server holds as many requests as it has memory for; try again later",
            )
        })?;
        match mine.as_mut() {
            Some(held) => held.merge(permit),
            None => *mine = Some(permit),
        }
        Ok(())
    }
}

/// A request's body with its bounds.
pub(super) struct Bounded<B> {
    inner: B,
    messages: Messages,
    held: Arc<Held>,
    patience: Duration,
    late: Pin<Box<Sleep>>,
    /// Whether `late` counts: a message has begun, or none has come yet.
    waiting: bool,
}

impl<B> Bounded<B> {
    pub(super) fn new(inner: B, max_message: usize, patience: Duration, held: Arc<Held>) -> Self {
        Self {
            inner,
            messages: Messages::new(max_message),
            held,
            patience,
            late: Box::pin(tokio::time::sleep(patience)),
            waiting: true,
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.messages.between() {
            this.held.consumed();
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.held.take(data.len())?;
                    let begun = this.messages.pass(data)?;
                    if this.messages.between() {
                        this.waiting = false;
                    } else if begun {
                        this.late.as_mut().reset(Instant::now() + this.patience);
                        this.waiting = true;
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if this.waiting && this.late.as_mut().poll(cx).is_ready() {
                    let seconds = this.patience.as_secs();
                    let late = format!("the request's message did not arrive within {seconds} s");
                    return Poll::Ready(Some(Err(Status::deadline_exceeded(late).into())));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Follows gRPC's framing: a byte, a length, a message.
#[derive(Debug)]
struct Messages {
    max: usize,
    prefix: [u8; 5],
    have: usize,
    /// Bytes of the current message still to come.
    left: usize,
}

impl Messages {
    fn new(max: usize) -> Self {
        Self { max, prefix: [0; 5], have: 0, left: 0 }
    }

    /// Whether the next byte begins a message.
    fn between(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Follows `bytes`; says whether a message began in them.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<bool, Status> {
        let mut begun = false;
        while !bytes.is_empty() {
            begun |= self.between();
            if self.left > 0 {
                let (message, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= message.len();
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((self.prefix.len() - self.have).min(bytes.len()));
            if let Some(place) = self.prefix.get_mut(self.have..self.have + part.len()) {
                place.copy_from_slice(part);
            }
            self.have += part.len();
            bytes = rest;
            if self.have == self.prefix.len() {
                self.have = 0;
                let [_, length @ ..] = self.prefix;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                if self.left > self.max {
                    return Err(Status::resource_exhausted(format!(
                        "the message has {} bytes, at most {} are accepted; send smaller batches",
                        self.left, self.max
                    )));
                }
            }
        }
        Ok(begun)
    }
}

#[cfg(test)]
mod tests;
