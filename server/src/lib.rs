//! The Hardroot server.

pub mod attest;
pub mod authz;
pub mod datastore;
