//! `run` and `validate`.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hardroot_config::Document;
use hardroot_identity::TrustDomain;
use hardroot_runtime::chain;
use hardroot_runtime::clock::SystemClock;
use hardroot_runtime::logs::{self, LogFormat, LogLevel, LogOutput};
use hardroot_runtime::{process, shutdown, umask};
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;

use super::{complain, tell};
use crate::config::{ConfigError, DEFAULT_PATH, ServerConfig};
use crate::run::reload::{Reload, Reloads, Settings};
use crate::run::{RunError, RunOptions};

/// How long calls into a device may still take after everything else has stopped.
const DEVICE_GRACE: Duration = Duration::from_secs(2);

/// Flags of `run` and `validate`; each wins over the option of the same name in the file.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Path of the configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Replace $VAR and ${VAR} in the configuration file by environment variables
    #[arg(long = "expandEnv", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    expand_env: Option<bool>,
    /// Address to listen on
    #[arg(long = "bindAddress", value_name = "HOST")]
    bind_address: Option<String>,
    /// Port to listen on
    #[arg(long = "serverPort", value_name = "PORT")]
    server_port: Option<u16>,
    /// Path of the admin socket
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<PathBuf>,
    /// Directory for the server's state
    #[arg(long = "dataDir", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The trust domain that this server serves
    #[arg(long = "trustDomain", value_name = "NAME", value_parser = trust_domain)]
    trust_domain: Option<TrustDomain>,
    /// File to write logs to
    #[arg(long = "logFile", value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// text or json
    #[arg(long = "logFormat", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// debug, info, warn or error
    #[arg(long = "logLevel", value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

fn trust_domain(text: &str) -> Result<TrustDomain, hardroot_identity::BadSpiffeId> {
    TrustDomain::from_name_or_id(text)
}

impl RunArgs {
    fn load(&self) -> Result<(ServerConfig, Document), ConfigError> {
        let (mut config, document) =
            ServerConfig::load_document(&self.config, self.expand_env.unwrap_or(false))?;
        let given = |to: &mut PathBuf, from: &Option<PathBuf>| {
            if let Some(from) = from {
                to.clone_from(from);
            }
        };
        given(&mut config.socket_path, &self.socket_path);
        given(&mut config.data_dir, &self.data_dir);
        if let Some(address) = &self.bind_address {
            config.bind_address.clone_from(address);
        }
        config.bind_port = self.server_port.unwrap_or(config.bind_port);
        if let Some(trust_domain) = &self.trust_domain {
            config.trust_domain.clone_from(trust_domain);
        }
        if self.log_file.is_some() {
            config.log_file.clone_from(&self.log_file);
        }
        config.log_format = self.log_format.unwrap_or(config.log_format);
        config.log_level = self.log_level.unwrap_or(config.log_level);
        Ok((config, document))
    }
}

pub(super) fn validate(args: &RunArgs) -> ExitCode {
    match args.load() {
        Ok(_) => {
            if hardroot_runtime::cli::print("Hardroot server configuration file is valid.\n").is_err() {
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("Hardroot server configuration file is invalid:\n{}", chain(&error)))
        }
    }
}

pub(super) fn run(args: &RunArgs) -> ExitCode {
    let outcome = match args.load() {
        Ok((config, document)) => serve(args, config, &document),
        Err(error) => Err(RunError::Config(error).into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (text, code) = match &failure {
                Failure::Run(error) => (chain(error.as_ref()), error.exit_code()),
                Failure::Process(what, error) => (format!("{what}: {}", chain(error.as_ref())), 1),
            };
            // The log may be a file or in another format: people at a terminal look here.
            tracing::error!(error = %text, "server ended");
            tell(format_args!("hardroot-server: {text}"));
            ExitCode::from(code)
        }
    }
}

enum Failure {
    Run(Box<RunError>),
    Process(&'static str, Box<dyn Error + Send + Sync>),
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

fn failure<E: Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |cause| Failure::Process(what, Box::new(cause))
}

fn serve(args: &RunArgs, config: ServerConfig, document: &Document) -> Result<(), Failure> {
    umask::restrict();
    let output = config.log_file.clone().map_or(LogOutput::Stdout, LogOutput::File);
    let log = logs::init(config.log_format, config.log_level, output, config.log_source_location)
        .map_err(failure("cannot log"))?;
    process::forbid_core_dumps().map_err(failure("cannot forbid core dumps"))?;
    process::raise_open_files().map_err(failure("cannot raise the limit of open files"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("server")
        .enable_all()
        .build()
        .map_err(failure("cannot start the runtime"))?;
    let outcome = runtime.block_on(async {
        let signals = "cannot handle signals";
        let shutdown = shutdown::signals().map_err(failure(signals))?;
        let sink = log.clone();
        shutdown::on_signal(SignalKind::user_defined2(), &shutdown, move || match sink.reopen() {
            Ok(()) => tracing::info!("the log was opened anew"),
            Err(error) => tracing::error!(error = %error, "the log file cannot be opened anew"),
        })
        .map_err(failure(signals))?;
        let (ask, requests) = mpsc::channel(4);
        for (kind, what) in
            [(SignalKind::hangup(), Reload::Everything), (SignalKind::user_defined1(), Reload::Plugins)]
        {
            let ask = ask.clone();
            shutdown::on_signal(kind, &shutdown, move || {
                if ask.try_send(what).is_err() {
                    tracing::debug!("a reload waits already; another one would do the same");
                }
            })
            .map_err(failure(signals))?;
        }
        let args = args.clone();
        let running = Settings::of(document);
        let reloads = Reloads { requests, load: Box::new(move || args.load()), log: log.clone(), running };
        let options = RunOptions { config, clock: Arc::new(SystemClock), log, shutdown, reloads };
        Box::pin(crate::run::run(options)).await.map_err(Failure::from)
    });
    // A call into a token that hangs must not hold the process back.
    runtime.shutdown_timeout(DEVICE_GRACE);
    outcome
}
