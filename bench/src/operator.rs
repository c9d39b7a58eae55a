//! What the load generator does as an operator, through the server's admin socket: entries, join tokens, the bundle.

use std::path::{Path, PathBuf};

use hardroot_api::spire::api::server::agent::v1::agent_client::AgentClient;
use hardroot_api::spire::api::server::agent::v1::{
    CreateJoinTokenRequest, DeleteAgentRequest, ListAgentsRequest,
};
use hardroot_api::spire::api::server::bundle::v1::GetBundleRequest;
use hardroot_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_api::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, ListEntriesRequest,
};
use hardroot_api::spire::api::types::{AgentMask, Entry, EntryMask, Selector, Spiffeid};
use hardroot_identity::{Bundle, TrustDomain, X509Authority};
use hardroot_transport::uds_channel;
use tonic::Code;
use tonic::transport::Channel;

use crate::error::{BenchError, CallError};
use crate::target::{Attestor, MAX_MESSAGE, agent_name};

/// Entries sent or listed in one call.
const PAGE: usize = 500;
/// The first part of the path of every identity that this tool makes entries for.
pub const PREFIX: &str = "/hardroot-bench/";

/// The admin socket of a running server.
#[derive(Debug, Clone)]
pub struct Operator {
    socket: PathBuf,
    channel: Channel,
    trust_domain: TrustDomain,
}

/// What became of entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Created {
    /// New ones.
    pub created: usize,
    /// Those that were there.
    pub existed: usize,
}

impl Operator {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not.
    pub async fn connect(socket: &Path, trust_domain: TrustDomain) -> Result<Self, BenchError> {
        let channel = uds_channel(socket).await.map_err(|error| BenchError::Admin {
            op: "connecting",
            socket: socket.to_owned(),
            cause: error.into(),
            hint: "; is the server running, is this the socket_path of its configuration, and may this user open it?",
        })?;
        Ok(Self { socket: socket.to_owned(), channel, trust_domain })
    }

    fn failed(&self, op: &'static str) -> impl Fn(CallError) -> BenchError {
        let socket = self.socket.clone();
        move |cause| BenchError::Admin { op, socket: socket.clone(), cause, hint: "" }
    }

    /// The server's own bundle.
    ///
    /// # Errors
    /// The server refuses, or is of another trust domain.
    pub async fn bundle(&self) -> Result<Bundle, BenchError> {
        const OP: &str = "reading the bundle";
        let wire = BundleClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .get_bundle(GetBundleRequest { output_mask: None })
            .await
            .map_err(CallError::of("GetBundle"))
            .map_err(self.failed(OP))?
            .into_inner();
        if TrustDomain::from_name_or_id(&wire.trust_domain).ok().as_ref() != Some(&self.trust_domain) {
            return Err(BenchError::Flag {
                flag: "trustDomain",
                reason: format!(
                    "the server is of trust domain {}, not {}",
                    wire.trust_domain, self.trust_domain
                ),
            });
        }
        let mut bundle = Bundle::new(self.trust_domain.clone());
        bundle.x509_authorities = wire
            .x509_authorities
            .into_iter()
            .map(|authority| X509Authority { der: authority.asn1, tainted: authority.tainted })
            .collect();
        Ok(bundle)
    }

    /// An entry for workload `number` of agent `agent`.
    #[must_use]
    pub fn entry(&self, attestor: Attestor, agent: usize, path: &str, number: usize) -> Entry {
        let id = |path: String| Spiffeid { trust_domain: self.trust_domain.as_str().to_owned(), path };
        Entry {
            spiffe_id: Some(id(path.to_owned())),
            parent_id: Some(id(attestor.agent_path(agent))),
            // No workload of this machine: nobody is ever given these identities by a real agent.
            selectors: vec![Selector {
                r#type: "hardroot-bench".to_owned(),
                value: format!("workload:{number}"),
            }],
            ..Entry::default()
        }
    }

    /// Creates `per_agent` entries for each of `agents` agents; those that are there stay as they are. `told` hears how
    /// many are done.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn create_entries(
        &self,
        attestor: Attestor,
        agents: usize,
        per_agent: usize,
        mut told: impl FnMut(usize),
    ) -> Result<Created, BenchError> {
        let mut sum = Created::default();
        let all = (0..agents).flat_map(|agent| (0..per_agent).map(move |number| (agent, number)));
        let mut page = Vec::with_capacity(PAGE);
        for (agent, number) in all {
            page.push(self.entry(attestor, agent, &format!("{PREFIX}{agent}/{number}"), number));
            if page.len() == PAGE {
                self.add(std::mem::take(&mut page), &mut sum).await?;
                told(sum.created + sum.existed);
            }
        }
        if !page.is_empty() {
            self.add(page, &mut sum).await?;
        }
        told(sum.created + sum.existed);
        Ok(sum)
    }

    async fn add(&self, entries: Vec<Entry>, sum: &mut Created) -> Result<(), BenchError> {
        for outcome in self.create(entries).await.map_err(self.failed("creating entries"))? {
            match outcome {
                Ok(_id) => sum.created += 1,
                Err(CallError::Status { code: Code::AlreadyExists, .. }) => sum.existed += 1,
                Err(cause) => return Err(self.failed("creating entries")(cause)),
            }
        }
        Ok(())
    }

    /// Creates entries: each one's ID, or why it was refused.
    ///
    /// # Errors
    /// The call as a whole failed.
    pub async fn create(&self, entries: Vec<Entry>) -> Result<Vec<Result<String, CallError>>, CallError> {
        const RPC: &str = "BatchCreateEntry";
        let request = BatchCreateEntryRequest { entries, output_mask: Some(EntryMask::default()) };
        let answer = EntryClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .batch_create_entry(request)
            .await
            .map_err(CallError::of(RPC))?
            .into_inner();
        let outcome =
            |result: hardroot_api::spire::api::server::entry::v1::batch_create_entry_response::Result| {
                let status = result.status.unwrap_or_default();
                match (Code::from(status.code), result.entry) {
                    (Code::Ok, Some(entry)) => Ok(entry.id),
                    (code, _) => {
                        Err(CallError::Status { rpc: RPC, code, message: status.message, retry_after: None })
                    }
                }
            };
        Ok(answer.results.into_iter().map(outcome).collect())
    }

    /// Deletes entries by their IDs; those that are gone are no error.
    ///
    /// # Errors
    /// The call failed.
    pub async fn delete(&self, ids: Vec<String>) -> Result<(), CallError> {
        EntryClient::new(self.channel.clone())
            .batch_delete_entry(BatchDeleteEntryRequest { ids })
            .await
            .map_err(CallError::of("BatchDeleteEntry"))
            .map(drop)
    }

    /// Makes a join token for agent `index`, whose earlier self is evicted: a token is good for one agent that is not
    /// there.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn join_token(&self, index: usize) -> Result<String, BenchError> {
        let mut client = AgentClient::new(self.channel.clone());
        self.evict(&Attestor::JoinToken.agent_path(index)).await?;
        let token = agent_name(index);
        let request = CreateJoinTokenRequest { ttl: 3600, token: token.clone(), agent_id: None };
        match client.create_join_token(request).await {
            Ok(_made) => Ok(token),
            // Of a run that was broken off before the agent joined.
            Err(status) if status.code() == Code::AlreadyExists || status.message().contains("UNIQUE") => {
                Ok(token)
            }
            Err(status) => Err(self.failed("making a join token")(CallError::of("CreateJoinToken")(status))),
        }
    }

    async fn evict(&self, path: &str) -> Result<(), BenchError> {
        let id = Spiffeid { trust_domain: self.trust_domain.as_str().to_owned(), path: path.to_owned() };
        match AgentClient::new(self.channel.clone()).delete_agent(DeleteAgentRequest { id: Some(id) }).await {
            Ok(_done) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => {
                Err(self.failed("evicting a simulated agent")(CallError::of("DeleteAgent")(status)))
            }
        }
    }

    /// Removes every entry and every agent that this tool made. Says how many of each.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn clean(&self) -> Result<(usize, usize), BenchError> {
        let entries = self.own_entries().await?;
        for page in entries.chunks(PAGE) {
            self.delete(page.to_vec()).await.map_err(self.failed("deleting entries"))?;
        }
        let agents = self.own_agents().await?;
        for path in &agents {
            self.evict(path).await?;
        }
        Ok((entries.len(), agents.len()))
    }

    async fn own_entries(&self) -> Result<Vec<String>, BenchError> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let request = ListEntriesRequest {
                filter: None,
                output_mask: Some(EntryMask { spiffe_id: true, ..EntryMask::default() }),
                page_size: i32::try_from(PAGE).unwrap_or(i32::MAX),
                page_token: token,
            };
            let page = EntryClient::new(self.channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .list_entries(request)
                .await
                .map_err(CallError::of("ListEntries"))
                .map_err(self.failed("listing entries"))?
                .into_inner();
            let ours = |entry: &Entry| entry.spiffe_id.as_ref().is_some_and(|id| id.path.starts_with(PREFIX));
            found.extend(page.entries.into_iter().filter(ours).map(|entry| entry.id));
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(found);
            }
        }
    }

    async fn own_agents(&self) -> Result<Vec<String>, BenchError> {
        let name = agent_name(0);
        let name = name.trim_end_matches('0');
        let prefixes = [Attestor::X509pop, Attestor::JoinToken]
            .map(|attestor| format!("/spire/agent/{}/{name}", attestor.name()));
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let request = ListAgentsRequest {
                filter: None,
                output_mask: Some(AgentMask::default()),
                page_size: i32::try_from(PAGE).unwrap_or(i32::MAX),
                page_token: token,
            };
            let page = AgentClient::new(self.channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .list_agents(request)
                .await
                .map_err(CallError::of("ListAgents"))
                .map_err(self.failed("listing agents"))?
                .into_inner();
            let paths = page.agents.into_iter().filter_map(|agent| agent.id).map(|id| id.path);
            found.extend(paths.filter(|path| prefixes.iter().any(|prefix| path.starts_with(prefix))));
            token = page.next_page_token;
            if token.is_empty() {
                return Ok(found);
            }
        }
    }
}
