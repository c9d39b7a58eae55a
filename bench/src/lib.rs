//! A load generator: simulates agents against any server that speaks SPIRE's server API, and measures what it takes.
//!
//! Arrivals are planned before the run and never wait for answers (open loop); a latency counts from the moment that was
//! planned, so a server that stalls cannot hide it by slowing the generator down.

pub mod agent;
pub mod authority;
pub mod cli;
pub mod error;
pub mod histogram;
pub mod key;
pub mod meter;
pub mod operator;
pub mod process;
pub mod progress;
pub mod random;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod sync;
pub mod target;
