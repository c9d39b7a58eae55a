//! `prepare`, `entries`, `clean`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::flags::AdminFlags;
use super::print;
use crate::authority::prepare;
use crate::error::BenchError;
use crate::operator::Operator;
use crate::target::Attestor;

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// Folder to write to
    #[arg(long, value_name = "DIR", default_value = "hardroot-bench")]
    dir: PathBuf,
}

impl PrepareArgs {
    pub(super) fn run(self) -> Result<(), BenchError> {
        let made = prepare(&self.dir)?;
        print(&format!(
            "Authority        : {}{}\nConfiguration    : {}\n\nAdd the lines of the second file to the test server's \
             configuration and restart it.\nA genuine spire-server takes them without the block limits.\n",
            made.certificate.display(),
            if made.existed { " (kept)" } else { "" },
            made.snippet.display(),
        ))
    }
}

#[derive(Debug, Args)]
pub(super) struct EntriesArgs {
    #[command(flatten)]
    admin: AdminFlags,
    /// How the agents will prove themselves: x509pop or join_token
    #[arg(long, value_name = "NAME", default_value_t)]
    attestor: Attestor,
    /// For how many agents
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    agents: u64,
    /// Entries of each
    #[arg(long = "perAgent", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    per_agent: u64,
}

impl EntriesArgs {
    pub(super) async fn run(self) -> Result<(), BenchError> {
        let operator = Operator::connect(&self.admin.socket, self.admin.trust_domain).await?;
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let terminal = io::stderr().is_terminal();
        let told = |done: usize| {
            if terminal {
                // Nobody to tell it to is no reason to stop.
                drop(write!(io::stderr(), "\r\u{1b}[K{done} entries"));
            }
        };
        let created =
            operator.create_entries(self.attestor, count(self.agents), count(self.per_agent), told).await;
        if terminal {
            drop(io::stderr().write_all(b"\r\x1b[K"));
        }
        let created = created?;
        print(&format!("Entries created  : {}\nAlready there    : {}\n", created.created, created.existed))
    }
}

#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    #[command(flatten)]
    admin: AdminFlags,
}

impl CleanArgs {
    pub(super) async fn run(self) -> Result<(), BenchError> {
        let operator = Operator::connect(&self.admin.socket, self.admin.trust_domain).await?;
        let (entries, agents) = operator.clean().await?;
        print(&format!("Entries deleted  : {entries}\nAgents evicted   : {agents}\n"))
    }
}
