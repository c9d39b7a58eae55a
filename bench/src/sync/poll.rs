//! `SyncAuthorizedEntries`: the whole set when it is small, else revisions first and then what differs.

use std::collections::HashMap;

use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_api::spire::api::server::entry::v1::{
    SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Connection, EntrySync, Known, MASK, Pace};
use crate::error::CallError;
use crate::target::{MAX_MESSAGE, Target};

const RPC: &str = "SyncAuthorizedEntries";

pub(super) struct SyncAuthorizedEntries;

#[async_trait::async_trait]
impl EntrySync for SyncAuthorizedEntries {
    fn pace(&self) -> Pace {
        Pace::Polled
    }

    async fn round(
        &mut self,
        target: &Target,
        connection: Connection,
        known: &mut Known,
    ) -> Result<(), CallError> {
        let (requests, outgoing) = mpsc::channel(1);
        send(&requests, Some(MASK), Vec::new()).await?;
        let mut client = EntryClient::new(connection.channel).max_decoding_message_size(MAX_MESSAGE);
        let request = target.request(ReceiverStream::new(outgoing));
        let mut answers =
            client.sync_authorized_entries(request).await.map_err(CallError::of(RPC))?.into_inner();

        let mut current = HashMap::new();
        let mut page = next(&mut answers).await?;
        if page.entry_revisions.is_empty() {
            take(&mut current, page);
            known.entries = current;
            return Ok(());
        }
        let size = page.entry_revisions.len();
        let mut missing = Vec::new();
        loop {
            for revision in page.entry_revisions {
                let version = (revision.revision_number, revision.created_at);
                if known.entries.get(&revision.id) == Some(&version) {
                    current.insert(revision.id, version);
                } else {
                    missing.push(revision.id);
                }
            }
            if !page.more {
                break;
            }
            page = next(&mut answers).await?;
        }
        missing.sort();
        for ids in missing.chunks(size) {
            send(&requests, None, ids.to_vec()).await?;
            loop {
                let page = next(&mut answers).await?;
                let more = page.more;
                take(&mut current, page);
                if !more {
                    break;
                }
            }
        }
        known.entries = current;
        Ok(())
    }
}

async fn send(
    requests: &mpsc::Sender<SyncAuthorizedEntriesRequest>,
    output_mask: Option<hardroot_api::spire::api::types::EntryMask>,
    ids: Vec<String>,
) -> Result<(), CallError> {
    let request = SyncAuthorizedEntriesRequest { output_mask, ids };
    requests.send(request).await.map_err(|_gone| closed())
}

async fn next(
    answers: &mut Streaming<SyncAuthorizedEntriesResponse>,
) -> Result<SyncAuthorizedEntriesResponse, CallError> {
    answers.message().await.map_err(CallError::of(RPC))?.ok_or_else(closed)
}

fn take(current: &mut HashMap<String, (i64, i64)>, page: SyncAuthorizedEntriesResponse) {
    current
        .extend(page.entries.into_iter().map(|entry| (entry.id, (entry.revision_number, entry.created_at))));
}

fn closed() -> CallError {
    CallError::protocol(RPC, "the server ended the stream too early")
}
