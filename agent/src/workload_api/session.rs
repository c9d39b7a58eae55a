//! One call's view of its caller: attested at the start, again before each message, and looked at in between.

use std::sync::Arc;

use hardroot_identity::Selector;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::connection::Caller;
use super::service::Shared;
use crate::attestors;
use crate::source::{Availability, WorkloadUpdate};

/// What SPIFFE clients know a withheld identity by.
const NO_IDENTITY: &str = "no identity issued";

/// A caller with selectors, subscribed to what belongs to them.
pub(super) struct Session {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    selectors: Vec<Selector>,
    identities: watch::Receiver<Availability>,
    /// Attested, and nothing waited for since.
    fresh: bool,
    last: Option<Arc<WorkloadUpdate>>,
}

impl Session {
    /// Attests the caller and subscribes for it.
    pub(super) async fn start(shared: &Arc<Shared>, caller: Arc<Caller>) -> Result<Self, Status> {
        let selectors = attested(shared, &caller).await?;
        let identities = shared.api.source.subscribe(selectors.clone());
        let this =
            Self { shared: Arc::clone(shared), caller, selectors, identities, fresh: true, last: None };
        // Refusals come as the answer itself, not as a stream that starts and breaks.
        this.refusal().map_or(Ok(()), Err)?;
        Ok(this)
    }

    fn refusal(&self) -> Option<Status> {
        match &*self.identities.borrow() {
            Availability::Starting => {
                Some(Status::new(Code::Unavailable, "the agent has not reached its server yet; try again"))
            }
            Availability::None => {
                tracing::info!(
                    subsystem_name = "endpoints",
                    pid = self.caller.peer.pid(),
                    caller_uid = self.caller.peer.uid(),
                    registered = false,
                    selectors = self.selectors.len(),
                    "{NO_IDENTITY}"
                );
                Some(Status::new(Code::PermissionDenied, NO_IDENTITY))
            }
            Availability::Pending | Availability::Ready(_) => None,
        }
    }

    /// The next update that differs from the last, once it is there. The caller has been attested for it: it is the same process,
    /// with the same selectors.
    pub(super) async fn next(&mut self) -> Result<Arc<WorkloadUpdate>, Status> {
        let ended = self.shared.shutdown.requested();
        tokio::pin!(ended);
        loop {
            if let Some(refusal) = self.refusal() {
                return Err(refusal);
            }
            let update = match &*self.identities.borrow_and_update() {
                Availability::Ready(update) => Some(Arc::clone(update)),
                _ => None,
            };
            if let Some(update) = update
                && !self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &update))
            {
                if !std::mem::take(&mut self.fresh) {
                    self.attest_again().await?;
                }
                self.last = Some(Arc::clone(&update));
                return Ok(update);
            }
            self.fresh = false;
            tokio::select! {
                changed = self.identities.changed() => {
                    if changed.is_err() {
                        return Err(Status::new(Code::Unavailable, "the agent is shutting down"));
                    }
                }
                () = tokio::time::sleep(self.shared.api.limits.look_again) => Box::pin(self.look()).await?,
                () = &mut ended => return Err(Status::new(Code::Unavailable, "the agent is shutting down")),
            }
        }
    }

    async fn attest_again(&mut self) -> Result<(), Status> {
        let selectors = Box::pin(attested(&self.shared, &self.caller)).await?;
        if selectors == self.selectors {
            return Ok(());
        }
        tracing::info!(
            subsystem_name = "endpoints",
            pid = self.caller.peer.pid(),
            "the workload's selectors changed: stream ended"
        );
        Err(Status::new(Code::Unavailable, "the workload changed; call again"))
    }

    /// Whether the process is still what it was.
    async fn look(&self) -> Result<(), Status> {
        let peer = self.caller.peer.clone();
        let looked = tokio::task::spawn_blocking(move || peer.sample()).await;
        match looked {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                tracing::info!(subsystem_name = "endpoints", pid = self.caller.peer.pid(), %error, "stream ended");
                Err(attestation_failed())
            }
            Err(_runtime_ends) => Err(attestation_failed()),
        }
    }
}

fn attestation_failed() -> Status {
    Status::new(Code::Unavailable, "workload attestation failed")
}

/// The caller's selectors; as many callers at once as the limits say.
async fn attested(shared: &Shared, caller: &Caller) -> Result<Vec<Selector>, Status> {
    let unavailable = |_closed| attestation_failed();
    let _slot = shared.attestations.acquire().await.map_err(unavailable)?;
    let within = shared.api.limits.attestation;
    match Box::pin(attestors::attest(&caller.peer, &shared.api.attestors, within)).await {
        Ok(selectors) => Ok(selectors),
        Err(error) => {
            let (pid, uid) = (caller.peer.pid(), caller.peer.uid());
            tracing::warn!(subsystem_name = "endpoints", pid, caller_uid = uid, %error, "workload attestation failed");
            Err(attestation_failed())
        }
    }
}
