//! Starting step by step: configuration is known, then datastore, keys, lease, authorities, endpoints.

use std::sync::Arc;
use std::time::SystemTime;

use hardroot_api::spire::api::server::debug::v1::debug_server::DebugServer;
use hardroot_api::spire::api::server::logger::v1::logger_server::LoggerServer;
use hardroot_hsm_keymanager::KeyManager;
use hardroot_identity::SpiffeId;
use hardroot_runtime::clock::Clock;
use hardroot_runtime::logs::LogHandle;
use hardroot_runtime::state;
use hardroot_telemetry::Begun;
use hardroot_telemetry::health::serve as serve_health;
use hardroot_telemetry::http::HttpListener;
use hardroot_telemetry::token::{TokenFacts, Watched};
use hardroot_transport::{BundleSource, IdentitySlot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::RunError;
use super::health::{self, Health, served_until};
use super::reload::Changeable;
use super::{RunningServer, SERVER_ID_PATH, attestors, checks, jobs, keys, services};
use crate::api::debug::DebugService;
use crate::api::logger::LoggerService;
use crate::attest::{AttestConfig, Attestation};
use crate::audit::Audit;
use crate::authority::queue::Handshakes;
use crate::authority::{Authority, AuthorityConfig, AuthorityStore, JwtConfig, ServerSvid};
use crate::authz::{Authorizer, Gate};
use crate::config::ServerConfig;
use crate::datastore::{Bundles, Datastore, KeyRecords, Nodes, SqlStore};
use crate::endpoints::{BundleCache, Listeners, RateLimits, Serving, Tls, serve};
use crate::entries::AuthorizedEntries;
use crate::instance::{Tenancy, instance_id};
use crate::telemetry::Metered;
use crate::telemetry::gauges::Gauges;

/// Stands before SPIRE's metrics unless `MetricPrefix` says otherwise.
const METRIC_PREFIX: &str = "spire_server";

/// What is open once this process is known to be the server instance.
struct Opened {
    database: SqlStore,
    store: Arc<dyn Datastore>,
    entries: Arc<AuthorizedEntries>,
    keys: Arc<dyn KeyManager>,
    instance: String,
    tenancy: Arc<Tenancy>,
    /// When the key manager began to open, for the measure of starting.
    began: SystemTime,
    counting: Begun,
}

impl RunningServer {
    /// Starts step by step; when it returns, the server is ready.
    ///
    /// # Errors
    /// [`RunError`] names the step that failed.
    pub async fn start(
        config: ServerConfig,
        clock: Arc<dyn Clock>,
        log: LogHandle,
    ) -> Result<Self, RunError> {
        let counting =
            hardroot_telemetry::begin(&config.telemetry, METRIC_PREFIX, config.trust_domain.as_str())
                .map_err(RunError::Telemetry)?;
        checks::warn_about_lifetimes(&config);
        state::ensure_dir(&config.data_dir, 0o700).map_err(RunError::DataDir)?;
        for warning in config.database.warnings() {
            warn!("{warning}");
        }
        let database = SqlStore::open(&config.database).await.map_err(RunError::Datastore)?;
        let store: Arc<dyn Datastore> = Arc::new(Metered(database.clone()));
        checks::trust_domain(&config, &*store).await?;
        let staleness = config.database.outage_staleness;
        let entries = AuthorizedEntries::load(Arc::clone(&store), config.trust_domain.clone(), staleness)
            .await
            .map_err(RunError::Datastore)?;

        let began = clock.now();
        let keys = keys::open(&config.key_manager, &config.trust_domain).await?;
        let instance = instance_id(&config.data_dir).map_err(RunError::Instance)?;
        // Before any key is looked at: a copy of this server would take or replace them.
        let tenancy = take_lease(&database, &clock, &instance, &*keys).await?;
        let opened = Opened {
            database,
            store,
            entries,
            keys,
            instance,
            tenancy: Arc::clone(&tenancy),
            began,
            counting,
        };
        let started = Box::pin(Self::start_leased(config, clock, log, opened)).await;
        if started.is_err() {
            // Whoever starts next need not wait until it runs out.
            tenancy.release().await;
        }
        started
    }

    async fn start_leased(
        config: ServerConfig,
        clock: Arc<dyn Clock>,
        log: LogHandle,
        opened: Opened,
    ) -> Result<Self, RunError> {
        let Opened { database, store, entries, keys, instance, tenancy, began, counting } = opened;
        let metered = Metered(database.clone());
        let custody = keys.custody();
        let (keys, token) = Watched::new(keys, Arc::clone(&clock));
        let keys: Arc<dyn KeyManager> = keys;
        let (keys, recorded) =
            keys::recorded(keys, Arc::new(metered.clone()), &clock, instance, &config).await?;

        let authority = start_authority(&config, &keys, &metered, &clock).await?;
        let bundle_store: Arc<dyn Bundles> = Arc::new(metered.clone());
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

        let svid = Arc::new(svid);
        let source: Arc<dyn BundleSource> = Arc::clone(&bundles) as Arc<dyn BundleSource>;
        let attestors = attestors::build(&config, &database, &source)?;
        let audit = if config.audit_log_enabled {
            Audit::new(log.clone(), config.audit_log_required)
        } else {
            Audit::off()
        };
        let node_store: Arc<dyn Nodes> = Arc::new(metered.clone());
        let attestation = Attestation::new(
            AttestConfig {
                trust_domain: config.trust_domain.clone(),
                agent_ttl: config.agent_ttl,
                attestors,
                audit: audit.clone(),
            },
            node_store,
            authority.signer(),
            Arc::clone(&clock),
        );
        let stop = CancellationToken::new();
        let streams = stop.child_token();
        let parts = || services::Parts {
            trust_domain: config.trust_domain.clone(),
            default_x509_svid_ttl: config.default_x509_svid_ttl,
            default_jwt_svid_ttl: config.jwt.as_ref().map(|jwt| jwt.default_ttl),
            store: Arc::clone(&store),
            entries: Arc::clone(&entries),
            bundles: Arc::clone(&bundles),
            signer: authority.signer(),
            attestation: attestation.clone(),
            clock: Arc::clone(&clock),
            audit: audit.clone(),
            stop: streams.clone(),
        };
        let (health, health_service) = Health::new(health::Subjects {
            signing: authority.signer().working(),
            token: Arc::clone(&token),
            custody,
            lease: tenancy.held(),
            signer: authority.signer(),
            svid: Arc::clone(&svid),
            identity: IdentitySlot::clone(&identity),
            bundles: Arc::clone(&bundles),
            published_at: authority.published_at(),
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
        })
        .await;
        let remote = services::shared(parts()).routes();
        let mut local = services::shared(parts());
        let debug = DebugService::new(
            Arc::clone(&store),
            Arc::clone(&bundles),
            IdentitySlot::clone(&identity),
            Arc::clone(&clock),
        );
        local
            .add_service(health_service)
            .add_service(LoggerServer::new(LoggerService::new(log)))
            .add_service(DebugServer::new(debug));

        let limits = Arc::new(RateLimits::new(config.limit_attestation, config.limit_signing));
        let nodes: Arc<dyn Nodes> = Arc::new(metered.clone());
        let gate = Gate {
            authorizer: Authorizer::new(
                config.trust_domain.clone(),
                config.admin_ids.clone(),
                nodes,
                Arc::clone(&entries),
                Arc::clone(&source),
                Arc::clone(&clock),
            )
            .with_node_staleness(config.node_staleness),
            limits: Arc::clone(&limits),
            bundles: Arc::clone(&bundles),
            audit,
        };
        let listeners = Listeners::open(&config.bind_address, config.bind_port, &config.socket_path)
            .await
            .map_err(RunError::Endpoints)?;
        let shown = IdentitySlot::clone(&identity);
        let trusted = Arc::clone(&source);
        let (local, bounds) = (local.routes(), config.limits.clone());
        let order = Arc::new(Handshakes(Arc::clone(authority.signer().queue())));
        let tls = Tls { identity, bundles: source, order };
        let serving = serve(listeners, tls, Arc::new(gate), remote, local, bounds);
        let of_token = Arc::clone(&token);
        let gauges =
            gauges(&config, &health, &authority, of_token, &entries, &shown, &serving, &clock, began);
        let shows = hardroot_telemetry::Identity { svid: shown, bundles: Arc::clone(&trusted) };
        let telemetry =
            counting.serve(&shows, Arc::new(move || gauges.read())).await.map_err(RunError::Telemetry)?;

        let mut jobs = jobs::start(
            &jobs::Parts {
                tenancy: Arc::clone(&tenancy),
                keys: recorded,
                ca_ttl: config.ca_ttl,
                authority: Arc::clone(&authority),
                svid,
                bundles: Arc::clone(&bundles),
                entries,
                store,
                clock,
                prune_agents: config.prune_agents,
                health: health.clone(),
            },
            &stop,
        );
        let follower = (health.clone(), stop.clone());
        jobs.spawn(async move {
            tokio::select! {
                () = follower.1.cancelled() => {}
                () = follower.0.follow() => {}
            }
        });
        let health_listener = listen_for_health(&config, &health).await?;
        health.ready(serving.watch()).await;
        info!(trust_domain = %config.trust_domain, "ready");
        let store = database.clone();
        let changeable = Changeable { attestation, limits, store, bundles: trusted, config };
        Ok(Self {
            serving,
            health,
            stop,
            streams,
            jobs,
            store: database,
            tenancy,
            authority,
            bundles,
            changeable,
            telemetry,
            health_listener,
        })
    }
}

/// Finds the signing authorities again, or makes the first ones.
async fn start_authority(
    config: &ServerConfig,
    keys: &Arc<dyn KeyManager>,
    store: &Metered<SqlStore>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Authority>, RunError> {
    let jwt = config.jwt.as_ref();
    let wanted = AuthorityConfig {
        trust_domain: config.trust_domain.clone(),
        ca_ttl: config.ca_ttl,
        ca_key_type: config.ca_key_type,
        ca_subject: config.ca_subject.clone(),
        jwt: jwt.map(|jwt| JwtConfig { key_type: jwt.key_type, issuer: jwt.issuer.clone() }),
    };
    let store: Arc<dyn AuthorityStore> = Arc::new(store.clone());
    let started = Authority::start(wanted, Arc::clone(keys), store, Arc::clone(clock)).await;
    started.map(Arc::new).map_err(RunError::Authority)
}

async fn listen_for_health(config: &ServerConfig, health: &Health) -> Result<Option<HttpListener>, RunError> {
    let checks = &config.health_checks;
    if !checks.listener_enabled {
        return Ok(None);
    }
    let opened = serve_health(checks, Arc::new(health.clone())).await;
    let listener = opened.map_err(|cause| RunError::HealthListener {
        address: format!("{}:{}", checks.bind_address, checks.bind_port),
        cause,
    })?;
    info!(address = %listener.address(), "serving health checks");
    Ok(Some(listener))
}

#[expect(clippy::too_many_arguments, reason = "one call; a structure would only repeat `Gauges`")]
fn gauges(
    config: &ServerConfig,
    health: &Health,
    authority: &Authority,
    token: Arc<TokenFacts>,
    entries: &Arc<AuthorizedEntries>,
    identity: &IdentitySlot,
    serving: &Serving,
    clock: &Arc<dyn Clock>,
    began: SystemTime,
) -> Gauges {
    let (read, ready, identity) = (health.clone(), health.clone(), IdentitySlot::clone(identity));
    let published = authority.published_at();
    Gauges {
        trust_domain: config.trust_domain.clone(),
        token,
        signer: authority.signer(),
        entries: Arc::clone(entries),
        svid_end: Box::new(move || served_until(&identity)),
        bundle_read: Box::new(move || Some(read.bundle_read_at())),
        bundle_published: Box::new(move || *published.borrow()),
        ready: Box::new(move || ready.was_ready()),
        listeners: serving.stats(),
        clock: Arc::clone(clock),
        began,
    }
}

async fn take_lease(
    store: &SqlStore,
    clock: &Arc<dyn Clock>,
    instance: &str,
    keys: &dyn KeyManager,
) -> Result<Arc<Tenancy>, RunError> {
    let records: Arc<dyn KeyRecords> = Arc::new(Metered(store.clone()));
    let token = keys.custody().detail;
    Tenancy::take(records, Arc::clone(clock), instance.to_owned(), token)
        .await
        .map(Arc::new)
        .map_err(RunError::Lease)
}

fn server_id(config: &ServerConfig) -> SpiffeId {
    // The path is a valid one, so the ID is too; the trust domain alone could not be a server's.
    SpiffeId::new(&config.trust_domain, SERVER_ID_PATH).unwrap_or_else(|_| config.trust_domain.id())
}
