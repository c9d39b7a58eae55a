//! The two RPCs of the Agent service that issue SVIDs, apart from the administrative ones.

use std::pin::Pin;

use futures_util::Stream;
use hardroot_api::spire::api::server::agent::v1::{
    AttestAgentRequest, AttestAgentResponse, RenewAgentRequest, RenewAgentResponse,
};
use tonic::{Request, Response, Status, Streaming};

/// The server's side of one attestation.
pub type AttestStream = Pin<Box<dyn Stream<Item = Result<AttestAgentResponse, Status>> + Send>>;

/// Issues agent SVIDs. The Agent service hands these two RPCs on to it unchanged.
#[async_trait::async_trait]
pub trait AgentSvids: Send + Sync {
    /// `AttestAgent`.
    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<AttestStream>, Status>;

    /// `RenewAgent`.
    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status>;
}
