//! The Hardroot agent: attestation, sync, caches, the Workload API and commands.

pub mod attest;
pub mod attestors;
pub mod cache;
pub mod cli;
pub mod config;
pub mod lifecycle;
mod locked;
pub mod peer;
pub mod run;
pub mod source;
pub mod storage;
pub mod sync;
#[cfg(test)]
mod testing;
pub mod workload_api;
