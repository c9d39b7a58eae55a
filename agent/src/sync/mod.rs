//! The conversation with the server: its calls, and what is made of the answers.

mod entries;
mod grpc;
mod issue;
mod server;
mod wire;

pub use grpc::GrpcServer;
pub(crate) use issue::check_workload_svid;
pub use issue::{BadIssue, WorkloadKey, WorkloadKeyError};
pub use server::{Attested, IssueRequest, Refused, Server, ServerError};
