//! gRPC calls: their metric keys, their status at the end of the answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use crate::Call;

/// Services that SPIRE knows by a shorter name in metrics; the first that fits is taken.
const SHORT: &[(&str, &str)] = &[
    ("SpiffeWorkloadAPI", "WorkloadAPI"),
    ("envoy.service.secret.v3.SecretDiscoveryService", "SDS.v3"),
    ("grpc.health.v1.Health", "Health"),
    ("spire.api.server.logger.v1.Logger", "Logger"),
    ("spire.api.agent.logger.v1.Logger", "Logger"),
    ("spire.agent.debug.v1.Debug", "Debug"),
    ("spire.api.agent.delegatedidentity.v1.DelegatedIdentity", "DelegatedIdentity"),
];

/// The metric key of a method's path, as SPIRE makes it: `/spire.api.server.agent.v1.Agent/AttestAgent` is
/// `rpc.agent.v1.agent.attest_agent`. Only for paths from a fixed table: each key is a series.
#[must_use]
pub fn key(path: &str) -> String {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let short = SHORT.iter().find(|(long, _)| *long == service).map(|(_, short)| *short);
    let service = short.or_else(|| service.strip_prefix("spire.api.server.")).unwrap_or(service);
    let mut key = "rpc".to_owned();
    for part in service.split('.') {
        key.push('.');
        key.push_str(&snake(part));
    }
    key.push('.');
    key.push_str(&if method == "SubscribeToX509SVIDs" {
        "subscribe_to_x509_svids".to_owned()
    } else {
        snake(method)
    });
    key
}

/// An underscore stands before a capital that touches a small letter; what is no letter or digit becomes one.
fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let small = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_lowercase());
    let mut out = String::new();
    for (at, c) in chars.iter().enumerate() {
        if !c.is_alphanumeric() {
            out.push('_');
            continue;
        }
        let boundary = c.is_uppercase()
            && at > 0
            && at + 1 < chars.len()
            && (small(Some(at + 1)) || small(at.checked_sub(1)))
            && !out.ends_with('_');
        if boundary {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// A gRPC status number's name, as Go spells it.
#[must_use]
pub fn status_name(code: i32) -> &'static str {
    match code {
        0 => "OK",
        1 => "Canceled",
        3 => "InvalidArgument",
        4 => "DeadlineExceeded",
        5 => "NotFound",
        6 => "AlreadyExists",
        7 => "PermissionDenied",
        8 => "ResourceExhausted",
        9 => "FailedPrecondition",
        10 => "Aborted",
        11 => "OutOfRange",
        12 => "Unimplemented",
        13 => "Internal",
        14 => "Unavailable",
        15 => "DataLoss",
        16 => "Unauthenticated",
        _ => "Unknown",
    }
}

fn status_of(headers: &HeaderMap) -> Option<&'static str> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    Some(status_name(code))
}

/// An answer's body that ends its call: with the status in its trailers or, for an answer without content, in its
/// headers. A peer that goes away before the end makes the call `Canceled`.
#[derive(Debug)]
pub struct MeteredBody<B> {
    inner: B,
    call: Option<Call>,
}

impl<B> MeteredBody<B> {
    /// Follows `inner`, whose headers are these.
    pub fn new(inner: B, call: Call, headers: &HeaderMap) -> Self {
        match status_of(headers) {
            Some(status) => {
                call.done(status);
                Self { inner, call: None }
            }
            None => Self { inner, call: Some(call) },
        }
    }
}

impl<B: Body<Data: Buf> + Unpin> Body for MeteredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        let status = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                frame.trailers_ref().map(|trailers| status_of(trailers).unwrap_or("Unknown"))
            }
            Poll::Ready(Some(Err(_)) | None) => Some("Unknown"),
            Poll::Pending => None,
        };
        if let Some(status) = status
            && let Some(call) = self.call.take()
        {
            call.done(status);
        }
        polled
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
    use super::*;

    #[test]
    fn keys_are_spires() {
        for (path, expected) in [
            ("/spire.api.server.agent.v1.Agent/AttestAgent", "rpc.agent.v1.agent.attest_agent"),
            ("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", "rpc.svid.v1.svid.batch_new_x509svid"),
            ("/spire.api.server.svid.v1.SVID/NewJWTSVID", "rpc.svid.v1.svid.new_jwtsvid"),
            (
                "/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle",
                "rpc.trustdomain.v1.trust_domain.refresh_bundle",
            ),
            ("/grpc.health.v1.Health/Check", "rpc.health.check"),
            ("/spire.api.server.logger.v1.Logger/GetLogger", "rpc.logger.get_logger"),
            ("/SpiffeWorkloadAPI/FetchX509SVID", "rpc.workload_api.fetch_x509svid"),
            ("/hardroot.server.tpm.v1.Tpm/Enrol", "rpc.hardroot.server.tpm.v1.tpm.enrol"),
            (
                "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs",
                "rpc.delegated_identity.subscribe_to_x509_svids",
            ),
        ] {
            assert_eq!(key(path), expected);
        }
        assert_eq!(
            [snake("ABCDef"), snake("one,two,three,Four"), snake("AbcDEF")],
            ["abc_def", "one_two_three_four", "abc_def"]
        );
    }
}
