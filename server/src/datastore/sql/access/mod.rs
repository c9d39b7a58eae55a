//! A small layer over sqlx: one way to write a statement, run it and read a row, on three engines.
//!
//! The rest of the store writes SQL once, with `$1` placeholders; what the engines do not share is a method
//! of [`Engine`].

mod connect;
mod engine;
mod fault;
mod gate;
#[cfg(test)]
mod pause;
mod place;
mod pool;
mod row;
mod session;
mod statement;

pub use engine::Engine;
pub(super) use fault::{Retries, is_unique_violation, retrying};
pub use place::{DatabaseConfig, Endpoint, Host, OUTAGE_STALENESS, Place, Pooling, ServerDatabase, Tls};
pub(crate) use pool::Pools;
pub(super) use row::Columns;
pub(crate) use row::Row;
pub(super) use session::Begin;
pub(crate) use session::Session;
pub(crate) use statement::sql;
pub(super) use statement::{Statement, Value};
