//! One call's view of its caller: attested at the start, again before each message, and looked at in between.

use std::sync::Arc;

use hardroot_identity::{Bundle, Selector};
use hardroot_telemetry::{Call, sample};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::connection::Caller;
use super::push::Encoded;
use super::service::Shared;
use crate::attestors;
use crate::source::{Availability, JwtSubject, WorkloadUpdate};

/// What SPIFFE clients know a withheld identity by.
const NO_IDENTITY: &str = "no identity issued";

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// Identities: whoever has none is refused.
    Identities,
    /// Bundles: verifiers may have the own one without an identity, if the configuration says so.
    Bundles,
    /// A verdict on somebody's token: the own bundle serves everybody, as with SPIRE.
    Verdict,
}

/// What was told last.
enum Told {
    Nothing,
    Update(Arc<WorkloadUpdate>),
    OwnBundle(Arc<Bundle>),
}

/// A caller with selectors, subscribed to what belongs to them.
pub(super) struct Session {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    selectors: Vec<Selector>,
    identities: watch::Receiver<Availability>,
    /// For a verifier: what it gets as long as it has no identity.
    own_bundle: Option<watch::Receiver<Option<Arc<Bundle>>>>,
    /// Attested, and nothing waited for since.
    fresh: bool,
    last: Told,
}

impl Session {
    /// Attests the caller and subscribes for it.
    pub(super) async fn start(
        shared: &Arc<Shared>,
        caller: Arc<Caller>,
        wants: Wants,
    ) -> Result<Self, Status> {
        let selectors = attested(shared, &caller).await?;
        let identities = shared.api.source.subscribe(selectors.clone());
        let verifier = match wants {
            Wants::Identities => false,
            Wants::Bundles => shared.api.verifiers,
            Wants::Verdict => true,
        };
        let own_bundle = verifier.then(|| shared.api.source.own_bundle());
        let shared = Arc::clone(shared);
        let this =
            Self { shared, caller, selectors, identities, own_bundle, fresh: true, last: Told::Nothing };
        // Refusals come as the answer itself, not as a stream that starts and breaks.
        this.refusal().map_or(Ok(()), Err)?;
        Ok(this)
    }

    fn refusal(&self) -> Option<Status> {
        match &*self.identities.borrow() {
            Availability::Starting => Some(starting()),
            Availability::None if self.own_bundle.is_none() => {
                Some(no_identity(&self.caller, self.selectors.len()))
            }
            Availability::None | Availability::Pending | Availability::Ready(_) => None,
        }
    }

    /// What can be told now and was not told last.
    fn news(&mut self) -> Option<Arc<WorkloadUpdate>> {
        let update = match &*self.identities.borrow_and_update() {
            Availability::Ready(update) => Some(Arc::clone(update)),
            Availability::None => None,
            Availability::Starting | Availability::Pending => return None,
        };
        if let Some(update) = update {
            if matches!(&self.last, Told::Update(last) if Arc::ptr_eq(last, &update)) {
                return None;
            }
            self.last = Told::Update(Arc::clone(&update));
            return Some(update);
        }
        let bundle = self.own_bundle.as_mut().and_then(|own| own.borrow_and_update().clone())?;
        if matches!(&self.last, Told::OwnBundle(last) if Arc::ptr_eq(last, &bundle)) {
            return None;
        }
        self.last = Told::OwnBundle(Arc::clone(&bundle));
        let trust_domain = bundle.trust_domain.clone();
        let bundles = Arc::new([(trust_domain.clone(), bundle)].into());
        let encoded = Encoded::default();
        Some(Arc::new(WorkloadUpdate { identities: Vec::new(), bundles, trust_domain, encoded }))
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
            if let Some(update) = self.news() {
                if !std::mem::take(&mut self.fresh) {
                    self.attest_again().await?;
                }
                return Ok(update);
            }
            self.fresh = false;
            let own_bundle = async {
                match &mut self.own_bundle {
                    Some(own) => own.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.identities.changed() => changed.map_err(shutting_down)?,
                changed = own_bundle => changed.map_err(shutting_down)?,
                () = tokio::time::sleep(self.shared.api.limits.look_again) => self.look()?,
                () = &mut ended => return Err(shutting_down(())),
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
    fn look(&self) -> Result<(), Status> {
        self.caller.peer.sample().map(drop).map_err(|error| {
            tracing::info!(subsystem_name = "endpoints", pid = self.caller.peer.pid(), %error, "stream ended");
            attestation_failed()
        })
    }
}

fn starting() -> Status {
    Status::new(Code::Unavailable, "the agent has not reached its server yet; try again")
}

fn shutting_down<T>(_ended: T) -> Status {
    Status::new(Code::Unavailable, "the agent is shutting down")
}

fn no_identity(caller: &Caller, selectors: usize) -> Status {
    tracing::info!(
        subsystem_name = "endpoints",
        pid = caller.peer.pid(),
        caller_uid = caller.peer.uid(),
        registered = false,
        selectors,
        "{NO_IDENTITY}"
    );
    Status::new(Code::PermissionDenied, NO_IDENTITY)
}

/// Whom the caller may have JWT-SVIDs for: somebody, or it is refused.
pub(super) async fn jwt_subjects(shared: &Shared, caller: &Caller) -> Result<Vec<JwtSubject>, Status> {
    let selectors = attested(shared, caller).await?;
    let subjects = shared.api.source.jwt_subjects(&selectors).ok_or_else(starting)?;
    if subjects.is_empty() {
        return Err(no_identity(caller, selectors.len()));
    }
    Ok(subjects)
}

fn attestation_failed() -> Status {
    Status::new(Code::Unavailable, "workload attestation failed")
}

/// The caller's selectors; as many callers at once as the limits say.
async fn attested(shared: &Shared, caller: &Caller) -> Result<Vec<Selector>, Status> {
    let unavailable = |_closed| attestation_failed();
    let _slot = shared.attestations.acquire().await.map_err(unavailable)?;
    let within = shared.api.limits.attestation;
    let call = Call::start("workload_api.workload_attestation");
    match call.finish(Box::pin(attestors::attest(&caller.peer, &shared.api.attestors, within)).await) {
        Ok(selectors) => {
            #[expect(clippy::cast_precision_loss, reason = "some dozens")]
            sample("workload_api.discovered_selectors", selectors.len() as f64);
            Ok(selectors)
        }
        Err(error) => {
            let (pid, uid) = (caller.peer.pid(), caller.peer.uid());
            tracing::warn!(subsystem_name = "endpoints", pid, caller_uid = uid, %error, "workload attestation failed");
            Err(attestation_failed())
        }
    }
}
