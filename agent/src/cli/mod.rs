//! The command line: SPIRE's commands and flags, with one dash or two, and `tpm` beside them.

mod api;
mod healthcheck;
mod run;
mod socket;
mod svids;
mod tpm;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hardroot_runtime::cli::normalise_args;
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
    /// Looks at this machine's TPM
    #[command(subcommand)]
    Tpm(tpm::TpmCommand),
}

#[derive(Debug, Subcommand)]
enum ApiCommand {
    /// Fetches X509-SVIDs from the Workload API
    Fetch(api::Fetch),
    /// Attaches to the Workload API and prints updates as they come
    Watch(api::WatchArgs),
}

/// Runs the command line `args`, whose first element is the program's name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(normalise_args(args)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a mistake; scripts written for SPIRE expect 1.
            drop(error.print());
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Validate(args) => run::validate(&args),
        Command::Api(ApiCommand::Fetch(args)) => asynchronously(api::fetch(args)),
        Command::Api(ApiCommand::Watch(args)) => asynchronously(api::watch(args)),
        Command::Healthcheck(args) => asynchronously(healthcheck::healthcheck(args)),
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
        use clap::CommandFactory;
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
            assert!(Cli::try_parse_from(normalise_args(args)).is_ok());
        }
    }
}
