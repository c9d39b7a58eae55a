//! One simulated agent: what it knows, and each thing it does on the wire.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hardroot_api::spire::api::server::agent::v1::agent_client::AgentClient;
use hardroot_api::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, RenewAgentRequest, attest_agent_request, attest_agent_response,
};
use hardroot_api::spire::api::server::bundle::v1::GetBundleRequest;
use hardroot_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use hardroot_api::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use hardroot_api::spire::api::types::AttestationData;
use hardroot_identity::X509Svid;
use hardroot_node_attestors::x509pop::{Challenge, EcdsaResponse, NONCE, Payload, Response};
use hardroot_transport::TlsIdentity;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::error::CallError;
use crate::key::SharedKey;
use crate::sync::{Connection, EntrySync, Known, Protocol};
use crate::target::{Attestor, MAX_MESSAGE, Target};

/// More rounds than any attestor here needs.
const MAX_ROUNDS: usize = 4;

/// What an agent proves itself with.
#[derive(Clone)]
pub enum Proof {
    /// A node certificate (DER) for the shared key.
    Certificate(Vec<u8>),
    /// A join token, good for one time.
    Token(String),
}

impl Proof {
    fn attestor(&self) -> Attestor {
        match self {
            Self::Certificate(_) => Attestor::X509pop,
            Self::Token(_) => Attestor::JoinToken,
        }
    }
}

/// How long a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From the begin to the end of its validity.
    pub lifetime: Duration,
}

/// See the module.
pub struct SimAgent {
    target: Arc<Target>,
    key: Arc<SharedKey>,
    proof: Proof,
    /// The chain in use, while there is one.
    chain: Option<Vec<Vec<u8>>>,
    channel: Option<Channel>,
    /// A connection that shows nothing, over which the server asked to come back later.
    waiting: Option<Channel>,
    /// How many connections it has made.
    connections: u64,
    sync: Box<dyn EntrySync>,
    /// The entries it has heard of.
    pub known: Known,
    /// Whether the server lets it attest again instead of renewing.
    pub reattestable: bool,
    /// Of its own SVID.
    pub validity: Validity,
}

impl SimAgent {
    /// An agent that has not joined yet.
    #[must_use]
    pub fn new(target: Arc<Target>, key: Arc<SharedKey>, proof: Proof, protocol: Protocol) -> Self {
        Self {
            target,
            key,
            proof,
            chain: None,
            channel: None,
            waiting: None,
            connections: 0,
            sync: protocol.start(),
            known: Known::default(),
            reattestable: false,
            validity: Validity { lifetime: Duration::ZERO },
        }
    }

    /// Forgets its SVID and its connection, as after a long time without power.
    pub fn forget(&mut self) {
        self.chain = None;
        self.channel = None;
        self.waiting = None;
        self.known = Known::default();
    }

    /// Closes its connection if `error` says that it is of no use any more.
    pub fn after(&mut self, error: &CallError) {
        if error.breaks_connection() {
            self.channel = None;
        }
    }

    /// Proves its node: a connection without a certificate, or the one it has, and `AttestAgent`. The next call makes a
    /// connection that shows the new SVID.
    ///
    /// # Errors
    /// The server refuses or is away.
    pub async fn attest(&mut self) -> Result<(), CallError> {
        const RPC: &str = "AttestAgent";
        let target = Arc::clone(&self.target);
        target
            .within(RPC, async {
                let channel = match self.channel.clone().or_else(|| self.waiting.take()) {
                    Some(channel) => channel,
                    None => target.connect(None).await?,
                };
                let outcome = self.exchange(RPC, channel.clone()).await;
                if outcome.as_ref().is_err_and(|error| error.retry_after().is_some()) {
                    self.waiting = Some(channel);
                }
                let (chain, reattestable) = outcome?;
                self.reattestable = reattestable;
                self.take(RPC, chain)
            })
            .await
    }

    async fn exchange(&self, rpc: &'static str, channel: Channel) -> Result<(Vec<Vec<u8>>, bool), CallError> {
        let payload = match &self.proof {
            Proof::Certificate(leaf) => Payload { certificates: vec![leaf.clone()] }.to_json(),
            Proof::Token(token) => token.as_bytes().to_vec(),
        };
        let params = attest_agent_request::Params {
            data: Some(AttestationData { r#type: self.proof.attestor().name().to_owned(), payload }),
            params: Some(AgentX509svidParams { csr: self.key.csr().to_vec() }),
        };
        let closed = || CallError::protocol(rpc, "the server ended the stream too early");
        let (requests, outgoing) = mpsc::channel(1);
        let step = |step| AttestAgentRequest { step: Some(step) };
        requests.send(step(attest_agent_request::Step::Params(params))).await.map_err(|_gone| closed())?;
        let request = self.target.request(ReceiverStream::new(outgoing));
        let mut answers =
            AgentClient::new(channel).attest_agent(request).await.map_err(CallError::of(rpc))?.into_inner();
        for _round in 0..MAX_ROUNDS {
            let answer = answers.message().await.map_err(CallError::of(rpc))?.and_then(|answer| answer.step);
            match answer.ok_or_else(closed)? {
                attest_agent_response::Step::Challenge(challenge) => {
                    let response = self.respond(rpc, &challenge)?;
                    let next = step(attest_agent_request::Step::ChallengeResponse(response));
                    requests.send(next).await.map_err(|_gone| closed())?;
                }
                attest_agent_response::Step::Result(result) => {
                    let svid =
                        result.svid.ok_or_else(|| CallError::protocol(rpc, "no SVID in the result"))?;
                    return Ok((svid.cert_chain, result.reattestable));
                }
            }
        }
        Err(CallError::protocol(rpc, "the server asks without end"))
    }

    /// The answer to x509pop's challenge: a signature over both nonces.
    fn respond(&self, rpc: &'static str, challenge: &[u8]) -> Result<Vec<u8>, CallError> {
        let failed = |reason: &str| CallError::protocol(rpc, reason);
        let challenge =
            Challenge::from_json(challenge).map_err(|error| CallError::protocol(rpc, error.to_string()))?;
        let Challenge::Ecdsa(asked) = challenge else {
            return Err(failed("the server asks an EC key for an RSA signature"));
        };
        let mut message = asked;
        let mut nonce = vec![0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_unspecified| failed("no random bytes on this machine"))?;
        message.extend_from_slice(&nonce);
        let (r, s) = self
            .key
            .sign_raw(&message)
            .map_err(|_unspecified| failed("the cryptographic library did not sign"))?;
        Ok(Response { rsa: None, ecdsa: Some(EcdsaResponse { nonce, r, s }) }.to_json())
    }

    /// Puts a new chain to use: from the next call on a new connection shows it.
    fn take(&mut self, rpc: &'static str, chain: Vec<Vec<u8>>) -> Result<(), CallError> {
        let svid = X509Svid::parse(chain).map_err(|error| CallError::protocol(rpc, error.to_string()))?;
        self.validity = validity(svid.not_before, svid.not_after);
        self.chain = Some(svid.chain);
        self.channel = None;
        Ok(())
    }

    /// Connects with its SVID unless it is connected.
    ///
    /// # Errors
    /// It has none, the server is away, or refuses it.
    pub async fn connect(&mut self) -> Result<(), CallError> {
        self.channel().await.map(drop)
    }

    async fn channel(&mut self) -> Result<Channel, CallError> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let none = || CallError::Connect { reason: "this agent has no SVID".to_owned(), turned_away: false };
        let chain = self.chain.clone().ok_or_else(none)?;
        let identity = TlsIdentity::new(chain, self.key.tls())
            .map_err(|error| CallError::Connect { reason: error.to_string(), turned_away: false })?;
        let channel = self.target.connect(Some(identity)).await?;
        self.channel = Some(channel.clone());
        self.connections += 1;
        Ok(channel)
    }

    /// Replaces its own SVID, as agents do: by attesting again where the server allows it, else by `RenewAgent`.
    ///
    /// # Errors
    /// The server refuses or is away.
    pub async fn renew(&mut self) -> Result<(), CallError> {
        const RPC: &str = "RenewAgent";
        if self.reattestable {
            return self.attest().await;
        }
        let target = Arc::clone(&self.target);
        target
            .within(RPC, async {
                let params = Some(AgentX509svidParams { csr: self.key.csr().to_vec() });
                let request = target.request(RenewAgentRequest { params });
                let answer = AgentClient::new(self.channel().await?)
                    .renew_agent(request)
                    .await
                    .map_err(CallError::of(RPC))?;
                let svid = answer
                    .into_inner()
                    .svid
                    .ok_or_else(|| CallError::protocol(RPC, "no SVID in the answer"))?;
                self.take(RPC, svid.cert_chain)
            })
            .await
    }

    /// Brings [`SimAgent::known`] up to date with the protocol under test. (One that pushes waits for news, and has some
    /// for an agent that knows nothing.)
    ///
    /// # Errors
    /// The server refuses or is away.
    pub async fn sync(&mut self) -> Result<(), CallError> {
        let target = Arc::clone(&self.target);
        target
            .within("sync", async {
                let channel = self.channel().await?;
                let connection = Connection { channel, number: self.connections };
                self.sync.round(&target, connection, &mut self.known).await
            })
            .await
    }

    /// The next news of a protocol that pushes, however long they take to come. Dropping the call loses nothing.
    ///
    /// # Errors
    /// The connection broke, or the server refuses.
    pub async fn news(&mut self) -> Result<(), CallError> {
        let target = Arc::clone(&self.target);
        let channel = self.channel().await?;
        let connection = Connection { channel, number: self.connections };
        self.sync.round(&target, connection, &mut self.known).await
    }

    /// How the protocol under test is paced.
    #[must_use]
    pub fn pace(&self) -> crate::sync::Pace {
        self.sync.pace()
    }

    /// `GetBundle`.
    ///
    /// # Errors
    /// The server refuses or is away.
    pub async fn bundle(&mut self) -> Result<(), CallError> {
        const RPC: &str = "GetBundle";
        let target = Arc::clone(&self.target);
        target
            .within(RPC, async {
                let mut client = BundleClient::new(self.channel().await?);
                let request = target.request(GetBundleRequest { output_mask: None });
                client.get_bundle(request).await.map_err(CallError::of(RPC)).map(drop)
            })
            .await
    }

    /// A clone of what is needed to issue SVIDs, for several calls at once.
    ///
    /// # Errors
    /// As [`SimAgent::connect`].
    pub async fn issuer(&mut self) -> Result<SvidIssuer, CallError> {
        Ok(SvidIssuer {
            target: Arc::clone(&self.target),
            key: Arc::clone(&self.key),
            channel: self.channel().await?,
        })
    }
}

/// Asks for SVIDs over an agent's connection.
#[derive(Clone)]
pub struct SvidIssuer {
    target: Arc<Target>,
    key: Arc<SharedKey>,
    channel: Channel,
}

impl SvidIssuer {
    /// `BatchNewX509SVID`: an SVID for each of these entries; all must come. Says how long the first is good.
    ///
    /// # Errors
    /// The server is away, or refuses the call or an item.
    pub async fn x509(&self, entries: &[String]) -> Result<Validity, CallError> {
        const RPC: &str = "BatchNewX509SVID";
        let params = entries
            .iter()
            .map(|id| NewX509svidParams { entry_id: id.clone(), csr: self.key.csr().to_vec() })
            .collect();
        self.target
            .within(RPC, async {
                let mut client = SvidClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
                let request = self.target.request(BatchNewX509svidRequest { params });
                let answer =
                    client.batch_new_x509svid(request).await.map_err(CallError::of(RPC))?.into_inner();
                if answer.results.len() != entries.len() {
                    return Err(CallError::protocol(RPC, "not one result for each request"));
                }
                let mut first = None;
                for result in answer.results {
                    match (result.status, result.svid) {
                        (Some(status), _) if status.code != 0 => {
                            return Err(CallError::Status {
                                rpc: RPC,
                                code: Code::from(status.code),
                                message: status.message,
                                retry_after: None,
                            });
                        }
                        (_, Some(svid)) if first.is_none() => first = Some(svid.cert_chain),
                        (_, Some(_)) => {}
                        (_, None) => return Err(CallError::protocol(RPC, "a result without SVID")),
                    }
                }
                let svid = X509Svid::parse(first.unwrap_or_default())
                    .map_err(|error| CallError::protocol(RPC, error.to_string()))?;
                Ok(validity(svid.not_before, svid.not_after))
            })
            .await
    }

    /// `NewJWTSVID` for one entry.
    ///
    /// # Errors
    /// The server is away or refuses.
    pub async fn jwt(&self, entry: &str) -> Result<(), CallError> {
        const RPC: &str = "NewJWTSVID";
        self.target
            .within(RPC, async {
                let message = NewJwtsvidRequest {
                    entry_id: entry.to_owned(),
                    audience: vec!["hardroot-bench".to_owned()],
                };
                let request = self.target.request(message);
                let mut client = SvidClient::new(self.channel.clone());
                client.new_jwtsvid(request).await.map_err(CallError::of(RPC)).map(drop)
            })
            .await
    }
}

fn validity(not_before: SystemTime, not_after: SystemTime) -> Validity {
    Validity { lifetime: not_after.duration_since(not_before).unwrap_or_default() }
}
