//! The Hardroot server.

pub mod authz;
pub mod datastore;
