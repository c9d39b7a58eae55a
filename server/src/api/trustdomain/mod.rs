//! `spire.api.server.trustdomain.v1.TrustDomain`: where the bundles of foreign trust domains come from.

mod relationship;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hardroot_api::spire::api::server::trustdomain::v1 as wire;
use hardroot_api::spire::api::types;
use hardroot_api::spire::api::types::federation_relationship::BundleEndpointProfile as WireProfile;
use hardroot_identity::TrustDomain;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::bundle::content;
use super::{Batch, convert, faults, note, record};
use crate::audit::{Audit, Details, Record};
use crate::datastore::{
    BundleEndpointProfile, Datastore, FederationRelationship, RelationshipMask, StoreError,
};

/// The TrustDomain service.
pub struct TrustDomainService {
    trust_domain: TrustDomain,
    store: Arc<dyn Datastore>,
    audit: Audit,
}

impl TrustDomainService {
    /// The service of the server of `trust_domain`.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, store: Arc<dyn Datastore>, audit: Audit) -> Self {
        Self { trust_domain, store, audit }
    }

    async fn create(
        &self,
        message: &types::FederationRelationship,
        output: &types::FederationRelationshipMask,
    ) -> Result<types::FederationRelationship, Status> {
        let (relationship, bundle) = relationship::read(message, &relationship::mask(None))
            .map_err(|fault| faults::invalid("failed to convert federation relationship", fault))?;
        if relationship.trust_domain == self.trust_domain {
            return Err(Status::invalid_argument(
                "unable to create federation relationship for server trust domain",
            ));
        }
        let bundle = bundle.map(|bundle| bundle.encode_to_vec());
        self.store
            .create_relationship(&relationship, bundle.as_deref())
            .await
            .map_err(|error| failed("failed to create federation relationship", &error))?;
        if bundle.is_none() {
            self.warn_without_bundle(&relationship).await;
        }
        relationship::message(&relationship, bundle.as_deref(), output)
    }

    async fn update(
        &self,
        message: &types::FederationRelationship,
        input: &types::FederationRelationshipMask,
        output: &types::FederationRelationshipMask,
    ) -> Result<types::FederationRelationship, Status> {
        let (relationship, bundle) = relationship::read(message, input)
            .map_err(|fault| faults::invalid("failed to convert federation relationship", fault))?;
        let mask = RelationshipMask {
            bundle_endpoint_url: input.bundle_endpoint_url,
            bundle_endpoint_profile: input.bundle_endpoint_profile,
        };
        let bundle = bundle.map(|bundle| bundle.encode_to_vec());
        let (stored, bundle) = self
            .store
            .update_relationship(&relationship, mask, bundle.as_deref())
            .await
            .map_err(|error| failed("failed to update federation relationship", &error))?;
        if bundle.is_none() {
            self.warn_without_bundle(&stored).await;
        }
        relationship::message(&stored, bundle.as_deref(), output)
    }

    async fn delete(&self, name: &str) -> (String, Result<(), Status>) {
        if name.is_empty() {
            return (String::new(), Err(Status::invalid_argument("missing trust domain")));
        }
        let trust_domain = match convert::trust_domain(name) {
            Ok(trust_domain) => trust_domain,
            Err(fault) => {
                return (name.to_owned(), Err(faults::invalid("failed to parse trust domain", fault)));
            }
        };
        let deleted = self.store.delete_relationship(&trust_domain).await.map_err(|error| {
            faults::store_or_missing(
                "failed to delete federation relationship",
                "federation relationship not found",
                &error,
            )
        });
        (trust_domain.to_string(), deleted)
    }

    /// An endpoint with an SVID cannot be verified without the bundle of its trust domain: the operator hears
    /// of it when the relationship is stored.
    async fn warn_without_bundle(&self, relationship: &FederationRelationship) {
        let BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id } = &relationship.profile else { return };
        match self.store.bundle(&endpoint_spiffe_id.trust_domain()).await {
            Ok(Some(_)) => {}
            Ok(None) => tracing::warn!(
                trust_domain_id = %relationship.trust_domain, %endpoint_spiffe_id,
                "bundle not found for the endpoint SPIFFE ID trust domain; set it with `bundle set`"
            ),
            Err(error) => tracing::warn!(
                trust_domain_id = %relationship.trust_domain, %endpoint_spiffe_id,
                error = &error as &dyn std::error::Error,
                "failed to check whether a bundle exists for the endpoint SPIFFE ID trust domain"
            ),
        }
    }

    fn item(&self, record: Option<&Record>, details: Details, failure: Option<&Status>) {
        if let Some(record) = record {
            self.audit.item(record, details, failure);
        }
    }
}

/// A write that the datastore refused or failed. SPIRE knows `Internal` alone here.
fn failed(what: &str, error: &StoreError) -> Status {
    match error {
        StoreError::NotFound { .. } => {
            Status::internal(format!("{what}: unable to fetch federation relationship: record not found"))
        }
        StoreError::Exists { .. } => Status::internal(format!("{what}: {error}")),
        other => {
            let status = faults::store(what, other);
            Status::new(Code::Internal, status.message())
        }
    }
}

/// What an audit line says of a relationship: the fields of `mask`.
fn details(message: &types::FederationRelationship, mask: &types::FederationRelationshipMask) -> Details {
    let mut details = Details::default();
    details.add("trust_domain_id", message.trust_domain.as_str());
    if mask.bundle_endpoint_url {
        details.add("bundle_endpoint_url", message.bundle_endpoint_url.as_str());
    }
    if mask.bundle_endpoint_profile {
        match &message.bundle_endpoint_profile {
            Some(WireProfile::HttpsWeb(_)) => details.add("bundle_endpoint_profile", "https_web"),
            Some(WireProfile::HttpsSpiffe(profile)) => {
                details.add("bundle_endpoint_profile", "https_spiffe");
                details.add("endpoint_spiffe_id", profile.endpoint_spiffe_id.as_str());
            }
            None => {}
        }
    }
    if let Some(bundle) = message.trust_domain_bundle.as_ref().filter(|_| mask.trust_domain_bundle) {
        content::describe(&mut details, "bundle_", bundle, None);
    }
    details
}

#[tonic::async_trait]
impl wire::trust_domain_server::TrustDomain for TrustDomainService {
    async fn list_federation_relationships(
        &self,
        request: Request<wire::ListFederationRelationshipsRequest>,
    ) -> Result<Response<wire::ListFederationRelationshipsResponse>, Status> {
        let request = request.into_inner();
        let page = convert::page(request.page_size, &request.page_token);
        let (found, next_page_token) = self
            .store
            .list_relationships(&page)
            .await
            .map_err(|error| failed("failed to list federation relationships", &error))?;
        let mask = relationship::mask(request.output_mask.as_ref());
        let federation_relationships = found
            .iter()
            .map(|(found, bundle)| relationship::message(found, bundle.as_deref(), &mask))
            .collect::<Result<_, _>>()?;
        Ok(Response::new(wire::ListFederationRelationshipsResponse {
            federation_relationships,
            next_page_token,
        }))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<wire::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        note(&request, "trust_domain_id", &request.get_ref().trust_domain);
        let request = request.into_inner();
        let trust_domain = convert::trust_domain(&request.trust_domain)
            .map_err(|fault| faults::invalid("failed to parse trust domain", fault))?;
        let (found, bundle) = self
            .store
            .relationship(&trust_domain)
            .await
            .map_err(|error| failed("failed to fetch federation relationship", &error))?
            .ok_or_else(|| Status::not_found("federation relationship does not exist"))?;
        let mask = relationship::mask(request.output_mask.as_ref());
        Ok(Response::new(relationship::message(&found, bundle.as_deref(), &mask)?))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<wire::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchCreateFederationRelationshipResponse>, Status> {
        let record = record(&request);
        let request = request.into_inner();
        let output = relationship::mask(request.output_mask.as_ref());
        let mut batch = Batch::of(record.as_ref(), request.federation_relationships.len())?;
        let mut results = Vec::new();
        for message in &request.federation_relationships {
            let outcome = self.create(message, &output).await;
            let all = relationship::mask(None);
            self.item(record.as_ref(), details(message, &all), outcome.as_ref().err());
            let (status, federation_relationship) = faults::outcome(outcome);
            results.push(wire::batch_create_federation_relationship_response::Result {
                status,
                federation_relationship,
            });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<wire::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchUpdateFederationRelationshipResponse>, Status> {
        let record = record(&request);
        let request = request.into_inner();
        let input = relationship::mask(request.input_mask.as_ref());
        let output = relationship::mask(request.output_mask.as_ref());
        let mut batch = Batch::of(record.as_ref(), request.federation_relationships.len())?;
        let mut results = Vec::new();
        for message in &request.federation_relationships {
            let outcome = self.update(message, &input, &output).await;
            self.item(record.as_ref(), details(message, &input), outcome.as_ref().err());
            let (status, federation_relationship) = faults::outcome(outcome);
            results.push(wire::batch_update_federation_relationship_response::Result {
                status,
                federation_relationship,
            });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<wire::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<wire::BatchDeleteFederationRelationshipResponse>, Status> {
        let record = record(&request);
        let trust_domains = request.into_inner().trust_domains;
        let mut batch = Batch::of(record.as_ref(), trust_domains.len())?;
        let mut results = Vec::new();
        for name in trust_domains {
            let (trust_domain, outcome) = self.delete(&name).await;
            let mut details = Details::default();
            details.add("trust_domain_id", name);
            self.item(record.as_ref(), details, outcome.as_ref().err());
            let status = Some(outcome.as_ref().err().map_or_else(faults::ok, faults::item));
            results
                .push(wire::batch_delete_federation_relationship_response::Result { status, trust_domain });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchDeleteFederationRelationshipResponse { results }))
    }

    async fn refresh_bundle(
        &self,
        request: Request<wire::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        let name = &request.get_ref().trust_domain;
        let trust_domain = convert::trust_domain(name)
            .map_err(|fault| faults::invalid("failed to parse trust domain", fault))?;
        note(&request, "trust_domain_id", name);
        self.store
            .relationship(&trust_domain)
            .await
            .map_err(|error| failed("failed to refresh bundle", &error))?
            .ok_or_else(|| {
                Status::not_found(format!("no relationship with trust domain \"{trust_domain}\""))
            })?;
        Err(Status::failed_precondition(format!(
            "failed to refresh bundle: this version does not fetch bundles from bundle endpoints; get the bundle of {trust_domain} by \
             another way and store it with `bundle set -id {trust_domain}`"
        )))
    }
}
