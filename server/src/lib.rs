//! The Hardroot server.

pub mod api;
pub mod attest;
pub mod audit;
pub mod authority;
pub mod authz;
pub mod cli;
pub mod config;
pub mod datastore;
pub mod endpoints;
pub mod entries;
pub mod instance;
pub mod migrate;
pub mod run;
pub mod telemetry;
