//! `hardroot.server.sync.v1.Sync/Follow`: one stream over which the server tells what changes when it changes.

use std::time::Duration;

use hardroot_api::hardroot::server::sync::v1::follow_request::Step as Asked;
use hardroot_api::hardroot::server::sync::v1::follow_response::Step as Answer;
use hardroot_api::hardroot::server::sync::v1::sync_client::SyncClient;
use hardroot_api::hardroot::server::sync::v1::{
    Ack, BundleVersion, Entries, FollowRequest, FollowResponse, Open, Update,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Connection, EntrySync, Known, Pace};
use crate::error::CallError;
use crate::target::{MAX_MESSAGE, Target};

const RPC: &str = "Follow";
/// A server that says nothing for this long is gone: it says something every 30 s.
const SILENCE: Duration = Duration::from_secs(90);

/// See the module.
#[derive(Default)]
pub(super) struct Follow {
    open: Option<Stream>,
}

struct Stream {
    /// Which connection it is on.
    connection: u64,
    answers: Streaming<FollowResponse>,
    requests: mpsc::Sender<FollowRequest>,
    /// The pages of the update that is coming.
    pages: Vec<Update>,
    heard: Instant,
}

#[async_trait::async_trait]
impl EntrySync for Follow {
    fn pace(&self) -> Pace {
        Pace::Pushed
    }

    async fn round(
        &mut self,
        target: &Target,
        connection: Connection,
        known: &mut Known,
    ) -> Result<(), CallError> {
        let stream = match self.open.take() {
            Some(stream) if stream.connection == connection.number => stream,
            _ => Stream::open(target, connection, known).await?,
        };
        // Whoever stops waiting finds the stream here; one that failed is not kept.
        let stream = self.open.insert(stream);
        let outcome = stream.update(known).await;
        if outcome.is_err() {
            self.open = None;
        }
        outcome
    }
}

impl Stream {
    async fn open(target: &Target, connection: Connection, known: &Known) -> Result<Self, CallError> {
        let (requests, outgoing) = mpsc::channel(1);
        let bundles = known.bundles.iter();
        let bundles = bundles
            .map(|(trust_domain, version)| BundleVersion {
                trust_domain: trust_domain.clone(),
                version: version.clone(),
            })
            .collect();
        let open = Open { token: known.token.clone(), bundles };
        requests.send(FollowRequest { step: Some(Asked::Open(open)) }).await.map_err(|_gone| closed())?;
        let mut client = SyncClient::new(connection.channel).max_decoding_message_size(MAX_MESSAGE);
        // No deadline for the stream itself: it lasts.
        let answers = target
            .within(RPC, async {
                client.follow(ReceiverStream::new(outgoing)).await.map_err(CallError::of(RPC))
            })
            .await?
            .into_inner();
        Ok(Self {
            connection: connection.number,
            answers,
            requests,
            pages: Vec::new(),
            heard: Instant::now(),
        })
    }

    /// Waits for the next update, applies it and says so.
    async fn update(&mut self, known: &mut Known) -> Result<(), CallError> {
        loop {
            let answer = tokio::time::timeout_at(self.heard + SILENCE, self.answers.message()).await;
            let answer = answer.map_err(|_late| CallError::TimedOut { rpc: RPC, limit: SILENCE })?;
            self.heard = Instant::now();
            match answer.map_err(CallError::of(RPC))?.and_then(|answer| answer.step) {
                Some(Answer::Heartbeat(heartbeat)) => known.token = heartbeat.token,
                Some(Answer::Update(page)) => {
                    let number = page.number;
                    if self.pages.first().is_some_and(|first| first.number != number) {
                        return Err(CallError::protocol(RPC, "pages of different updates are mixed"));
                    }
                    let last = !page.token.is_empty();
                    self.pages.push(page);
                    if last {
                        for page in self.pages.drain(..) {
                            apply(page, known)?;
                        }
                        let ack = FollowRequest { step: Some(Asked::Ack(Ack { number })) };
                        // A stream that has ended says so when it is read.
                        drop(self.requests.send(ack).await);
                        return Ok(());
                    }
                }
                None => return Err(closed()),
            }
        }
    }
}

fn apply(page: Update, known: &mut Known) -> Result<(), CallError> {
    if page.everything {
        known.entries.clear();
    }
    let entries = Entries::decode(page.entries)
        .map_err(|fault| CallError::protocol(RPC, format!("an entry is malformed: {fault}")))?;
    for entry in entries.entries {
        known.entries.insert(entry.id, (entry.revision_number, entry.created_at));
    }
    for id in page.removed {
        known.entries.remove(&id);
    }
    for update in page.bundles {
        let bundle = update.bundle.ok_or_else(|| CallError::protocol(RPC, "a bundle is missing"))?;
        known.bundles.insert(bundle.trust_domain, update.version);
    }
    for name in page.removed_bundles {
        known.bundles.remove(&name);
    }
    if !page.token.is_empty() {
        known.token = page.token;
    }
    Ok(())
}

fn closed() -> CallError {
    CallError::protocol(RPC, "the server ended the stream")
}
