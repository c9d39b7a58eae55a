//! What the server tells of itself: how calls, keys and the datastore do.

pub mod gauges;
pub mod rpc;
pub mod store;

pub use rpc::RpcLayer;
pub use store::Metered;
