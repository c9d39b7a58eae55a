//! Opening everything in order, and closing it.

use std::sync::Arc;

use hardroot_identity::BadSpiffeId;
use hardroot_runtime::clock::{Clock, SystemClock};
use hardroot_runtime::logs::{self, LogOutput};
use hardroot_runtime::shutdown::{self, Shutdown};
use hardroot_runtime::{process, umask};
use hardroot_transport::BundleSet;

use super::{RunError, attestor, keys};
use crate::attest::{AgentKeys, load_bundle};
use crate::cache::Cache;
use crate::config::{AgentConfig, Bootstrap, NodeAttestorConfig};
use crate::lifecycle::{Ended, Lifecycle, Parts, Settings};
use crate::storage::Storage;
use crate::sync::GrpcServer;

/// Threads that run the agent: TLS and RPCs need little, and each costs memory.
const WORKERS: usize = 2;

/// Runs the agent in this process until it is told to stop.
///
/// # Errors
/// See [`RunError`]; each has its exit code.
pub fn node(config: AgentConfig) -> Result<(), RunError> {
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
    let keys = AgentKeys::new(manager);
    let lifecycle = Lifecycle::new(Parts { settings, server, keys, storage, cache, bundles, clock });
    Ok(Started { lifecycle, shutdown })
}

impl Started {
    /// Lives until the shutdown is requested or the server sends the agent away.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self) -> Result<(), RunError> {
        let ended: Result<(), Ended> = self.lifecycle.run(self.shutdown.clone()).await;
        self.shutdown.request();
        ended?;
        tracing::info!("agent stopped");
        Ok(())
    }
}
