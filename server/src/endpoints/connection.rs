//! One HTTP/2 connection: what it may ask for at once, and when it has to go.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use hardroot_transport::{Flood, Guarded, Throttle};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::Service;
use tracing::{debug, info};

use super::answer::{Calls, OpenCall, Watched};
use super::limits::{
    EndpointLimits, GOING, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_HANDLERS, MAX_HEADER_LIST,
    MAX_LOCAL_RESETS, MAX_PENDING_RESETS, MAX_STREAMS, MAX_UNSENT, SEND_BUFFER,
};
use super::request::{Bounded, Held};
use super::serve::Counted;
use super::timeout::asked_timeout;

/// Flow control of connections without a client certificate: what they may make the server keep.
const ANONYMOUS_STREAM_WINDOW: u32 = 16 << 10;
/// Twice what RFC 9113 has at least: `h2` gives a connection half of this for DATA frames under 256 bytes that nobody has
/// read, counts each as 256 bytes and closes the connection when that is used up. Each stream may have one, which is the
/// whole of a small call; as many again may be left of calls that were refused unread.
const ANONYMOUS_WINDOW: u32 = MAX_STREAMS * 2 * 2 * 256;
const STREAM_WINDOW: u32 = 256 << 10;
const WINDOW: u32 = 1 << 20;
/// A connection without a client certificate has this part of the idle time.
const ANONYMOUS_IDLE_PART: u32 = 10;

/// What all connections share.
pub(super) struct Shared {
    pub(super) limits: EndpointLimits,
    /// Bytes of requests that may be in memory.
    pub(super) memory: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    /// Keeps connections that had to be closed from filling the log.
    pub(super) quiet: Throttle,
}

impl Shared {
    fn closed(&self, peer: &str, why: &dyn Display) {
        if let Some(held_back) = self.quiet.speak() {
            info!(%peer, held_back, "connection closed: {why}");
        } else {
            debug!(%peer, "connection closed: {why}");
        }
    }
}

/// What is known of a connection's peer before its first call.
#[derive(Debug, Clone)]
pub(super) struct Terms<I> {
    /// Goes with each request (request extension).
    pub(super) info: I,
    /// For the log.
    pub(super) name: String,
    /// Nobody in particular: shorter life, smaller windows.
    pub(super) anonymous: bool,
}

/// Serves a connection to its end.
pub(super) async fn serve<S, I>(stream: S, terms: Terms<I>, service: Counted, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    I: Clone + Send + Sync + 'static,
{
    let calls = Arc::new(Calls::default());
    let handlers = Arc::new(Semaphore::new(MAX_HANDLERS));
    let service = {
        let (calls, shared, info) = (Arc::clone(&calls), Arc::clone(&shared), terms.info);
        service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(info.clone());
            let open = calls.begin();
            let call = Call {
                full: calls.unsent() > MAX_UNSENT,
                service: service.clone(),
                handlers: Arc::clone(&handlers),
                shared: Arc::clone(&shared),
            };
            async move { Ok::<_, Infallible>(call.answer(request, open).await) }
        })
    };
    let (stream_window, window) =
        if terms.anonymous { (ANONYMOUS_STREAM_WINDOW, ANONYMOUS_WINDOW) } else { (STREAM_WINDOW, WINDOW) };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(window)
        .max_concurrent_streams(MAX_STREAMS)
        // Twice as much is read, so that a little too much gets an answer that says why.
        .max_header_list_size(u32::try_from(MAX_HEADER_LIST * 2).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    // On the heap: pinned in place it would be kept twice over for as long as the connection lives.
    let mut connection = Box::pin(builder.serve_connection(TokioIo::new(Guarded::new(stream)), service));
    let mut life = Life::new(&shared.limits, terms.anonymous, Instant::now());
    let name = terms.name;
    loop {
        tokio::select! {
            outcome = &mut connection => {
                if let Err(error) = outcome {
                    match flood(&error) {
                        Some(flood) => shared.closed(&name, flood),
                        None => debug!(peer = %name, error = &error as &dyn Error, "connection ended"),
                    }
                }
                return;
            }
            () = shared.stop.cancelled(), if !life.going => {
                life.told_to_go(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(life.next) => match life.look(&calls, Instant::now()) {
                Verdict::Stays => {}
                Verdict::Goes => connection.as_mut().graceful_shutdown(),
                Verdict::Cut(why) => {
                    shared.closed(&name, &why);
                    return;
                }
            },
        }
    }
}

/// The flood that ended a connection, if one did.
fn flood(error: &hyper::Error) -> Option<&Flood> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An io::Error's source() skips the error it wraps.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(flood) = inner.and_then(|inner| inner.downcast_ref::<Flood>()) {
            return Some(flood);
        }
        cause = error.source();
    }
    None
}

/// When a connection is looked at, and when it has to go.
#[derive(Debug)]
struct Life {
    next: Instant,
    going: bool,
    born: Instant,
    idle_since: Instant,
    first_call: Duration,
    idle: Duration,
    send: Duration,
    age: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Stays,
    /// No new calls; those that are open may end.
    Goes,
    Cut(&'static str),
}

impl Life {
    fn new(limits: &EndpointLimits, anonymous: bool, now: Instant) -> Self {
        Self {
            next: now + limits.first_call_timeout,
            going: false,
            born: now,
            idle_since: now,
            first_call: limits.first_call_timeout,
            idle: if anonymous { limits.idle_timeout / ANONYMOUS_IDLE_PART } else { limits.idle_timeout },
            send: limits.send_timeout,
            age: anonymous.then_some(limits.max_anonymous_age),
        }
    }

    /// The connection has been told to go.
    fn told_to_go(&mut self, now: Instant) {
        self.going = true;
        self.idle_since = now;
        self.next = now + GOING.min(self.send);
    }

    fn look(&mut self, calls: &Calls, now: Instant) -> Verdict {
        if calls.stalled_since().is_some_and(|since| now.duration_since(since) >= self.send) {
            return Verdict::Cut("the peer does not take the answer of its call");
        }
        let busy = calls.any_open();
        if !calls.any_begun() && now >= self.born + self.first_call {
            return Verdict::Cut("no call came");
        }
        if busy {
            self.idle_since = now;
        } else if let Some(ended) = calls.last_ended() {
            self.idle_since = self.idle_since.max(ended);
        }
        if self.going {
            self.next = now + GOING.min(self.send);
            let over = !busy && now >= self.idle_since + GOING;
            return if over { Verdict::Cut("it was told to go") } else { Verdict::Stays };
        }
        let old = self.age.is_some_and(|age| now >= self.born + age);
        if old || now >= self.idle_since + self.idle {
            self.told_to_go(now);
            return Verdict::Goes;
        }
        self.next = now + self.send;
        if !busy {
            self.next = self.next.min(self.idle_since + self.idle);
        }
        if let Some(age) = self.age {
            self.next = self.next.min(self.born + age);
        }
        Verdict::Stays
    }
}

/// One call on its way to its handler.
struct Call {
    /// The peer takes its answers too slowly for another one.
    full: bool,
    service: Counted,
    handlers: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl Call {
    async fn answer(mut self, request: http::Request<Incoming>, open: OpenCall) -> http::Response<Body> {
        let response = match self.handle(request).await {
            Ok(response) => response,
            Err(status) => status.into_http(),
        };
        response.map(|body| Body::new(Watched::new(body, open)))
    }

    async fn handle(&mut self, request: http::Request<Incoming>) -> Result<http::Response<Body>, Status> {
        if self.full {
            return Err(Status::resource_exhausted(
                "answers of this connection wait to be read; read them first",
            ));
        }
        let bytes = header_bytes(request.headers());
        if bytes > MAX_HEADER_LIST {
            return Err(Status::resource_exhausted(format!(
                "the call's metadata is too large: {bytes} bytes, at most {MAX_HEADER_LIST} are accepted"
            )));
        }
        let limits = &self.shared.limits;
        let of_call = limits.of_call(request.uri().path());
        let answer = asked_timeout(request.headers().get("grpc-timeout"))
            .map_or(of_call.answer, |asked| asked.min(of_call.answer));
        let held = Held::new(Arc::clone(&self.shared.memory), of_call.max_message);
        let patience = limits.message_timeout;
        let request = request
            .map(|body| Body::new(Bounded::new(body, of_call.max_message, patience, Arc::clone(&held))));
        let handlers = Arc::clone(&self.handlers);
        let service = &mut self.service;
        let work = Box::pin(async move {
            let _turn = handlers.acquire().await;
            service.call(request).await
        });
        let outcome = timeout(answer, work).await;
        held.answered();
        match outcome {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            Err(_elapsed) => Err(Status::deadline_exceeded(format!(
                "the call was not answered within {} ms",
                answer.as_millis()
            ))),
        }
    }
}

/// As HTTP/2 counts a header list (RFC 9113 6.5.2): names, values, and 32 bytes for each pair.
fn header_bytes(headers: &http::HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

#[cfg(test)]
mod tests;
