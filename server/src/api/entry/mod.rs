//! `spire.api.server.entry.v1.Entry`.

mod sync;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::stream::BoxStream;
use hardroot_api::spire::api::server::entry::v1 as wire;
use hardroot_api::spire::api::types;
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_runtime::clock::Clock;
use tonic::{Request, Response, Status, Streaming};

use super::{convert, faults};
use crate::audit::{Audit, Record};
use crate::authz::Caller;
use crate::datastore::{Datastore, Entry, EntryFilter, EntryMask};
use crate::entries::AuthorizedEntries;

/// Entries in one message of a synchronisation.
pub const PAGE: usize = 500;

/// The Entry service.
pub struct EntryService {
    trust_domain: TrustDomain,
    store: Arc<dyn Datastore>,
    entries: Arc<AuthorizedEntries>,
    clock: Arc<dyn Clock>,
    audit: Audit,
    page: usize,
}

impl EntryService {
    /// The service of the server of `trust_domain`.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        store: Arc<dyn Datastore>,
        entries: Arc<AuthorizedEntries>,
        clock: Arc<dyn Clock>,
        audit: Audit,
    ) -> Self {
        Self { trust_domain, store, entries, clock, audit, page: PAGE }
    }

    async fn create(
        &self,
        message: &types::Entry,
        mask: Option<&types::EntryMask>,
    ) -> Result<(types::Entry, bool), Status> {
        let now = convert::unix(self.clock.now());
        let entry = convert::entry(&self.trust_domain, message, &EntryMask::ALL, now)
            .map_err(|fault| faults::invalid("failed to convert entry", fault))?;
        let (entry, existed) = self
            .store
            .create_entry(entry)
            .await
            .map_err(|error| faults::store("failed to create entry", &error))?;
        Ok((convert::entry_message(&entry, mask), existed))
    }

    async fn update(
        &self,
        message: &types::Entry,
        input: &EntryMask,
        output: Option<&types::EntryMask>,
    ) -> Result<types::Entry, Status> {
        let entry = convert::entry(&self.trust_domain, message, input, 0)
            .map_err(|fault| faults::invalid("failed to convert entry", fault))?;
        let entry = self
            .store
            .update_entry(entry, input)
            .await
            .map_err(|error| faults::store("failed to update entry", &error))?;
        Ok(convert::entry_message(&entry, output))
    }

    async fn delete(&self, id: &str) -> Result<(), Status> {
        if id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        self.store
            .delete_entry(id)
            .await
            .map_err(|error| faults::store_or_missing("failed to delete entry", "entry not found", &error))
    }

    /// The caller's entries, as of now.
    async fn authorized<T>(&self, request: &Request<T>) -> Result<Vec<Arc<Entry>>, Status> {
        let agent = caller_agent(request)?;
        self.entries.current().await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "entries are too old to be used");
            Status::unavailable("failed to fetch entries: the datastore does not answer; try again later")
        })?;
        Ok(self.entries.of(&agent))
    }

    fn item(&self, record: Option<&Record>, details: Vec<(&'static str, String)>, failure: Option<&Status>) {
        if let Some(record) = record {
            self.audit.item(record, &details, failure);
        }
    }
}

/// The agent that calls.
pub(super) fn caller_agent<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Agent { id, .. }) => Ok(id.clone()),
        _ => Err(Status::internal("caller ID missing from request context")),
    }
}

/// The call's audit record, once the handler answers for its lines.
fn batch_record<T>(request: &Request<T>) -> Option<Record> {
    let record = request.extensions().get::<Record>().cloned();
    if let Some(record) = &record {
        record.by_handler();
    }
    record
}

fn details(message: &types::Entry) -> Vec<(&'static str, String)> {
    let id = |id: &Option<types::Spiffeid>| {
        id.as_ref().map(|id| format!("spiffe://{}{}", id.trust_domain, id.path)).unwrap_or_default()
    };
    let selectors: Vec<_> = message.selectors.iter().map(|s| format!("{}:{}", s.r#type, s.value)).collect();
    vec![
        ("entry_id", message.id.clone()),
        ("spiffe_id", id(&message.spiffe_id)),
        ("parent_id", id(&message.parent_id)),
        ("selectors", selectors.join(",")),
        ("admin", message.admin.to_string()),
        ("downstream", message.downstream.to_string()),
    ]
}

/// The fields that the filters of lists and counts share.
struct Wanted<'a> {
    spiffe_id: Option<&'a types::Spiffeid>,
    parent_id: Option<&'a types::Spiffeid>,
    selectors: Option<&'a types::SelectorMatch>,
    federates_with: Option<&'a types::FederatesWithMatch>,
    hint: Option<&'a String>,
    downstream: Option<bool>,
}

fn filter(own: &TrustDomain, wanted: &Wanted<'_>) -> Result<EntryFilter, Status> {
    let bad = |what: &'static str| move |fault| faults::invalid(what, fault);
    Ok(EntryFilter {
        spiffe_id: wanted
            .spiffe_id
            .map(|id| convert::workload(own, Some(id)))
            .transpose()
            .map_err(bad("malformed SPIFFE ID filter"))?,
        parent_id: wanted
            .parent_id
            .map(|id| convert::member(own, Some(id)))
            .transpose()
            .map_err(bad("malformed parent ID filter"))?,
        selectors: wanted
            .selectors
            .map(convert::selector_filter)
            .transpose()
            .map_err(bad("malformed selectors filter"))?,
        federates_with: wanted
            .federates_with
            .map(convert::federation_filter)
            .transpose()
            .map_err(bad("malformed federates with filter"))?,
        // An empty hint does not filter, as in SPIRE.
        hint: wanted.hint.filter(|hint| !hint.is_empty()).cloned(),
        downstream: wanted.downstream,
    })
}

#[tonic::async_trait]
impl wire::entry_server::Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<wire::CountEntriesRequest>,
    ) -> Result<Response<wire::CountEntriesResponse>, Status> {
        let wanted = request.into_inner().filter.unwrap_or_default();
        let filter = filter(
            &self.trust_domain,
            &Wanted {
                spiffe_id: wanted.by_spiffe_id.as_ref(),
                parent_id: wanted.by_parent_id.as_ref(),
                selectors: wanted.by_selectors.as_ref(),
                federates_with: wanted.by_federates_with.as_ref(),
                hint: wanted.by_hint.as_ref(),
                downstream: wanted.by_downstream,
            },
        )?;
        let count = self
            .store
            .count_entries(&filter)
            .await
            .map_err(|error| faults::store("failed to count entries", &error))?;
        Ok(Response::new(wire::CountEntriesResponse { count: convert::count(count) }))
    }

    async fn list_entries(
        &self,
        request: Request<wire::ListEntriesRequest>,
    ) -> Result<Response<wire::ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let wanted = request.filter.unwrap_or_default();
        let filter = filter(
            &self.trust_domain,
            &Wanted {
                spiffe_id: wanted.by_spiffe_id.as_ref(),
                parent_id: wanted.by_parent_id.as_ref(),
                selectors: wanted.by_selectors.as_ref(),
                federates_with: wanted.by_federates_with.as_ref(),
                hint: wanted.by_hint.as_ref(),
                downstream: wanted.by_downstream,
            },
        )?;
        let page = convert::page(request.page_size, &request.page_token);
        let (entries, next_page_token) = self
            .store
            .list_entries(&filter, &page)
            .await
            .map_err(|error| faults::store("failed to list entries", &error))?;
        let mask = request.output_mask.as_ref();
        let entries = entries.iter().map(|entry| convert::entry_message(entry, mask)).collect();
        Ok(Response::new(wire::ListEntriesResponse { entries, next_page_token }))
    }

    async fn get_entry(
        &self,
        request: Request<wire::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        let entry = self
            .store
            .entry(&request.id)
            .await
            .map_err(|error| faults::store("failed to fetch entry", &error))?
            .ok_or_else(|| Status::not_found("entry not found"))?;
        Ok(Response::new(convert::entry_message(&entry, request.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<wire::BatchCreateEntryRequest>,
    ) -> Result<Response<wire::BatchCreateEntryResponse>, Status> {
        let record = batch_record(&request);
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.entries.len());
        for message in &request.entries {
            let outcome = match self.create(message, request.output_mask.as_ref()).await {
                Ok((entry, false)) => (None, Some(entry)),
                Ok((entry, true)) => {
                    (Some(Status::already_exists("similar entry already exists")), Some(entry))
                }
                Err(status) => (Some(status), None),
            };
            let (failure, entry) = outcome;
            self.item(record.as_ref(), details(entry.as_ref().unwrap_or(message)), failure.as_ref());
            let status = failure.as_ref().map_or_else(faults::ok, faults::item);
            results.push(wire::batch_create_entry_response::Result { status: Some(status), entry });
        }
        Ok(Response::new(wire::BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<wire::BatchUpdateEntryRequest>,
    ) -> Result<Response<wire::BatchUpdateEntryResponse>, Status> {
        let record = batch_record(&request);
        let request = request.into_inner();
        let input = convert::entry_mask(request.input_mask.as_ref());
        let mut results = Vec::with_capacity(request.entries.len());
        for message in &request.entries {
            let outcome = self.update(message, &input, request.output_mask.as_ref()).await;
            self.item(record.as_ref(), details(message), outcome.as_ref().err());
            let (status, entry) = match outcome {
                Ok(entry) => (faults::ok(), Some(entry)),
                Err(failure) => (faults::item(&failure), None),
            };
            results.push(wire::batch_update_entry_response::Result { status: Some(status), entry });
        }
        Ok(Response::new(wire::BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<wire::BatchDeleteEntryRequest>,
    ) -> Result<Response<wire::BatchDeleteEntryResponse>, Status> {
        let record = batch_record(&request);
        let mut results = Vec::new();
        for id in request.into_inner().ids {
            let outcome = self.delete(&id).await;
            self.item(record.as_ref(), vec![("entry_id", id.clone())], outcome.as_ref().err());
            let status = outcome.as_ref().err().map_or_else(faults::ok, faults::item);
            results.push(wire::batch_delete_entry_response::Result { status: Some(status), id });
        }
        Ok(Response::new(wire::BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<wire::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<wire::GetAuthorizedEntriesResponse>, Status> {
        let entries = self.authorized(&request).await?;
        let mask = request.into_inner().output_mask;
        let entries = entries.iter().map(|entry| convert::entry_message(entry, mask.as_ref())).collect();
        Ok(Response::new(wire::GetAuthorizedEntriesResponse { entries }))
    }

    type SyncAuthorizedEntriesStream =
        BoxStream<'static, Result<wire::SyncAuthorizedEntriesResponse, Status>>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<wire::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let entries = self.authorized(&request).await?;
        Ok(Response::new(sync::answer(entries, self.page, request.into_inner())))
    }
}
