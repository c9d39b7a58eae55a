//! Authorisation in front of every RPC of both listeners, and the audit line behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hardroot_transport::{LocalPeer, PeerInfo};
use http::{Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::error;

use super::caller::Caller;
use super::judge::{Authorizer, Peer};
use super::rules::{Limit, Rule};
use crate::api::sync::Recheck;
use crate::audit::{Audit, Record};
use crate::endpoints::{BundleCache, RateLimits};

/// What the layer needs at each call.
pub struct Gate {
    /// Decides who may call.
    pub authorizer: Authorizer,
    /// Limits of the TLS port.
    pub limits: Arc<RateLimits>,
    /// Read again after calls that change bundles.
    pub bundles: Arc<BundleCache>,
    /// Where calls are recorded.
    pub audit: Audit,
}

/// Lets a handler count its certificates against the caller's limit (request extension).
#[derive(Clone)]
pub struct Turns {
    limits: Arc<RateLimits>,
    limit: Limit,
    address: Option<std::net::IpAddr>,
}

impl Turns {
    /// Waits for `count` turns. Calls of the admin socket are never limited.
    ///
    /// # Errors
    /// `ResourceExhausted`.
    pub async fn take(&self, count: usize) -> Result<(), Status> {
        let Some(address) = self.address else { return Ok(()) };
        self.limits.take(self.limit, address, u32::try_from(count).unwrap_or(u32::MAX)).await
    }
}

/// The tower layer.
#[derive(Clone)]
pub struct AuthzLayer {
    gate: Arc<Gate>,
}

impl AuthzLayer {
    /// A layer that asks `gate`.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for AuthzLayer {
    type Service = AuthzService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthzService { gate: Arc::clone(&self.gate), inner }
    }
}

/// The tower service.
#[derive(Clone)]
pub struct AuthzService<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for AuthzService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        // The clone has not been polled ready; the service that was is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let record = Record::new(&path);
            match admit(&gate, &path, &mut request, &record).await {
                Err(status) => {
                    gate.audit.refused(&record, &status);
                    Ok(status.into_http())
                }
                Ok(rule) => {
                    let response = inner.call(request).await?;
                    // A handler's refusal is in the headers; a stream's comes later, and is recorded by its
                    // handler.
                    let status = Status::from_header_map(response.headers());
                    // Who may call it was judged, but nobody serves it: say so, for the router does not.
                    let unserved = status
                        .as_ref()
                        .filter(|s| s.code() == Code::Unimplemented && s.message().is_empty())
                        .map(|_| Status::unimplemented(format!("this server does not offer {path}")));
                    let response = unserved.map_or(response, Status::into_http);
                    match finish(&gate, rule, &record, status).await {
                        Ok(()) => Ok(response),
                        Err(unrecorded) => Ok(unrecorded.into_http()),
                    }
                }
            }
        })
    }
}

async fn admit(
    gate: &Arc<Gate>,
    path: &str,
    request: &mut Request<Body>,
    record: &Record,
) -> Result<Rule, Status> {
    let peer = peer_of(request).ok_or_else(|| Status::internal("the connection is not known"))?;
    record.peer(&peer);
    let (caller, rule) = gate.authorizer.authorize(path, &peer).await?;
    let (role, means) = standing(gate, &caller);
    record.authorized(role, means);
    let turns =
        Turns { limits: Arc::clone(&gate.limits), limit: rule.limit, address: caller_address(&caller) };
    // Signing limits count certificates, which only the handler knows.
    if rule.limit != Limit::Signing {
        turns.take(1).await?;
    }
    let recheck = {
        let (gate, path) = (Arc::clone(gate), path.to_owned());
        Recheck::new(move || {
            let (gate, path, peer) = (Arc::clone(&gate), path.clone(), peer.clone());
            Box::pin(async move { gate.authorizer.authorize(&path, &peer).await.map(drop) })
        })
    };
    let extensions = request.extensions_mut();
    extensions.insert(recheck);
    extensions.insert(caller);
    extensions.insert(turns);
    extensions.insert(record.clone());
    Ok(rule)
}

/// As whom a caller was let in, and by what means, in SPIRE's words.
fn standing(gate: &Gate, caller: &Caller) -> (&'static str, &'static str) {
    match caller {
        Caller::Local { .. } => ("local", "transport"),
        Caller::Agent { .. } => ("agent", "datastore"),
        Caller::Admin { id, .. } if gate.authorizer.lists(id) => ("admin", "config"),
        Caller::Admin { .. } => ("admin", "entries"),
        Caller::Downstream { .. } => ("downstream", "entries"),
        Caller::Anonymous { .. } => ("nobody", ""),
    }
}

fn peer_of(request: &Request<Body>) -> Option<Peer> {
    let extensions = request.extensions();
    if let Some(remote) = extensions.get::<Arc<PeerInfo>>() {
        return Some(Peer::Remote(Arc::clone(remote)));
    }
    extensions.get::<Arc<LocalPeer>>().map(|local| Peer::Local(Arc::clone(local)))
}

fn caller_address(caller: &Caller) -> Option<std::net::IpAddr> {
    caller.addr().map(|address| address.ip())
}

/// # Errors
/// What is answered instead, because the call's audit line could not be written.
async fn finish(gate: &Gate, rule: Rule, record: &Record, status: Option<Status>) -> Result<(), Status> {
    let failed = status.filter(|status| status.code() != Code::Ok);
    if rule.changes_bundles
        && failed.is_none()
        && let Err(error) = gate.bundles.refresh().await
    {
        error!(error = &error as &dyn std::error::Error, "bundles could not be read again after a change");
    }
    match failed {
        Some(status) => gate.audit.refused(record, &status),
        None if rule.issues => return gate.audit.done_issuing(record),
        None if !rule.polled => gate.audit.done(record),
        None => {}
    }
    Ok(())
}
