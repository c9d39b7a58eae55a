//! `spire.api.server.debug.v1.Debug`: what a running server says of itself. On the admin socket alone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hardroot_api::spire::api::server::debug::v1 as wire;
use hardroot_identity::{Bundle, Certificate, SpiffeId, name_text, verify_x509_svid};
use hardroot_runtime::clock::Clock;
use hardroot_transport::IdentitySlot;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{convert, faults, spiffe_id};
use crate::datastore::{Datastore, EntryFilter, NodeFilter};
use crate::endpoints::BundleCache;

/// How long an answer is given again: counting a large fleet is not free.
const CACHE: Duration = Duration::from_secs(5);

/// The Debug service.
pub struct DebugService {
    store: Arc<dyn Datastore>,
    bundles: Arc<BundleCache>,
    identity: IdentitySlot,
    clock: Arc<dyn Clock>,
    started: Instant,
    last: Mutex<Option<(SystemTime, wire::GetInfoResponse)>>,
}

impl DebugService {
    /// The service of a server that starts now and shows what is in `identity`.
    #[must_use]
    pub fn new(
        store: Arc<dyn Datastore>,
        bundles: Arc<BundleCache>,
        identity: IdentitySlot,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, bundles, identity, clock, started: Instant::now(), last: Mutex::new(None) }
    }

    async fn look(&self) -> Result<wire::GetInfoResponse, Status> {
        let agents = self.store.count_nodes(&NodeFilter::default()).await;
        let agents = agents.map_err(|error| faults::store("failed to count agents", &error))?;
        let entries = self.store.count_entries(&EntryFilter::default()).await;
        let entries = entries.map_err(|error| faults::store("failed to count entries", &error))?;
        let bundles = self.store.list_bundles().await;
        let bundles = bundles.map_err(|error| faults::store("failed to count bundles", &error))?.len();
        let own = self.bundles.own().ok_or_else(|| Status::not_found("trust domain bundle not found"))?;
        let identity = self
            .identity
            .load_full()
            .ok_or_else(|| Status::internal("failed verification against bundle: the server has no SVID"))?;
        let svid_chain = chain(&identity.chain, &own, self.clock.now())
            .map_err(|why| Status::internal(format!("failed verification against bundle: {why}")))?;
        Ok(wire::GetInfoResponse {
            svid_chain,
            uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            agents_count: convert::count(agents),
            // The server's own is among them, as with SPIRE.
            federated_bundles_count: i32::try_from(bundles).unwrap_or(i32::MAX),
            entries_count: convert::count(entries),
        })
    }
}

/// The chain with the authority of the bundle that it leads to.
fn chain(
    chain: &[Vec<u8>],
    bundle: &Bundle,
    now: SystemTime,
) -> Result<Vec<wire::get_info_response::Cert>, String> {
    verify_x509_svid(chain, bundle, now).map_err(|fault| fault.to_string())?;
    let mut certificates = chain
        .iter()
        .map(|der| Certificate::parse(der))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|fault| fault.to_string())?;
    let last = certificates.last().ok_or("the chain is empty")?;
    let root = bundle
        .x509_authorities
        .iter()
        .filter_map(|authority| Certificate::parse(&authority.der).ok())
        .find(|root| {
            root.subject_der == last.issuer_der
                && (last.extensions.authority_key_id.is_none()
                    || root.extensions.subject_key_id == last.extensions.authority_key_id)
        })
        .ok_or("its authority is not in the bundle")?;
    certificates.push(root);
    Ok(certificates.iter().map(of_certificate).collect())
}

fn of_certificate(certificate: &Certificate) -> wire::get_info_response::Cert {
    wire::get_info_response::Cert {
        id: id_of(certificate).as_ref().map(spiffe_id),
        expires_at: convert::unix(certificate.not_after),
        subject: name_text(&certificate.subject_der).unwrap_or_default(),
    }
}

/// The SPIFFE ID of a certificate that has exactly one.
fn id_of(certificate: &Certificate) -> Option<SpiffeId> {
    match certificate.extensions.names.as_ref()?.uris.as_slice() {
        [uri] => uri.parse().ok(),
        _ => None,
    }
}

#[tonic::async_trait]
impl wire::debug_server::Debug for DebugService {
    async fn get_info(
        &self,
        _request: Request<wire::GetInfoRequest>,
    ) -> Result<Response<wire::GetInfoResponse>, Status> {
        let mut last = self.last.lock().await;
        let now = self.clock.now();
        let fresh = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age < CACHE);
        if let Some((_, answer)) = last.as_ref().filter(|(at, _)| fresh(*at)) {
            return Ok(Response::new(answer.clone()));
        }
        let answer = self.look().await?;
        *last = Some((now, answer.clone()));
        Ok(Response::new(answer))
    }
}
