#![no_main]
//! A node's payload: nothing but a token reaches the store, and nothing the store does not know is let in.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use hardroot_node_attestors::join_token::{JoinTokenServer, RedeemTokens, Redeemed, is_token};
use hardroot_node_attestors::{AttestError, ServerAttestor, ServerContext};
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Asked(AtomicBool);

#[async_trait::async_trait]
impl RedeemTokens for Asked {
    async fn redeem(&self, token: &str, _: &str, _: SystemTime) -> Result<Redeemed, AttestError> {
        assert!(is_token(token));
        self.0.store(true, Ordering::Relaxed);
        Ok(Redeemed::Unknown)
    }
}

fuzz_target!(|data: &[u8]| {
    let asked = Arc::new(Asked::default());
    let server = JoinTokenServer::new(Arc::clone(&asked) as Arc<dyn RedeemTokens>);
    let context = ServerContext {
        trust_domain: "example.org".parse().expect("a trust domain"),
        csr_spki_der: Vec::new(),
        peer: None,
        now: UNIX_EPOCH,
    };
    let judged = pin!(server.begin(&context, data)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(judged, Poll::Ready(Err(AttestError::Unusable { .. }))));
    assert_eq!(asked.0.load(Ordering::Relaxed), std::str::from_utf8(data).is_ok_and(is_token));
});
