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
    BundleSet, BundleSource, ConnectOptions, IdentitySlot, ServerTrust, TlsIdentity, TlsPolicy,
    client_config_with, connect,
};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use super::entries::{self, MAX_MESSAGE};
use super::push::{Follow, Pushed, Resume};
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
    tls: TlsPolicy,
    identity: IdentitySlot,
    channel: Mutex<Option<Channel>>,
    /// A connection that shows nothing, over which the server asked to come back later: a new one would cost it one more
    /// signature of its token, at the very time when it has none to spare.
    waiting: Mutex<Option<Channel>>,
    stream: Mutex<Option<Follow>>,
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
        tls: TlsPolicy,
    ) -> Result<Self, hardroot_identity::BadSpiffeId> {
        let server_id = SpiffeId::new(&trust_domain, "/spire/server")?;
        Ok(Self {
            address,
            trust_domain,
            server_id,
            attestor,
            bundles,
            insecure_bootstrap,
            tls,
            identity: IdentitySlot::default(),
            channel: Mutex::new(None),
            waiting: Mutex::new(None),
            stream: Mutex::new(None),
        })
    }

    /// What the agent shows to its server.
    pub(crate) fn identity(&self) -> IdentitySlot {
        IdentitySlot::clone(&self.identity)
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
    pub(super) async fn channel(&self) -> Result<Channel, ServerError> {
        let mut held = self.channel.lock().await;
        if let Some(channel) = &*held {
            return Ok(channel.clone());
        }
        let tls = client_config_with(
            self.server_id.clone(),
            self.trust(),
            Some(Arc::clone(&self.identity)),
            self.tls.into(),
        );
        let channel = connect(&self.address, tls, Self::options()).await?;
        *held = Some(channel.clone());
        Ok(channel)
    }

    async fn anonymous(&self) -> Result<Channel, ServerError> {
        if let Some(channel) = self.waiting.lock().await.take() {
            return Ok(channel);
        }
        let tls = client_config_with(self.server_id.clone(), self.trust(), None, self.tls.into());
        Ok(connect(&self.address, tls, Self::options()).await?)
    }

    /// Runs a call with its deadline; after one that broke the connection the next call makes a new one.
    pub(super) async fn call<T>(
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
            .attest_agent(wire::within(ReceiverStream::new(outgoing), ATTEST_TIMEOUT))
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
            .get_bundle(wire::within(GetBundleRequest { output_mask: None }, RPC_TIMEOUT))
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
            let outcome: Result<Attested, ServerError> = async {
                let (chain, reattestable) = self.exchange(channel.clone(), spki_der, csr).await?;
                let bundle = self.own_bundle(channel.clone()).await?;
                Ok(Attested { chain, reattestable, bundle })
            }
            .await;
            if outcome.as_ref().is_err_and(|error| error.asks_to_return().is_some()) {
                *self.waiting.lock().await = Some(channel);
            }
            outcome
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
            let answer = client
                .renew_agent(wire::within(request, RPC_TIMEOUT))
                .await
                .map_err(ServerError::call(RPC))?
                .into_inner();
            let missing =
                || ServerError::Protocol { rpc: RPC, reason: "the answer holds no SVID".to_owned() };
            Ok(answer.svid.ok_or_else(missing)?.cert_chain)
        })
        .await
    }

    async fn use_identity(&self, identity: Option<TlsIdentity>) {
        self.identity.store(identity.map(Arc::new));
        // What the old stream still says is of the old identity.
        *self.stream.lock().await = None;
        *self.channel.lock().await = None;
    }

    async fn follow(&self, resume: Resume) -> Result<bool, ServerError> {
        *self.stream.lock().await = None;
        let opened = self
            .call("Follow", RPC_TIMEOUT, async {
                Follow::open(self.channel().await?, &self.trust_domain, resume).await
            })
            .await?;
        let offered = opened.is_some();
        *self.stream.lock().await = opened;
        Ok(offered)
    }

    async fn pushed(&self) -> Result<Pushed, ServerError> {
        let mut held = self.stream.lock().await;
        let Some(stream) = held.as_mut() else {
            return Err(ServerError::Protocol { rpc: "Follow", reason: "no stream is open".to_owned() });
        };
        let outcome = stream.next().await;
        if let Err(error) = &outcome {
            *held = None;
            if error.breaks_connection() {
                *self.channel.lock().await = None;
            }
        }
        outcome
    }

    async fn acknowledge(&self, number: u64) {
        if let Some(stream) = self.stream.lock().await.as_ref() {
            stream.acknowledge(number).await;
        }
    }

    async fn entries(&self, known: &Cache) -> Result<EntryChanges, ServerError> {
        self.call("SyncAuthorizedEntries", RPC_TIMEOUT, async {
            entries::sync(self.channel().await?, &self.trust_domain, known, RPC_TIMEOUT).await
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
            match client.get_federated_bundle(wire::within(request, RPC_TIMEOUT)).await {
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
                .batch_new_x509svid(wire::within(BatchNewX509svidRequest { params }, RPC_TIMEOUT))
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
            client.post_status(wire::within(request, RPC_TIMEOUT)).await.map_err(ServerError::call(RPC))?;
            Ok(())
        })
        .await
    }
}
