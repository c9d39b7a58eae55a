//! The commands of `hardroot-server`: SPIRE's, with its flags, labels, JSON names and exit codes, and our own
//! beside them (`tpm`, `hsm`).

mod agent;
mod bundle;
mod connection;
mod entry;
mod error;
mod flags;
mod health;
pub mod hsm;
mod screen;
#[cfg(test)]
mod tests;
mod token;
mod tpm;

use clap::{Parser, Subcommand};

pub use error::CliError;
pub use screen::Screen;

/// What `hardroot-server` understands.
#[derive(Debug, Parser)]
#[command(
    name = "hardroot-server",
    version,
    about = "Gives machines and their programs SPIFFE identities rooted in hardware.",
    long_about = "Gives machines and their programs SPIFFE identities rooted in hardware.\n\n\
        Flags may be written with one dash or two (-spiffeID or --spiffeID). Commands that talk to a running \
        server do so through its admin socket and must run as a user who may open it.",
    after_help = "First steps: `validate -config FILE`, `run -config FILE`, `healthcheck`, `tpm enroll`, \
        `entry create`.\nEvery command explains itself with -help.",
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands beside `run` and `validate`. All but `hsm` talk to a running server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Registration entries: which program gets which identity
    #[command(subcommand)]
    Entry(entry::EntryCommand),
    /// Attested agents: look at them, evict, ban
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Trust bundles: our own and those of federated trust domains
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Join tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Which TPMs may join
    #[command(subcommand)]
    Tpm(tpm::TpmCommand),
    /// The PKCS#11 token with the server's keys: initialise it, list and check its keys
    #[command(subcommand)]
    Hsm(hsm::HsmCommand),
    /// Tells whether the server is healthy (exit code 0 or 1)
    Healthcheck(health::Healthcheck),
}

impl Command {
    /// Runs the command; what is to be printed goes to `screen`.
    ///
    /// # Errors
    /// Whatever did not work; output that was made before stays on `screen`.
    pub async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::Entry(command) => command.execute(screen).await,
            Self::Agent(command) => command.execute(screen).await,
            Self::Bundle(command) => command.execute(screen).await,
            Self::Token(command) => command.execute(screen).await,
            Self::Tpm(command) => command.execute(screen).await,
            Self::Hsm(command) => hsm::execute(command, screen).await,
            Self::Healthcheck(command) => command.execute(screen).await,
        }
    }
}
