use std::process::ExitCode;

use clap::Subcommand;

use super::complain;

#[derive(Debug, Subcommand)]
pub(super) enum TpmCommand {
    /// Shows this machine's TPM
    Show,
}

pub(super) async fn run(_command: TpmCommand) -> ExitCode {
    complain("not built in")
}
