//! `migrate-from-spire`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use hardroot_migration::Daemon;
use hardroot_runtime::cli::{Output, print};
use hardroot_runtime::state::write_atomic;

use super::{complain, tell};

/// `migrate-from-spire`.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The configuration file of the SPIRE agent
    #[arg(long, value_name = "FILE", default_value = "conf/agent/agent.conf")]
    config: PathBuf,
    /// Where to write the new configuration file; it must not exist
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Only say what would change; print the new file if there is no -out
    #[arg(long = "dryRun")]
    dry_run: bool,
    /// Replace $VAR and ${VAR} in the old file by environment variables
    #[arg(long = "expandEnv", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    expand_env: Option<bool>,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub(super) fn migrate(args: &Migrate) -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    let lookup: Option<&hardroot_config::Lookup<'_>> =
        if args.expand_env.unwrap_or(false) { Some(&environment) } else { None };
    let old = match hardroot_config::load(&args.config, lookup) {
        Ok(old) => old,
        Err(error) => return complain(format_args!("Error: {error}")),
    };
    if let Some(why) = Daemon::Agent.wrong_file(&old, &args.config) {
        return complain(format_args!("Error: {why}"));
    }
    let (text, report) = crate::migrate::convert(&old, &args.config.display().to_string());
    if let Some(out) = args.out.as_ref().filter(|_| !args.dry_run) {
        if out.exists() {
            return complain(format_args!(
                "Error: {} exists: it is not written over; name another file with -out, or remove it",
                out.display()
            ));
        }
        if let Err(error) = write_atomic(out, text.as_bytes(), 0o600) {
            return complain(format_args!("Error: {}", told(&error)));
        }
    }
    let said = match args.output {
        Output::Json => serde_json::to_string(&report).map(|json| json + "\n").unwrap_or_default(),
        Output::Pretty => report.table(),
    };
    if print(&said).is_err() {
        return ExitCode::FAILURE;
    }
    match &args.out {
        Some(out) if !args.dry_run && args.output == Output::Pretty => {
            tell(format_args!("The new configuration is {}.", out.display()));
        }
        None if args.output == Output::Pretty => drop(print(&format!("\n{text}"))),
        _ => {}
    }
    if report.is_undecided() {
        return complain(
            "Something has to be decided before the agent starts with it: see the lines that begin with `decide`.",
        );
    }
    ExitCode::SUCCESS
}
