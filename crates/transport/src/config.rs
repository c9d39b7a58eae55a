//! rustls configurations for both sides: TLS 1.2 and 1.3, ALPN `h2`, no resumption of any kind.

use std::sync::Arc;

use hardroot_identity::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

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

/// Which versions and key exchanges a side takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// TLS 1.2 and 1.3 with rustls' own preferences, a post-quantum key exchange first.
    #[default]
    Usual,
    /// TLS 1.3 with a post-quantum key exchange (`experimental.require_pq_kem`): X25519MLKEM768 or
    /// SecP256r1MLKEM768. A peer that has neither is refused.
    RequirePqKem,
}

impl TlsPolicy {
    fn provider(self) -> Arc<CryptoProvider> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if self == Self::RequirePqKem {
            provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::SECP256R1MLKEM768];
        }
        Arc::new(provider)
    }

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static USUAL: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        static NEWEST: [&SupportedProtocolVersion; 1] = [&TLS13];
        match self {
            Self::Usual => &USUAL,
            Self::RequirePqKem => &NEWEST,
        }
    }
}

/// What a TLS configuration depends on besides who is trusted.
#[derive(Clone)]
pub struct TlsOptions {
    /// Versions and key exchanges.
    pub policy: TlsPolicy,
    /// Certificates are judged by this clock.
    pub clock: Arc<dyn TimeProvider>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { policy: TlsPolicy::default(), clock: Arc::new(DefaultTimeProvider) }
    }
}

impl From<TlsPolicy> for TlsOptions {
    fn from(policy: TlsPolicy) -> Self {
        Self { policy, ..Self::default() }
    }
}

/// A server's configuration. The client's certificate is asked for and not required; one that is shown must
/// verify against the bundle of its trust domain.
///
/// While `identity` is empty every handshake fails.
#[must_use]
pub fn server_config(identity: IdentitySlot, bundles: Arc<dyn BundleSource>) -> Arc<ServerConfig> {
    server_config_with(identity, bundles, TlsOptions::default())
}

/// As [`server_config`], with these options.
#[must_use]
pub fn server_config_with(
    identity: IdentitySlot,
    bundles: Arc<dyn BundleSource>,
    options: TlsOptions,
) -> Arc<ServerConfig> {
    server_config_showing(Arc::new(FromSlot(identity)), bundles, options)
}

/// As [`server_config`], with a certificate that somebody else chooses, such as one of the Web PKI.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "rustls refuses versions only when no cipher suite fits; ours are its own defaults"
)]
pub fn server_config_showing(
    resolver: Arc<dyn ResolvesServerCert>,
    bundles: Arc<dyn BundleSource>,
    options: TlsOptions,
) -> Arc<ServerConfig> {
    let provider = options.policy.provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ServerConfig::builder_with_details(provider, options.clock)
        .with_protocol_versions(options.policy.versions())
        .expect("the default cipher suites cover TLS 1.2 and 1.3")
        .with_client_cert_verifier(Arc::new(ClientVerifier { bundles, algorithms }))
        .with_cert_resolver(resolver);
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
    client_config_with(expected, trust, identity, TlsOptions::default())
}

/// As [`client_config`], with these options.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "rustls refuses versions only when no cipher suite fits; ours are its own defaults"
)]
pub fn client_config_with(
    expected: SpiffeId,
    trust: ServerTrust,
    identity: Option<IdentitySlot>,
    options: TlsOptions,
) -> Arc<ClientConfig> {
    let provider = options.policy.provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_details(provider, options.clock)
        .with_protocol_versions(options.policy.versions())
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
