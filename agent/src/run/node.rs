//! Opening everything in order, and closing it.

use std::path::PathBuf;
use std::sync::Arc;

use hardroot_identity::BadSpiffeId;
use hardroot_runtime::clock::{Clock, SystemClock};
use hardroot_runtime::logs::{self, LogOutput};
use hardroot_runtime::shutdown::{self, Shutdown};
use hardroot_runtime::{process, umask};
use hardroot_tpm_attestor::device::silence_libtss2;
use hardroot_transport::BundleSet;
use tokio::task::JoinError;

use super::{RunError, attestor, keys};
use crate::attest::{AgentKeys, load_bundle};
use crate::attestors::WorkloadAttestor;
use crate::attestors::unix::UnixAttestor;
use crate::cache::Cache;
use crate::config::{AgentConfig, Bootstrap, NodeAttestorConfig};
use crate::lifecycle::{Ended, Lifecycle, Parts, Settings};
use crate::source::IdentitySource;
use crate::storage::Storage;
use crate::sync::GrpcServer;
use crate::workload_api::{WorkloadApi, WorkloadApiError};

/// Threads that run the agent: TLS and RPCs need little, and each costs memory.
const WORKERS: usize = 2;

/// Runs the agent in this process until it is told to stop.
///
/// # Errors
/// See [`RunError`]; each has its exit code.
pub fn node(config: AgentConfig) -> Result<(), RunError> {
    if config.tpm.is_some()
        && let Err(error) = silence_libtss2()
    {
        // Only libtss2's own lines on standard error would be lost by it.
        tracing::debug!(error = %error, "libtss2 stays loud");
    }
    umask::restrict();
    let output = config.log.file.clone().map_or(LogOutput::Stdout, LogOutput::File);
    let log = logs::init(config.log.format, config.log.level, output)?;
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
        shutdown::on_signal(tokio::signal::unix::SignalKind::user_defined2(), &shutdown, move || {
            if let Err(error) = log.reopen() {
                tracing::error!(error = %error, "the log file cannot be opened anew");
            }
        })
        .map_err(process("handle signals"))?;
        let started = start(&config, shutdown.clone(), Arc::new(SystemClock)).await?;
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
    shutdown: Shutdown,
}

/// Opens everything up to the Workload API's socket. Attestation comes later: workloads that connect meanwhile are
/// told that the agent is starting.
///
/// # Errors
/// See [`RunError`].
pub async fn start(
    config: &AgentConfig,
    shutdown: Shutdown,
    clock: Arc<dyn Clock>,
) -> Result<Started, RunError> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trust_domain_id = %config.trust_domain.id(),
        data_dir = %config.data_dir.display(),
        "starting agent"
    );
    let storage = Storage::open(&config.data_dir)?;
    let (manager, tpm) = keys::open(config).await?;
    let custody = manager.custody();
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
    let cache =
        Arc::new(Cache::new(config.trust_domain.clone(), config.cache_size, Arc::new(move || wall.now())));
    let bad_id =
        |bad: BadSpiffeId| RunError::Attestor { name: config.node_attestor.name(), cause: bad.into() };
    let server = GrpcServer::new(
        config.server(),
        config.trust_domain.clone(),
        attestor,
        Arc::clone(&bundles),
        insecure,
    )
    .map_err(bad_id)?;
    let settings = Settings {
        trust_domain: config.trust_domain.clone(),
        workload_key_type: config.workload_key_type,
        sync_interval: config.sync_interval,
        refusal_is_final: config.node_attestor == NodeAttestorConfig::JoinToken,
    };
    let unix: Arc<dyn WorkloadAttestor> = Arc::new(UnixAttestor::new(config.unix, Arc::clone(&clock)));
    let source: Arc<dyn IdentitySource> = Arc::clone(&cache) as _;
    let workload_api = WorkloadApi::new(source, vec![unix])
        .with_clock(Arc::clone(&clock))
        .with_foreign_claims(config.allowed_foreign_jwt_claims.iter().cloned());
    let keys = AgentKeys::new(manager);
    let lifecycle = Lifecycle::new(Parts { settings, server, keys, storage, cache, bundles, clock });
    Ok(Started { lifecycle, workload_api, socket_path: config.socket_path.clone(), shutdown })
}

impl Started {
    /// Lives until the shutdown is requested or the server sends the agent away. The Workload API is served from
    /// the beginning to the end.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self) -> Result<(), RunError> {
        let Self { lifecycle, workload_api, socket_path, shutdown } = self;
        let (api_ends, life_ends) = (shutdown.clone(), shutdown.clone());
        let mut api = tokio::spawn(async move { workload_api.serve(&socket_path, api_ends).await });
        let mut life = tokio::spawn(lifecycle.run(life_ends));
        // Whichever ends first takes the other along; the first failure is the one to tell.
        let outcome = tokio::select! {
            served = &mut api => {
                shutdown.request();
                let lived = life.await;
                api_outcome(served).and(life_outcome(lived))
            }
            lived = &mut life => {
                shutdown.request();
                let served = api.await;
                life_outcome(lived).and(api_outcome(served))
            }
        };
        if outcome.is_ok() {
            tracing::info!("agent stopped");
        }
        outcome
    }
}

fn api_outcome(served: Result<Result<(), WorkloadApiError>, JoinError>) -> Result<(), RunError> {
    match served {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(RunError::WorkloadApi(error.into())),
        Err(error) => Err(RunError::WorkloadApi(error.into())),
    }
}

fn life_outcome(lived: Result<Result<(), Ended>, JoinError>) -> Result<(), RunError> {
    match lived {
        Ok(Ok(())) => Ok(()),
        Ok(Err(ended)) => Err(ended.into()),
        Err(error) => Err(RunError::Process { what: "go on", cause: std::io::Error::other(error) }),
    }
}
