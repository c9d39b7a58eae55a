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
use serde_json::Value;
use tonic::{Request, Response, Status, Streaming};

use super::{Batch, convert, faults, note, record};
use crate::audit::{Audit, Details, Record};
use crate::authz::Caller;
use crate::datastore::{Datastore, Entry, EntryFilter, EntryMask, StoreError};
use crate::entries::{AuthorizedEntries, Sorted};

/// Entries in one message of a synchronisation.
pub const PAGE: usize = 500;

/// Entries that are made, and whose audit lines are written, without looking whether the caller still listens.
const LOT: usize = 500;

/// The Entry service.
#[derive(Clone)]
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

    /// Makes a lot of entries and writes an audit line for each.
    async fn create(
        &self,
        messages: Vec<types::Entry>,
        mask: Option<&types::EntryMask>,
        record: Option<&Record>,
    ) -> Vec<wire::batch_create_entry_response::Result> {
        let now = convert::unix(self.clock.now());
        let read = |message| {
            convert::entry(&self.trust_domain, message, &EntryMask::ALL, now)
                .map_err(|fault| faults::invalid("failed to convert entry", fault))
        };
        let (mut wanted, mut refused) = (Vec::new(), Vec::new());
        for message in &messages {
            match read(message) {
                Ok(entry) => {
                    wanted.push(entry);
                    refused.push(None);
                }
                Err(status) => refused.push(Some(status)),
            }
        }
        let mut made = self.store.create_entries(wanted).await.into_iter();
        let mut results = Vec::with_capacity(messages.len());
        for (message, refused) in messages.iter().zip(refused) {
            let (failure, entry) = match refused {
                Some(status) => (Some(status), None),
                None => created(made.next(), mask),
            };
            let mut details = details(message, None);
            if let Some(entry) = &entry {
                details.add("entry_id", entry.id.as_str());
            }
            self.item(record, details, failure.as_ref());
            let status = failure.as_ref().map_or_else(faults::ok, faults::item);
            results.push(wire::batch_create_entry_response::Result { status: Some(status), entry });
        }
        results
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
    async fn authorized<T>(&self, request: &Request<T>) -> Result<Sorted, Status> {
        let agent = caller_agent(request)?;
        self.entries.current().await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "entries are too old to be used");
            Status::unavailable("failed to fetch entries: the datastore does not answer; try again later")
        })?;
        Ok(self.entries.of(&agent))
    }

    fn item(&self, record: Option<&Record>, details: Details, failure: Option<&Status>) {
        if let Some(record) = record {
            self.audit.item(record, details, failure);
        }
    }
}

/// What became of an entry that was to be made.
fn created(
    outcome: Option<Result<(Entry, bool), StoreError>>,
    mask: Option<&types::EntryMask>,
) -> (Option<Status>, Option<types::Entry>) {
    match outcome {
        Some(Ok((entry, existed))) => {
            let similar = existed.then(|| Status::already_exists("similar entry already exists"));
            (similar, Some(convert::entry_message(&entry, mask)))
        }
        Some(Err(error)) => (Some(faults::store("failed to create entry", &error)), None),
        None => (Some(Status::internal("failed to create entry: the datastore did not tell")), None),
    }
}

/// The agent that calls.
pub(super) fn caller_agent<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Agent { id, .. }) => Ok(id.clone()),
        _ => Err(Status::internal("caller ID missing from request context")),
    }
}

/// What an audit line says of an entry, with SPIRE's names: the fields of `mask`, all without one.
fn details(message: &types::Entry, mask: Option<&types::EntryMask>) -> Details {
    let show = |flag: fn(&types::EntryMask) -> bool| mask.is_none_or(flag);
    let mut details = Details::default();
    if !message.id.is_empty() {
        details.add("entry_id", message.id.as_str());
    }
    for (name, id, shown) in [
        ("spiffe_id", &message.spiffe_id, show(|mask| mask.spiffe_id)),
        ("parent_id", &message.parent_id, show(|mask| mask.parent_id)),
    ] {
        if let Some(id) = id.as_ref().filter(|_| shown) {
            details.add(name, format!("spiffe://{}{}", id.trust_domain, id.path));
        }
    }
    if show(|mask| mask.selectors) {
        details.add_list("selectors", message.selectors.iter().map(convert::selector_text));
    }
    for (name, texts, shown) in [
        ("federates_with", &message.federates_with, show(|mask| mask.federates_with)),
        ("dns_name", &message.dns_names, show(|mask| mask.dns_names)),
    ] {
        if shown {
            details.add_list(name, texts);
        }
    }
    for (name, value, shown) in [
        ("x509_svid_ttl", Value::from(message.x509_svid_ttl), show(|mask| mask.x509_svid_ttl)),
        ("jwt_svid_ttl", message.jwt_svid_ttl.into(), show(|mask| mask.jwt_svid_ttl)),
        ("admin", message.admin.into(), show(|mask| mask.admin)),
        ("downstream", message.downstream.into(), show(|mask| mask.downstream)),
        ("expires_at", message.expires_at.into(), show(|mask| mask.expires_at)),
        ("revision_number", message.revision_number.into(), show(|mask| mask.revision_number)),
        ("store_svid", message.store_svid.into(), show(|mask| mask.store_svid)),
        ("hint", message.hint.as_str().into(), show(|mask| mask.hint)),
        ("created_at", message.created_at.into(), show(|mask| mask.created_at)),
    ] {
        if shown {
            details.add(name, value);
        }
    }
    details
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

impl Wanted<'_> {
    /// For the call's audit line.
    fn describe<T>(&self, request: &Request<T>) {
        let Some(record) = request.extensions().get::<Record>() else { return };
        let mut details = Details::default();
        if let Some(hint) = self.hint {
            details.add("hint", hint.as_str());
        }
        for (name, id) in [("parent_id", self.parent_id), ("spiffe_id", self.spiffe_id)] {
            if let Some(id) = id {
                details.add(name, format!("spiffe://{}{}", id.trust_domain, id.path));
            }
        }
        if let Some(wanted) = self.selectors {
            details.add("by_selector_match", convert::match_text(wanted.r#match));
            details.add_list("by_selectors", wanted.selectors.iter().map(convert::selector_text));
        }
        if let Some(wanted) = self.federates_with {
            details.add("federates_with_match", convert::match_text(wanted.r#match));
            details.add_list("federates_with", &wanted.trust_domains);
        }
        if let Some(downstream) = self.downstream {
            details.add("downstream", downstream);
        }
        record.extend(details);
    }
}

/// Of several faults the one that SPIRE names is named.
fn filter(own: &TrustDomain, wanted: &Wanted<'_>) -> Result<EntryFilter, Status> {
    let bad = |what: &'static str| move |fault| faults::invalid(what, fault);
    Ok(EntryFilter {
        // For operators to look at.
        may_lag: true,
        parent_id: wanted
            .parent_id
            .map(|id| convert::member(own, Some(id)))
            .transpose()
            .map_err(bad("malformed parent ID filter"))?,
        spiffe_id: wanted
            .spiffe_id
            .map(|id| convert::workload(own, Some(id)))
            .transpose()
            .map_err(bad("malformed SPIFFE ID filter"))?,
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
        // False asks for nothing, as in SPIRE: its commands always send it.
        downstream: wanted.downstream.filter(|only| *only),
    })
}

#[tonic::async_trait]
impl wire::entry_server::Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<wire::CountEntriesRequest>,
    ) -> Result<Response<wire::CountEntriesResponse>, Status> {
        let unset = Default::default();
        let wanted = request.get_ref().filter.as_ref().unwrap_or(&unset);
        let wanted = Wanted {
            spiffe_id: wanted.by_spiffe_id.as_ref(),
            parent_id: wanted.by_parent_id.as_ref(),
            selectors: wanted.by_selectors.as_ref(),
            federates_with: wanted.by_federates_with.as_ref(),
            hint: wanted.by_hint.as_ref(),
            downstream: wanted.by_downstream,
        };
        wanted.describe(&request);
        let filter = filter(&self.trust_domain, &wanted)?;
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
        let unset = Default::default();
        let wanted = request.get_ref().filter.as_ref().unwrap_or(&unset);
        let wanted = Wanted {
            spiffe_id: wanted.by_spiffe_id.as_ref(),
            parent_id: wanted.by_parent_id.as_ref(),
            selectors: wanted.by_selectors.as_ref(),
            federates_with: wanted.by_federates_with.as_ref(),
            hint: wanted.by_hint.as_ref(),
            downstream: wanted.by_downstream,
        };
        wanted.describe(&request);
        let filter = filter(&self.trust_domain, &wanted)?;
        let request = request.into_inner();
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
        if request.get_ref().id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        note(&request, "entry_id", &request.get_ref().id);
        let request = request.into_inner();
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
        let record = record(&request);
        let request = request.into_inner();
        Batch::of(record.as_ref(), request.entries.len())?;
        let mut results = Vec::with_capacity(request.entries.len());
        let mut rest = request.entries.into_iter();
        while rest.len() > 0 {
            let lot: Vec<_> = rest.by_ref().take(LOT).collect();
            let (service, mask, record) = (self.clone(), request.output_mask, record.clone());
            // A task of its own: a caller who goes away leaves no entry without its audit line.
            let task = tokio::spawn(async move { service.create(lot, mask.as_ref(), record.as_ref()).await });
            let lot = task.await.map_err(|cause| {
                tracing::error!(error = &cause as &dyn std::error::Error, "making entries ended early");
                Status::internal("failed to create entries; see the server's log")
            })?;
            results.extend(lot);
        }
        Ok(Response::new(wire::BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<wire::BatchUpdateEntryRequest>,
    ) -> Result<Response<wire::BatchUpdateEntryResponse>, Status> {
        let record = record(&request);
        let request = request.into_inner();
        let input = convert::entry_mask(request.input_mask.as_ref());
        let mut batch = Batch::of(record.as_ref(), request.entries.len())?;
        let mut results = Vec::new();
        for message in &request.entries {
            let outcome = self.update(message, &input, request.output_mask.as_ref()).await;
            let details = details(message, request.input_mask.as_ref());
            self.item(record.as_ref(), details, outcome.as_ref().err());
            let (status, entry) = faults::outcome(outcome);
            results.push(wire::batch_update_entry_response::Result { status, entry });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<wire::BatchDeleteEntryRequest>,
    ) -> Result<Response<wire::BatchDeleteEntryResponse>, Status> {
        let record = record(&request);
        let ids = request.into_inner().ids;
        let mut batch = Batch::of(record.as_ref(), ids.len())?;
        let mut results = Vec::new();
        for id in ids {
            let outcome = self.delete(&id).await;
            let mut details = Details::default();
            details.add("entry_id", id.as_str());
            self.item(record.as_ref(), details, outcome.as_ref().err());
            let status = outcome.as_ref().err().map_or_else(faults::ok, faults::item);
            results.push(wire::batch_delete_entry_response::Result { status: Some(status), id });
            batch.step().await;
        }
        Ok(Response::new(wire::BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<wire::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<wire::GetAuthorizedEntriesResponse>, Status> {
        let entries = self.authorized(&request).await?;
        let mask = request.into_inner().output_mask;
        let entries =
            entries.iter().map(|held| convert::masked_entry(held.message(), mask.as_ref())).collect();
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
