//! `run` and `validate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use hardroot_config::LoadError;
use zeroize::Zeroizing;

use super::{complain, tell};
use crate::config::{self, AgentConfig, DEFAULT_CONFIG_PATH, Environment, Overrides};
use crate::lifecycle::chain_of;
use crate::run::{self, RunError};

/// Flags of `run` and `validate`; each wins over the option of the same name in the file.
#[derive(Args, Clone)]
pub(super) struct RunArgs {
    /// Path of the configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG_PATH)]
    config: PathBuf,
    /// Replace $VAR and ${VAR} in the configuration file by environment variables
    #[arg(long = "expandEnv", num_args(0..=1), require_equals(true), default_missing_value("true"), default_value_t = false)]
    expand_env: bool,
    /// Directory for the agent's state
    #[arg(long = "dataDir", value_name = "DIR")]
    data_dir: Option<String>,
    /// Join token made by the server; others can read it in the list of processes, use -joinTokenFile
    #[arg(long = "joinToken", value_name = "TOKEN", value_parser = secret)]
    join_token: Option<Zeroizing<String>>,
    /// File with a join token made by the server
    #[arg(long = "joinTokenFile", value_name = "FILE")]
    join_token_file: Option<String>,
    /// File to write logs to
    #[arg(long = "logFile", value_name = "FILE")]
    log_file: Option<String>,
    /// text or json
    #[arg(long = "logFormat", value_name = "FORMAT")]
    log_format: Option<String>,
    /// debug, info, warn or error
    #[arg(long = "logLevel", value_name = "LEVEL")]
    log_level: Option<String>,
    /// Address or DNS name of the server
    #[arg(long = "serverAddress", value_name = "HOST")]
    server_address: Option<String>,
    /// Port of the server
    #[arg(long = "serverPort", value_name = "PORT")]
    server_port: Option<u16>,
    /// Path of the Workload API socket
    #[arg(long = "socketPath", value_name = "PATH")]
    socket_path: Option<String>,
    /// The trust domain that this agent belongs to
    #[arg(long = "trustDomain", value_name = "NAME")]
    trust_domain: Option<String>,
    /// File with the server's trust bundle
    #[arg(long = "trustBundle", value_name = "FILE")]
    trust_bundle: Option<String>,
    /// Format of the trust bundle: pem or spiffe
    #[arg(long = "trustBundleFormat", value_name = "FORMAT")]
    trust_bundle_format: Option<String>,
    /// Believe the first server that answers
    #[arg(long = "insecureBootstrap", num_args(0..=1), require_equals(true), default_missing_value("true"), default_value_t = false)]
    insecure_bootstrap: bool,
}

impl std::fmt::Debug for RunArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunArgs").field("config", &self.config).finish_non_exhaustive()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the shape clap asks for")]
fn secret(text: &str) -> Result<Zeroizing<String>, std::convert::Infallible> {
    Ok(Zeroizing::new(text.to_owned()))
}

fn load(args: &RunArgs) -> Result<AgentConfig, LoadError> {
    let overrides = Overrides {
        data_dir: args.data_dir.clone(),
        join_token: args.join_token.clone(),
        join_token_file: args.join_token_file.clone(),
        log_file: args.log_file.clone(),
        log_format: args.log_format.clone(),
        log_level: args.log_level.clone(),
        server_address: args.server_address.clone(),
        server_port: args.server_port,
        socket_path: args.socket_path.clone(),
        trust_domain: args.trust_domain.clone(),
        trust_bundle_path: args.trust_bundle.clone(),
        trust_bundle_format: args.trust_bundle_format.clone(),
        insecure_bootstrap: args.insecure_bootstrap,
    };
    let lookup = |name: &str| std::env::var(name).ok();
    let environment: Option<Environment<'_>> = if args.expand_env { Some(&lookup) } else { None };
    config::load(&args.config, environment, &overrides)
}

fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = chain_of(error);
    if causes.is_empty() { error.to_string() } else { format!("{error}: {causes}") }
}

pub(super) fn validate(args: &RunArgs) -> ExitCode {
    match load(args) {
        Ok(_) => {
            drop(hardroot_runtime::cli::print("Hardroot agent configuration file is valid.\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("Hardroot agent configuration file is invalid:\n{}", told(&error)))
        }
    }
}

pub(super) fn run(args: &RunArgs) -> ExitCode {
    let config = match load(args) {
        Ok(config) => config,
        Err(error) => {
            tell(told(&error));
            return RunError::Config(error).exit_code();
        }
    };
    let again = args.clone();
    match run::node(config, Box::new(move || load(&again))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, cause = %chain_of(&error), "agent ended");
            tell(format_args!("hardroot-agent: {}", told(&error)));
            error.exit_code()
        }
    }
}
