//! rustls configurations for both sides: TLS 1.2 and 1.3, ALPN `h2`, no resumption of any kind.

use std::sync::Arc;

use hardroot_identity::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig};

use crate::bundles::BundleSource;
use crate::identity::{FromSlot, IdentitySlot};
use crate::verify::{ClientVerifier, ServerVerifier};

/// gRPC's protocol name in ALPN.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// How a client knows the server.
#[derive(Clone)]
pub enum ServerTrust {
    /// By the bundle of the expected ID's trust domain.
    Bundle(Arc<dyn BundleSource>),
    /// By nothing but the ID its certificate claims: whoever sits between the two can be the server. Only for
    /// the very first connection of an agent that was told `insecure_bootstrap`.
    InsecureBootstrap,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's configuration. The client's certificate is asked for and not required; one that is shown must
/// verify against the bundle of its trust domain.
///
/// While `identity` is empty every handshake fails.
#[must_use]
pub fn server_config(identity: IdentitySlot, bundles: Arc<dyn BundleSource>) -> Arc<ServerConfig> {
    server_config_at(identity, bundles, Arc::new(DefaultTimeProvider))
}

/// As [`server_config`], with certificates judged by another clock than the system's.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "rustls refuses versions only when no cipher suite fits; ours are its own defaults"
)]
pub fn server_config_at(
    identity: IdentitySlot,
    bundles: Arc<dyn BundleSource>,
    clock: Arc<dyn TimeProvider>,
) -> Arc<ServerConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ServerConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the default cipher suites cover TLS 1.2 and 1.3")
        .with_client_cert_verifier(Arc::new(ClientVerifier { bundles, algorithms }))
        .with_cert_resolver(Arc::new(FromSlot(identity)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A resumed session would bring back a certificate that was judged by yesterday's bundle.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// A client's configuration: the server must be `expected`, as `trust` says; `identity` is shown when the
/// server asks and the slot is not empty.
#[must_use]
pub fn client_config(
    expected: SpiffeId,
    trust: ServerTrust,
    identity: Option<IdentitySlot>,
) -> Arc<ClientConfig> {
    client_config_at(expected, trust, identity, Arc::new(DefaultTimeProvider))
}

/// As [`client_config`], with certificates judged by another clock than the system's.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "rustls refuses versions only when no cipher suite fits; ours are its own defaults"
)]
pub fn client_config_at(
    expected: SpiffeId,
    trust: ServerTrust,
    identity: Option<IdentitySlot>,
    clock: Arc<dyn TimeProvider>,
) -> Arc<ClientConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the default cipher suites cover TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { expected, trust, algorithms }));
    let mut config = match identity {
        Some(slot) => builder.with_client_cert_resolver(Arc::new(FromSlot(slot))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
