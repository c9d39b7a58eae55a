//! What both daemons tell of themselves: metrics under SPIRE's names, for Prometheus, StatsD and DogStatsD, and
//! health over HTTP.
//!
//! Code that has something to count says so with [`count`], [`gauge`], [`sample`] or a [`Call`]. Where it goes is
//! decided once, before anything else is done, by [`begin`]; until then, and without a `telemetry` block for ever, an emission
//! costs one relaxed load of a flag. Keys are SPIRE's parts joined by dots (`datastore.node.fetch`); keys that
//! begin with `hardroot.` are our own and get no prefix. Why it is built so: docs/decisions/0009-metrics.md.

pub mod config;
mod emit;
pub mod families;
mod filter;
pub mod health;
pub mod http;
mod process;
mod prometheus;
mod quantiles;
mod recorder;
pub mod rpc;
mod series;
mod service;
mod statsd;
pub mod testing;
mod tls;
pub mod token;

pub use config::{Address, PrometheusConfig, TelemetryConfig, TlsConfig};
pub use emit::{Call, Labels, count, count_by, gauge, is_active, sample, sample_with};
pub use recorder::{Naming, Recorder};
pub use service::{Begun, Identity, Reader, Telemetry, TelemetryError, begin};
pub use tls::BadTls;
