//! The Hardroot agent: attestation, sync, caches, the Workload API and commands.

pub mod admin_api;
pub mod attest;
pub mod attestors;
pub mod cache;
pub mod cli;
pub mod config;
mod health;
pub mod jwt;
pub mod lifecycle;
mod locked;
pub mod migrate;
pub mod peer;
pub mod run;
pub mod source;
pub mod status;
pub mod storage;
pub mod sync;
mod telemetry;
#[cfg(test)]
mod testing;
pub mod workload_api;
