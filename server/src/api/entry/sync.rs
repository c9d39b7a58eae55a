//! `SyncAuthorizedEntries` (spire-map 1.9): everything at once when it is little, else revisions first and
//! then the entries the agent asks for, in pages.

use futures_util::stream::{BoxStream, Stream, StreamExt};
use hardroot_api::spire::api::server::entry::v1 as wire;
use hardroot_api::spire::api::types::EntryMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api::convert;
use crate::entries::{Held, Sorted};

type Answer = Result<wire::SyncAuthorizedEntriesResponse, Status>;

/// Answers one synchronisation. `entries` are sorted by id and stay the same until the stream ends, whatever
/// changes meanwhile. The stream ends when the agent closes its side.
pub(super) fn answer<S>(entries: Sorted, page: usize, requests: S) -> BoxStream<'static, Answer>
where
    S: Stream<Item = Result<wire::SyncAuthorizedEntriesRequest, Status>> + Send + Unpin + 'static,
{
    // A slow agent holds back the next page instead of piling up pages.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let outcome = converse(&entries, page.max(1), requests, &sender).await;
        if let Err(Some(status)) = outcome {
            // An agent that is gone needs no status.
            let _gone = sender.send(Err(status)).await;
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// Ends with `Err(None)` when the agent has gone away.
async fn converse<S>(
    entries: &[Held],
    page: usize,
    mut requests: S,
    sender: &mpsc::Sender<Answer>,
) -> Result<(), Option<Status>>
where
    S: Stream<Item = Result<wire::SyncAuthorizedEntriesRequest, Status>> + Unpin,
{
    let first = match requests.next().await {
        None => return Ok(()),
        Some(request) => request.map_err(Some)?,
    };
    if !first.ids.is_empty() {
        return Err(Some(Status::invalid_argument("specifying IDs on initial request is not supported")));
    }
    let mask = first.output_mask;
    if mask.as_ref().is_some_and(|mask| !mask.revision_number) {
        return Err(Some(Status::invalid_argument("revision number cannot be masked")));
    }
    let send = async |response| sender.send(Ok(response)).await.map_err(|_gone| None);
    if entries.len() <= page {
        return send(full(entries.iter(), mask.as_ref(), false)).await;
    }
    let mut pages = entries.chunks(page).peekable();
    while let Some(part) = pages.next() {
        let entry_revisions = part
            .iter()
            .map(|entry| wire::EntryRevision {
                id: entry.id().to_owned(),
                revision_number: entry.revision(),
                created_at: entry.created_at(),
            })
            .collect();
        let more = pages.peek().is_some();
        send(wire::SyncAuthorizedEntriesResponse { entry_revisions, entries: Vec::new(), more }).await?;
    }
    loop {
        let mut ids = match requests.next().await {
            None => return Ok(()),
            Some(Ok(request)) => request.ids,
            // An agent that closes early cancels the stream.
            Some(Err(status)) if status.code() == tonic::Code::Cancelled => return Ok(()),
            Some(Err(status)) => return Err(Some(status)),
        };
        // An id that is named often is answered once.
        ids.sort_unstable();
        ids.dedup();
        let found: Vec<_> = ids
            .iter()
            .filter_map(|id| entries.binary_search_by(|entry| entry.id().cmp(id)).ok())
            .filter_map(|at| entries.get(at))
            .collect();
        let mut pages = found.chunks(page).peekable();
        if pages.peek().is_none() {
            send(full(std::iter::empty(), None, false)).await?;
        }
        while let Some(part) = pages.next() {
            let more = pages.peek().is_some();
            send(full(part.iter().copied(), mask.as_ref(), more)).await?;
        }
    }
}

fn full<'a>(
    entries: impl Iterator<Item = &'a Held>,
    mask: Option<&EntryMask>,
    more: bool,
) -> wire::SyncAuthorizedEntriesResponse {
    wire::SyncAuthorizedEntriesResponse {
        entry_revisions: Vec::new(),
        entries: entries.map(|entry| convert::masked_entry(entry.message(), mask)).collect(),
        more,
    }
}
