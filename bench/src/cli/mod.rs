//! The commands of `hardroot-bench`; flags with one dash or two, as those of the daemons.

mod flags;
mod prepare;
mod run;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hardroot_runtime::cli::parse;

use crate::error::BenchError;

/// What `hardroot-bench` understands.
#[derive(Debug, Parser)]
#[command(
    bin_name = "hardroot-bench",
    name = "hardroot-bench",
    version,
    about = "Simulates agents against a SPIFFE server and measures how it copes.",
    long_about = "Simulates agents against a SPIFFE server (Hardroot's or SPIRE's) over the real wire and measures how it \
        copes.\n\nRequests are planned before the run and sent when they are due, whatever the server does; a latency counts \
        from the moment that was planned. Use it on servers made for testing: it joins agents and creates entries.",
    after_help = "First steps: `prepare -dir DIR`, give DIR/server.conf to the server, `entries -agents 100 -perAgent 2`, \
        then one of `attest`, `steady`, `issue`, `storm`, `churn`.",
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the authority that simulated nodes are certified by, and the lines for the server's configuration
    Prepare(prepare::PrepareArgs),
    /// Creates entries for simulated agents through the server's admin socket
    Entries(prepare::EntriesArgs),
    /// Removes the entries and agents that this tool made
    Clean(prepare::CleanArgs),
    /// Agents join at a rate
    Attest(Box<run::AttestArgs>),
    /// A fleet that has been running for long: sync, renewals, fetches
    Steady(Box<run::SteadyArgs>),
    /// X509-SVIDs at a rate, or as fast as the server gives them
    Issue(Box<run::IssueArgs>),
    /// All SVIDs have expired and all agents heal at once
    Storm(Box<run::StormArgs>),
    /// Entries change at a rate: how long until agents hear of it
    Churn(Box<run::ChurnArgs>),
}

/// Parses a command line, the program's name first, and runs it.
///
/// Exit codes: 0 measured (failed calls are in the report), 1 not measured, 130 broken off by SIGINT or SIGTERM after what was
/// measured was printed.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse::<Cli>(args) {
        Ok(cli) => cli,
        Err(refused) => return refused.print(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("starting threads: {error}")),
    };
    match runtime.block_on(execute(cli.command)) {
        Ok(code) => code,
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(text: &str) -> ExitCode {
    // Where it cannot be told, the exit code has to do.
    drop(writeln!(std::io::stderr(), "Error: {text}"));
    ExitCode::FAILURE
}

async fn execute(command: Command) -> Result<ExitCode, BenchError> {
    match command {
        Command::Prepare(args) => args.run().map(|()| ExitCode::SUCCESS),
        Command::Entries(args) => args.run().await.map(|()| ExitCode::SUCCESS),
        Command::Clean(args) => args.run().await.map(|()| ExitCode::SUCCESS),
        Command::Attest(args) => args.run().await,
        Command::Steady(args) => args.run().await,
        Command::Issue(args) => args.run().await,
        Command::Storm(args) => args.run().await,
        Command::Churn(args) => args.run().await,
    }
}

/// Text to standard output.
fn print(text: &str) -> Result<(), BenchError> {
    hardroot_runtime::cli::print(text).map_err(|cause| BenchError::File {
        op: "writing",
        path: "standard output".into(),
        cause,
        hint: "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_taken_and_mistakes_told() {
        let line = |text: &str| parse::<Cli>(text.split(' ').map(OsString::from));
        for good in [
            "hardroot-bench prepare -dir x",
            "hardroot-bench attest -trustDomain example.org -rate 50 -duration 10s -arrivals constant",
            "hardroot-bench issue --trustDomain example.org --closedLoop --inFlight 4 -batch 50",
            "hardroot-bench steady -trustDomain example.org -syncInterval 5s -sync get -output json -svg x.svg -serverPid 4",
            "hardroot-bench storm -trustDomain example.org -agents 10 -spread 1m",
            "hardroot-bench churn -trustDomain example.org -rate 0.5",
        ] {
            assert!(line(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("hardroot-bench steady", "trustDomain"),
            ("hardroot-bench attest -trustDomain example.org -rate x", "x"),
            ("hardroot-bench attest -trustDomain example.org -rate -5", "above 0"),
            ("hardroot-bench attest -trustDomain example.org -duration 10", "unit"),
            ("hardroot-bench attest -trustDomain example.org -attestor tpm", "x509pop"),
            ("hardroot-bench steady -trustDomain example.org -agents 0", "0"),
        ] {
            let refused = line(bad).unwrap_err().to_string();
            assert!(refused.contains(part), "{bad}: {refused}");
        }
    }
}
