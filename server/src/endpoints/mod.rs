//! The two listeners: TLS for agents and admins, a local socket for the operator.

mod answer;
mod bundle_cache;
mod connection;
mod limits;
mod ratelimit;
mod request;
mod serve;
mod timeout;

pub use bundle_cache::BundleCache;
pub use limits::EndpointLimits;
pub use ratelimit::RateLimits;
pub(crate) use timeout::asked_timeout;

pub use serve::{EndpointError, GRACE, Listeners, Serving, Tls, serve};
