//! The Workload API over real sockets: what callers get, and what hostile ones cannot take from others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::result_large_err,
    reason = "tests fail loudly"
)]

mod common;
mod hostile;
mod protocol;
