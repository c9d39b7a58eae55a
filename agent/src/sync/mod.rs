//! The conversation with the server: its calls, and what is made of the answers.

mod entries;
mod grpc;
mod issue;
mod jwt;
mod push;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use grpc::GrpcServer;
pub(crate) use issue::check_workload_svid;
pub use issue::{BadIssue, WorkloadKey, WorkloadKeyError};
pub use push::{Pushed, Resume};
pub use server::{Attested, Hint, IssueRequest, IssuedJwt, JwtIssuer, Refused, Server, ServerError};
