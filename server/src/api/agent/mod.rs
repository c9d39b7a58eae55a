//! `spire.api.server.agent.v1.Agent`: administration here, the two RPCs that issue SVIDs in
//! [`crate::attest`].

mod filter;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use hardroot_api::spire::api::server::agent::v1 as wire;
use hardroot_api::spire::api::types;
use hardroot_identity::{Selector, SpiffeId, TrustDomain};
use hardroot_runtime::clock::Clock;
use tonic::{Request, Response, Status, Streaming};

use super::entry::caller_agent;
use super::{convert, faults, note};
use crate::attest::{AgentSvids, AttestStream};
use crate::audit::Record;
use crate::datastore::{Datastore, Entry, JoinToken};
use crate::entries::AuthorizedEntries;

pub use filter::{BadTime, parse_expires_before};

/// Longest version an agent may report, in bytes.
const MAX_VERSION: usize = 255;

/// The Agent service.
pub struct AgentService {
    trust_domain: TrustDomain,
    store: Arc<dyn Datastore>,
    entries: Arc<AuthorizedEntries>,
    svids: Arc<dyn AgentSvids>,
    clock: Arc<dyn Clock>,
}

impl AgentService {
    /// The service of the server of `trust_domain`; `entries` is told of whom nobody shall
    /// rely on, `svids` attests and renews.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        store: Arc<dyn Datastore>,
        entries: Arc<AuthorizedEntries>,
        svids: Arc<dyn AgentSvids>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { trust_domain, store, entries, svids, clock }
    }

    /// Reads the agent ID of a request and notes it in the audit record.
    fn agent_id<T>(&self, request: &Request<T>, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
        let id = convert::agent(&self.trust_domain, id)
            .map_err(|fault| faults::invalid("invalid agent ID", fault))?;
        note(request, "spiffe_id", id.as_str());
        Ok(id)
    }

    /// The entry that gives the owner of a token a second name. [`crate::datastore::Nodes::delete_node`]
    /// knows it by this shape.
    fn token_entry(&self, node: &SpiffeId, id: SpiffeId) -> Result<Entry, Status> {
        let selector = Selector::new("spiffe_id", node.as_str())
            .map_err(|fault| faults::invalid("failed to create join token registration entry", fault))?;
        Ok(Entry {
            id: String::new(),
            spiffe_id: id,
            parent_id: node.clone(),
            selectors: vec![selector],
            x509_svid_ttl: 0,
            jwt_svid_ttl: 0,
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            expires_at: 0,
            dns_names: Vec::new(),
            revision_number: 0,
            store_svid: false,
            hint: String::new(),
            created_at: convert::unix(self.clock.now()),
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        })
    }
}

#[tonic::async_trait]
impl wire::agent_server::Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<wire::CountAgentsRequest>,
    ) -> Result<Response<wire::CountAgentsResponse>, Status> {
        let filter = filter::of_count(&request)?;
        let count = self
            .store
            .count_nodes(&filter)
            .await
            .map_err(|error| faults::store("failed to count agents", &error))?;
        Ok(Response::new(wire::CountAgentsResponse { count: convert::count(count) }))
    }

    async fn list_agents(
        &self,
        request: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        let filter = filter::of_list(&request)?;
        let request = request.into_inner();
        let page = convert::page(request.page_size, &request.page_token);
        let (nodes, next_page_token) = self
            .store
            .list_nodes(&filter, &page)
            .await
            .map_err(|error| faults::store("failed to list agents", &error))?;
        let mask = request.output_mask.as_ref();
        let agents = nodes.iter().map(|node| convert::agent_message(node, mask)).collect();
        Ok(Response::new(wire::ListAgentsResponse { agents, next_page_token }))
    }

    async fn get_agent(
        &self,
        request: Request<wire::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let id = self.agent_id(&request, request.get_ref().id.as_ref())?;
        let node = self
            .store
            .node(&id)
            .await
            .map_err(|error| faults::store("failed to fetch agent", &error))?
            .ok_or_else(|| Status::not_found("agent not found"))?;
        Ok(Response::new(convert::agent_message(&node, request.get_ref().output_mask.as_ref())))
    }

    async fn delete_agent(&self, request: Request<wire::DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let id = self.agent_id(&request, request.get_ref().id.as_ref())?;
        // Before the database is asked, and whatever it answers.
        self.entries.distrust(&id);
        self.store
            .delete_node(&id)
            .await
            .map_err(|error| faults::store_or_missing("failed to remove agent", "agent not found", &error))?;
        tracing::info!(agent_id = %id, "Agent deleted");
        Ok(Response::new(()))
    }

    async fn ban_agent(&self, request: Request<wire::BanAgentRequest>) -> Result<Response<()>, Status> {
        let id = self.agent_id(&request, request.get_ref().id.as_ref())?;
        // Before the database is asked, and whatever it answers.
        self.entries.distrust(&id);
        self.store
            .ban_node(&id)
            .await
            .map_err(|error| faults::store_or_missing("failed to ban agent", "agent not found", &error))?;
        tracing::info!(agent_id = %id, "Agent banned");
        Ok(Response::new(()))
    }

    type AttestAgentStream = AttestStream;

    async fn attest_agent(
        &self,
        request: Request<Streaming<wire::AttestAgentRequest>>,
    ) -> Result<Response<AttestStream>, Status> {
        self.svids.attest_agent(request).await
    }

    async fn renew_agent(
        &self,
        request: Request<wire::RenewAgentRequest>,
    ) -> Result<Response<wire::RenewAgentResponse>, Status> {
        self.svids.renew_agent(request).await
    }

    async fn create_join_token(
        &self,
        request: Request<wire::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let wanted = request.get_ref();
        if let Some(record) = request.extensions().get::<Record>().filter(|_| wanted.ttl > 0) {
            record.add("ttl", wanted.ttl);
        }
        let ttl = match u64::try_from(wanted.ttl) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => return Err(Status::invalid_argument("ttl is required, you must provide one")),
        };
        let id = wanted.agent_id.as_ref().map(|id| convert::workload(&self.trust_domain, Some(id)));
        let id = id.transpose().map_err(|fault| faults::invalid("invalid agent ID", fault))?;
        if let Some(id) = &id {
            note(&request, "spiffe_id", id.as_str());
        }
        let value =
            if wanted.token.is_empty() { uuid::Uuid::new_v4().to_string() } else { wanted.token.clone() };
        // The token becomes one segment of the agent's ID.
        let node = match SpiffeId::new(&self.trust_domain, &format!("/spire/agent/join_token/{value}")) {
            Ok(node) if !value.contains('/') => node,
            _ => {
                return Err(Status::invalid_argument(
                    "invalid token: letters, numbers, dots, dashes, and underscores are allowed",
                ));
            }
        };
        let expires_at =
            self.clock.now().checked_add(ttl).ok_or_else(|| Status::invalid_argument("ttl is too long"))?;
        let entry = id.map(|id| self.token_entry(&node, id)).transpose()?;
        let token = JoinToken { value, expires_at };
        let stored = match entry {
            None => self.store.create_join_token(&token).await,
            Some(entry) => self.store.create_join_token_with_entry(&token, entry).await,
        };
        stored.map_err(|error| faults::store("failed to create token", &error))?;
        Ok(Response::new(types::JoinToken { value: token.value, expires_at: convert::unix(expires_at) }))
    }

    async fn post_status(
        &self,
        request: Request<wire::PostStatusRequest>,
    ) -> Result<Response<wire::PostStatusResponse>, Status> {
        let id = caller_agent(&request)?;
        note(&request, "spiffe_id", id.as_str());
        let version = &request.get_ref().agent_version;
        if version.len() > MAX_VERSION {
            return Err(Status::invalid_argument("agent version is too long (max 255 characters)"));
        }
        if !version.is_empty() {
            note(&request, "agent_version", version);
            // Agents tell it again and again: what is known already costs no query.
            if self.entries.current().await.is_ok()
                && self.entries.agent_version(&id).is_some_and(|known| known == *version)
            {
                return Ok(Response::new(wire::PostStatusResponse {}));
            }
            self.store.set_agent_version(&id, version).await.map_err(|error| {
                faults::store_or_missing("failed to update agent", "agent not found", &error)
            })?;
        }
        Ok(Response::new(wire::PostStatusResponse {}))
    }
}
