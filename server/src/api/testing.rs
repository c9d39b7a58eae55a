//! What the tests of services and commands share: a store, the services, and a socket they are served on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_api::hardroot::server::tpm::v1::tpm_server::TpmServer;
use hardroot_api::spire::api::server::agent::v1 as agent_wire;
use hardroot_api::spire::api::server::agent::v1::agent_server::AgentServer;
use hardroot_api::spire::api::server::bundle::v1::bundle_server::BundleServer;
use hardroot_api::spire::api::server::entry::v1::entry_server::EntryServer;
use hardroot_api::spire::api::types;
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_runtime::clock::{Clock, ManualClock};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::InterceptorLayer;
use tonic::{Request, Response, Status, Streaming};

use super::agent::AgentService;
use super::bundle::BundleService;
use super::entry::EntryService;
use super::tpm::TpmService;
use crate::attest::{AgentSvids, AttestStream};
use crate::audit::Audit;
use crate::authz::Caller;
use crate::datastore::{Datastore, Node, Nodes, SqliteStore};
use crate::entries::AuthorizedEntries;

/// When the clock of every site starts.
pub(crate) const NOW: u64 = 1_700_000_000;

/// A server without authority and listeners.
pub(crate) struct Site {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) entries: Arc<AuthorizedEntries>,
    pub(crate) clock: ManualClock,
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
        let store = Arc::new(SqliteStore::open(&dir.path().join("db")).await.unwrap());
        let entries = AuthorizedEntries::load(store.clone(), own()).await.unwrap();
        Self { store, entries, clock: ManualClock::new(at(NOW)), dir }
    }

    fn datastore(&self) -> Arc<dyn Datastore> {
        self.store.clone()
    }

    fn shared_clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    pub(crate) fn entry_service(&self) -> EntryService {
        let entries = Arc::clone(&self.entries);
        EntryService::new(own(), self.datastore(), entries, self.shared_clock(), Audit::new(true))
    }

    pub(crate) fn agent_service(&self) -> AgentService {
        AgentService::new(own(), self.datastore(), Arc::new(NoSvids), self.shared_clock())
    }

    pub(crate) fn bundle_service(&self) -> BundleService {
        BundleService::new(own(), self.datastore(), Audit::new(true))
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

    /// Serves everything on a socket; every caller is the local admin. Healthy as told.
    pub(crate) async fn serve(&self, healthy: bool) -> PathBuf {
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
            .add_service(health);
        tokio::spawn(router.serve_with_incoming(UnixListenerStream::new(listener)));
        path
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
