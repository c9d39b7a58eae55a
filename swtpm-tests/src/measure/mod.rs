//! Measurements beside raw limits in the same run (`make bench`). Each row is measured ÷ limit; nothing here
//! is asserted, because a busy machine is no bug.

pub mod agent;
pub mod changes;
pub mod cold;
pub mod fleet;
pub mod headline;
pub mod idle;
pub mod issuance;
pub mod load;
pub mod malformed;
pub mod raw_tls;
pub mod raw_token;
pub mod report;
pub mod sync;
pub mod tpm_commands;
pub mod wire;

use anyhow::{Context as _, Result};

/// A size of a measurement: what the environment variable `name` says, or the usual one.
fn number(name: &str, usual: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
        Err(_) => Ok(usual),
    }
}
