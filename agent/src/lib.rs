//! The Hardroot agent: attestation, sync, caches, the Workload API and commands.

pub mod config;
