//! Connections: accepting them, knowing who is there, and ending those that cost without asking.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hardroot_runtime::shutdown::Shutdown;
use hardroot_telemetry::rpc::{MeteredBody, key};
use hardroot_telemetry::{Call, count, gauge, is_active};
use hardroot_transport::{BoundSocket, Guarded, MendedAuthority};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::idle::{Calls, Idle, Verdict};
use super::limits::{Limits, Place, Places};
use super::push::Push;
use super::service::{self, Shared};
use super::{WorkloadApi, WorkloadApiError};
use crate::peer::Peer;

/// Files kept free for the agent itself: its server connection, state, logs, /proc.
const RESERVED_FILES: u64 = 128;
/// A connection is a socket and a process handle.
const FILES_PER_CONNECTION: u64 = 2;
/// Stream window: requests are small, and what a caller may make us hold is this per call.
const STREAM_WINDOW: u32 = 16 << 10;
/// The same for all calls of a connection.
const CONNECTION_WINDOW: u32 = 64 << 10;
/// What is measured by its own name.
const METHODS: [&str; 7] = [
    "FetchX509SVID",
    "FetchX509Bundles",
    "FetchJWTSVID",
    "FetchJWTBundles",
    "ValidateJWTSVID",
    "FetchWITSVID",
    "FetchWITBundles",
];
/// What one call may have waiting to be sent.
const SEND_BUFFER: usize = 64 << 10;

/// Who is at the other end; every request on the connection carries it.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    calls: Calls,
}

/// One open call of a connection.
struct OpenCall {
    caller: Arc<Caller>,
    _place: Place,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.caller.calls.end();
    }
}

pub(super) async fn serve(
    api: WorkloadApi,
    socket: &BoundSocket,
    shutdown: Shutdown,
) -> Result<(), WorkloadApiError> {
    let limits = Arc::new(within_open_files(api.limits.clone()));
    let places = Places::default();
    let shared = Arc::new(Shared::new(api, shutdown.clone()));
    let (routes, reporter) = service::routes(&shared)?;
    let health = service::follow_health(&shared, reporter).await;
    let listener = socket.listener();
    let open = Arc::default();
    tracing::info!(subsystem_name = "endpoints", path = %socket.path().display(), "starting the Workload API");
    let ended = shutdown.requested();
    tokio::pin!(ended);
    loop {
        let accepted = tokio::select! {
            () = &mut ended => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => admit(stream, &limits, &places, &routes, &shutdown, &open),
            Err(error) if is_fatal(&error) => {
                health.abort();
                return Err(WorkloadApiError::Listener(error));
            }
            Err(error) => {
                // Out of files or memory: those who are connected go on, the others wait in the backlog.
                tracing::warn!(subsystem_name = "endpoints", %error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Streams see the request themselves and end with Unavailable; what is left after that is cut off with the runtime.
    let patience = Instant::now() + limits.drain;
    while places.is_open() && Instant::now() < patience {
        sleep(Duration::from_millis(10)).await;
    }
    health.abort();
    Ok(())
}

fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(nix::libc::EBADF | nix::libc::EINVAL | nix::libc::ENOTSOCK | nix::libc::EOPNOTSUPP)
    )
}

/// As many connections as the limit of open files has room for.
fn within_open_files(mut limits: Limits) -> Limits {
    let files = hardroot_runtime::process::raise_open_files().unwrap_or(1_024);
    let room = files.saturating_sub(RESERVED_FILES) / FILES_PER_CONNECTION;
    limits.max_connections = limits.max_connections.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1);
    limits
}

/// A connection among those that are measured.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        count("workload_api.connection", &[]);
        tell_open(open.fetch_add(1, Ordering::Relaxed) + 1);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        tell_open(self.0.fetch_sub(1, Ordering::Relaxed).saturating_sub(1));
    }
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn tell_open(connections: usize) {
    gauge("workload_api.connections", connections as f64, &[]);
}

fn admit(
    stream: UnixStream,
    limits: &Arc<Limits>,
    places: &Places,
    routes: &Routes,
    shutdown: &Shutdown,
    open: &Arc<AtomicUsize>,
) {
    let Ok(credentials) = getsockopt(&stream.as_fd(), sockopt::PeerCredentials) else { return };
    let Some(place) = places.connection(credentials.uid(), limits) else {
        tracing::warn!(
            subsystem_name = "endpoints",
            caller_uid = credentials.uid(),
            pid = credentials.pid(),
            "too many connections: refused"
        );
        return;
    };
    // At once, so that a process has the least time to become another program before it is looked at.
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(subsystem_name = "endpoints", caller_uid = credentials.uid(), pid = credentials.pid(), %error,
                "a caller is not known: refused");
            return;
        }
    };
    let counted = Counted::new(open);
    let caller = Arc::new(Caller { peer, calls: Calls::new(Instant::now()) });
    let (limits, places, routes, ended) =
        (Arc::clone(limits), places.clone(), routes.clone(), shutdown.requested());
    tokio::spawn(async move {
        let (_place, _counted) = (place, counted);
        if matches!(timeout(limits.first_byte, first_byte(&stream)).await, Ok(Ok(1..))) {
            run(stream, caller, limits, places, routes, ended).await;
        }
    });
}

/// Waits for the first byte and leaves it there; zero when the caller is gone instead. The kernel is asked: the runtime
/// takes an accepted socket for readable until a read shows otherwise.
async fn first_byte(stream: &UnixStream) -> io::Result<usize> {
    let look = || Ok(recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)?);
    stream.async_io(Interest::READABLE, look).await
}

async fn run(
    stream: UnixStream,
    caller: Arc<Caller>,
    limits: Arc<Limits>,
    places: Places,
    routes: Routes,
    ended: impl Future<Output = ()>,
) {
    let service = {
        let (caller, limits) = (Arc::clone(&caller), Arc::clone(&limits));
        service_fn(move |request: http::Request<Incoming>| {
            let (caller, limits, routes) = (Arc::clone(&caller), Arc::clone(&limits), routes.clone());
            let place = places.call(caller.peer.uid(), &limits, Instant::now());
            async move { Ok::<_, Infallible>(answer(request, caller, &limits, routes, place).await) }
        })
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.max_calls_per_connection)
        .max_header_list_size(limits.max_header_bytes.saturating_mul(2))
        .max_send_buf_size(SEND_BUFFER);
    // On the heap: pinned in place it would be kept twice over for as long as the connection lives.
    let stream = TokioIo::new(Guarded::new(MendedAuthority::new(stream)));
    let mut connection = Box::pin(builder.serve_connection(stream, service));
    tokio::pin!(ended);
    let mut idle = Idle::new(limits.idle, Instant::now());
    loop {
        tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!(subsystem_name = "endpoints", pid = caller.peer.pid(), %error, "connection ended");
                }
                return;
            }
            () = &mut ended, if !idle.going => {
                idle.going = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(idle.next) => match idle.look(&caller.calls, Instant::now()) {
                Verdict::Stays => {}
                Verdict::Goes => connection.as_mut().graceful_shutdown(),
                Verdict::Cut => return,
            }
        }
    }
}

/// As HTTP/2 counts a header list: names, values, and 32 bytes for each pair.
fn header_bytes(headers: &http::HeaderMap) -> u32 {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// One call: its place is kept until the last byte of the answer is gone, or the caller is.
async fn answer(
    mut request: http::Request<Incoming>,
    caller: Arc<Caller>,
    limits: &Limits,
    mut routes: Routes,
    place: Option<Place>,
) -> http::Response<Body> {
    let Some(place) = place else {
        return Status::new(Code::Unavailable, "too many calls; try again later").into_http();
    };
    if header_bytes(request.headers()) > limits.max_header_bytes {
        return Status::new(Code::ResourceExhausted, "the call's metadata is too large").into_http();
    }
    let call = metered(request.uri().path());
    caller.calls.begin();
    let open = OpenCall { caller: Arc::clone(&caller), _place: place };
    request.extensions_mut().insert(caller);
    let answered = match timeout(limits.answer, Box::pin(routes.call(request))).await {
        Ok(Ok(mut response)) => match response.extensions_mut().remove::<Push>() {
            Some(push) => response.map(|_empty| Body::new(push.body(open))),
            None => response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _until_the_body_is_dropped = &open;
                    frame
                }))
            }),
        },
        Ok(Err(never)) => match never {},
        Err(_elapsed) => Status::new(Code::Unavailable, "the call was not answered in time").into_http(),
    };
    let Some(call) = call else { return answered };
    let (parts, body) = answered.into_parts();
    let body = MeteredBody::new(body, call, &parts.headers);
    http::Response::from_parts(parts, Body::new(body))
}

/// The call's measure; none for a name that a caller made up, and none when nobody measures.
fn metered(path: &str) -> Option<Call> {
    let known = path.strip_prefix("/SpiffeWorkloadAPI/").is_some_and(|method| METHODS.contains(&method))
        || path == "/grpc.health.v1.Health/Check";
    (known && is_active()).then(|| Call::start(key(path)))
}
