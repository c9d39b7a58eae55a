//! `spire.api.server.bundle.v1.Bundle`.

pub(super) mod content;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hardroot_api::spire::api::server::bundle::v1 as wire;
use hardroot_api::spire::api::types;
use hardroot_api::spire::common;
use hardroot_identity::TrustDomain;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{Batch, convert, faults, note, record};
use crate::audit::{Audit, Details, Record, sha256_hex};
use crate::authority::published::{self, BundleError};
use crate::datastore::{Datastore, DeleteMode, StoreError};
use crate::endpoints::BundleCache;
use crate::entries::AuthorizedEntries;
use content::BadContent;

/// How often a write that another writer overtook is tried again.
const ATTEMPTS: usize = 16;

/// A stored bundle as a message.
pub(crate) fn bundle_message(bundle: &common::Bundle) -> Result<types::Bundle, Status> {
    content::message(bundle, None)
}

/// The Bundle service.
pub struct BundleService {
    trust_domain: TrustDomain,
    store: Arc<dyn Datastore>,
    bundles: Arc<BundleCache>,
    entries: Arc<AuthorizedEntries>,
    audit: Audit,
}

impl BundleService {
    /// The service of the server of `trust_domain`. What agents ask for again and again comes out of `bundles`, which
    /// are followed by the log that `entries` follows.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        store: Arc<dyn Datastore>,
        bundles: Arc<BundleCache>,
        entries: Arc<AuthorizedEntries>,
        audit: Audit,
    ) -> Self {
        Self { trust_domain, store, bundles, entries, audit }
    }

    /// A bundle from memory, once memory is known to have what this process wrote.
    async fn held(&self, trust_domain: &TrustDomain) -> Result<Arc<common::Bundle>, Status> {
        // A bundle is public and changes seldom: while the database is away, the last one goes on.
        if self.entries.current().await.is_ok() {
            let followed = self.bundles.follow(&self.entries).await;
            if let Err(error) = followed {
                tracing::debug!(error = &error as &dyn std::error::Error, "bundles in memory are used");
            }
        }
        self.bundles.stored(trust_domain).ok_or_else(|| Status::not_found("bundle not found"))
    }

    /// The stored bundle of a trust domain and its row's revision.
    async fn read(&self, trust_domain: &TrustDomain) -> Result<Option<(common::Bundle, i64)>, Status> {
        let (bundle, revision) = published::read(self.store.as_ref(), trust_domain)
            .await
            .map_err(|error| failed("failed to fetch bundle", &error))?;
        Ok(revision.map(|revision| (bundle, revision)))
    }

    /// A foreign trust domain as a request names it.
    fn foreign(&self, name: &str, own: &'static str) -> Result<TrustDomain, Status> {
        let trust_domain = convert::trust_domain(name)
            .map_err(|fault| faults::invalid("trust domain argument is not valid", fault))?;
        if trust_domain == self.trust_domain {
            return Err(Status::invalid_argument(own));
        }
        Ok(trust_domain)
    }

    async fn create(&self, message: &types::Bundle) -> Result<common::Bundle, Status> {
        let trust_domain = self.foreign(
            &message.trust_domain,
            "creating a federated bundle for the server's own trust domain is not allowed",
        )?;
        let bundle = content::stored(&trust_domain, message).map_err(unconverted)?;
        match self.store.put_bundle(&trust_domain, &bundle.encode_to_vec(), None).await {
            Ok(_) => Ok(bundle),
            Err(StoreError::Exists { .. }) => Err(Status::already_exists("bundle already exists")),
            Err(error) => Err(faults::store("unable to create bundle", &error)),
        }
    }

    async fn set(&self, message: &types::Bundle) -> Result<common::Bundle, Status> {
        let trust_domain = self.foreign(
            &message.trust_domain,
            "setting a federated bundle for the server's own trust domain is not allowed",
        )?;
        let bundle = content::stored(&trust_domain, message).map_err(unconverted)?;
        let data = bundle.encode_to_vec();
        for _ in 0..ATTEMPTS {
            let row = self.store.bundle(&trust_domain).await;
            let revision =
                row.map_err(|error| faults::store("failed to set bundle", &error))?.map(|row| row.1);
            match self.store.put_bundle(&trust_domain, &data, revision).await {
                Ok(_) => return Ok(bundle),
                Err(StoreError::Conflict { .. } | StoreError::Exists { .. }) => {}
                Err(error) => return Err(faults::store("failed to set bundle", &error)),
            }
        }
        Err(busy())
    }

    async fn update(
        &self,
        message: &types::Bundle,
        mask: Option<&types::BundleMask>,
    ) -> Result<common::Bundle, Status> {
        let trust_domain = self.foreign(
            &message.trust_domain,
            "updating a federated bundle for the server's own trust domain is not allowed",
        )?;
        let new = content::stored(&trust_domain, message).map_err(unconverted)?;
        for _ in 0..ATTEMPTS {
            let Some((mut bundle, revision)) = self.read(&trust_domain).await? else {
                return Err(Status::not_found("bundle not found"));
            };
            content::replace(&mut bundle, &new, mask);
            match self.store.put_bundle(&trust_domain, &bundle.encode_to_vec(), Some(revision)).await {
                Ok(_) => return Ok(bundle),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(faults::store("failed to update bundle", &error)),
            }
        }
        Err(busy())
    }

    /// Adds authorities to our own bundle.
    async fn append(
        &self,
        roots: &[common::Certificate],
        keys: &[common::PublicKey],
        what: &'static str,
    ) -> Result<common::Bundle, Status> {
        let mut taken = None;
        let changed = published::update(self.store.as_ref(), &self.trust_domain, |bundle| {
            // Nothing of a refused list is written: the bundle is put back as it was.
            let before = bundle.clone();
            match content::append(bundle, roots, keys) {
                Ok(changed) => changed,
                Err(fault) => {
                    taken = Some(fault);
                    *bundle = before;
                    false
                }
            }
        })
        .await;
        match taken {
            Some(fault) => Err(Status::already_exists(format!("{what}: {fault}"))),
            None => changed.map_err(|error| failed(what, &error)),
        }
    }

    async fn delete(&self, name: &str, mode: DeleteMode) -> Result<(), Status> {
        let trust_domain =
            self.foreign(name, "removing the bundle for the server trust domain is not allowed")?;
        self.store.delete_bundle(&trust_domain, mode).await.map_err(|error| {
            faults::store_or_missing("failed to delete federated bundle", "bundle not found", &error)
        })
    }

    /// Writes a batch item's audit line and turns its outcome into what the result messages hold.
    fn finish(
        &self,
        record: Option<&Record>,
        (message, input): (&types::Bundle, Option<&types::BundleMask>),
        outcome: Result<common::Bundle, Status>,
        output: Option<&types::BundleMask>,
    ) -> (Option<types::Status>, Option<types::Bundle>) {
        if let Some(record) = record {
            let mut details = Details::default();
            content::describe(&mut details, "", message, input);
            self.audit.item(record, details, outcome.as_ref().err());
        }
        faults::outcome(outcome.and_then(|bundle| content::message(&bundle, output)))
    }
}

fn unconverted(fault: BadContent) -> Status {
    faults::invalid("failed to convert bundle", fault)
}

fn busy() -> Status {
    Status::aborted("the bundle is changed by others all the time; try again")
}

/// As SPIRE's log names them.
fn mode_text(mode: DeleteMode) -> &'static str {
    match mode {
        DeleteMode::Restrict => "RESTRICT",
        DeleteMode::Delete => "DELETE",
        DeleteMode::Dissociate => "DISSOCIATE",
    }
}

fn failed(what: &str, error: &BundleError) -> Status {
    tracing::error!(error = error as &dyn std::error::Error, "{what}");
    Status::internal(format!("{what}: {error}"))
}

#[tonic::async_trait]
impl wire::bundle_server::Bundle for BundleService {
    async fn count_bundles(
        &self,
        _request: Request<wire::CountBundlesRequest>,
    ) -> Result<Response<wire::CountBundlesResponse>, Status> {
        let bundles = self
            .store
            .list_bundles()
            .await
            .map_err(|error| faults::store("failed to count bundles", &error))?;
        let count = u64::try_from(bundles.len()).unwrap_or(u64::MAX);
        Ok(Response::new(wire::CountBundlesResponse { count: convert::count(count) }))
    }

    async fn get_bundle(
        &self,
        request: Request<wire::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let bundle = self.held(&self.trust_domain).await?;
        Ok(Response::new(content::message(&bundle, request.get_ref().output_mask.as_ref())?))
    }

    async fn append_bundle(
        &self,
        request: Request<wire::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        if let Some(record) = request.extensions().get::<Record>() {
            let mut details = Details::default();
            content::describe_jwt(&mut details, "", &request.get_ref().jwt_authorities);
            content::describe_x509(&mut details, "", &request.get_ref().x509_authorities);
            record.extend(details);
        }
        let request = request.into_inner();
        if request.jwt_authorities.is_empty() && request.x509_authorities.is_empty() {
            return Err(Status::invalid_argument("no authorities to append"));
        }
        let keys = content::jwt_authorities(&request.jwt_authorities)
            .map_err(|fault| faults::invalid("failed to convert JWT authority", fault))?;
        let roots = content::x509_authorities(&self.trust_domain, &request.x509_authorities)
            .map_err(|fault| faults::invalid("failed to convert X.509 authority", fault))?;
        let bundle = self.append(&roots, &keys, "failed to append bundle").await?;
        Ok(Response::new(content::message(&bundle, request.output_mask.as_ref())?))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<wire::PublishJwtAuthorityRequest>,
    ) -> Result<Response<wire::PublishJwtAuthorityResponse>, Status> {
        if let (Some(record), Some(key)) =
            (request.extensions().get::<Record>(), &request.get_ref().jwt_authority)
        {
            record.add("jwt_authority_expires_at", key.expires_at);
            record.add("jwt_authority_key_id", key.key_id.as_str());
            record.add("jwt_authority_public_key_sha256", sha256_hex(&key.public_key));
        }
        let key = request
            .into_inner()
            .jwt_authority
            .ok_or_else(|| Status::invalid_argument("missing JWT authority"))?;
        let key = [key];
        let keys = content::jwt_authorities(&key)
            .map_err(|fault| faults::invalid("invalid JWT authority", fault))?;
        let bundle = self.append(&[], &keys, "failed to publish JWT key").await?;
        let jwt_authorities = content::jwt_messages(&bundle.jwt_signing_keys);
        Ok(Response::new(wire::PublishJwtAuthorityResponse { jwt_authorities }))
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<wire::PublishWitAuthorityRequest>,
    ) -> Result<Response<wire::PublishWitAuthorityResponse>, Status> {
        Err(Status::unimplemented("WIT-SVID functionality is not yet implemented"))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<wire::ListFederatedBundlesRequest>,
    ) -> Result<Response<wire::ListFederatedBundlesResponse>, Status> {
        let request = request.into_inner();
        let stored = self
            .store
            .list_bundles()
            .await
            .map_err(|error| faults::store("failed to list bundles", &error))?;
        let page = convert::page(request.page_size, &request.page_token);
        let size = if page.size == 0 { usize::MAX } else { usize::try_from(page.size).unwrap_or(usize::MAX) };
        // Rows come in order of their names, which are the tokens.
        let mut rest = stored.iter().filter(|(trust_domain, _)| {
            *trust_domain != self.trust_domain && trust_domain.as_str() > page.token.as_str()
        });
        let mut bundles = Vec::new();
        let mut last = "";
        for (trust_domain, data) in rest.by_ref().take(size) {
            let bundle = published::decode(trust_domain, data)
                .map_err(|error| failed("failed to convert bundle", &error))?;
            bundles.push(content::message(&bundle, request.output_mask.as_ref())?);
            last = trust_domain.as_str();
        }
        let next_page_token = if rest.next().is_some() { last.to_owned() } else { String::new() };
        Ok(Response::new(wire::ListFederatedBundlesResponse { bundles, next_page_token }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<wire::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        note(&request, "trust_domain_id", &request.get_ref().trust_domain);
        let request = request.into_inner();
        let trust_domain = self.foreign(
            &request.trust_domain,
            "getting a federated bundle for the server's own trust domain is not allowed",
        )?;
        let bundle = self.held(&trust_domain).await?;
        Ok(Response::new(content::message(&bundle, request.output_mask.as_ref())?))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<wire::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchCreateFederatedBundleResponse>, Status> {
        let record = record(&request);
        let request = request.into_inner();
        let mut batch = Batch::of(record.as_ref(), request.bundle.len())?;
        let mut results = Vec::new();
        for message in &request.bundle {
            let outcome = self.create(message).await;
            let (status, bundle) =
                self.finish(record.as_ref(), (message, None), outcome, request.output_mask.as_ref());
            results.push(wire::batch_create_federated_bundle_response::Result { status, bundle });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchCreateFederatedBundleResponse { results }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<wire::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchUpdateFederatedBundleResponse>, Status> {
        let record = record(&request);
        let request = request.into_inner();
        let mut batch = Batch::of(record.as_ref(), request.bundle.len())?;
        let mut results = Vec::new();
        for message in &request.bundle {
            let input = request.input_mask.as_ref();
            let outcome = self.update(message, input).await;
            let (status, bundle) =
                self.finish(record.as_ref(), (message, input), outcome, request.output_mask.as_ref());
            results.push(wire::batch_update_federated_bundle_response::Result { status, bundle });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchUpdateFederatedBundleResponse { results }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<wire::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchSetFederatedBundleResponse>, Status> {
        let record = record(&request);
        let request = request.into_inner();
        let mut batch = Batch::of(record.as_ref(), request.bundle.len())?;
        let mut results = Vec::new();
        for message in &request.bundle {
            let outcome = self.set(message).await;
            let (status, bundle) =
                self.finish(record.as_ref(), (message, None), outcome, request.output_mask.as_ref());
            results.push(wire::batch_set_federated_bundle_response::Result { status, bundle });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<wire::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchDeleteFederatedBundleResponse>, Status> {
        use wire::batch_delete_federated_bundle_request::Mode;
        let record = record(&request);
        let request = request.into_inner();
        let mode = match Mode::try_from(request.mode) {
            Ok(Mode::Restrict) => DeleteMode::Restrict,
            Ok(Mode::Delete) => DeleteMode::Delete,
            Ok(Mode::Dissociate) => DeleteMode::Dissociate,
            Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "failed to parse deletion mode: unhandled delete mode \"{}\"",
                    request.mode
                )));
            }
        };
        let mut batch = Batch::of(record.as_ref(), request.trust_domains.len())?;
        let mut results = Vec::new();
        for trust_domain in request.trust_domains {
            let outcome = self.delete(&trust_domain, mode).await;
            if let Some(record) = &record {
                let details =
                    [("trust_domain_id", trust_domain.clone()), ("mode", mode_text(mode).to_owned())];
                self.audit.item(record, &details, outcome.as_ref().err());
            }
            let status = outcome.as_ref().err().map_or_else(faults::ok, faults::item);
            let status = Some(status);
            results.push(wire::batch_delete_federated_bundle_response::Result { status, trust_domain });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchDeleteFederatedBundleResponse { results }))
    }
}
