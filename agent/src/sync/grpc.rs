//! The server over gRPC: one long-lived connection that shows the agent's SVID, and for the first attestation
//! one that shows nothing.

use std::sync::Arc;
use std::time::Duration;

use hardroot_api::spire::api::server::agent::v1::agent_client::AgentClient;
use hardroot_api::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, PostStatusRequest, RenewAgentRequest, attest_agent_request,
    attest_agent_response,
};
use hardroot_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use hardroot_api::spire::api::server::bundle::v1::{GetBundleRequest, GetFederatedBundleRequest};
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use hardroot_api::spire::api::server::svid::v1::{BatchNewX509svidRequest, NewX509svidParams};
use hardroot_api::spire::api::types::AttestationData;
use hardroot_identity::{Bundle, SpiffeId, TrustDomain};
use hardroot_node_attestors::{AgentAttestor, AttestationSubject};
use hardroot_transport::{
    BundleSet, BundleSource, ConnectOptions, IdentitySlot, ServerTrust, TlsIdentity, client_config, connect,
};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use super::entries::{self, MAX_MESSAGE};
use super::server::{Attested, IssueRequest, Refused, Server, ServerError};
use super::wire;
use crate::cache::{Cache, EntryChanges};

/// How long a call may take.
const RPC_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an attestation may take: a slow TPM needs seconds for each of its answers.
const ATTEST_TIMEOUT: Duration = Duration::from_secs(120);
/// More rounds than any attestor needs.
const MAX_ROUNDS: usize = 16;

/// See the module.
pub struct GrpcServer {
    address: String,
    trust_domain: TrustDomain,
    server_id: SpiffeId,
    attestor: Arc<dyn AgentAttestor>,
    bundles: Arc<BundleSet>,
    /// Whether an unknown server is believed as long as there is no bundle.
    insecure_bootstrap: bool,
    identity: IdentitySlot,
    channel: Mutex<Option<Channel>>,
}

impl GrpcServer {
    /// The server at `address` (`host:port`), recognised by the bundle that `bundles` holds of `trust_domain`;
    /// with `insecure_bootstrap`, by its name alone while there is none.
    ///
    /// # Errors
    /// The trust domain is too long for a server ID.
    pub fn new(
        address: String,
        trust_domain: TrustDomain,
        attestor: Arc<dyn AgentAttestor>,
        bundles: Arc<BundleSet>,
        insecure_bootstrap: bool,
    ) -> Result<Self, hardroot_identity::BadSpiffeId> {
        let server_id = SpiffeId::new(&trust_domain, "/spire/server")?;
        Ok(Self {
            address,
            trust_domain,
            server_id,
            attestor,
            bundles,
            insecure_bootstrap,
            identity: IdentitySlot::default(),
            channel: Mutex::new(None),
        })
    }

    fn trust(&self) -> ServerTrust {
        if self.insecure_bootstrap && self.bundles.bundle(&self.trust_domain).is_none() {
            ServerTrust::InsecureBootstrap
        } else {
            ServerTrust::Bundle(Arc::clone(&self.bundles) as Arc<dyn BundleSource>)
        }
    }

    fn options() -> ConnectOptions {
        ConnectOptions {
            user_agent: concat!("hardroot-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..ConnectOptions::default()
        }
    }

    /// The connection that shows the agent's SVID.
    async fn channel(&self) -> Result<Channel, ServerError> {
        let mut held = self.channel.lock().await;
        if let Some(channel) = &*held {
            return Ok(channel.clone());
        }
        let tls = client_config(self.server_id.clone(), self.trust(), Some(Arc::clone(&self.identity)));
        let channel = connect(&self.address, tls, Self::options()).await?;
        *held = Some(channel.clone());
        Ok(channel)
    }

    async fn anonymous(&self) -> Result<Channel, ServerError> {
        let tls = client_config(self.server_id.clone(), self.trust(), None);
        Ok(connect(&self.address, tls, Self::options()).await?)
    }

    /// Runs a call with its deadline; after one that broke the connection the next call makes a new one.
    async fn call<T>(
        &self,
        rpc: &'static str,
        limit: Duration,
        run: impl Future<Output = Result<T, ServerError>> + Send,
    ) -> Result<T, ServerError> {
        let outcome = match tokio::time::timeout(limit, run).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(ServerError::TimedOut { rpc, seconds: limit.as_secs() }),
        };
        if outcome.as_ref().is_err_and(ServerError::breaks_connection) {
            *self.channel.lock().await = None;
        }
        outcome
    }

    async fn exchange(
        &self,
        channel: Channel,
        spki_der: &[u8],
        csr: &[u8],
    ) -> Result<(Vec<Vec<u8>>, bool), ServerError> {
        const RPC: &str = "AttestAgent";
        let protocol = |reason: &str| ServerError::Protocol { rpc: RPC, reason: reason.to_owned() };
        let call = ServerError::call(RPC);
        let subject =
            AttestationSubject { trust_domain: self.trust_domain.clone(), csr_spki_der: spki_der.to_vec() };
        let (payload, mut session) = self.attestor.begin(&subject).await?;
        let params = attest_agent_request::Params {
            data: Some(AttestationData { r#type: self.attestor.name().to_owned(), payload }),
            params: Some(AgentX509svidParams { csr: csr.to_vec() }),
        };
        let (requests, outgoing) = mpsc::channel(1);
        let closed = |_gone| protocol("the server ended the stream too early");
        let first = AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) };
        requests.send(first).await.map_err(closed)?;
        let mut answers = AgentClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .attest_agent(ReceiverStream::new(outgoing))
            .await
            .map_err(&call)?
            .into_inner();
        for _round in 0..MAX_ROUNDS {
            let answer = answers.message().await.map_err(&call)?.and_then(|a| a.step);
            match answer.ok_or_else(|| protocol("the server ended the stream without a result"))? {
                attest_agent_response::Step::Challenge(challenge) => {
                    let response = session.respond(&challenge).await?;
                    let step = Some(attest_agent_request::Step::ChallengeResponse(response));
                    requests
                        .send(AttestAgentRequest { step })
                        .await
                        .map_err(|_gone| protocol("the server ended the stream too early"))?;
                }
                attest_agent_response::Step::Result(result) => {
                    let svid = result.svid.ok_or_else(|| protocol("the result holds no SVID"))?;
                    return Ok((svid.cert_chain, result.reattestable));
                }
            }
        }
        Err(protocol("the server asks without end"))
    }

    async fn own_bundle(&self, channel: Channel) -> Result<Bundle, ServerError> {
        let wire = BundleClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .get_bundle(GetBundleRequest { output_mask: None })
            .await
            .map_err(ServerError::call("GetBundle"))?
            .into_inner();
        wire::bundle("GetBundle", wire, &self.trust_domain)
    }
}

#[async_trait::async_trait]
impl Server for GrpcServer {
    async fn attest(&self, spki_der: &[u8], csr: &[u8]) -> Result<Attested, ServerError> {
        self.call("AttestAgent", ATTEST_TIMEOUT, async {
            // A live connection saves both sides a handshake; the RPC is open to everybody.
            let held = self.channel.lock().await.clone();
            let channel = match held {
                Some(channel) => channel,
                None => self.anonymous().await?,
            };
            let (chain, reattestable) = self.exchange(channel.clone(), spki_der, csr).await?;
            let bundle = self.own_bundle(channel).await?;
            Ok(Attested { chain, reattestable, bundle })
        })
        .await
    }

    async fn attestation_ended(&self, accepted: bool) {
        self.attestor.ended(accepted).await;
    }

    async fn renew(&self, csr: &[u8]) -> Result<Vec<Vec<u8>>, ServerError> {
        const RPC: &str = "RenewAgent";
        self.call(RPC, RPC_TIMEOUT, async {
            let request = RenewAgentRequest { params: Some(AgentX509svidParams { csr: csr.to_vec() }) };
            let mut client = AgentClient::new(self.channel().await?);
            let answer = client.renew_agent(request).await.map_err(ServerError::call(RPC))?.into_inner();
            let missing =
                || ServerError::Protocol { rpc: RPC, reason: "the answer holds no SVID".to_owned() };
            Ok(answer.svid.ok_or_else(missing)?.cert_chain)
        })
        .await
    }

    async fn use_identity(&self, identity: Option<TlsIdentity>) {
        self.identity.store(identity.map(Arc::new));
        *self.channel.lock().await = None;
    }

    async fn entries(&self, known: &Cache) -> Result<EntryChanges, ServerError> {
        self.call("SyncAuthorizedEntries", RPC_TIMEOUT, async {
            entries::sync(self.channel().await?, &self.trust_domain, known).await
        })
        .await
    }

    async fn bundle(&self) -> Result<Bundle, ServerError> {
        self.call("GetBundle", RPC_TIMEOUT, async { self.own_bundle(self.channel().await?).await }).await
    }

    async fn federated_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, ServerError> {
        const RPC: &str = "GetFederatedBundle";
        self.call(RPC, RPC_TIMEOUT, async {
            let request = GetFederatedBundleRequest {
                trust_domain: trust_domain.as_str().to_owned(),
                output_mask: None,
            };
            let mut client = BundleClient::new(self.channel().await?).max_decoding_message_size(MAX_MESSAGE);
            match client.get_federated_bundle(request).await {
                Ok(answer) => wire::bundle(RPC, answer.into_inner(), trust_domain).map(Some),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => Err(ServerError::call(RPC)(status)),
            }
        })
        .await
    }

    async fn issue(
        &self,
        requests: Vec<IssueRequest>,
    ) -> Result<Vec<Result<Vec<Vec<u8>>, Refused>>, ServerError> {
        const RPC: &str = "BatchNewX509SVID";
        let asked = requests.len();
        self.call(RPC, RPC_TIMEOUT, async {
            let params = requests
                .into_iter()
                .map(|r| NewX509svidParams { entry_id: r.entry_id, csr: r.csr })
                .collect();
            let mut client = SvidClient::new(self.channel().await?).max_decoding_message_size(MAX_MESSAGE);
            let answer = client
                .batch_new_x509svid(BatchNewX509svidRequest { params })
                .await
                .map_err(ServerError::call(RPC))?
                .into_inner();
            if answer.results.len() != asked {
                let reason = format!("{} results for {asked} requests", answer.results.len());
                return Err(ServerError::Protocol { rpc: RPC, reason });
            }
            let outcome =
                |result: hardroot_api::spire::api::server::svid::v1::batch_new_x509svid_response::Result| {
                    match (result.status, result.svid) {
                        (Some(status), _) if status.code != 0 => {
                            Err(Refused { code: status.code, message: status.message })
                        }
                        (_, Some(svid)) => Ok(svid.cert_chain),
                        (_, None) => Err(Refused { code: 0, message: "the result holds no SVID".to_owned() }),
                    }
                };
            Ok(answer.results.into_iter().map(outcome).collect())
        })
        .await
    }

    async fn post_status(&self, bundle_sequence: u64) -> Result<(), ServerError> {
        const RPC: &str = "PostStatus";
        self.call(RPC, RPC_TIMEOUT, async {
            let request = PostStatusRequest {
                current_bundle_serial: bundle_sequence,
                agent_version: concat!("hardroot-", env!("CARGO_PKG_VERSION")).to_owned(),
            };
            let mut client = AgentClient::new(self.channel().await?);
            client.post_status(request).await.map_err(ServerError::call(RPC))?;
            Ok(())
        })
        .await
    }
}
