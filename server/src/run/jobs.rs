//! What runs beside the endpoints, on the injected clock.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hardroot_runtime::clock::Clock;
use hardroot_telemetry::Call;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::health::Health;
use crate::attest::chain;
use crate::authority::{Authority, CHECK_INTERVAL, ServerSvid};
use crate::config::PruneAgents;
use crate::datastore::{Datastore, Entries, JoinTokens, Nodes};
use crate::endpoints::BundleCache;
use crate::entries::{AuthorizedEntries, CHECK};
use crate::instance::{RENEW_LEASE, RecordedKeys, Tenancy};

/// Expired entries leave this often.
const PRUNE_ENTRIES: Duration = Duration::from_secs(5 * 60);
/// Expired join tokens leave this often.
const PRUNE_TOKENS: Duration = Duration::from_secs(60 * 60);
/// Agents that are over leave about this often, where it is configured; not all servers at once.
const PRUNE_AGENTS: Duration = Duration::from_secs(60 * 60);
/// Ended authorities leave the bundle this often.
const PRUNE_BUNDLE: Duration = Duration::from_secs(6 * 60 * 60);

/// Bundles are read this often although the log of changes speaks of none, in case the database was changed by hand.
const READ_BUNDLES: Duration = Duration::from_secs(60);
/// Keys that nobody needs any more are looked for this often.
const REAP_KEYS: Duration = Duration::from_secs(60 * 60);

/// What the jobs work on.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) tenancy: Arc<Tenancy>,
    pub(super) keys: Option<Arc<RecordedKeys>>,
    pub(super) ca_ttl: Duration,
    pub(super) authority: Arc<Authority>,
    pub(super) svid: Arc<ServerSvid>,
    pub(super) bundles: Arc<BundleCache>,
    pub(super) entries: Arc<AuthorizedEntries>,
    pub(super) store: Arc<dyn Datastore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) health: Health,
    pub(super) prune_agents: Option<PruneAgents>,
}

/// Starts them all; they end when `stop` is cancelled.
pub(super) fn start(parts: &Parts, stop: &CancellationToken) -> JoinSet<()> {
    let mut jobs = JoinSet::new();
    let follow = (Arc::clone(&parts.entries), stop.clone());
    jobs.spawn(async move { follow.0.follow(follow.1).await });
    let follow = (parts.clone(), stop.clone());
    jobs.spawn(async move {
        tokio::select! {
            () = follow.1.cancelled() => {}
            () = follow_bundles(&follow.0) => {}
        }
    });
    // Several servers on one database look at their own times.
    let compare = CHECK + Duration::from_secs(10 * u64::from(std::process::id() % 31));
    every(&mut jobs, parts, stop, compare, |parts| async move {
        if let Err(cause) = parts.entries.check().await {
            warn!(error = %chain(&cause), "entries in memory could not be compared with the database");
        }
    });
    every(&mut jobs, parts, stop, RENEW_LEASE, |parts| async move {
        let signer = parts.authority.signer();
        parts.tenancy.renew(&signer.authority_id().unwrap_or_default()).await;
        signer.suspend(!parts.tenancy.is_held());
    });
    every(&mut jobs, parts, stop, REAP_KEYS, |parts| async move {
        let Some(keys) = parts.keys.as_ref().filter(|_| parts.tenancy.is_held()) else { return };
        if let Err(cause) = keys.reap(&parts.authority, parts.ca_ttl * 2).await {
            warn!(error = %chain(&cause), "keys that nobody needs could not be destroyed");
        }
    });
    every(&mut jobs, parts, stop, CHECK_INTERVAL, |parts| async move { rotate(&parts).await });
    every(&mut jobs, parts, stop, PRUNE_ENTRIES, |parts| async move { prune_entries(&parts).await });
    every(&mut jobs, parts, stop, PRUNE_TOKENS, |parts| async move {
        if let Err(cause) = JoinTokens::prune_join_tokens(&*parts.store, parts.clock.now()).await {
            warn!(error = %chain(&cause), "expired join tokens could not be removed");
        }
    });
    if let Some(rule) = parts.prune_agents {
        // Several servers on one database begin their hours at their own times.
        let share = u64::from(std::process::id() % 31);
        let period = PRUNE_AGENTS - Duration::from_secs(15 * 60) + Duration::from_secs(60 * share);
        every(&mut jobs, parts, stop, period, move |parts| async move { prune_agents(&parts, rule).await });
    }
    every(&mut jobs, parts, stop, PRUNE_BUNDLE, |parts| async move {
        let call = Call::start("ca.manager.bundle.prune");
        if let Err(cause) = call.finish(parts.authority.prune().await) {
            warn!(error = %chain(&cause), "ended authorities could not be removed from the bundle");
        }
    });
    jobs
}

fn every<F, R>(jobs: &mut JoinSet<()>, parts: &Parts, stop: &CancellationToken, period: Duration, run: F)
where
    F: Fn(Parts) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    let (parts, stop) = (parts.clone(), stop.clone());
    jobs.spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = parts.clock.sleep(period) => {}
            }
            run(parts.clone()).await;
        }
    });
}

/// Reads bundles when another server changed them, and lets open streams look again at who is trusted.
async fn follow_bundles(parts: &Parts) {
    let (mut noted, mut changed) = (parts.entries.bundles_changed(), parts.bundles.changed());
    loop {
        tokio::select! {
            note = noted.changed() => {
                if note.is_err() {
                    return;
                }
                if let Err(cause) = parts.bundles.follow(&parts.entries).await {
                    warn!(error = %chain(&cause), "changed bundles could not be read; the next round tries again");
                }
            }
            change = changed.changed() => {
                if change.is_err() {
                    return;
                }
                parts.entries.recheck_all();
            }
        }
    }
}

async fn rotate(parts: &Parts) {
    // A failure leaves what is valid in place; the next round tries again.
    let mut fine = true;
    let mut note = |what: &'static str, cause: &(dyn Error + 'static)| {
        fine = false;
        error!(error = %chain(cause), "{what}");
    };
    // The keys of an instance are not made or replaced by a process that is it no more.
    if parts.tenancy.is_held() {
        if let Err(cause) = parts.authority.check().await {
            note("the signing authority could not be checked; the active one goes on", &cause);
        }
        if let Err(cause) = parts.svid.check().await {
            note("the server SVID could not be renewed; the old one goes on", &cause);
        }
        if !parts.health.signs()
            && let Err(cause) = parts.svid.probe().await
        {
            note("the key manager still does not sign", &cause);
        }
    }
    let read = parts.health.bundle_read_at();
    let due = parts.clock.now().duration_since(read).map_or(true, |age| age >= READ_BUNDLES);
    let done = if due { parts.bundles.refresh().await } else { parts.bundles.follow(&parts.entries).await };
    match done {
        Ok(()) if due => parts.health.bundle_read(),
        Ok(()) => {}
        Err(cause) => note("the bundles could not be read; those in memory go on", &cause),
    }
    parts.health.rotation(fine).await;
}

/// Removes agents that are over, a batch after the other until none is left.
async fn prune_agents(parts: &Parts, rule: PruneAgents) {
    let Some(before) = parts.clock.now().checked_sub(rule.expired_for) else { return };
    loop {
        match Nodes::prune_nodes(&*parts.store, before, rule.and_tofu, rule.batch).await {
            Ok(gone) if gone.is_empty() => return,
            Ok(gone) => {
                for spiffe_id in gone {
                    info!(%spiffe_id, "the agent's SVID ended long ago, and the agent was removed");
                }
            }
            Err(cause) => {
                warn!(error = %chain(&cause), "agents whose SVIDs ended could not be removed; the next round tries again");
                return;
            }
        }
    }
}

async fn prune_entries(parts: &Parts) {
    let call = Call::start("registration_entry.manager.prune");
    match call.finish(Entries::prune_entries(&*parts.store, parts.clock.now()).await) {
        Ok(gone) => {
            for entry_id in gone {
                info!(%entry_id, "entry expired and was removed");
            }
        }
        Err(cause) => warn!(error = %chain(&cause), "expired entries could not be removed"),
    }
}
