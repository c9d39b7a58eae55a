//! What goes over the wire to a server under pressure.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hardroot_api::status::retry_later;
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_node_attestors::join_token::JoinTokenAgent;
use hardroot_transport::{
    BundleSet, IdentitySlot, Limits, PeerInfo, TlsIdentity, TlsPolicy, server_config, tls_incoming,
};
use tonic::body::Body;
use tonic::{Code, Status};

use super::{GrpcServer, Server};
use crate::testing::TestCa;

/// Refuses to attest, and notes over which connection it was asked and whether it was told how long the caller waits.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<Vec<(SocketAddr, bool)>>>);

/// The answers to the first calls, in their order: whether they say when to come back.
const ANSWERS: [bool; 4] = [true, true, false, true];

impl tonic::server::NamedService for Busy {
    const NAME: &'static str = "spire.api.server.agent.v1.Agent";
}

impl tower::Service<http::Request<Body>> for Busy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut calls = self.0.lock().unwrap();
        let peer = request.extensions().get::<Arc<PeerInfo>>().unwrap().addr;
        let later = ANSWERS[calls.len()];
        calls.push((peer, request.headers().contains_key("grpc-timeout")));
        let status = if later {
            retry_later(Code::ResourceExhausted, "the token is busy", Duration::from_secs(2))
        } else {
            Status::unavailable("going away")
        };
        ready(Ok(status.into_http()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_busy_is_asked_again_over_the_same_connection() {
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let now = SystemTime::now();
    let ca = TestCa::at(&trust_domain, now);
    let key = rcgen::KeyPair::generate().unwrap();
    let id = SpiffeId::new(&trust_domain, "/spire/server").unwrap();
    let chain =
        ca.agent_at(&id, &rcgen::PublicKeyData::subject_public_key_info(&key), now, Duration::from_secs(600));
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shown = IdentitySlot::default();
    shown.store(Some(Arc::new(TlsIdentity::new(chain, key).unwrap())));
    let bundles = Arc::new(BundleSet::new([ca.bundle()]));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = tls_incoming(listener, server_config(shown, bundles.clone()), Limits::default());
    let busy = Busy::default();
    let service = tonic::transport::Server::builder().add_service(busy.clone());
    let _served = tokio::task::JoinSet::from_iter([service.serve_with_incoming(incoming)]);

    let token = "0b8e7d2a-5b0e-4e56-9d7e-0d7c5a1f6c3e".to_owned().into();
    let attestor = Arc::new(JoinTokenAgent::new(token).unwrap());
    let server = GrpcServer::new(address, trust_domain, attestor, bundles, false, TlsPolicy::Usual).unwrap();
    for later in ANSWERS {
        let error = server.attest(&ca.spki(), b"csr").await.unwrap_err();
        assert_eq!(error.asks_to_return().is_some(), later, "{error}");
    }
    let calls = busy.0.lock().unwrap().clone();
    assert_eq!((calls[0].0, calls[1].0), (calls[1].0, calls[2].0), "one handshake for three attempts");
    assert_ne!(calls[2].0, calls[3].0, "a connection that failed is not used again");
    assert!(calls.iter().all(|(_, told)| *told), "the server is told how long is waited");
}
