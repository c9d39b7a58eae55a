//! The agent's life: attest, synchronise, renew, and what to do when something of that fails.
//!
//! One task does it all, one thing at a time, so that a renewal never races with a call that still shows the old
//! certificate. It wakes for what is due and at least every [`TICK`], because a machine that slept or whose clock
//! was set must notice within seconds.

mod identity;
mod keeping;
mod renewal;
mod synchronise;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hardroot_hsm_keymanager::KeyType;
use hardroot_identity::{BadX509Svid, Bundle, TrustDomain, verify_x509_svid};
use hardroot_runtime::clock::Clock;
use hardroot_runtime::shutdown::Shutdown;
use hardroot_transport::{BundleSet, BundleSource};
pub use identity::AgentSvid;
pub(crate) use identity::chain_of;
pub use timing::{Retry, jitter, refresh_at};
use tokio::time::Instant;

use keeping::Unstored;

use crate::attest::{AgentKey, AgentKeys};
use crate::cache::{Cache, untainted};
use crate::status::AgentStatus;
use crate::storage::Storage;
use crate::sync::{Resume, Server, ServerError};

/// How often is looked whether something is due, at least.
pub const TICK: Duration = Duration::from_secs(5);
/// First and longest pause between attempts of any kind.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest pause between attestations: whoever has just enrolled a machine waits for it.
const LONGEST_ATTEST_PAUSE: Duration = Duration::from_secs(30);
/// A difference between the clocks that is told.
const CLOCK_STEP: Duration = Duration::from_secs(60);
/// A server that does not push is asked again after this: it may have been replaced by one that does.
const ASK_PUSH: Duration = Duration::from_secs(600);
/// Most SVIDs asked for in one call (SPIRE's servers take no more).
const MAX_BATCH: usize = 500;

/// What the life cycle needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The agent's trust domain.
    pub trust_domain: TrustDomain,
    /// The type of workloads' keys.
    pub workload_key_type: KeyType,
    /// How often entries and bundles are synchronised.
    pub sync_interval: Duration,
    /// Whether a refused attestation is final: a join token that was refused once is refused for ever.
    pub refusal_is_final: bool,
    /// The node attestor's name, for metrics.
    pub node_attestor: &'static str,
}

/// Why the agent's life ended otherwise than by request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The operator banned this agent.
    #[error(
        "this agent is banned by its server; to admit it again run \"hardroot-server agent evict\" and start it anew"
    )]
    Banned,
    /// The node's proof was refused and the same proof can never succeed.
    #[error(
        "attestation was refused: {cause}. A join token works once and for a limited time: make a new one with hardroot-server token generate"
    )]
    Refused {
        /// The server's answer.
        #[source]
        cause: Box<ServerError>,
    },
}

/// The agent's life. See the module.
pub struct Lifecycle<S> {
    settings: Settings,
    server: Arc<S>,
    keys: AgentKeys,
    storage: Storage,
    cache: Arc<Cache>,
    bundles: Arc<BundleSet>,
    clock: Arc<dyn Clock>,
    status: Arc<AgentStatus>,

    svid: Option<AgentSvid>,
    /// The CSR of the agent's key, so that a hardware key signs it once.
    csr: Option<Vec<u8>>,
    /// The key of a renewal that has not succeeded yet.
    pending_key: Option<AgentKey>,
    /// Why the node must prove itself anew although it has an SVID.
    must_attest: Option<&'static str>,
    /// The SVID hangs on an authority that is tainted or no longer in the bundle.
    authority_lost: bool,
    status_posted: bool,

    attest_retry: Retry,
    renew_retry: Retry,
    sync_retry: Retry,
    issue_retry: Retry,
    store_retry: Retry,
    unstored: Unstored,
    next_sync: Instant,
    /// What the server pushed so far.
    resume: Resume,
    /// A stream is open: nothing is polled.
    followed: bool,
    /// When a server that does not push is asked again whether it does.
    ask_push_at: Instant,
    batch: usize,
    synced: bool,
    clocks: (SystemTime, Instant),
}

/// What a [`Lifecycle`] is made of.
pub struct Parts<S> {
    /// See [`Settings`].
    pub settings: Settings,
    /// The server.
    pub server: Arc<S>,
    /// The agent's key.
    pub keys: AgentKeys,
    /// The data directory.
    pub storage: Storage,
    /// What workloads are served from.
    pub cache: Arc<Cache>,
    /// The bundles that verifiers use; the own one is empty only before an insecure bootstrap.
    pub bundles: Arc<BundleSet>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where others look at how the agent is.
    pub status: Arc<AgentStatus>,
}

impl<S: Server> Lifecycle<S> {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts<S>) -> Self {
        let Parts { settings, server, keys, storage, cache, bundles, clock, status } = parts;
        let retry = || Retry::new(RETRY.0, RETRY.1);
        let clocks = (clock.now(), Instant::now());
        Self {
            settings,
            server,
            keys,
            storage,
            cache,
            bundles,
            clock,
            status,
            svid: None,
            csr: None,
            pending_key: None,
            must_attest: None,
            authority_lost: false,
            status_posted: false,
            attest_retry: Retry::new(RETRY.0, LONGEST_ATTEST_PAUSE),
            renew_retry: retry(),
            sync_retry: retry(),
            issue_retry: retry(),
            store_retry: retry(),
            unstored: Unstored::default(),
            next_sync: clocks.1,
            resume: Resume::default(),
            followed: false,
            ask_push_at: clocks.1,
            batch: MAX_BATCH,
            synced: false,
            clocks,
        }
    }

    /// Lives until asked to stop.
    ///
    /// # Errors
    /// The agent was banned or refused for good; see [`Ended`].
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Ended> {
        tokio::select! {
            () = shutdown.requested() => Ok(()),
            ended = self.live() => Err(ended),
        }
    }

    async fn live(&mut self) -> Ended {
        self.resume().await;
        loop {
            if let Err(ended) = self.step().await {
                return ended;
            }
            let wake = self.wake_at();
            let server = Arc::clone(&self.server);
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                pushed = server.pushed(), if self.followed => {
                    if let Err(ended) = self.take_pushed(pushed).await {
                        return ended;
                    }
                }
                () = self.cache.demand(), if self.issue_retry.is_ready(Instant::now()) && self.synced => {}
            }
        }
    }

    /// Does everything that is due.
    async fn step(&mut self) -> Result<(), Ended> {
        self.watch_clocks();
        self.note_expiry();
        if self.needs_attestation().is_some() {
            if self.attest_retry.is_ready(Instant::now()) {
                self.attest_anew().await?;
            }
        } else if self.renewal_is_due() && self.renew_retry.is_ready(Instant::now()) {
            self.renew().await?;
        }
        if self.needs_attestation().is_none() {
            let now = Instant::now();
            if !self.followed && self.next_sync <= now && self.sync_retry.is_ready(now) {
                self.synchronise().await?;
            }
            if self.synced && self.issue_retry.is_ready(Instant::now()) {
                self.issue_one_batch().await?;
            }
        }
        self.keep_again();
        self.cache.settle();
        Ok(())
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let mut wake = now + TICK.min(self.settings.sync_interval);
        let mut sooner = |at: Instant| wake = wake.min(at.max(now));
        if let Some(at) = self.keep_at() {
            sooner(at);
        }
        if self.needs_attestation().is_some() {
            sooner(self.attest_retry.at().unwrap_or(now));
        } else {
            if !self.followed {
                sooner(self.sync_retry.at().unwrap_or(self.next_sync));
            }
            if self.synced && !self.cache.wanted(1).is_empty() {
                sooner(self.issue_retry.at().unwrap_or(now));
            }
        }
        wake
    }

    fn needs_attestation(&self) -> Option<&'static str> {
        match &self.svid {
            None => Some("no SVID"),
            Some(_) => self.must_attest,
        }
    }

    /// Tells of a clock that was set. Nothing is thrown away for it: what the clock says may be wrong.
    fn watch_clocks(&mut self) {
        let (wall, instant) = (self.clock.now(), Instant::now());
        let passed = instant.saturating_duration_since(self.clocks.1);
        let expected = self.clocks.0 + passed;
        self.clocks = (wall, instant);
        let step = match wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if step >= CLOCK_STEP {
            tracing::warn!(
                seconds = step.as_secs(),
                direction = if wall > expected { "forward" } else { "back" },
                "the clock was set, or the machine was suspended; lifetimes are judged by the new time"
            );
        }
    }

    fn own_bundle(&self) -> Option<Arc<Bundle>> {
        self.bundles.bundle(&self.settings.trust_domain)
    }

    /// Takes a new bundle of the own trust domain, in memory and on disk.
    fn take_own_bundle(&mut self, bundle: Bundle) {
        let old = self.own_bundle();
        if old.as_deref() == Some(&bundle) {
            return;
        }
        // What is stored loses taint marks; they come back with the first synchronisation.
        self.keep_bundle(&bundle);
        tracing::info!(
            trust_domain_id = %bundle.trust_domain.id(),
            sequence_number = bundle.sequence_number,
            x509_authorities = bundle.x509_authorities.len(),
            "trust bundle updated"
        );
        // An SVID of an authority that is tainted or gone is replaced while the server still accepts it.
        self.authority_lost = self.svid.as_ref().is_some_and(|svid| {
            matches!(
                verify_x509_svid(&svid.chain, &untainted(&bundle), self.clock.now()),
                Err(BadX509Svid::Untrusted { .. } | BadX509Svid::NoAuthority { .. })
            )
        });
        self.bundles.put(bundle);
    }

    /// Hands the bundles to workloads: the own one and `federated`.
    fn publish_bundles(&self, mut federated: BTreeMap<TrustDomain, Arc<Bundle>>) {
        if let Some(own) = self.own_bundle() {
            federated.insert(self.settings.trust_domain.clone(), own);
        }
        self.cache.set_bundles(federated);
    }

    /// What any refused or failed call may mean for the agent as a whole.
    async fn judge(&mut self, error: &ServerError) -> Result<(), Ended> {
        use hardroot_api::spire::api::types::permission_denied_details::Reason;

        if error.is_ban() {
            return Err(self.banned().await);
        }
        match error.reason() {
            Some(Reason::AgentExpired) => {
                self.must_attest = Some("the server says that the agent's SVID has expired")
            }
            Some(Reason::AgentNotAttested) => {
                self.must_attest = Some("the server does not know this agent (evicted?)")
            }
            Some(Reason::AgentNotActive) => {
                self.must_attest = Some("the server knows a newer SVID of this agent")
            }
            Some(Reason::AgentMustReattest) => {
                self.must_attest = Some("the server wants this node to attest again")
            }
            _ => {}
        }
        if error.is_certificate_refused() && self.svid.as_ref().is_some_and(|svid| svid.reattestable) {
            self.must_attest = Some("the server refused the agent's certificate");
        }
        if error.is_distrust() {
            tracing::error!(
                error = %error,
                "the server is not trusted: its certificate does not fit this agent's trust bundle, or this machine's \
                 clock is wrong. Workloads are served what is still valid"
            );
        }
        Ok(())
    }

    async fn banned(&mut self) -> Ended {
        self.cache.clear();
        (self.followed, self.resume) = (false, Resume::default());
        self.server.use_identity(None).await;
        self.status.svid_in_use(Vec::new());
        self.svid = None;
        if let Err(error) = self.storage.forget_svid() {
            tracing::error!(error = %error, "the SVID of the banned agent cannot be removed");
        }
        Ended::Banned
    }
}

/// A time of day for people: RFC 3339, UTC, whole seconds.
pub(crate) fn show_time(time: SystemTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time::OffsetDateTime::from(time).format(format).unwrap_or_default()
}
