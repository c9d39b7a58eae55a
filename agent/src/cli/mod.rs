//! The command line: SPIRE's commands and flags, with one dash or two, and `tpm` beside them.

mod admin;
mod api;
mod healthcheck;
mod jwt;
mod migrate;
mod run;
mod socket;
mod svids;
mod tpm;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use hardroot_runtime::cli::parse;
use hardroot_tpm_attestor::device::silence_libtss2;

/// The SPIFFE agent whose keys live in hardware
#[derive(Debug, Parser)]
#[command(name = "hardroot-agent", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent
    Run(run::RunArgs),
    /// Checks a configuration file and tells every fault
    Validate(run::RunArgs),
    /// Asks the Workload API
    #[command(subcommand)]
    Api(ApiCommand),
    /// Tells whether the agent is healthy
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Shows and changes the running agent's log level
    #[command(subcommand)]
    Logger(admin::LoggerCommand),
    /// Shows how the running agent is
    #[command(subcommand)]
    Debug(admin::DebugCommand),
    /// Looks at this machine's TPM
    #[command(subcommand)]
    Tpm(tpm::TpmCommand),
    /// Turns a SPIRE agent's configuration into one of this agent's, with a report
    #[command(name = "migrate-from-spire")]
    MigrateFromSpire(migrate::Migrate),
}

#[derive(Debug, Subcommand)]
enum ApiCommand {
    /// Fetches X509-SVIDs from the Workload API
    Fetch(api::Fetch),
    /// Has the Workload API validate an SVID
    #[command(subcommand)]
    Validate(jwt::ValidateCommand),
    /// Attaches to the Workload API and prints updates as they come
    Watch(api::WatchArgs),
}

/// Every command with its flags, for shell completions and man pages.
#[must_use]
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the command line `args`, whose first element is the program's name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse::<Cli>(args) {
        Ok(cli) => cli,
        Err(refused) => return refused.print(),
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Validate(args) => run::validate(&args),
        Command::Api(ApiCommand::Fetch(args)) => asynchronously(api::fetch(args)),
        Command::Api(ApiCommand::Validate(command)) => asynchronously(jwt::validate(command)),
        Command::Logger(command) => asynchronously(admin::logger(command)),
        Command::Debug(command) => asynchronously(admin::debug(command)),
        Command::Api(ApiCommand::Watch(args)) => asynchronously(api::watch(args)),
        Command::Healthcheck(args) => asynchronously(healthcheck::healthcheck(args)),
        Command::MigrateFromSpire(args) => migrate::migrate(&args),
        Command::Tpm(command) => {
            // Every fault of libtss2 comes back as an error; its own lines would only be in the way.
            drop(silence_libtss2());
            asynchronously(tpm::run(command))
        }
    }
}

/// Tells something on standard error.
fn tell(message: impl std::fmt::Display) {
    use std::io::Write as _;
    // Where not even standard error can be written, the exit code has to do.
    drop(writeln!(std::io::stderr(), "{message}"));
}

/// Tells a mistake on standard error and makes it the exit code.
fn complain(message: impl std::fmt::Display) -> ExitCode {
    tell(message);
    ExitCode::FAILURE
}

fn asynchronously(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => complain(format_args!("cannot start: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_dash_and_two_are_the_same() {
        for dashes in ["-", "--"] {
            let args = [
                "hardroot-agent",
                "api",
                "fetch",
                "x509",
                &format!("{dashes}socketPath"),
                "/s",
                &format!("{dashes}silent"),
            ]
            .map(OsString::from);
            assert!(parse::<Cli>(args).is_ok());
        }
    }
}
