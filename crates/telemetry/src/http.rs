//! A small HTTP/1.1 server for GET: metrics and health. Bounded in connections, head size and time.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Connections at once. A scraper holds one.
const MOST_CONNECTIONS: usize = 64;
/// A head must come within this time of the connection or of the last answer: longer than a scraper's usual pause, so
/// that its connection, and with it the handshake, is used again.
const HEAD: Duration = Duration::from_secs(90);
/// An answer must be taken within this time.
const ANSWER: Duration = Duration::from_secs(30);
/// A TLS handshake must end within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest head, in bytes.
const MOST_HEAD: usize = 16 * 1024;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The path, as sent.
    pub path: String,
    /// The query, without its question mark.
    pub query: String,
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code, 100 to 599.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// A boxed future of an answer.
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;
/// Answers questions.
pub type Handler = Arc<dyn Fn(Question) -> Answering + Send + Sync>;

/// Judges the certificate chain of a TLS client, leaf first.
pub(crate) type Judge = Arc<dyn Fn(&[CertificateDer<'static>]) -> bool + Send + Sync>;

/// TLS of a listener.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) config: Arc<rustls::ServerConfig>,
    pub(crate) judge: Option<Judge>,
}

/// A listener being served; it ends when this is dropped.
#[derive(Debug)]
pub struct HttpListener {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl HttpListener {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens a listener and serves it.
///
/// # Errors
/// The address cannot be had.
pub async fn listen(host: &str, port: u16, handler: Handler) -> std::io::Result<HttpListener> {
    listen_with(host, port, None, handler).await
}

pub(crate) async fn listen_with(
    host: &str,
    port: u16,
    tls: Option<Tls>,
    handler: Handler,
) -> std::io::Result<HttpListener> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let listener = TcpListener::bind((host, port)).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(accept(listener, tls, handler));
    Ok(HttpListener { address, task })
}

async fn accept(listener: TcpListener, tls: Option<Tls>, handler: Handler) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new(); // Dropped with the listener, which ends them.
    loop {
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed. Without a place, callers wait in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics or health could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, handler) = (tls.clone(), Arc::clone(&handler));
        connections.spawn(async move {
            let _place = place;
            match tls {
                None => serve(stream, handler).await,
                Some(tls) => {
                    let accepting = TlsAcceptor::from(tls.config).accept(stream);
                    let stream = match tokio::time::timeout(HANDSHAKE, accepting).await {
                        Ok(Ok(stream)) => stream,
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "TLS handshake for metrics failed");
                            return;
                        }
                        Err(_elapsed) => return,
                    };
                    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                    if tls.judge.as_ref().is_none_or(|judge| judge(chain)) {
                        serve(stream, handler).await;
                    } else {
                        tracing::info!("a client is not among authorized_spiffe_ids and gets no metrics");
                    }
                }
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, handler: Handler) {
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(answer(&request, &handler).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics or health ended");
    }
}

async fn answer(request: &Request<Incoming>, handler: &Handler) -> Response<Full<Bytes>> {
    let head = *request.method() == Method::HEAD;
    let answer = if head || *request.method() == Method::GET {
        let question = Question {
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
        };
        tokio::time::timeout(ANSWER, handler(question))
            .await
            .unwrap_or_else(|_elapsed| Answer::text(503, "no answer in time\n"))
    } else {
        Answer::text(405, "only GET\n")
    };
    let body = if head { Bytes::new() } else { Bytes::from(answer.body) };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(answer.content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}
