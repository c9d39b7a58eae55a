//! The Hardroot agent: attestation, sync, caches, the Workload API and commands.

pub mod attest;
pub mod cache;
pub mod cli;
pub mod config;
pub mod lifecycle;
mod locked;
pub mod run;
pub mod source;
pub mod storage;
pub mod sync;
#[cfg(test)]
mod testing;
