//! `hardroot.server.sync.v1.Sync/Follow`: the server tells what changed when it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use hardroot_api::hardroot::server::sync::v1::follow_request::Step as Asked;
use hardroot_api::hardroot::server::sync::v1::follow_response::Step as Answer;
use hardroot_api::hardroot::server::sync::v1::sync_client::SyncClient;
use hardroot_api::hardroot::server::sync::v1::{
    Ack, BundleVersion, Entries, FollowRequest, FollowResponse, Open, Update,
};
use hardroot_identity::{Bundle, TrustDomain};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::entries::MAX_MESSAGE;
use super::server::ServerError;
use super::wire;
use crate::cache::AuthorizedEntry;

const RPC: &str = "Follow";
/// A server that says nothing for this long is taken to be gone: it says something every 30 s.
const SILENCE: Duration = Duration::from_secs(90);

/// What the agent has of what was pushed, for the next stream to go on from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resume {
    /// The server's token; empty when the agent has nothing, or has what another way brought.
    pub token: Vec<u8>,
    /// The versions of the bundles it has.
    pub bundles: BTreeMap<TrustDomain, Vec<u8>>,
}

/// What a server pushed: to be applied as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Nothing but these entries are the agent's.
    pub everything: bool,
    /// New and changed entries.
    pub upserts: Vec<AuthorizedEntry>,
    /// Ids of entries that are the agent's no more.
    pub removed: Vec<String>,
    /// New and changed bundles.
    pub bundles: Vec<Bundle>,
    /// Trust domains whose bundles are gone or needed no more.
    pub removed_bundles: Vec<TrustDomain>,
    /// What the agent has once this is applied.
    pub resume: Resume,
    /// What to acknowledge; 0 for a sign of life, which needs none.
    pub number: u64,
}

/// An open stream.
pub(super) struct Follow {
    answers: Streaming<FollowResponse>,
    requests: mpsc::Sender<FollowRequest>,
    trust_domain: TrustDomain,
    /// The pages of the update that is coming.
    coming: Pushed,
    has: Resume,
    heard: Instant,
}

impl Follow {
    /// Opens a stream; `None` when the server does not have such a thing.
    pub(super) async fn open(
        channel: Channel,
        trust_domain: &TrustDomain,
        resume: Resume,
    ) -> Result<Option<Self>, ServerError> {
        let (requests, outgoing) = mpsc::channel(1);
        let bundles = resume.bundles.iter();
        let bundles = bundles
            .map(|(td, version)| BundleVersion { trust_domain: td.to_string(), version: version.clone() })
            .collect();
        let open = Open { token: resume.token.clone(), bundles };
        let gone = |_gone| protocol("the server ended the stream too early");
        requests.send(FollowRequest { step: Some(Asked::Open(open)) }).await.map_err(gone)?;
        let mut client = SyncClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let answers = match client.follow(ReceiverStream::new(outgoing)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => return Ok(None),
            Err(status) => return Err(ServerError::call(RPC)(status)),
        };
        let (trust_domain, coming, heard) = (trust_domain.clone(), Pushed::default(), Instant::now());
        Ok(Some(Self { answers, requests, trust_domain, coming, has: resume, heard }))
    }

    /// Waits for the next update, or a sign of life. Whoever stops waiting loses nothing.
    pub(super) async fn next(&mut self) -> Result<Pushed, ServerError> {
        loop {
            let answer = tokio::time::timeout_at(self.heard + SILENCE, self.answers.message()).await;
            let silent = |_late| ServerError::TimedOut { rpc: RPC, seconds: SILENCE.as_secs() };
            let answer = answer.map_err(silent)?.map_err(ServerError::call(RPC))?;
            self.heard = Instant::now();
            match answer.and_then(|answer| answer.step) {
                Some(Answer::Heartbeat(heartbeat)) => {
                    self.has.token = heartbeat.token;
                    return Ok(Pushed { resume: self.has.clone(), ..Pushed::default() });
                }
                Some(Answer::Update(page)) => {
                    let last = !page.token.is_empty();
                    self.take(page)?;
                    if last {
                        self.coming.resume = self.has.clone();
                        return Ok(std::mem::take(&mut self.coming));
                    }
                }
                None => return Err(protocol("the server ended the stream")),
            }
        }
    }

    /// The update with this number was applied.
    pub(super) async fn acknowledge(&self, number: u64) {
        // A stream that has ended says so when it is read.
        drop(self.requests.send(FollowRequest { step: Some(Asked::Ack(Ack { number })) }).await);
    }

    fn take(&mut self, page: Update) -> Result<(), ServerError> {
        if page.number == 0 || (self.coming.number != 0 && self.coming.number != page.number) {
            return Err(protocol("pages of different updates are mixed"));
        }
        self.coming.number = page.number;
        self.coming.everything |= page.everything;
        let entries = Entries::decode(page.entries).map_err(|_fault| protocol("an entry is malformed"))?;
        for mut entry in entries.entries {
            let id = entry.id.clone();
            if let Some(named) = &mut entry.spiffe_id
                && named.trust_domain.is_empty()
            {
                self.trust_domain.as_str().clone_into(&mut named.trust_domain);
            }
            match AuthorizedEntry::from_wire(entry, &self.trust_domain) {
                Ok(entry) => self.coming.upserts.push(entry),
                Err(error) => {
                    tracing::warn!(error = %error, cause = ?std::error::Error::source(&error), "entry from the server is not usable and not served");
                    self.coming.removed.push(id);
                }
            }
        }
        self.coming.removed.extend(page.removed);
        for update in page.bundles {
            let bundle = update.bundle.ok_or_else(|| protocol("a bundle is missing"))?;
            let named = TrustDomain::from_name_or_id(&bundle.trust_domain)
                .map_err(|_fault| protocol("a bundle is of no trust domain"))?;
            match wire::bundle(RPC, bundle, &named) {
                Ok(bundle) => {
                    self.has.bundles.insert(named, update.version);
                    self.coming.bundles.push(bundle);
                }
                // Our own must be usable; without a foreign one, the last one goes on.
                Err(error) if named == self.trust_domain => return Err(error),
                Err(error) => {
                    tracing::warn!(trust_domain_id = %named.id(), error = %error, "federated bundle is not usable; the last one is kept");
                }
            }
        }
        for name in page.removed_bundles {
            let Ok(trust_domain) = TrustDomain::new(&name) else { continue };
            self.has.bundles.remove(&trust_domain);
            self.coming.removed_bundles.push(trust_domain);
        }
        if !page.token.is_empty() {
            self.has.token = page.token;
        }
        Ok(())
    }
}

fn protocol(reason: &str) -> ServerError {
    ServerError::Protocol { rpc: RPC, reason: reason.to_owned() }
}
