//! Opening everything in order, and closing it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hardroot_hsm_keymanager::KeyManager;
use hardroot_identity::BadSpiffeId;
use hardroot_runtime::clock::{Clock, SystemClock};
use hardroot_runtime::logs::{self, LogHandle, LogOutput};
use hardroot_runtime::shutdown::{self, Shutdown};
use hardroot_runtime::{process, umask};
use hardroot_telemetry::http::HttpListener;
use hardroot_telemetry::token::Watched;
use hardroot_telemetry::{Identity, Telemetry};
use hardroot_tpm_attestor::device::silence_libtss2;
use hardroot_transport::BundleSet;
use tokio::signal::unix::SignalKind;
use tokio::task::JoinSet;

use super::reload::{Reader, reload};
use super::{RunError, attestor, keys};
use crate::admin_api::AdminApi;
use crate::attest::{AgentKeys, load_bundle};
use crate::attestors::WorkloadAttestor;
use crate::attestors::unix::UnixAttestor;
use crate::cache::Cache;
use crate::config::{AgentConfig, Bootstrap, NodeAttestorConfig};
use crate::health::{AgentHealth, Subjects};
use crate::jwt::JwtSvids;
use crate::lifecycle::{Lifecycle, Parts, Settings};
use crate::source::IdentitySource;
use crate::status::AgentStatus;
use crate::storage::Storage;
use crate::sync::GrpcServer;
use crate::telemetry::{Gauges, METRIC_PREFIX};
use crate::workload_api::WorkloadApi;

/// Threads that run the agent: TLS and RPCs need little, and each costs memory.
const WORKERS: usize = 2;

/// Runs the agent in this process until it is told to stop. `reader` reads the configuration anew when a signal asks
/// for it.
///
/// # Errors
/// See [`RunError`]; each has its exit code.
pub fn node(config: AgentConfig, reader: Reader) -> Result<(), RunError> {
    if config.tpm.is_some()
        && let Err(error) = silence_libtss2()
    {
        // Only libtss2's own lines on standard error would be lost by it.
        tracing::debug!(error = %error, "libtss2 stays loud");
    }
    umask::restrict();
    let output = config.log.file.clone().map_or(LogOutput::Stdout, LogOutput::File);
    let log = logs::init(config.log.format, config.log.level, output, config.log.source_location)?;
    let process = |what| move |cause| RunError::Process { what, cause };
    process::forbid_core_dumps().map_err(process("forbid core dumps"))?;
    process::raise_open_files().map_err(process("raise the limit of open files"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("agent")
        .enable_all()
        .build()
        .map_err(process("start the runtime"))?;
    let outcome = runtime.block_on(async {
        let shutdown = shutdown::signals().map_err(process("handle signals"))?;
        let reopened = log.clone();
        shutdown::on_signal(SignalKind::user_defined2(), &shutdown, move || {
            if let Err(error) = reopened.reopen() {
                tracing::error!(error = %error, "the log file cannot be opened anew");
            }
        })
        .map_err(process("handle signals"))?;
        let reader = Arc::new(Mutex::new(reader));
        let measured = Arc::new(OnceLock::<Arc<Telemetry>>::new());
        for (kind, tells) in [(SignalKind::hangup(), false), (SignalKind::user_defined1(), true)] {
            let (reader, log, measured) = (Arc::clone(&reader), log.clone(), Arc::clone(&measured));
            let read = move || {
                if let Some(telemetry) = measured.get().filter(|_| tells) {
                    telemetry.log();
                }
                reload(&reader.lock().unwrap_or_else(PoisonError::into_inner), &log);
            };
            shutdown::on_signal(kind, &shutdown, read).map_err(process("handle signals"))?;
        }
        let started = start(&config, log, shutdown.clone(), Arc::new(SystemClock)).await?;
        // Set once, here.
        drop(measured.set(Arc::clone(&started.telemetry)));
        started.run().await
    });
    // A call into a device that hangs must not hold the process back.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

/// An agent that is set up.
pub struct Started {
    lifecycle: Lifecycle<GrpcServer>,
    workload_api: WorkloadApi,
    socket_path: PathBuf,
    admin: Option<(AdminApi, PathBuf)>,
    shutdown: Shutdown,
    telemetry: Arc<Telemetry>,
    health: AgentHealth,
    health_listener: Option<HttpListener>,
}

/// Opens everything up to the Workload API's socket. Attestation comes later: workloads that connect meanwhile are
/// told that the agent is starting.
///
/// # Errors
/// See [`RunError`].
pub async fn start(
    config: &AgentConfig,
    log: LogHandle,
    shutdown: Shutdown,
    clock: Arc<dyn Clock>,
) -> Result<Started, RunError> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trust_domain_id = %config.trust_domain.id(),
        data_dir = %config.data_dir.display(),
        "starting agent"
    );
    let counting = hardroot_telemetry::begin(&config.telemetry, METRIC_PREFIX, config.trust_domain.as_str())?;
    let storage = Storage::open(&config.data_dir)?;
    let (manager, tpm) = keys::open(config).await?;
    let custody = manager.custody();
    let (manager, token) = Watched::new(manager, Arc::clone(&clock));
    let manager: Arc<dyn KeyManager> = manager;
    if custody.hardware {
        tracing::info!(key_manager = custody.backend, detail = %custody.detail, "key manager opened");
    } else {
        tracing::warn!(key_manager = custody.backend, detail = %custody.detail, "the agent's key is held in software and can be copied off this node");
    }
    let attestor = attestor::attestor(config, &manager, tpm.as_ref())?;

    let bundles = Arc::new(BundleSet::default());
    let mut insecure = false;
    match (storage.bundle(&config.trust_domain), &config.bootstrap) {
        (Some(stored), _) => bundles.put(stored),
        (None, Bootstrap::Bundle { path, format }) => {
            bundles.put(load_bundle(path, *format, &config.trust_domain)?);
        }
        (None, Bootstrap::Insecure) => {
            tracing::warn!(
                "insecure_bootstrap: the first server that answers is believed; pin its bundle with trust_bundle_path"
            );
            insecure = true;
        }
    }

    let wall = Arc::clone(&clock);
    let cache = Arc::new(Cache::new(
        config.trust_domain.clone(),
        config.cache_size,
        config.jwt_cache_size,
        Arc::new(move || wall.now()),
    ));
    let bad_id =
        |bad: BadSpiffeId| RunError::Attestor { name: config.node_attestor.name(), cause: bad.into() };
    let server = GrpcServer::new(
        config.server(),
        config.trust_domain.clone(),
        attestor,
        Arc::clone(&bundles),
        insecure,
        config.tls,
    )
    .map_err(bad_id)?;
    let server = Arc::new(server);
    let settings = Settings {
        trust_domain: config.trust_domain.clone(),
        workload_key_type: config.workload_key_type,
        sync_interval: config.sync_interval,
        refusal_is_final: config.node_attestor == NodeAttestorConfig::JoinToken,
        node_attestor: config.node_attestor.name(),
    };
    let unix: Arc<dyn WorkloadAttestor> = Arc::new(UnixAttestor::new(config.unix, Arc::clone(&clock)));
    let source: Arc<dyn IdentitySource> = Arc::clone(&cache) as _;
    let jwt = JwtSvids::new(
        Arc::clone(&cache),
        Arc::clone(&server) as _,
        Arc::clone(&clock),
        config.jwt_cache_hit_timeout,
    );
    let workload_api = WorkloadApi::new(source, Arc::new(jwt), vec![unix])
        .with_clock(Arc::clone(&clock))
        .with_foreign_claims(config.allowed_foreign_jwt_claims.iter().cloned())
        .with_verifiers(config.allow_unauthenticated_verifiers);
    let status = Arc::new(AgentStatus::new());
    let admin = config.admin_socket_path.clone().map(|path| {
        let api = AdminApi {
            trust_domain: config.trust_domain.clone(),
            cache: Arc::clone(&cache),
            status: Arc::clone(&status),
            log,
            clock: Arc::clone(&clock),
        };
        (api, path)
    });
    let health = AgentHealth::new(Subjects {
        status: Arc::clone(&status),
        availability: cache.subscribe(Vec::new()),
        token: Arc::clone(&token),
        custody,
        clock: Arc::clone(&clock),
    });
    let gauges = Gauges {
        trust_domain: config.trust_domain.clone(),
        status: Arc::clone(&status),
        cache: Arc::clone(&cache),
        token,
        health: health.clone(),
        clock: Arc::clone(&clock),
    };
    let shows = Identity { svid: server.identity(), bundles: Arc::clone(&bundles) as _ };
    let telemetry = Arc::new(counting.serve(&shows, Arc::new(move || gauges.read())).await?);
    let health_listener = listen_for_health(config, &health).await?;
    let keys = AgentKeys::new(manager);
    let lifecycle = Lifecycle::new(Parts { settings, server, keys, storage, cache, bundles, clock, status });
    let socket_path = config.socket_path.clone();
    Ok(Started { lifecycle, workload_api, socket_path, admin, shutdown, telemetry, health, health_listener })
}

async fn listen_for_health(
    config: &AgentConfig,
    health: &AgentHealth,
) -> Result<Option<HttpListener>, RunError> {
    let checks = &config.health_checks;
    if !checks.listener_enabled {
        return Ok(None);
    }
    let opened = hardroot_telemetry::health::serve(checks, Arc::new(health.clone())).await;
    let listener = opened.map_err(|cause| RunError::HealthListener {
        address: format!("{}:{}", checks.bind_address, checks.bind_port),
        cause,
    })?;
    tracing::info!(address = %listener.address(), "serving health checks");
    Ok(Some(listener))
}

impl Started {
    /// Lives until the shutdown is requested or the server sends the agent away. The Workload API is served from
    /// the beginning to the end.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self) -> Result<(), RunError> {
        let Self {
            lifecycle,
            workload_api,
            socket_path,
            admin,
            shutdown,
            telemetry,
            health,
            health_listener,
        } = self;
        let mut parts: JoinSet<Result<(), RunError>> = JoinSet::new();
        let ends = shutdown.clone();
        parts.spawn(async move {
            workload_api.serve(&socket_path, ends).await.map_err(|error| RunError::WorkloadApi(error.into()))
        });
        if let Some((api, path)) = admin {
            let ends = shutdown.clone();
            parts.spawn(async move {
                api.serve(&path, ends).await.map_err(|error| RunError::AdminApi(error.into()))
            });
        }
        let ends = shutdown.clone();
        parts.spawn(async move { Ok(lifecycle.run(ends).await?) });
        // Whichever ends first takes the others along; the first failure is the one to tell.
        let mut outcome = Ok(());
        while let Some(part) = parts.join_next().await {
            health.stopping();
            shutdown.request();
            let ended = part.unwrap_or_else(|panicked| {
                Err(RunError::Process { what: "go on", cause: std::io::Error::other(panicked) })
            });
            outcome = outcome.and(ended);
        }
        drop((telemetry, health_listener));
        if outcome.is_ok() {
            tracing::info!("agent stopped");
        }
        outcome
    }
}
