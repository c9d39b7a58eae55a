//! `SyncAuthorizedEntries`: the whole set when it is small, else revisions first and then what differs.

use std::time::Duration;

use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_api::spire::api::server::entry::v1::{
    SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use hardroot_api::spire::api::types::{Entry, EntryMask};
use hardroot_identity::TrustDomain;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::server::ServerError;
use super::wire;
use crate::cache::{AuthorizedEntry, Cache, EntryChanges, EntryVersion};

const RPC: &str = "SyncAuthorizedEntries";
/// Largest message taken from the server, in bytes: a page of 500 entries with many selectors.
pub(super) const MAX_MESSAGE: usize = 64 << 20;

const MASK: EntryMask = EntryMask {
    spiffe_id: true,
    parent_id: false,
    selectors: true,
    x509_svid_ttl: false,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: false,
    dns_names: false,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: false,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// Runs one synchronisation.
pub(super) async fn sync(
    channel: Channel,
    trust_domain: &TrustDomain,
    known: &Cache,
    limit: Duration,
) -> Result<EntryChanges, ServerError> {
    let call = ServerError::call(RPC);
    let (requests, outgoing) = mpsc::channel(1);
    let first = SyncAuthorizedEntriesRequest { output_mask: Some(MASK), ids: vec![] };
    send(&requests, first).await?;
    let mut client = EntryClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut answers = client
        .sync_authorized_entries(wire::within(ReceiverStream::new(outgoing), limit))
        .await
        .map_err(&call)?
        .into_inner();

    let mut collected = Collected { trust_domain, changes: EntryChanges::default() };
    let mut page = answers.message().await.map_err(&call)?.ok_or_else(closed)?;
    if page.entry_revisions.is_empty() {
        // Small enough for one message: this is the complete set.
        collected.entries(page.entries);
        return Ok(collected.changes);
    }
    let page_size = page.entry_revisions.len();
    let mut missing = Vec::new();
    loop {
        let more = page.more;
        missing.extend(collected.revisions(page, known)?);
        if !more {
            break;
        }
        page = answers.message().await.map_err(&call)?.ok_or_else(closed)?;
    }
    // The server looks ids up faster when they are sorted.
    missing.sort();
    for ids in missing.chunks(page_size) {
        send(&requests, SyncAuthorizedEntriesRequest { output_mask: None, ids: ids.to_vec() }).await?;
        loop {
            let page = answers.message().await.map_err(&call)?.ok_or_else(closed)?;
            if !page.entry_revisions.is_empty() {
                return Err(protocol("revisions where entries were asked for"));
            }
            collected.entries(page.entries);
            if !page.more {
                break;
            }
        }
    }
    Ok(collected.changes)
}

async fn send(
    requests: &mpsc::Sender<SyncAuthorizedEntriesRequest>,
    request: SyncAuthorizedEntriesRequest,
) -> Result<(), ServerError> {
    requests.send(request).await.map_err(|_gone| closed())
}

fn protocol(reason: &str) -> ServerError {
    ServerError::Protocol { rpc: RPC, reason: reason.to_owned() }
}

fn closed() -> ServerError {
    protocol("the server ended the stream too early")
}

struct Collected<'a> {
    trust_domain: &'a TrustDomain,
    changes: EntryChanges,
}

impl Collected<'_> {
    /// Takes a page of revisions; says which entries must be fetched.
    fn revisions(
        &mut self,
        page: SyncAuthorizedEntriesResponse,
        known: &Cache,
    ) -> Result<Vec<String>, ServerError> {
        if !page.entries.is_empty() {
            return Err(protocol("entries where revisions were expected"));
        }
        let versions: Vec<EntryVersion> = page
            .entry_revisions
            .into_iter()
            .filter(|r| !r.id.is_empty() && r.revision_number >= 0)
            .map(|r| EntryVersion { id: r.id, revision: r.revision_number, created_at: r.created_at })
            .collect();
        let stale = known.stale(&versions);
        let stale_set: std::collections::HashSet<&String> = stale.iter().collect();
        let current = versions.iter().map(|v| &v.id).filter(|id| !stale_set.contains(id)).cloned();
        self.changes.unchanged.extend(current);
        Ok(stale)
    }

    /// Takes whole entries. One that is not usable is left out: then nobody gets it.
    fn entries(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            match AuthorizedEntry::from_wire(entry, self.trust_domain) {
                Ok(entry) => self.changes.upserts.push(entry),
                Err(error) => {
                    tracing::warn!(error = %error, cause = ?std::error::Error::source(&error), "entry from the server is not usable and not served");
                }
            }
        }
    }
}
