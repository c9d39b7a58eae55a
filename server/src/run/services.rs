//! The gRPC services of each listener.

use std::sync::Arc;
use std::time::Duration;

use hardroot_api::hardroot::server::sync::v1::sync_server::SyncServer;
use hardroot_api::hardroot::server::tpm::v1::tpm_server::TpmServer;
use hardroot_api::spire::api::server::agent::v1::agent_server::AgentServer;
use hardroot_api::spire::api::server::bundle::v1::bundle_server::BundleServer;
use hardroot_api::spire::api::server::entry::v1::entry_server::EntryServer;
use hardroot_api::spire::api::server::svid::v1::svid_server::SvidServer;
use hardroot_api::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomainServer;
use hardroot_identity::TrustDomain;
use hardroot_runtime::clock::Clock;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};

use crate::api::agent::AgentService;
use crate::api::bundle::BundleService;
use crate::api::entry::EntryService;
use crate::api::svid::{SvidConfig, SvidService};
use crate::api::sync::SyncService;
use crate::api::tpm::TpmService;
use crate::api::trustdomain::TrustDomainService;
use crate::attest::Attestation;
use crate::audit::Audit;
use crate::authority::Signer;
use crate::datastore::Datastore;
use crate::endpoints::BundleCache;
use crate::entries::AuthorizedEntries;

/// What services are made of.
pub(super) struct Parts {
    pub(super) trust_domain: TrustDomain,
    pub(super) default_x509_svid_ttl: Duration,
    pub(super) default_jwt_svid_ttl: Option<Duration>,
    pub(super) store: Arc<dyn Datastore>,
    pub(super) entries: Arc<AuthorizedEntries>,
    pub(super) bundles: Arc<BundleCache>,
    pub(super) signer: Arc<Signer>,
    pub(super) attestation: Attestation,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) audit: Audit,
    /// Ends streams that would go on for ever.
    pub(super) stop: CancellationToken,
}

/// The services that both listeners have; who may call what is decided in front of them.
pub(super) fn shared(parts: Parts) -> RoutesBuilder {
    let mut routes = Routes::builder();
    let td = parts.trust_domain;
    let agent = AgentService::new(
        td.clone(),
        Arc::clone(&parts.store),
        Arc::clone(&parts.entries),
        Arc::new(parts.attestation),
        Arc::clone(&parts.clock),
    );
    let entry = EntryService::new(
        td.clone(),
        Arc::clone(&parts.store),
        Arc::clone(&parts.entries),
        Arc::clone(&parts.clock),
        parts.audit.clone(),
    );
    let bundle = BundleService::new(
        td.clone(),
        Arc::clone(&parts.store),
        Arc::clone(&parts.bundles),
        Arc::clone(&parts.entries),
        parts.audit.clone(),
    );
    let sync = SyncService::new(td.clone(), Arc::clone(&parts.entries), parts.bundles, parts.stop);
    let trust_domain = TrustDomainService::new(td.clone(), Arc::clone(&parts.store), parts.audit.clone());
    let tpm = TpmService::new(td.clone(), Arc::clone(&parts.store), parts.clock);
    let svid = SvidConfig {
        trust_domain: td,
        default_x509_svid_ttl: parts.default_x509_svid_ttl,
        default_jwt_svid_ttl: parts.default_jwt_svid_ttl,
    };
    let svid = SvidService::new(svid, parts.store, parts.entries, parts.signer, parts.audit);
    routes
        .add_service(AgentServer::new(agent))
        .add_service(EntryServer::new(entry))
        .add_service(BundleServer::new(bundle))
        .add_service(SvidServer::new(svid))
        .add_service(SyncServer::new(sync))
        .add_service(TpmServer::new(tpm))
        .add_service(TrustDomainServer::new(trust_domain));
    routes
}
