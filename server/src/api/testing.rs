//! What the tests of services and commands share: a store, the services, and a socket they are served on.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_api::hardroot::server::tpm::v1::tpm_server::TpmServer;
use hardroot_api::spire::api::server::agent::v1 as agent_wire;
use hardroot_api::spire::api::server::agent::v1::agent_server::AgentServer;
use hardroot_api::spire::api::server::bundle::v1::bundle_server::BundleServer;
use hardroot_api::spire::api::server::entry::v1::entry_server::EntryServer;
use hardroot_api::spire::api::server::logger::v1::logger_server::LoggerServer;
use hardroot_api::spire::api::server::svid::v1::svid_server::SvidServer;
use hardroot_api::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomainServer;
use hardroot_api::spire::api::types;
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_runtime::clock::{Clock, ManualClock};
use hardroot_runtime::logs::{self, LogFormat, LogHandle, LogLevel, LogOutput};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::InterceptorLayer;
use tonic::{Request, Response, Status, Streaming};

use super::agent::AgentService;
use super::bundle::BundleService;
use super::entry::EntryService;
use super::logger::LoggerService;
use super::svid::{SvidConfig, SvidService};
use super::tpm::TpmService;
use super::trustdomain::TrustDomainService;
use crate::attest::{AgentSvids, AttestStream};
use crate::audit::Audit;
use crate::authority::testing::{Steps, Token, TokenSession};
use crate::authority::{Authority, AuthorityConfig};
use crate::authz::Caller;
use crate::datastore::{Datastore, Node, Nodes, OUTAGE_STALENESS, SqlStore};
use crate::endpoints::BundleCache;
use crate::entries::AuthorizedEntries;

/// When the clock of every site starts.
pub(crate) const NOW: u64 = 1_700_000_000;

/// A server without authority and listeners.
pub(crate) struct Site {
    pub(crate) store: Arc<SqlStore>,
    pub(crate) entries: Arc<AuthorizedEntries>,
    pub(crate) bundles: Arc<BundleCache>,
    pub(crate) clock: ManualClock,
    pub(crate) log: LogHandle,
    lines: Arc<Mutex<Vec<u8>>>,
    /// Without it the level could not be changed.
    _subscriber: Box<dyn std::any::Any + Send + Sync>,
    dir: tempfile::TempDir,
}

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn own() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&own(), path).unwrap()
}

pub(crate) fn wire_id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid { trust_domain: "example.org".into(), path: path.into() })
}

pub(crate) fn wire_selectors(texts: &[&str]) -> Vec<types::Selector> {
    texts
        .iter()
        .map(|text| {
            let (kind, value) = text.split_once(':').unwrap();
            types::Selector { r#type: kind.into(), value: value.into() }
        })
        .collect()
}

pub(crate) fn wire_entry(path: &str, parent: &str, selectors: &[&str]) -> types::Entry {
    types::Entry {
        spiffe_id: wire_id(path),
        parent_id: wire_id(parent),
        selectors: wire_selectors(selectors),
        ..types::Entry::default()
    }
}

/// A request of the agent with that path.
pub(crate) fn from_agent<T>(path: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let addr = "192.0.2.1:5".parse().unwrap();
    request.extensions_mut().insert(Caller::Agent { id: id(path), addr });
    request
}

impl Site {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqlStore::open_file(dir.path().join("db")).await.unwrap());
        let entries = AuthorizedEntries::load(store.clone(), own(), OUTAGE_STALENESS).await.unwrap();
        let bundles = Arc::new(BundleCache::new(store.clone(), own()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = LogOutput::Buffer(Arc::clone(&lines));
        let (subscriber, log) = logs::subscriber(LogFormat::Json, LogLevel::Info, output).unwrap();
        let clock = ManualClock::new(at(NOW));
        Self { store, entries, bundles, clock, log, lines, _subscriber: Box::new(subscriber), dir }
    }

    /// Writes into the lines of this site.
    pub(crate) fn audit(&self) -> Audit {
        Audit::new(self.log.clone(), true)
    }

    /// The audit lines so far, which are taken away.
    pub(crate) fn audit_lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(std::mem::take(&mut *self.lines.lock().unwrap())).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn datastore(&self) -> Arc<dyn Datastore> {
        self.store.clone()
    }

    fn shared_clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    pub(crate) fn entry_service(&self) -> EntryService {
        let entries = Arc::clone(&self.entries);
        EntryService::new(own(), self.datastore(), entries, self.shared_clock(), self.audit())
    }

    pub(crate) fn agent_service(&self) -> AgentService {
        let entries = Arc::clone(&self.entries);
        AgentService::new(own(), self.datastore(), entries, Arc::new(NoSvids), self.shared_clock())
    }

    pub(crate) fn bundle_service(&self) -> BundleService {
        let (bundles, entries) = (Arc::clone(&self.bundles), Arc::clone(&self.entries));
        BundleService::new(own(), self.datastore(), bundles, entries, self.audit())
    }

    pub(crate) fn trust_domain_service(&self) -> TrustDomainService {
        TrustDomainService::new(own(), self.datastore(), self.audit())
    }

    pub(crate) fn tpm_service(&self) -> TpmService {
        TpmService::new(own(), self.datastore(), self.shared_clock())
    }

    /// An attested node.
    pub(crate) async fn node(&self, path: &str, kind: &str, serial: &str, selectors: &[&str]) {
        let node = Node {
            id: id(path),
            attestation_type: kind.into(),
            serial_number: serial.into(),
            expires_at: at(NOW + 3600),
            new_serial_number: String::new(),
            new_expires_at: None,
            can_reattest: kind != "join_token",
            agent_version: String::new(),
            selectors: selectors.iter().map(|text| text.parse().unwrap()).collect(),
        };
        self.store.attested(node, None).await.unwrap();
    }

    /// Serves everything but SVIDs on a socket; every caller is the local admin. Healthy as told.
    pub(crate) async fn serve(&self, healthy: bool) -> PathBuf {
        self.serve_with(healthy, None).await
    }

    async fn serve_with(&self, healthy: bool, svid: Option<SvidService>) -> PathBuf {
        let path = self.dir.path().join("api.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        let status = if healthy {
            tonic_health::ServingStatus::Serving
        } else {
            tonic_health::ServingStatus::NotServing
        };
        reporter.set_service_status("", status).await;
        let local = InterceptorLayer::new(|mut request: Request<()>| {
            request.extensions_mut().insert(Caller::Local { uid: 0, gid: 0, pid: Some(1) });
            Ok(request)
        });
        let router = tonic::transport::Server::builder()
            .layer(local)
            .add_service(EntryServer::new(self.entry_service()))
            .add_service(AgentServer::new(self.agent_service()))
            .add_service(BundleServer::new(self.bundle_service()))
            .add_service(TpmServer::new(self.tpm_service()))
            .add_optional_service(svid.map(SvidServer::new))
            .add_service(TrustDomainServer::new(self.trust_domain_service()))
            .add_service(LoggerServer::new(LoggerService::new(self.log.clone())))
            .add_service(health);
        tokio::spawn(router.serve_with_incoming(UnixListenerStream::new(listener)));
        path
    }
}

/// A server that issues.
pub(crate) struct Issuing {
    pub(crate) site: Site,
    token: Arc<Token>,
    authority: Authority,
    with_jwt: bool,
}

impl Issuing {
    pub(crate) async fn new() -> Self {
        Self::with(crate::authority::testing::config()).await
    }

    pub(crate) async fn without_jwt() -> Self {
        Self::with(AuthorityConfig { jwt: None, ..crate::authority::testing::config() }).await
    }

    async fn with(config: AuthorityConfig) -> Self {
        let (site, token, with_jwt) = (Site::new().await, Arc::<Token>::default(), config.jwt.is_some());
        // Commands look at the clock on the wall; SVIDs have whole seconds.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        site.clock.set(at(now));
        let keys = Arc::new(TokenSession { token: Arc::clone(&token), steps: Steps::immortal() });
        let authority =
            Authority::start(config, keys, site.store.clone(), site.shared_clock()).await.unwrap();
        Self { site, token, authority, with_jwt }
    }

    pub(crate) fn service(&self) -> SvidService {
        let config = SvidConfig {
            trust_domain: own(),
            default_x509_svid_ttl: Duration::from_secs(3600),
            default_jwt_svid_ttl: self.with_jwt.then_some(Duration::from_secs(300)),
        };
        let entries = Arc::clone(&self.site.entries);
        SvidService::new(config, self.site.datastore(), entries, self.authority.signer(), self.site.audit())
    }

    /// Where signatures wait.
    pub(crate) fn queue(&self) -> Arc<crate::authority::queue::Queue> {
        Arc::clone(self.authority.signer().queue())
    }

    /// How many signatures were made.
    pub(crate) fn signed(&self) -> usize {
        self.token.signed.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(crate) async fn serve(&self) -> PathBuf {
        self.site.serve_with(true, Some(self.service())).await
    }
}

/// Issues nothing.
struct NoSvids;

#[tonic::async_trait]
impl AgentSvids for NoSvids {
    async fn attest_agent(
        &self,
        _request: Request<Streaming<agent_wire::AttestAgentRequest>>,
    ) -> Result<Response<AttestStream>, Status> {
        Err(Status::unimplemented("attest"))
    }

    async fn renew_agent(
        &self,
        _request: Request<agent_wire::RenewAgentRequest>,
    ) -> Result<Response<agent_wire::RenewAgentResponse>, Status> {
        Err(Status::unimplemented("renew"))
    }
}

/// A fresh self-signed authority of `spiffe://example.org`, DER.
pub(crate) fn authority_der() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://example.org".try_into().unwrap())];
    params.self_signed(&key).unwrap().der().to_vec()
}

/// A fresh P-256 public key, SubjectPublicKeyInfo DER.
pub(crate) fn public_key_der() -> Vec<u8> {
    use rcgen::PublicKeyData;
    rcgen::KeyPair::generate().unwrap().subject_public_key_info()
}
