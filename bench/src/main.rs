//! Entry point.

use std::process::ExitCode;

fn main() -> ExitCode {
    hardroot_bench::cli::main(std::env::args_os())
}
