//! The gRPC services: reading requests, asking the datastore, answering with SPIRE's codes and texts.
//!
//! Handlers never judge who calls: authorisation is in front of them and tells it in the request's
//! extensions ([`crate::authz::Caller`]).

pub mod agent;
pub mod bundle;
mod convert;
pub mod entry;
mod faults;
pub mod svid;
#[cfg(test)]
pub(crate) mod testing;
pub mod tpm;

pub(crate) use convert::spiffe_id;
