//! A server's life: start step by step, serve, stop.

mod attestors;
mod error;
mod health;
mod jobs;
mod keys;
mod services;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hardroot_identity::SpiffeId;
use hardroot_runtime::clock::Clock;
use hardroot_runtime::shutdown::Shutdown;
use hardroot_runtime::state;
use hardroot_transport::{BundleSource, IdentitySlot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use error::RunError;

use crate::attest::{AttestConfig, Attestation};
use crate::audit::Audit;
use crate::authority::schedule::longest_unharmed_svid;
use crate::authority::{Authority, AuthorityConfig, AuthorityStore, ServerSvid};
use crate::authz::{Authorizer, AuthzStore, Gate};
use crate::config::ServerConfig;
use crate::datastore::sqlite::SqliteStore;
use crate::datastore::{Bundles, Datastore, Entries, EntryFilter, Nodes, Page};
use crate::endpoints::{BundleCache, Listeners, RateLimits, Serving, serve};
use crate::entries::AuthorizedEntries;
use health::Health;

/// The path of the server's own ID.
pub const SERVER_ID_PATH: &str = "/spire/server";

/// What a server needs to run.
pub struct RunOptions {
    /// Its configuration.
    pub config: ServerConfig,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Asked for when it shall stop.
    pub shutdown: Shutdown,
}

/// Runs a server until it is asked to stop.
///
/// # Errors
/// [`RunError`]: a step of starting failed, or an endpoint ended.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    let asked = options.shutdown.requested();
    let server = RunningServer::start(options.config, options.clock).await?;
    asked.await;
    info!("stopping");
    server.stop().await
}

/// A server that is up and ready.
pub struct RunningServer {
    serving: Serving,
    health: Health,
    stop: CancellationToken,
    jobs: JoinSet<()>,
    store: SqliteStore,
    authority: Arc<Authority>,
    bundles: Arc<BundleCache>,
}

impl RunningServer {
    /// Starts step by step; when it returns, the server is ready.
    ///
    /// # Errors
    /// [`RunError`] names the step that failed.
    pub async fn start(config: ServerConfig, clock: Arc<dyn Clock>) -> Result<Self, RunError> {
        warn_about_lifetimes(&config);
        state::ensure_dir(&config.data_dir, 0o700).map_err(RunError::DataDir)?;
        let sqlite = SqliteStore::open(&config.database).await.map_err(RunError::Datastore)?;
        let store: Arc<dyn Datastore> = Arc::new(sqlite.clone());
        check_trust_domain(&config, &*store).await?;
        let entries = AuthorizedEntries::load(Arc::clone(&store), config.trust_domain.clone())
            .await
            .map_err(RunError::Datastore)?;

        let keys = keys::open(&config.key_manager, &config.trust_domain).await?;

        let authority_config = AuthorityConfig {
            trust_domain: config.trust_domain.clone(),
            ca_ttl: config.ca_ttl,
            ca_key_type: config.ca_key_type,
            ca_subject: config.ca_subject.clone(),
        };
        let authority_store: Arc<dyn AuthorityStore> = Arc::new(sqlite.clone());
        let authority =
            Authority::start(authority_config, Arc::clone(&keys), authority_store, Arc::clone(&clock))
                .await
                .map_err(RunError::Authority)?;
        let authority = Arc::new(authority);
        let bundle_store: Arc<dyn Bundles> = Arc::new(sqlite.clone());
        let bundles = Arc::new(BundleCache::new(bundle_store, config.trust_domain.clone()));
        bundles.refresh().await.map_err(RunError::Bundle)?;

        let identity = IdentitySlot::default();
        let svid = ServerSvid::start(
            server_id(&config),
            config.ca_key_type,
            config.default_x509_svid_ttl,
            keys,
            Arc::clone(&clock),
            authority.signer(),
            IdentitySlot::clone(&identity),
        )
        .await
        .map_err(RunError::ServerSvid)?;

        let source: Arc<dyn BundleSource> = Arc::clone(&bundles) as Arc<dyn BundleSource>;
        let attestors = attestors::build(&config, &sqlite, &source)?;
        let audit = Audit::new(config.audit_log_enabled);
        let node_store: Arc<dyn Nodes> = Arc::new(sqlite.clone());
        let attestation = Attestation::new(
            AttestConfig {
                trust_domain: config.trust_domain.clone(),
                agent_ttl: config.agent_ttl,
                attestors,
                audit,
            },
            node_store,
            authority.signer(),
            Arc::clone(&clock),
        );
        let parts = || services::Parts {
            trust_domain: config.trust_domain.clone(),
            default_x509_svid_ttl: config.default_x509_svid_ttl,
            store: Arc::clone(&store),
            entries: Arc::clone(&entries),
            signer: authority.signer(),
            attestation: attestation.clone(),
            clock: Arc::clone(&clock),
            audit,
        };
        let (health, health_service) = Health::new(authority.signer().working()).await;
        let remote = services::shared(parts()).routes();
        let mut local = services::shared(parts());
        local.add_service(health_service);

        let authz_store: Arc<dyn AuthzStore> = Arc::new(sqlite.clone());
        let gate = Gate {
            authorizer: Authorizer::new(
                config.trust_domain.clone(),
                config.admin_ids.clone(),
                authz_store,
                Arc::clone(&source),
                Arc::clone(&clock),
            ),
            limits: Arc::new(RateLimits::new(config.limit_attestation, config.limit_signing)),
            bundles: Arc::clone(&bundles),
            audit,
        };
        let listeners = Listeners::open(&config.bind_address, config.bind_port, &config.socket_path)
            .await
            .map_err(RunError::Endpoints)?;
        let serving = serve(listeners, identity, source, Arc::new(gate), remote, local.routes());

        let stop = CancellationToken::new();
        let mut jobs = jobs::start(
            &jobs::Parts {
                authority: Arc::clone(&authority),
                svid: Arc::new(svid),
                bundles: Arc::clone(&bundles),
                entries,
                store,
                clock,
                health: health.clone(),
            },
            &stop,
        );
        let follower = (health.clone(), stop.clone());
        jobs.spawn(async move {
            tokio::select! {
                () = follower.1.cancelled() => {}
                () = follower.0.follow_signing() => {}
            }
        });
        health.ready().await;
        info!(trust_domain = %config.trust_domain, "ready");
        Ok(Self { serving, health, stop, jobs, store: sqlite, authority, bundles })
    }

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
        self.serving.stop().await;
        self.stop.cancel();
        // A job may be in the middle of an authority change: it is let finish, but not for ever.
        let all = async { while self.jobs.join_next().await.is_some() {} };
        if tokio::time::timeout(crate::endpoints::GRACE, all).await.is_err() {
            warn!("a background job did not end in time and is cut");
            self.jobs.shutdown().await;
        }
        self.store.close().await;
        info!("stopped");
        if alive { Ok(()) } else { Err(RunError::EndpointEnded) }
    }
}

fn server_id(config: &ServerConfig) -> SpiffeId {
    // The path is a valid one, so the ID is too; the trust domain alone could not be a server's.
    SpiffeId::new(&config.trust_domain, SERVER_ID_PATH).unwrap_or_else(|_| config.trust_domain.id())
}

async fn check_trust_domain(config: &ServerConfig, store: &dyn Datastore) -> Result<(), RunError> {
    let page = Page { size: 1, token: String::new() };
    let (entries, _) =
        Entries::list_entries(store, &EntryFilter::default(), &page).await.map_err(RunError::Datastore)?;
    match entries.first().filter(|entry| !entry.spiffe_id.is_member_of(&config.trust_domain)) {
        None => Ok(()),
        Some(foreign) => Err(RunError::OtherTrustDomain {
            found: foreign.spiffe_id.trust_domain(),
            configured: config.trust_domain.clone(),
        }),
    }
}

fn warn_about_lifetimes(config: &ServerConfig) {
    let longest = longest_unharmed_svid(config.ca_ttl);
    for (key, ttl) in
        [("default_x509_svid_ttl", config.default_x509_svid_ttl), ("agent_ttl", config.agent_ttl)]
    {
        if ttl > longest {
            warn!(
                key,
                seconds = ttl.as_secs(),
                longest_seconds = longest.as_secs(),
                "SVIDs may be cut short by the end of their authority: make this lifetime shorter or ca_ttl \
                 at least six times as long"
            );
        }
    }
}
