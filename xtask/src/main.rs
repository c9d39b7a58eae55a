//! Developer tasks.
//!
//! - `proto` writes the API code from the .proto files without protoc; `proto --check` fails when what is
//!   committed differs from that.
//! - `completions OUTDIR` writes shell completions of both daemons, `man OUTDIR` their man pages. They come from
//!   the command definitions, so this needs both daemons to compile (feature `commands`, on by default);
//!   `proto` is built without them, for it must work when they do not compile.

#[cfg(feature = "commands")]
mod commands;
mod proto;
mod shapes;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["proto"] => proto::write(&proto::generate()?),
        ["proto", "--check"] => proto::check(&proto::generate()?),
        #[cfg(feature = "commands")]
        ["completions", out] => commands::completions(out.as_ref()),
        #[cfg(feature = "commands")]
        ["man", out] => commands::man(out.as_ref()),
        _ => bail!("usage: hardroot-xtask proto [--check] | completions OUTDIR | man OUTDIR"),
    }
}
