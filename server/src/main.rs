//! Entry point.

use std::process::ExitCode;

fn main() -> ExitCode {
    hardroot_server::cli::main(std::env::args_os())
}
