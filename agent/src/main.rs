//! Entry point.

use std::process::ExitCode;

fn main() -> ExitCode {
    hardroot_agent::cli::main(std::env::args_os())
}
