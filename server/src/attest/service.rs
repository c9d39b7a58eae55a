//! `AttestAgent` and `RenewAgent`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::Stream;
use hardroot_api::spire::api::server::agent::v1::{
    AttestAgentRequest, AttestAgentResponse, RenewAgentRequest, RenewAgentResponse, attest_agent_response,
};
use hardroot_api::spire::api::types::X509svid;
use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::permission_denied;
use hardroot_identity::{Csr, Selector, SpiffeId, Template, TrustDomain};
use hardroot_node_attestors::{AttestedNode, ServerAttestor};
use hardroot_runtime::clock::Clock;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, info};

use super::exchange::{self, DEADLINE, Opening};
use super::refusal::Refusal;
use super::seam::{AgentSvids, AttestStream};
use crate::api::spiffe_id;
use crate::audit::{Audit, Details, Record, sha256_hex};
use crate::authority::queue::Class;
use crate::authority::slots::unix_seconds;
use crate::authority::{IssueError, Issued, Signer};
use crate::authz::{Caller, Turns};
use crate::datastore::{Node, Nodes, StoreError};
use hardroot_runtime::chain;

/// Attestations under way at once: each may hold a payload and a session of the attestor.
const MAX_ATTESTATIONS: usize = 256;

/// What the service is made of.
pub struct AttestConfig {
    /// The server's trust domain.
    pub trust_domain: TrustDomain,
    /// Lifetime of agent SVIDs.
    pub agent_ttl: Duration,
    /// The attestors of the configuration.
    pub attestors: Vec<Arc<dyn ServerAttestor>>,
    /// Where attestations are recorded.
    pub audit: Audit,
}

type Attestors = BTreeMap<&'static str, Arc<dyn ServerAttestor>>;

fn by_name(attestors: Vec<Arc<dyn ServerAttestor>>) -> Arc<Attestors> {
    Arc::new(attestors.into_iter().map(|attestor| (attestor.name(), attestor)).collect())
}

struct Shared {
    trust_domain: TrustDomain,
    agent_ttl: Duration,
    attestors: ArcSwap<Attestors>,
    store: Arc<dyn Nodes>,
    signer: Arc<Signer>,
    clock: Arc<dyn Clock>,
    audit: Audit,
    places: Arc<Semaphore>,
}

/// Issues SVIDs to agents that prove themselves.
#[derive(Clone)]
pub struct Attestation {
    shared: Arc<Shared>,
}

impl Attestation {
    /// The service.
    #[must_use]
    pub fn new(
        config: AttestConfig,
        store: Arc<dyn Nodes>,
        signer: Arc<Signer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let attestors = ArcSwap::new(by_name(config.attestors));
        Self {
            shared: Arc::new(Shared {
                trust_domain: config.trust_domain,
                agent_ttl: config.agent_ttl,
                attestors,
                store,
                signer,
                clock,
                audit: config.audit,
                places: Arc::new(Semaphore::new(MAX_ATTESTATIONS)),
            }),
        }
    }

    /// Puts other attestors in place of those there are; attestations under way end with theirs.
    pub fn replace(&self, attestors: Vec<Arc<dyn ServerAttestor>>) {
        self.shared.attestors.store(by_name(attestors));
    }

    /// Runs one attestation in the background. Everything, refusals too, comes out of the returned stream.
    pub fn attest<S>(&self, inbound: S, peer: Option<IpAddr>, record: Record) -> AttestStream
    where
        S: Stream<Item = Result<AttestAgentRequest, Status>> + Unpin + Send + 'static,
    {
        let (outbound, answers) = mpsc::channel(1);
        let shared = Arc::clone(&self.shared);
        record.by_handler();
        tokio::spawn(async move { shared.converse(inbound, peer, &record, &outbound).await });
        Box::pin(ReceiverStream::new(answers))
    }
}

#[async_trait::async_trait]
impl AgentSvids for Attestation {
    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<AttestStream>, Status> {
        let (peer, record) = of_call(&request);
        Ok(Response::new(self.attest(request.into_inner(), peer, record)))
    }

    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        let id = match request.extensions().get::<Caller>() {
            Some(Caller::Agent { id, .. }) => id.clone(),
            _ => return Err(Status::internal("caller ID missing from request context")),
        };
        let turns = request.extensions().get::<Turns>().cloned();
        let (_, record) = of_call(&request);
        if let Some(turns) = turns {
            turns.take(1).await?;
        }
        record.add("agent_id", id.to_string());
        self.shared.renew(&id, request.into_inner(), &record).await.map(Response::new)
    }
}

fn of_call<T>(request: &Request<T>) -> (Option<IpAddr>, Record) {
    let extensions = request.extensions();
    let peer = extensions.get::<Caller>().and_then(Caller::addr).map(|addr| addr.ip());
    let record = extensions.get::<Record>().cloned().unwrap_or_else(|| Record::new("AttestAgent"));
    (peer, record)
}

impl Shared {
    async fn converse<S>(
        &self,
        mut inbound: S,
        peer: Option<IpAddr>,
        record: &Record,
        outbound: &mpsc::Sender<Result<AttestAgentResponse, Status>>,
    ) where
        S: Stream<Item = Result<AttestAgentRequest, Status>> + Unpin + Send,
    {
        let outcome = match self.places.try_acquire() {
            Err(_full) => Err(Refusal::busy()),
            Ok(_place) => tokio::time::timeout(DEADLINE, self.run(&mut inbound, peer, record, outbound))
                .await
                .unwrap_or_else(|_elapsed| Err(Refusal::late(DEADLINE.as_secs()))),
        };
        // The record comes before the answer: who was let in is known even if the answer is lost.
        let answer = match outcome {
            Ok(response) => self.audit.issued(record, Details::default()).map(|()| response),
            Err(refusal) => {
                record.add("reason", refusal.reason);
                if let Some(detail) = refusal.detail {
                    record.add("detail", detail);
                }
                self.audit.item(record, Details::default(), Some(&refusal.status));
                Err(refusal.status)
            }
        };
        if outbound.send(answer).await.is_err() {
            info!("the agent went away before the answer of its attestation");
        }
    }

    async fn run<S>(
        &self,
        inbound: &mut S,
        peer: Option<IpAddr>,
        record: &Record,
        outbound: &mpsc::Sender<Result<AttestAgentResponse, Status>>,
    ) -> Result<AttestAgentResponse, Refusal>
    where
        S: Stream<Item = Result<AttestAgentRequest, Status>> + Unpin + Send,
    {
        // Nobody shall prove anything, which costs both sides, to be told in the end that there is no room.
        self.signer.queue().room(Class::Agent, None).map_err(|full| Refusal::too_much_to_sign(&full))?;
        let opening = exchange::opening(inbound).await?;
        record.add("node_attestor_type", opening.kind.clone());
        record.add_csr(&opening.csr_der);
        let attestors = self.attestors.load_full();
        let attestor =
            attestors.get(opening.kind.as_str()).ok_or_else(|| Refusal::no_attestor(&opening.kind))?;
        let now = self.clock.now();
        let node =
            exchange::judge(&**attestor, &self.trust_domain, peer, now, &opening, inbound, outbound).await?;
        record.add("agent_id", node.agent_id.to_string());
        record.add("evidence_digest", node.evidence_digest.clone());
        for (name, value) in &node.audit {
            record.add(name, value.clone());
        }
        self.admit(&opening, node, record, outbound).await
    }

    /// The node has proven itself: check its place, sign, store, answer.
    async fn admit(
        &self,
        opening: &Opening,
        node: AttestedNode,
        record: &Record,
        outbound: &mpsc::Sender<Result<AttestAgentResponse, Status>>,
    ) -> Result<AttestAgentResponse, Refusal> {
        self.check_id(&node.agent_id, &node.selectors, &opening.kind)?;
        let known = self.store.node(&node.agent_id).await.map_err(|cause| store_failed(&cause))?;
        if known.is_some_and(|known| known.is_banned()) {
            return Err(Refusal::banned());
        }
        let issued = tokio::select! {
            issued = self.issue(&node.agent_id, &opening.csr, record) => issued?,
            // An agent that is gone needs no signature.
            () = outbound.closed() => return Err(Refusal::gone()),
        };
        let mut selectors = node.selectors;
        selectors.sort();
        selectors.dedup();
        let row = Node {
            id: node.agent_id.clone(),
            attestation_type: opening.kind.clone(),
            serial_number: issued.serial.clone(),
            expires_at: issued.not_after,
            new_serial_number: String::new(),
            new_expires_at: None,
            can_reattest: node.can_reattest,
            agent_version: String::new(),
            selectors,
        };
        match self.store.attested(row, node.record).await {
            Ok(()) => {}
            // Banned between our look and our write.
            Err(StoreError::Banned { .. }) => return Err(Refusal::banned()),
            Err(cause) => return Err(store_failed(&cause)),
        }
        info!(
            spiffe_id = %node.agent_id, node_attestor_type = %opening.kind,
            serial_number = %issued.serial, "agent attested"
        );
        let result = attest_agent_response::Result {
            svid: Some(svid(&node.agent_id, &issued)),
            reattestable: node.can_reattest,
        };
        Ok(AttestAgentResponse { step: Some(attest_agent_response::Step::Result(result)) })
    }

    /// An attestor of ours that returns anything else than an agent of our trust domain has a fault; its
    /// word must not become a certificate.
    fn check_id(&self, id: &SpiffeId, selectors: &[Selector], kind: &str) -> Result<(), Refusal> {
        let fine = id.is_member_of(&self.trust_domain) && id.path().starts_with("/spire/agent/");
        if !fine {
            return Err(Refusal::internal("bad_agent_id", "invalid agent ID", id.to_string()));
        }
        if let Some(foreign) = selectors.iter().find(|selector| selector.kind() != kind) {
            return Err(Refusal::internal("bad_selector", "invalid node selector", foreign.to_string()));
        }
        Ok(())
    }

    async fn issue(&self, id: &SpiffeId, csr: &Csr, record: &Record) -> Result<Issued, Refusal> {
        let issued = self
            .signer
            .sign_x509(Template::Agent, id, &csr.spki_der, self.agent_ttl)
            .await
            .map_err(|error| not_issued(&error))?;
        record.add("key_id", issued.authority_id.clone());
        record.add("serial_number", issued.serial.clone());
        record.add("expires_at", unix_seconds(issued.not_after));
        Ok(issued)
    }

    async fn renew(
        &self,
        id: &SpiffeId,
        request: RenewAgentRequest,
        record: &Record,
    ) -> Result<RenewAgentResponse, Status> {
        let node = self.store.node(id).await.map_err(|cause| {
            error!(error = %chain(&cause), "the agent could not be looked up");
            not_stored(&cause, "failed to fetch agent")
        })?;
        let Some(node) = node else { return Err(Status::not_found("agent not found")) };
        if node.can_reattest {
            return Err(permission_denied(Reason::AgentMustReattest, "agent must reattest instead of renew"));
        }
        let params = request.params.ok_or_else(|| Status::invalid_argument("params cannot be nil"))?;
        if params.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        record.add("csr", sha256_hex(&params.csr));
        let csr = Csr::parse(&params.csr)
            .map_err(|error| Status::invalid_argument(format!("failed to parse CSR: {error}")))?;
        let issued = self.issue(id, &csr, record).await.map_err(|refusal| {
            record.add("reason", refusal.reason);
            refusal.status
        })?;
        // Stored before it is answered: an agent that never gets the answer still has its old SVID.
        let stored = self.store.node_renewed(id, &node.serial_number, &issued.serial, issued.not_after).await;
        match stored {
            Ok(()) => Ok(RenewAgentResponse { svid: Some(svid(id, &issued)) }),
            Err(StoreError::NotFound { .. }) => Err(Status::not_found("agent not found")),
            Err(StoreError::Banned { .. }) => Err(permission_denied(Reason::AgentBanned, "agent is banned")),
            // It attested or renewed elsewhere between our look and our write: that one counts.
            Err(StoreError::Conflict { .. }) => {
                let why = "agent was given a newer SVID meanwhile";
                Err(permission_denied(Reason::AgentNotActive, why))
            }
            Err(cause) => {
                error!(error = %chain(&cause), "the renewed agent could not be stored");
                Err(not_stored(&cause, "failed to update agent"))
            }
        }
    }
}

fn svid(id: &SpiffeId, issued: &Issued) -> X509svid {
    X509svid {
        cert_chain: issued.chain.clone(),
        id: Some(spiffe_id(id)),
        expires_at: unix_seconds(issued.not_after),
        hint: String::new(),
    }
}

/// What an agent that renews is told: one that may try again soon, or not.
fn not_stored(cause: &StoreError, what: &'static str) -> Status {
    match cause {
        StoreError::Away { .. } => Status::unavailable(format!("{what}: the datastore is away; try again")),
        StoreError::NoRoom { .. } => {
            Status::unavailable(format!("{what}: the datastore cannot write; is its disk full?"))
        }
        _ => Status::internal(what),
    }
}

fn store_failed(cause: &StoreError) -> Refusal {
    error!(error = %chain(cause), "the datastore failed during an attestation");
    Refusal::ours("datastore_unavailable", "the datastore failed; try again", cause)
}

fn not_issued(error: &IssueError) -> Refusal {
    if let Some(full) = error.busy() {
        Refusal::too_much_to_sign(full)
    } else if error.is_our_fault() {
        error!(error = %chain(error), "an agent SVID could not be issued");
        Refusal::ours("signing_failed", "failed to sign X509 SVID; try again", error)
    } else {
        Refusal::malformed("bad_csr", &format!("failed to sign X509 SVID: {}", chain(error)))
    }
}
