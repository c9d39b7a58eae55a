//! Intermediate CAs for downstream servers.

use std::time::Duration;

use hardroot_api::spire::api::server::svid::v1::{NewDownstreamX509caRequest, NewDownstreamX509caResponse};
use tonic::{Request, Status};
use tracing::error;

use super::{SvidService, key_of_csr, of_certificate, record_of, take, ttl};
use crate::api::faults;
use crate::attest::chain;
use crate::authority::{IssueError, SignError, published};
use crate::authz::{Caller, Turns};

impl SvidService {
    /// `NewDownstreamX509CA`: of the CSR only the key is used; the CA is one of our own trust domain.
    pub(super) async fn new_downstream(
        &self,
        request: Request<NewDownstreamX509caRequest>,
    ) -> Result<NewDownstreamX509caResponse, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let turns = request.extensions().get::<Turns>().cloned();
        let record = record_of(&request);
        let request = request.into_inner();
        let trust_domain = &self.config.trust_domain;
        record.add_csr(&request.csr);
        record.add("trust_domain_id", trust_domain.id().to_string());
        take(turns, 1, "downstream CA signing rate limit").await?;
        let Some(Caller::Downstream { .. }) = caller else {
            return Err(Status::internal("caller is not a downstream workload"));
        };
        let csr = key_of_csr(&request.csr)?;
        let ttl = ttl(request.preferred_ttl, Duration::ZERO);
        let issued = match self.signer.sign_downstream_ca(trust_domain, &csr.spki_der, ttl).await {
            Ok(issued) => issued,
            Err(IssueError::Sign(SignError::Busy(full))) => return Err(faults::busy(&full)),
            Err(cause) if cause.is_our_fault() => {
                error!(error = %chain(&cause), "a downstream CA could not be issued");
                return Err(Status::internal("failed to sign downstream X.509 CA"));
            }
            Err(cause) => {
                let told = format!("failed to sign downstream X.509 CA: {}", chain(&cause));
                return Err(Status::invalid_argument(told));
            }
        };
        record.extend(of_certificate(&issued));
        let (bundle, revision) = published::read(&*self.store, trust_domain).await.map_err(|cause| {
            error!(error = %chain(&cause), "the bundle for a downstream server could not be read");
            Status::internal("failed to fetch bundle")
        })?;
        if revision.is_none() {
            return Err(Status::not_found("bundle not found"));
        }
        Ok(NewDownstreamX509caResponse {
            ca_cert_chain: issued.chain,
            x509_authorities: bundle.root_cas.into_iter().map(|root| root.der_bytes).collect(),
        })
    }
}
