use std::sync::Arc;
use std::sync::Mutex;

use futures_util::{Stream, StreamExt, stream};
use hardroot_api::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, AttestAgentResponse, RenewAgentRequest, attest_agent_request,
    attest_agent_response,
};
use hardroot_api::spire::api::types::AttestationData;
use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::reason_of;
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{Digest, HashAlgorithm, KeyId, KeyManager, KeyType, SignatureScheme};
use hardroot_identity::{
    DistinguishedName, Selector, SignatureAlgorithm, SpiffeId, X509Svid, assemble_csr, csr_to_be_signed,
};
use hardroot_node_attestors::{
    AttestError, AttestedNode, NodeRecord, ServerAttestor, ServerContext, ServerSession, Step,
};
use hardroot_runtime::logs::{self, LogFormat, LogLevel, LogOutput};
use tonic::{Code, Status};

use super::*;
use crate::audit::{Audit, Record};
use crate::authority::testing::{HOUR, Site, noon, trust_domain};
use crate::authz::Caller;
use crate::datastore::Nodes;

const NAME: &str = "fake";

/// Attests whoever answers `rounds` challenges with "yes".
struct Fake {
    rounds: usize,
    agent_id: SpiffeId,
    selector: Selector,
    can_reattest: bool,
    seen: Mutex<Option<ServerContext>>,
}

impl Fake {
    fn new(rounds: usize) -> Self {
        Self {
            rounds,
            agent_id: id("/spire/agent/fake/box-1"),
            selector: Selector::new(NAME, "box:1").unwrap(),
            can_reattest: true,
            seen: Mutex::default(),
        }
    }

    fn node(&self) -> AttestedNode {
        AttestedNode {
            agent_id: self.agent_id.clone(),
            selectors: vec![self.selector.clone(), self.selector.clone()],
            can_reattest: self.can_reattest,
            evidence_digest: "e".repeat(64),
            record: Some(NodeRecord { key: "box-1".into(), data: b"{}".to_vec() }),
            audit: vec![("box", "1".into())],
        }
    }
}

struct Round {
    left: usize,
    node: AttestedNode,
}

fn step(left: usize, node: AttestedNode) -> Step {
    if left == 0 {
        Step::Attested(node)
    } else {
        Step::Challenge(b"well?".to_vec(), Box::new(Round { left, node }))
    }
}

#[async_trait::async_trait]
impl ServerAttestor for Fake {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn begin(&self, context: &ServerContext, payload: &[u8]) -> Result<Step, AttestError> {
        *self.seen.lock().unwrap() = Some(context.clone());
        match payload {
            b"malformed" => Err(AttestError::Malformed { what: "payload", reason: "it says so".into() }),
            b"rejected" => {
                Err(AttestError::Rejected { reason: "box_unknown", detail: "secret inventory detail".into() })
            }
            b"broken" => {
                Err(AttestError::Unavailable { op: "looking", cause: "secret path /var/lib/x".into() })
            }
            _ => Ok(step(self.rounds, self.node())),
        }
    }
}

#[async_trait::async_trait]
impl ServerSession for Round {
    async fn respond(self: Box<Self>, response: &[u8]) -> Result<Step, AttestError> {
        if response == b"yes" {
            return Ok(step(self.left - 1, self.node));
        }
        Err(AttestError::Rejected { reason: "wrong_answer", detail: String::new() })
    }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain(), path).unwrap()
}

async fn csr() -> Vec<u8> {
    let keys = MemoryKeyManager::new();
    let name = KeyId::new("agent-svid-A").unwrap();
    let public = keys.generate(&name, KeyType::EcP256).await.unwrap();
    let tbs = csr_to_be_signed(&DistinguishedName::default_svid().to_der(), &public.spki_der, None);
    let digest = Digest::of(HashAlgorithm::Sha256, &tbs);
    let signature = keys.sign(&name, SignatureScheme::Ecdsa, &digest).await.unwrap();
    assemble_csr(&tbs, SignatureAlgorithm::for_key(&public.spki_der).unwrap(), &signature)
}

fn params(kind: &str, payload: &[u8], csr: Vec<u8>) -> AttestAgentRequest {
    let data = AttestationData { r#type: kind.into(), payload: payload.to_vec() };
    let params = attest_agent_request::Params { data: Some(data), params: Some(AgentX509svidParams { csr }) };
    AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) }
}

fn answer(response: &[u8]) -> AttestAgentRequest {
    AttestAgentRequest { step: Some(attest_agent_request::Step::ChallengeResponse(response.to_vec())) }
}

struct Bench {
    site: Site,
    authority: crate::authority::Authority,
    audit: Audit,
    lines: Arc<Mutex<Vec<u8>>>,
}

impl Bench {
    async fn new() -> Self {
        let site = Site::new().await;
        let authority = site.start().await;
        let lines = Arc::default();
        let output = LogOutput::Buffer(Arc::clone(&lines));
        let (_, log) = logs::subscriber(LogFormat::Json, LogLevel::Error, output).unwrap();
        Self { site, authority, audit: Audit::new(log, true), lines }
    }

    /// The audit lines so far, which are taken away.
    fn audit_lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(std::mem::take(&mut *self.lines.lock().unwrap())).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn service(&self, attestor: Arc<Fake>) -> Attestation {
        let config = AttestConfig {
            trust_domain: trust_domain(),
            agent_ttl: HOUR,
            attestors: vec![attestor],
            audit: self.audit.clone(),
        };
        let clock = Arc::new(self.site.clock.clone());
        Attestation::new(config, Arc::new(self.site.store.clone()), self.authority.signer(), clock)
    }

    async fn converse(
        &self,
        attestor: Fake,
        messages: Vec<AttestAgentRequest>,
    ) -> Vec<Result<AttestAgentResponse, Status>> {
        let inbound = stream::iter(messages.into_iter().map(Ok));
        self.run(attestor, inbound).await
    }

    async fn run<S>(&self, attestor: Fake, inbound: S) -> Vec<Result<AttestAgentResponse, Status>>
    where
        S: Stream<Item = Result<AttestAgentRequest, Status>> + Unpin + Send + 'static,
    {
        let service = self.service(Arc::new(attestor));
        service.attest(inbound, None, Record::new("AttestAgent")).collect().await
    }

    /// The status that ends a conversation.
    async fn refusal(&self, attestor: Fake, messages: Vec<AttestAgentRequest>) -> Status {
        self.converse(attestor, messages).await.pop().unwrap().unwrap_err()
    }
}

fn result(response: Option<Result<AttestAgentResponse, Status>>) -> attest_agent_response::Result {
    match response.unwrap().unwrap().step {
        Some(attest_agent_response::Step::Result(result)) => result,
        other => panic!("no result: {other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_answers_gets_its_svid_and_is_recorded() {
    let bench = Bench::new().await;
    let messages = vec![params(NAME, b"hello", csr().await), answer(b"yes"), answer(b"yes")];
    let mut answers = bench.converse(Fake::new(2), messages).await;
    assert_eq!(answers.len(), 3);
    let result = result(answers.pop());
    assert!(result.reattestable);
    let svid = result.svid.unwrap();
    assert_eq!(svid.id.unwrap().path, "/spire/agent/fake/box-1");
    let leaf = X509Svid::parse(svid.cert_chain).unwrap();
    assert_eq!(leaf.id, id("/spire/agent/fake/box-1"));
    assert_eq!(leaf.not_after, noon() + HOUR);

    let node = bench.site.store.node(&leaf.id).await.unwrap().unwrap();
    assert_eq!(node.serial_number, leaf.serial);
    assert_eq!(node.attestation_type, NAME);
    assert_eq!(node.selectors.len(), 1, "duplicates are dropped");
    assert!(node.can_reattest);
    assert!(bench.site.store.node_record(NAME, "box-1").await.unwrap().is_some(), "stored with the node");
}

#[tokio::test]
async fn the_attestor_sees_the_key_of_the_csr() {
    let bench = Bench::new().await;
    let csr = csr().await;
    let attestor = Arc::new(Fake::new(0));
    let inbound = stream::iter([Ok(params(NAME, b"hello", csr.clone()))]);
    let peer = Some("192.0.2.9".parse().unwrap());
    let service = bench.service(Arc::clone(&attestor));
    let answers: Vec<_> = service.attest(inbound, peer, Record::new("x")).collect().await;
    assert!(answers[0].is_ok());
    let seen = attestor.seen.lock().unwrap().clone().unwrap();
    assert_eq!(seen.csr_spki_der, hardroot_identity::Csr::parse(&csr).unwrap().spki_der);
    assert_eq!((seen.peer, seen.now), (peer, noon()));
}

#[tokio::test]
async fn a_csr_whose_own_signature_is_wrong_is_taken_for_its_key() {
    let bench = Bench::new().await;
    let mut csr = csr().await;
    *csr.last_mut().unwrap() ^= 1;
    assert!(!hardroot_identity::Csr::parse(&csr).unwrap().signature_valid);
    let mut answers = bench.converse(Fake::new(0), vec![params(NAME, b"hello", csr)]).await;
    result(answers.pop());
}

/// One line says what the peer was told, and why.
fn recorded(bench: &Bench, told: &Status, reason: &str) {
    let lines = bench.audit_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!((&line["status"], &line["reason"]), (&"error".into(), &reason.into()));
    assert_eq!(line["status_code"], i32::from(told.code()));
    assert_eq!(line["status_message"], told.message());
}

#[tokio::test]
async fn incomplete_requests_are_invalid_arguments_and_recorded() {
    let bench = Bench::new().await;
    let good = csr().await;
    let without = |change: fn(&mut attest_agent_request::Params)| {
        let Some(attest_agent_request::Step::Params(mut params)) = params(NAME, b"p", good.clone()).step
        else {
            panic!("params has params")
        };
        change(&mut params);
        AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) }
    };
    let cases = [
        vec![],
        vec![AttestAgentRequest { step: None }],
        vec![answer(b"yes")],
        vec![without(|p| p.data = None)],
        vec![without(|p| p.params = None)],
        vec![params("", b"p", good.clone())],
        vec![params(&"n".repeat(65), b"p", good.clone())],
        vec![params(NAME, b"", good.clone())],
        vec![params(NAME, b"p", vec![])],
        vec![params(NAME, b"p", b"no csr".to_vec())],
        vec![params(NAME, &vec![0; 512 * 1024 + 1], good.clone())],
        vec![params(NAME, b"p", good.clone()), params(NAME, b"p", good.clone())],
        vec![params(NAME, b"p", good.clone()), answer(&vec![0; 512 * 1024 + 1])],
        vec![params(NAME, b"p", good.clone())],
        vec![params(NAME, b"malformed", good.clone())],
    ];
    let reasons = ["stream_ended"]
        .into_iter()
        .chain(["malformed_request"; 9])
        .chain(["payload_too_large", "malformed_request", "payload_too_large", "stream_ended"])
        .chain(["malformed_evidence"]);
    assert_eq!(reasons.clone().count(), cases.len());
    for (number, (messages, reason)) in cases.into_iter().zip(reasons).enumerate() {
        let status = bench.refusal(Fake::new(1), messages).await;
        assert_eq!(status.code(), Code::InvalidArgument, "case {number}: {status}");
        recorded(&bench, &status, reason);
    }
    // What cannot be decoded at all.
    let broken = Status::invalid_argument("failed to decode Protobuf message: invalid tag value: 0");
    let inbound = stream::iter([Err(broken.clone())]);
    let told = bench.run(Fake::new(0), inbound).await.pop().unwrap().unwrap_err();
    assert_eq!(told.message(), broken.message());
    recorded(&bench, &told, "stream_broken");
    assert_eq!(bench.site.store.count_nodes(&Default::default()).await.unwrap(), 0);
}

#[tokio::test]
async fn the_peer_learns_the_reason_and_not_the_details() {
    let bench = Bench::new().await;
    let status = bench.refusal(Fake::new(0), vec![params(NAME, b"rejected", csr().await)]).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("box_unknown") && !status.message().contains("secret"), "{status}");
    let status = bench.refusal(Fake::new(0), vec![params(NAME, b"broken", csr().await)]).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!status.message().contains("secret"), "{status}");
}

#[tokio::test]
async fn a_wrong_answer_ends_it() {
    let bench = Bench::new().await;
    let status = bench.refusal(Fake::new(1), vec![params(NAME, b"p", csr().await), answer(b"no")]).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("wrong_answer"));
}

#[tokio::test]
async fn an_attestor_that_is_not_configured_lets_nobody_in() {
    let bench = Bench::new().await;
    let status = bench.refusal(Fake::new(0), vec![params("join_token", b"t", csr().await)]).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn endless_rounds_end() {
    let bench = Bench::new().await;
    let mut messages = vec![params(NAME, b"p", csr().await)];
    messages.extend((0..100).map(|_| answer(b"yes")));
    let answers = bench.converse(Fake::new(1000), messages).await;
    assert_eq!(answers.len(), 9, "eight challenges and the refusal");
    assert_eq!(answers.last().unwrap().as_ref().unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_let_go_after_a_minute() {
    let bench = Bench::new().await;
    // Only now: the database has threads of its own, which paused time would not wait for.
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    let answers = bench.run(Fake::new(0), stream::pending()).await;
    assert_eq!(answers[0].as_ref().unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(begin.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn banned_nodes_stay_out() {
    let bench = Bench::new().await;
    let again = async || bench.converse(Fake::new(0), vec![params(NAME, b"p", csr().await)]).await.pop();
    result(again().await);
    let node = id("/spire/agent/fake/box-1");
    bench.site.store.ban_node(&node).await.unwrap();
    let status = again().await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::PermissionDenied, Some(Reason::AgentBanned)));
    assert!(bench.site.store.node(&node).await.unwrap().unwrap().is_banned());
    // Evicted, it may come back.
    bench.site.store.delete_node(&node).await.unwrap();
    result(again().await);
}

#[tokio::test]
async fn an_attestor_cannot_hand_out_other_identities() {
    let bench = Bench::new().await;
    for bad in [
        "spiffe://example.org/spire/server",
        "spiffe://example.org/workload",
        "spiffe://other.test/spire/agent/fake/x",
    ] {
        let attestor = Fake { agent_id: bad.parse().unwrap(), ..Fake::new(0) };
        let status = bench.refusal(attestor, vec![params(NAME, b"p", csr().await)]).await;
        assert_eq!(status.code(), Code::Internal, "{bad}");
    }
    let attestor = Fake { selector: Selector::new("tpm_quote", "ek_hash:00").unwrap(), ..Fake::new(0) };
    let status = bench.refusal(attestor, vec![params(NAME, b"p", csr().await)]).await;
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(bench.site.store.count_nodes(&Default::default()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_signature_that_fails_leaves_no_node() {
    let bench = Bench::new().await;
    bench.site.token.lies.store(true, std::sync::atomic::Ordering::SeqCst);
    let status = bench.refusal(Fake::new(0), vec![params(NAME, b"p", csr().await)]).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(bench.site.store.count_nodes(&Default::default()).await.unwrap(), 0);
}

fn renewal(csr: Vec<u8>) -> tonic::Request<RenewAgentRequest> {
    let mut request = tonic::Request::new(RenewAgentRequest { params: Some(AgentX509svidParams { csr }) });
    request
        .extensions_mut()
        .insert(Caller::Agent { id: id("/spire/agent/fake/box-1"), addr: "192.0.2.1:1".parse().unwrap() });
    request
}

#[tokio::test]
async fn renewal_keeps_the_old_serial_beside_the_new_one() {
    let bench = Bench::new().await;
    let attestor = Fake { can_reattest: false, ..Fake::new(0) };
    result(bench.converse(attestor, vec![params(NAME, b"p", csr().await)]).await.pop());
    let node = id("/spire/agent/fake/box-1");
    let before = bench.site.store.node(&node).await.unwrap().unwrap();
    let service = bench.service(Arc::new(Fake::new(0)));
    let svid = service.renew_agent(renewal(csr().await)).await.unwrap().into_inner().svid.unwrap();
    let leaf = X509Svid::parse(svid.cert_chain).unwrap();
    let after = bench.site.store.node(&node).await.unwrap().unwrap();
    assert_eq!(after.serial_number, before.serial_number);
    assert_eq!(after.new_serial_number, leaf.serial);
    assert_eq!(leaf.id, node);
}

#[tokio::test]
async fn what_can_attest_again_must() {
    let bench = Bench::new().await;
    result(bench.converse(Fake::new(0), vec![params(NAME, b"p", csr().await)]).await.pop());
    let service = bench.service(Arc::new(Fake::new(0)));
    let status = service.renew_agent(renewal(csr().await)).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(Reason::AgentMustReattest));
}

#[tokio::test]
async fn a_renewal_needs_a_node_and_a_csr() {
    let bench = Bench::new().await;
    let service = bench.service(Arc::new(Fake::new(0)));
    let status = service.renew_agent(renewal(csr().await)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let attestor = Fake { can_reattest: false, ..Fake::new(0) };
    result(bench.converse(attestor, vec![params(NAME, b"p", csr().await)]).await.pop());
    for bad in [vec![], b"no csr".to_vec()] {
        let status = service.renew_agent(renewal(bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}
