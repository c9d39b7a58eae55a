//! What runs beside the endpoints, on the injected clock.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hardroot_runtime::clock::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::health::Health;
use crate::attest::chain;
use crate::authority::{Authority, CHECK_INTERVAL, ServerSvid};
use crate::datastore::{Datastore, Entries, JoinTokens};
use crate::endpoints::BundleCache;
use crate::entries::AuthorizedEntries;

/// Expired entries leave this often.
const PRUNE_ENTRIES: Duration = Duration::from_secs(5 * 60);
/// Expired join tokens leave this often.
const PRUNE_TOKENS: Duration = Duration::from_secs(60 * 60);
/// Ended authorities leave the bundle this often.
const PRUNE_BUNDLE: Duration = Duration::from_secs(6 * 60 * 60);

/// What the jobs work on.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) authority: Arc<Authority>,
    pub(super) svid: Arc<ServerSvid>,
    pub(super) bundles: Arc<BundleCache>,
    pub(super) entries: Arc<AuthorizedEntries>,
    pub(super) store: Arc<dyn Datastore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) health: Health,
}

/// Starts them all; they end when `stop` is cancelled.
pub(super) fn start(parts: &Parts, stop: &CancellationToken) -> JoinSet<()> {
    let mut jobs = JoinSet::new();
    let follow = (Arc::clone(&parts.entries), stop.clone());
    jobs.spawn(async move { follow.0.follow(follow.1).await });
    every(&mut jobs, parts, stop, CHECK_INTERVAL, |parts| async move { rotate(&parts).await });
    every(&mut jobs, parts, stop, PRUNE_ENTRIES, |parts| async move { prune_entries(&parts).await });
    every(&mut jobs, parts, stop, PRUNE_TOKENS, |parts| async move {
        if let Err(cause) = JoinTokens::prune_join_tokens(&*parts.store, parts.clock.now()).await {
            warn!(error = %chain(&cause), "expired join tokens could not be removed");
        }
    });
    every(&mut jobs, parts, stop, PRUNE_BUNDLE, |parts| async move {
        if let Err(cause) = parts.authority.prune().await {
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

async fn rotate(parts: &Parts) {
    // A failure leaves what is valid in place; the next round tries again.
    let mut fine = true;
    let mut note = |what: &'static str, cause: &(dyn Error + 'static)| {
        fine = false;
        error!(error = %chain(cause), "{what}");
    };
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
    if let Err(cause) = parts.bundles.refresh().await {
        note("the bundles could not be read; those in memory go on", &cause);
    }
    parts.health.rotation(fine).await;
}

async fn prune_entries(parts: &Parts) {
    match Entries::prune_entries(&*parts.store, parts.clock.now()).await {
        Ok(gone) => {
            for entry_id in gone {
                info!(%entry_id, "entry expired and was removed");
            }
        }
        Err(cause) => warn!(error = %chain(&cause), "expired entries could not be removed"),
    }
}
