//! `hardroot.server.sync.v1.Sync`: what changes for an agent is pushed to it.
//!
//! A stream holds no copy of what its agent has. `Followed` gathers which entries differ from what was told last, each
//! once; the next update is made when the agent has acknowledged the one before. So an agent that is slow or stopped
//! costs one update and the ids that changed, and nobody waits for it.

mod conversation;
mod page;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt as _};
use hardroot_api::hardroot::server::sync::v1 as wire;
use hardroot_identity::TrustDomain;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::entry::{PAGE, caller_agent};
use crate::endpoints::BundleCache;
use crate::entries::AuthorizedEntries;
use conversation::Conversation;

/// How long nothing is said before the server says that it is there. What may end a stream without a change of the
/// agent's row (an SVID that expires) is looked at as often.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// Time for the first message, and for the acknowledgement of an update.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Judges a stream's caller anew (request extension).
#[derive(Clone)]
pub struct Recheck(Arc<dyn Fn() -> BoxFuture<'static, Result<(), Status>> + Send + Sync>);

impl Recheck {
    /// One that asks `judge`.
    pub fn new(judge: impl Fn() -> BoxFuture<'static, Result<(), Status>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    /// Whether the caller may go on.
    ///
    /// # Errors
    /// What the call would be refused with if it were made now.
    pub async fn ask(&self) -> Result<(), Status> {
        (self.0)().await
    }
}

/// The Sync service.
pub struct SyncService {
    trust_domain: TrustDomain,
    entries: Arc<AuthorizedEntries>,
    bundles: Arc<BundleCache>,
    stop: CancellationToken,
    page: usize,
    heartbeat: Duration,
    patience: Duration,
}

impl SyncService {
    /// The service of the server of `trust_domain`; its streams end at `stop`.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        entries: Arc<AuthorizedEntries>,
        bundles: Arc<BundleCache>,
        stop: CancellationToken,
    ) -> Self {
        let (page, heartbeat, patience) = (PAGE, HEARTBEAT, PATIENCE);
        Self { trust_domain, entries, bundles, stop, page, heartbeat, patience }
    }
}

type Answers = BoxStream<'static, Result<wire::FollowResponse, Status>>;

#[tonic::async_trait]
impl wire::sync_server::Sync for SyncService {
    type FollowStream = Answers;

    async fn follow(
        &self,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let agent = caller_agent(&request)?;
        let recheck = request.extensions().get::<Recheck>().cloned();
        let recheck = recheck.ok_or_else(|| Status::internal("the caller cannot be judged again"))?;
        Ok(Response::new(self.converse(agent, recheck, request.into_inner())))
    }
}

impl SyncService {
    fn converse<S>(&self, agent: hardroot_identity::SpiffeId, recheck: Recheck, requests: S) -> Answers
    where
        S: futures_util::Stream<Item = Result<wire::FollowRequest, Status>> + Send + Unpin + 'static,
    {
        // A slow agent holds back the next page instead of piling up pages.
        let (sender, receiver) = mpsc::channel(1);
        let mut conversation = Conversation {
            own: self.trust_domain.clone(),
            agent,
            entries: Arc::clone(&self.entries),
            bundles: Arc::clone(&self.bundles),
            recheck,
            sender: sender.clone(),
            page: self.page.max(1),
            heartbeat: self.heartbeat,
            patience: self.patience,
            number: 0,
            awaited: None,
            told: std::collections::BTreeMap::new(),
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = conversation.run(requests) => outcome,
                () = stop.cancelled() => Err(Some(Status::unavailable("the server is stopping; connect again"))),
                () = sender.closed() => return,
            };
            if let Err(Some(status)) = outcome {
                tracing::debug!(agent_id = %conversation.agent, code = ?status.code(), reason = status.message(), "an agent's stream ends");
                // An agent that takes nothing any more needs no status, and nobody waits for it.
                let _late = tokio::time::timeout(conversation.heartbeat, sender.send(Err(status))).await;
            }
        });
        ReceiverStream::new(receiver).boxed()
    }
}
