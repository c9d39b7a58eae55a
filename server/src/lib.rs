//! The Hardroot server.

pub mod datastore;
