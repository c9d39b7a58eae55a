//! The two listeners: TLS for agents and admins, a local socket for the operator.

mod bundle_cache;
mod ratelimit;
mod serve;

pub use bundle_cache::BundleCache;
pub use ratelimit::RateLimits;
pub use serve::{EndpointError, GRACE, Listeners, Serving, serve};
