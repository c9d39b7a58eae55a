//! `hardroot.server.tpm.v1.Tpm`: which TPMs may join.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hardroot_api::hardroot::server::tpm::v1 as wire;
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_node_attestors::Enrolment;
use hardroot_runtime::clock::Clock;
use tonic::{Request, Response, Status};

use super::{convert, faults};
use crate::audit::Record;
use crate::datastore::{Datastore, StoredEnrolment};

/// Longest note, in bytes.
const MAX_NOTE: usize = 1024;

/// Every agent's ID is below this path.
const AGENTS: &str = "/spire/agent";

/// The Tpm service.
pub struct TpmService {
    trust_domain: TrustDomain,
    store: Arc<dyn Datastore>,
    clock: Arc<dyn Clock>,
}

impl TpmService {
    /// The service of the server of `trust_domain`.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, store: Arc<dyn Datastore>, clock: Arc<dyn Clock>) -> Self {
        Self { trust_domain, store, clock }
    }

    /// The path below `/spire/agent`, also when the whole path was given.
    fn agent_path(&self, path: &str) -> Result<Option<String>, Status> {
        if path.is_empty() {
            return Ok(None);
        }
        let bad = |why: String| Status::invalid_argument(format!("invalid agent path {path:?}: {why}"));
        if !path.starts_with('/') {
            return Err(bad("it begins with a slash, such as /site-7/gateway-2".to_owned()));
        }
        let below = match path.strip_prefix(AGENTS) {
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        };
        SpiffeId::new(&self.trust_domain, &format!("{AGENTS}{below}"))
            .map_err(|fault| bad(fault.to_string()))?;
        Ok(Some(below.to_owned()))
    }
}

/// 64 hexadecimal digits, in lower case.
fn ek_hash(text: &str) -> Result<String, Status> {
    let hash = text.to_ascii_lowercase();
    if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(hash);
    }
    Err(Status::invalid_argument(
        "invalid EK hash: 64 hexadecimal digits, as `hardroot-agent tpm show` prints them",
    ))
}

fn message(stored: &StoredEnrolment) -> wire::Enrolment {
    wire::Enrolment {
        ek_hash: stored.enrolment.ek_hash.clone(),
        note: stored.enrolment.note.clone(),
        agent_path: stored.enrolment.agent_path.clone().unwrap_or_default(),
        created_at: convert::unix(stored.created_at),
    }
}

fn note<T>(request: &Request<T>, hash: &str) {
    if let Some(record) = request.extensions().get::<Record>() {
        record.add("ek_hash", hash);
    }
}

#[tonic::async_trait]
impl wire::tpm_server::Tpm for TpmService {
    async fn enrol(&self, request: Request<wire::EnrolRequest>) -> Result<Response<wire::Enrolment>, Status> {
        let hash = ek_hash(&request.get_ref().ek_hash)?;
        note(&request, &hash);
        let wanted = request.into_inner();
        if wanted.note.len() > MAX_NOTE {
            return Err(Status::invalid_argument(format!("the note is over {MAX_NOTE} bytes")));
        }
        let agent_path = self.agent_path(&wanted.agent_path)?;
        let enrolment = Enrolment { ek_hash: hash, agent_path, note: wanted.note };
        let stored = self
            .store
            .enrol(&enrolment, self.clock.now())
            .await
            .map_err(|error| faults::store("failed to enrol TPM", &error))?;
        Ok(Response::new(message(&stored)))
    }

    async fn list_enrolments(
        &self,
        _request: Request<wire::ListEnrolmentsRequest>,
    ) -> Result<Response<wire::ListEnrolmentsResponse>, Status> {
        let stored = self
            .store
            .list_enrolments()
            .await
            .map_err(|error| faults::store("failed to list TPM enrolments", &error))?;
        Ok(Response::new(wire::ListEnrolmentsResponse { enrolments: stored.iter().map(message).collect() }))
    }

    async fn get_enrolment(
        &self,
        request: Request<wire::GetEnrolmentRequest>,
    ) -> Result<Response<wire::Enrolment>, Status> {
        let hash = ek_hash(&request.get_ref().ek_hash)?;
        let stored = self
            .store
            .enrolment(&hash)
            .await
            .map_err(|error| faults::store("failed to fetch TPM enrolment", &error))?
            .ok_or_else(|| Status::not_found("TPM enrolment not found"))?;
        Ok(Response::new(message(&stored)))
    }

    async fn remove_enrolment(
        &self,
        request: Request<wire::RemoveEnrolmentRequest>,
    ) -> Result<Response<wire::RemoveEnrolmentResponse>, Status> {
        let hash = ek_hash(&request.get_ref().ek_hash)?;
        note(&request, &hash);
        self.store.remove_enrolment(&hash).await.map_err(|error| {
            faults::store_or_missing("failed to remove TPM enrolment", "TPM enrolment not found", &error)
        })?;
        Ok(Response::new(wire::RemoveEnrolmentResponse {}))
    }
}
