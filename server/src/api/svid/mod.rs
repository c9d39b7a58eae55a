//! `spire.api.server.svid.v1.SVID`: SVIDs for workloads, and CAs for downstream servers.

mod downstream;
mod jwt;
mod names;
#[cfg(test)]
mod tests;
mod wit;
mod x509;

use std::sync::Arc;
use std::time::Duration;

use hardroot_api::spire::api::server::svid::v1::svid_server::Svid;
use hardroot_api::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest, BatchNewX509svidResponse,
    MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest, MintWitsvidResponse, MintX509svidRequest,
    MintX509svidResponse, NewDownstreamX509caRequest, NewDownstreamX509caResponse, NewJwtsvidRequest,
    NewJwtsvidResponse,
};
use hardroot_identity::{Csr, SpiffeId, TrustDomain};
use tonic::{Request, Response, Status};
use tracing::error;

use super::patience;
use crate::attest::chain;
use crate::audit::{Audit, Details, Record};
use crate::authority::slots::unix_seconds;
use crate::authority::{Issued, Signer};
use crate::authz::{Caller, Turns};
use crate::datastore::Datastore;
use crate::entries::AuthorizedEntries;

/// What the service issues.
#[derive(Debug, Clone)]
pub struct SvidConfig {
    /// The server's trust domain.
    pub trust_domain: TrustDomain,
    /// Lifetime of X509-SVIDs for entries and requests that name none.
    pub default_x509_svid_ttl: Duration,
    /// The same for JWT-SVIDs; `None` when those are disabled.
    pub default_jwt_svid_ttl: Option<Duration>,
}

/// The service.
pub struct SvidService {
    config: SvidConfig,
    store: Arc<dyn Datastore>,
    entries: Arc<AuthorizedEntries>,
    signer: Arc<Signer>,
    audit: Audit,
}

impl SvidService {
    /// The service.
    #[must_use]
    pub fn new(
        config: SvidConfig,
        store: Arc<dyn Datastore>,
        entries: Arc<AuthorizedEntries>,
        signer: Arc<Signer>,
        audit: Audit,
    ) -> Self {
        Self { config, store, entries, signer, audit }
    }

    /// The calling agent, once the entries in memory are known to be current.
    async fn agent(&self, caller: Option<&Caller>) -> Result<SpiffeId, Status> {
        let Some(Caller::Agent { id, .. }) = caller else {
            return Err(Status::internal("caller ID missing from request context"));
        };
        self.entries.current().await.map_err(|cause| {
            error!(error = %chain(&cause), "the caller's entries could not be read");
            Status::unavailable("failed to fetch registration entries")
        })?;
        Ok(id.clone())
    }

    /// What every batch of an agent begins with: its items, once there are turns for them, and who asks. From here on
    /// the handler writes the call's audit lines.
    async fn batch<M, P>(
        &self,
        request: Request<M>,
        params: impl FnOnce(M) -> Vec<P>,
    ) -> Result<(SpiffeId, Record, Vec<P>), Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let turns = request.extensions().get::<Turns>().cloned();
        let record = record_of(&request);
        let params = params(request.into_inner());
        if params.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        take(turns, params.len(), "certificate signing rate limiting").await?;
        let agent = self.agent(caller.as_ref()).await?;
        record.by_handler();
        Ok((agent, record, params))
    }
}

#[tonic::async_trait]
impl Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let record = record_of(&request);
        self.mint_x509(&record, request.into_inner()).await.map(Response::new)
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        self.batch_new_x509(request).await.map(Response::new)
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let (record, patience) = (record_of(&request), patience(&request));
        self.mint_jwt(&record, patience, request.into_inner()).await.map(Response::new)
    }

    async fn new_jwtsvid(
        &self,
        request: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        self.new_jwt(request).await.map(Response::new)
    }

    async fn mint_witsvid(
        &self,
        _request: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT functionality is disabled"))
    }

    async fn batch_new_witsvid(
        &self,
        request: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        self.batch_new_wit(request).await.map(Response::new)
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        self.new_downstream(request).await.map(Response::new)
    }
}

fn record_of<T>(request: &Request<T>) -> Record {
    request.extensions().get::<Record>().cloned().unwrap_or_else(|| Record::new("SVID"))
}

/// The seconds that a message or an entry asks for, or the default.
fn ttl(seconds: i32, default: Duration) -> Duration {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => default,
    }
}

/// Waits for `count` signatures of the caller's limit; `what` is limited.
async fn take(turns: Option<Turns>, count: usize, what: &str) -> Result<(), Status> {
    let Some(turns) = turns else { return Ok(()) };
    turns.take(count).await.map_err(|status| {
        Status::new(status.code(), format!("rejecting request due to {what}: {}", status.message()))
    })
}

/// A CSR whose key is taken and nothing else.
fn key_of_csr(der: &[u8]) -> Result<Csr, Status> {
    let csr = Csr::parse(der).map_err(|error| Status::invalid_argument(format!("malformed CSR: {error}")))?;
    if csr.signature_valid { Ok(csr) } else { Err(Status::invalid_argument("invalid CSR signature")) }
}

/// What an audit line says of a certificate.
fn of_certificate(issued: &Issued) -> Details {
    let mut details = Details::default();
    details.add("key_id", issued.authority_id.as_str());
    details.add("serial_number", issued.serial.as_str());
    details.add("expires_at", unix_seconds(issued.not_after));
    details
}
