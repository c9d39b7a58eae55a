#![no_main]
//! A node's payload: as JSON, and as a certificate inside well-formed JSON, up to the verdict on its chain.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::UNIX_EPOCH;

use hardroot_node_attestors::x509pop::{Payload, X509popPolicy, X509popServer, X509popTrust};
use hardroot_node_attestors::{ServerAttestor, ServerContext};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(payload) = Payload::from_json(data) {
        assert_eq!(Payload::from_json(&payload.to_json()).as_ref(), Ok(&payload));
    }
    let trust = X509popTrust::ExternalPki { roots: vec![data.to_vec()] };
    let server = X509popServer::new(X509popPolicy::default(), trust).expect("the defaults are good");
    let context = ServerContext {
        trust_domain: "example.org".parse().expect("a trust domain"),
        csr_spki_der: Vec::new(),
        peer: None,
        now: UNIX_EPOCH,
    };
    let (leaf, rest) = data.split_at(data.len() / 2);
    for certificates in [vec![data.to_vec()], vec![leaf.to_vec(), rest.to_vec()]] {
        let payload = Payload { certificates }.to_json();
        drop(pin!(server.begin(&context, &payload)).poll(&mut Context::from_waker(Waker::noop())));
    }
});
