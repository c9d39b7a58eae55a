//! A certificate authority, keys, a server that tells whom it sees, and clients.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{KeyId, KeyManager, KeyType};
use hardroot_identity::{Bundle, SpiffeId, TrustDomain, X509Authority};
use hardroot_transport::{
    BundleSet, BundleSource, ConnectError, ConnectOptions, FirstCome, IdentitySlot, Limits, ListenStats,
    PeerInfo, RemoteKey, ServerTrust, SigningOrder, TlsIdentity, TlsPolicy, client_config, connect, recheck,
    server_config, server_config_with, tls_incoming_with,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

pub const SERVER: &str = "spiffe://example.org/spire/server";
pub const AGENT: &str = "spiffe://example.org/spire/agent/x509pop/7";

pub fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub fn td(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
    trust_domain: TrustDomain,
}

impl Ca {
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), der, trust_domain: td(trust_domain) }
    }

    pub fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::new(self.trust_domain.clone());
        bundle.x509_authorities.push(X509Authority { der: self.der.clone(), tainted: false });
        bundle
    }

    pub fn bundles(&self) -> Arc<BundleSet> {
        Arc::new(BundleSet::new([self.bundle()]))
    }

    pub fn sign(&self, id: &str, spki_der: &[u8], serial: u8, last_year: i32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let spki = SubjectPublicKeyInfo::from_der(spki_der).unwrap();
        params.signed_by(&spki, &self.issuer).unwrap().der().to_vec()
    }

    pub async fn identity_of(&self, id: &str, kind: KeyType, serial: u8, last_year: i32) -> TlsIdentity {
        let keys = Arc::new(MemoryKeyManager::new());
        self.identity_in(keys, id, kind, serial, last_year).await
    }

    pub async fn identity_in(
        &self,
        keys: Arc<dyn KeyManager>,
        id: &str,
        kind: KeyType,
        serial: u8,
        last_year: i32,
    ) -> TlsIdentity {
        let key_id = KeyId::new("tls").unwrap();
        let public = keys.generate(&key_id, kind).await.unwrap();
        let leaf = self.sign(id, &public.spki_der, serial, last_year);
        TlsIdentity::new(vec![leaf], Arc::new(RemoteKey::new(keys, key_id, public))).unwrap()
    }

    /// A chain whose intermediate ends at `end`, long before the leaf.
    pub async fn chain_over_an_intermediate(&self, id: &str, end: std::time::SystemTime) -> Vec<Vec<u8>> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names =
            vec![SanType::URI(format!("spiffe://{}", self.trust_domain.as_str()).try_into().unwrap())];
        params.not_after = end.into();
        let intermediate = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        let below = Self {
            issuer: Issuer::new(params, key),
            der: intermediate.clone(),
            trust_domain: self.trust_domain.clone(),
        };
        let mut chain = below.identity(id).await.chain;
        chain.push(intermediate);
        chain
    }

    pub async fn identity(&self, id: &str) -> TlsIdentity {
        self.identity_of(id, KeyType::EcP256, 1, 2100).await
    }
}

pub fn slot(identity: TlsIdentity) -> IdentitySlot {
    Arc::new(ArcSwapOption::from_pointee(identity))
}

/// Accepts every server certificate, so that the server's half can be looked at alone.
#[derive(Debug)]
pub struct Gullible(rustls::crypto::WebPkiSupportedAlgorithms);

impl Gullible {
    pub fn new() -> Self {
        Self(rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms)
    }
}

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

pub struct Server {
    pub addr: SocketAddr,
    pub stats: Arc<ListenStats>,
    peers: Arc<Mutex<Vec<Arc<PeerInfo>>>>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(identity: IdentitySlot, bundles: Arc<BundleSet>, limits: Limits) -> Self {
        Self::start_with(identity, bundles, limits, TlsPolicy::Usual).await
    }

    pub async fn start_with(
        identity: IdentitySlot,
        bundles: Arc<BundleSet>,
        limits: Limits,
        policy: TlsPolicy,
    ) -> Self {
        let config = server_config_with(identity, bundles.clone(), policy.into());
        Self::serve(config, bundles, limits, Arc::new(FirstCome::default())).await
    }

    /// With handshakes in this order.
    pub async fn start_in_order(
        identity: IdentitySlot,
        bundles: Arc<BundleSet>,
        order: Arc<dyn SigningOrder>,
    ) -> Self {
        let config = server_config(identity, bundles.clone());
        Self::serve(config, bundles, Limits::default(), order).await
    }

    async fn serve(
        config: Arc<rustls::ServerConfig>,
        bundles: Arc<BundleSet>,
        limits: Limits,
        order: Arc<dyn SigningOrder>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let incoming = tls_incoming_with(listener, config, limits, order);
        let stats = incoming.stats();
        let peers: Arc<Mutex<Vec<Arc<PeerInfo>>>> = Arc::default();
        let seen = peers.clone();
        let look = move |request: tonic::Request<()>| {
            let peer = request.extensions().get::<Arc<PeerInfo>>().cloned().unwrap();
            recheck(&peer, &*bundles as &dyn BundleSource, std::time::SystemTime::now())
                .map_err(|error| tonic::Status::unauthenticated(error.to_string()))?;
            seen.lock().unwrap().push(peer);
            Ok(request)
        };
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let (stop, stopped) = oneshot::channel();
        let service = tonic::service::interceptor::InterceptedService::new(health, look);
        let served = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, async move { drop(stopped.await) })
                .await
                .unwrap();
        });
        Self { addr, stats, peers, stop, served }
    }

    pub async fn of(ca: &Ca) -> Self {
        Self::start(slot(ca.identity(SERVER).await), ca.bundles(), Limits::default()).await
    }

    /// Stops; when it returns, the listener and all connections are closed.
    pub async fn stop(self) {
        drop(self.stop);
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, self.served).await.expect("connections end").unwrap();
    }

    pub fn last_peer(&self) -> Arc<PeerInfo> {
        self.peers.lock().unwrap().last().cloned().unwrap()
    }

    pub async fn connect(
        &self,
        trust: ServerTrust,
        identity: Option<TlsIdentity>,
    ) -> Result<Channel, ConnectError> {
        self.connect_as(SERVER, trust, identity).await
    }

    pub async fn connect_as(
        &self,
        expected: &str,
        trust: ServerTrust,
        identity: Option<TlsIdentity>,
    ) -> Result<Channel, ConnectError> {
        let config = client_config(id(expected), trust, identity.map(slot));
        connect(&self.addr.to_string(), config, ConnectOptions::default()).await
    }
}

/// Waits until a counter is at least there: a peer sees its connection closed before the server has counted it.
pub async fn reaches(counter: &std::sync::atomic::AtomicU64, expected: u64) {
    let counted = async {
        while counter.load(std::sync::atomic::Ordering::Relaxed) < expected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), counted).await.expect("counted");
}

/// As [`reaches`], and not beyond.
pub async fn counts(counter: &std::sync::atomic::AtomicU64, expected: u64) {
    reaches(counter, expected).await;
    assert_eq!(counter.load(std::sync::atomic::Ordering::Relaxed), expected);
}

pub async fn call(channel: &Channel) -> Result<(), tonic::Status> {
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(drop)
}
