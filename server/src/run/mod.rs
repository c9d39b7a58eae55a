//! A server's life: start step by step, serve, stop.

mod attestors;
mod checks;
mod error;
mod health;
mod jobs;
mod keys;
pub mod reload;
mod services;
mod start;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hardroot_runtime::clock::Clock;
use hardroot_runtime::logs::LogHandle;
use hardroot_runtime::shutdown::Shutdown;
use hardroot_telemetry::Telemetry;
use hardroot_telemetry::http::HttpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use error::RunError;

use crate::authority::Authority;
use crate::config::ServerConfig;
use crate::datastore::SqlStore;
use crate::endpoints::{BundleCache, Serving};
use crate::instance::Tenancy;
use health::Health;
use reload::{Changeable, Reloads};

/// The path of the server's own ID.
pub const SERVER_ID_PATH: &str = "/spire/server";

/// What a server needs to run.
pub struct RunOptions {
    /// Its configuration.
    pub config: ServerConfig,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its log: audit lines go there, and operators change its level.
    pub log: LogHandle,
    /// Asked for when it shall stop.
    pub shutdown: Shutdown,
    /// Changes of the configuration while it runs.
    pub reloads: Reloads,
}

/// Runs a server until it is asked to stop.
///
/// # Errors
/// [`RunError`]: a step of starting failed, or an endpoint ended.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    let asked = options.shutdown.requested();
    let server = RunningServer::start(options.config, options.clock, options.log).await?;
    let mut reloads = options.reloads;
    tokio::pin!(asked);
    let mut lost = None;
    loop {
        tokio::select! {
            () = &mut asked => break,
            holder = server.tenancy.lost() => {
                lost = Some(holder);
                break;
            }
            what = reloads.next() => {
                if what == reload::Reload::Plugins {
                    server.telemetry.log();
                }
                reloads.take_over(what, &server.changeable);
            }
        }
    }
    info!("stopping");
    let stopped = server.stop().await;
    // Whoever starts this server again looks for the other process first, and reads anew what that one changed.
    lost.map_or(stopped, |holder| Err(RunError::Lease(holder)))
}

/// A server that is up and ready.
pub struct RunningServer {
    serving: Serving,
    health: Health,
    stop: CancellationToken,
    /// Ends agents' streams.
    streams: CancellationToken,
    jobs: JoinSet<()>,
    store: SqlStore,
    tenancy: Arc<Tenancy>,
    authority: Arc<Authority>,
    bundles: Arc<BundleCache>,
    changeable: Changeable,
    telemetry: Telemetry,
    health_listener: Option<HttpListener>,
}

impl RunningServer {
    /// Where the TLS port listens.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.serving.remote_address()
    }

    /// The admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> &Path {
        self.serving.admin_socket()
    }

    /// Where health is told over HTTP, if it is.
    #[must_use]
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health_listener.as_ref().map(HttpListener::address)
    }

    /// The signing authorities.
    #[must_use]
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The bundles that peers are verified with.
    #[must_use]
    pub fn bundles(&self) -> &Arc<BundleCache> {
        &self.bundles
    }

    /// Stops: calls under way get a few seconds, jobs end between two steps, the database is closed.
    ///
    /// # Errors
    /// [`RunError::EndpointEnded`] when an endpoint had ended before.
    pub async fn stop(mut self) -> Result<(), RunError> {
        let alive = self.serving.is_alive();
        self.health.stopping().await;
        // Agents' streams end first, or the endpoints would wait for them.
        self.streams.cancel();
        self.serving.stop().await;
        self.stop.cancel();
        // A job may be in the middle of an authority change: it is let finish, but not for ever.
        let all = async { while self.jobs.join_next().await.is_some() {} };
        if tokio::time::timeout(crate::endpoints::GRACE, all).await.is_err() {
            warn!("a background job did not end in time and is cut");
            self.jobs.shutdown().await;
        }
        self.tenancy.release().await;
        self.store.close().await;
        info!("stopped");
        if alive { Ok(()) } else { Err(RunError::EndpointEnded) }
    }
}
