//! `rpc.<service>.<method>`: every call of a method that is known, by its gRPC status, on both listeners.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hardroot_telemetry::rpc::{MeteredBody, key};
use hardroot_telemetry::{Call, is_active};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::authz::is_known;

/// The tower layer; outside of authorisation, so that refusals count too.
#[derive(Debug, Clone, Copy, Default)]
pub struct RpcLayer;

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RpcService { inner }
    }
}

/// The tower service.
#[derive(Debug, Clone)]
pub struct RpcService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for RpcService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // A name that a peer made up is no metric.
        if !is_active() || !is_known(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let call = Call::start(key(request.uri().path()));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            let (parts, body) = response.into_parts();
            let body = MeteredBody::new(body, call, &parts.headers);
            Ok(Response::from_parts(parts, Body::new(body)))
        })
    }
}
