//! Whole exchanges on emulated TPMs, honest and not.
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use hardroot_emulators::{Manufacturer, Shutdown, Swtpm, TpmProxy};
use hardroot_identity::{Selector, SpiffeId, TrustDomain};
use hardroot_tpm_attestor::device::{Config, EkKind, Tpm, WrappedKey, WrappedKeys};
use hardroot_tpm_attestor::verify::{EkAnchors, HashAlg, PcrPolicy, PublicArea};
use proptest::prelude::*;

use super::message::{Evidence, Message, QuoteChallenge, QuoteResponse};
use super::*;
use crate::{
    AgentAttestor, AttestError, AttestationSubject, AttestedNode, Enrolment, Enrolments, NodeRecord,
    NodeRecords, ServerAttestor, ServerContext, Step,
};

#[derive(Default)]
struct Keys(Mutex<Vec<(Vec<u8>, WrappedKey)>>);

#[async_trait::async_trait]
impl WrappedKeys for Keys {
    async fn wrapped_by_spki(
        &self,
        spki_der: &[u8],
    ) -> Result<Option<WrappedKey>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.lock().unwrap().iter().find(|(spki, _)| spki == spki_der).map(|(_, key)| key.clone()))
    }
}

/// The server's stores in memory.
#[derive(Default)]
struct Store {
    records: Mutex<HashMap<String, NodeRecord>>,
    enrolments: Mutex<HashMap<String, Enrolment>>,
}

#[async_trait::async_trait]
impl NodeRecords for Store {
    async fn record(&self, attestor: &str, key: &str) -> Result<Option<NodeRecord>, AttestError> {
        assert_eq!(attestor, NAME);
        Ok(self.records.lock().unwrap().get(key).cloned())
    }
}

#[async_trait::async_trait]
impl Enrolments for Store {
    async fn enrolment(&self, ek_hash: &str) -> Result<Option<Enrolment>, AttestError> {
        Ok(self.enrolments.lock().unwrap().get(ek_hash).cloned())
    }
}

impl Store {
    fn enrol(&self, ek_hash: &str, agent_path: Option<&str>) {
        let enrolment = Enrolment {
            ek_hash: ek_hash.to_owned(),
            agent_path: agent_path.map(ToOwned::to_owned),
            note: String::new(),
        };
        self.enrolments.lock().unwrap().insert(ek_hash.to_owned(), enrolment);
    }
}

/// A node: its TPM handle, agent key and agent half.
struct Node {
    tpm: Arc<Tpm>,
    keys: Arc<Keys>,
    agent: TpmQuoteAgent,
    subject: AttestationSubject,
    folder: tempfile::TempDir,
}

fn trust_domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

async fn key(tpm: &Tpm) -> (Vec<u8>, WrappedKey) {
    let key = tpm.create_signing_key().await.unwrap();
    (PublicArea::parse(&key.public).unwrap().key().spki_der(), key)
}

impl Node {
    /// The state folder is not there yet, as on a new box.
    fn state_folder(&self) -> std::path::PathBuf {
        self.folder.path().join("tpm-quote")
    }

    async fn on(tcti: &str, kind: EkKind) -> Self {
        let tpm = Tpm::open(Config::new(tcti.parse().unwrap())).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (spki, wrapped) = key(&tpm).await;
        let keys = Arc::new(Keys(Mutex::new(vec![(spki.clone(), wrapped)])));
        let agent = Self::agent(&tpm, &keys, &folder.path().join("tpm-quote"), kind);
        let subject = AttestationSubject { trust_domain: trust_domain(), csr_spki_der: spki };
        Self { tpm, keys, agent, subject, folder }
    }

    fn agent(tpm: &Arc<Tpm>, keys: &Arc<Keys>, folder: &Path, kind: EkKind) -> TpmQuoteAgent {
        let keys: Arc<dyn WrappedKeys> = Arc::<Keys>::clone(keys);
        let config = TpmQuoteAgentConfig { state_folder: folder.to_owned(), endorsement_key: Some(kind) };
        TpmQuoteAgent::new(Arc::clone(tpm), keys, config)
    }

    fn state_file(&self) -> std::path::PathBuf {
        super::state::path(&self.state_folder(), &trust_domain())
    }

    async fn ek_hash(&self, kind: EkKind) -> String {
        self.tpm.endorsement_key(Some(kind)).await.unwrap().hash().unwrap()
    }

    fn context(&self) -> ServerContext {
        ServerContext {
            trust_domain: trust_domain(),
            csr_spki_der: self.subject.csr_spki_der.clone(),
            peer: None,
            now: SystemTime::now(),
        }
    }
}

fn config(anchors: EkAnchors, enrolment: Enrolling) -> TpmQuoteServerConfig {
    let pcrs = PcrPolicy::new(HashAlg::Sha256, &(0..8).collect::<Vec<u8>>()).unwrap();
    TpmQuoteServerConfig { anchors, enrolment, require_certificate: false, pcrs }
}

fn anchors(chip: &Swtpm) -> EkAnchors {
    EkAnchors::from_pem([chip.ca_pem().unwrap().as_bytes()]).unwrap()
}

fn server(config: TpmQuoteServerConfig, store: &Arc<Store>) -> TpmQuoteServer {
    TpmQuoteServer::new(config, Arc::<Store>::clone(store), Arc::<Store>::clone(store))
}

fn endorsement_server(chip: &Swtpm, store: &Arc<Store>) -> TpmQuoteServer {
    server(config(anchors(chip), Enrolling::Endorsement), store)
}

type Tamper<'a> = &'a mut (dyn FnMut(usize, Vec<u8>) -> Vec<u8> + Send);

/// Runs an exchange as the server would; `tamper` sees each message of the agent with its number.
async fn exchange_with(
    node: &Node,
    server: &TpmQuoteServer,
    context: &ServerContext,
    tamper: Tamper<'_>,
) -> Result<AttestedNode, AttestError> {
    let (payload, mut session) = node.agent.begin(&node.subject).await?;
    let mut step = server.begin(context, &tamper(0, payload)).await?;
    for round in 1..10 {
        match step {
            Step::Attested(attested) => return Ok(attested),
            Step::Challenge(challenge, waiting) => {
                let response = session.respond(&challenge).await?;
                step = waiting.respond(&tamper(round, response)).await?;
            }
        }
    }
    panic!("the exchange does not end");
}

async fn exchange(node: &Node, server: &TpmQuoteServer, store: &Store) -> Result<AttestedNode, AttestError> {
    let result = exchange_with(node, server, &node.context(), &mut |_, message| message).await;
    node.agent.ended(result.is_ok()).await;
    if let Ok(attested) = &result {
        let record = attested.record.clone().unwrap();
        store.records.lock().unwrap().insert(record.key.clone(), record);
    }
    result
}

fn slug(result: Result<AttestedNode, AttestError>) -> String {
    match result.unwrap_err() {
        AttestError::Rejected { reason, .. } => reason.to_owned(),
        AttestError::Malformed { what, reason } => format!("malformed {what}: {reason}"),
        other => format!("{other:?}"),
    }
}

fn fact<'a>(node: &'a AttestedNode, name: &str) -> &'a str {
    &node.audit.iter().find(|(key, _)| *key == name).unwrap().1
}

fn has(node: &AttestedNode, selector: &str) -> bool {
    node.selectors.contains(&selector.parse::<Selector>().unwrap())
}

#[tokio::test]
async fn certified_tpms_attest_by_endorsement_and_renew_with_one_operation() {
    for kind in [EkKind::Rsa2048, EkKind::EcP384] {
        let chip = Swtpm::start().unwrap();
        let proxy = TpmProxy::before(&chip).unwrap();
        let node = Node::on(&proxy.tcti(), kind).await;
        let ek_hash = node.ek_hash(kind).await;
        let store = Arc::new(Store::default());
        let server = endorsement_server(&chip, &store);
        assert_eq!(proxy.private_key_operations(), 0, "opening uses no private key");
        let attested = exchange(&node, &server, &store).await.unwrap();
        // Activation, certification, quote; the CSR and a TLS handshake add one each.
        assert_eq!(proxy.private_key_operations(), 3);
        assert_eq!(
            attested.agent_id.as_str(),
            format!("spiffe://example.org/spire/agent/tpm_quote/{ek_hash}")
        );
        assert!(attested.can_reattest);
        assert!(has(&attested, &format!("tpm_quote:ek_hash:{ek_hash}")));
        assert!(has(&attested, "tpm_quote:ek_issuer:cn:swtpm-localca"));
        assert!(has(&attested, "tpm_quote:vendor:id:00001014"), "{:?}", attested.selectors);
        assert!(has(&attested, "tpm_quote:model:swtpm"));
        for pcr in 0..8 {
            assert!(has(&attested, &format!("tpm_quote:pcr:sha256:{pcr}:{}", "00".repeat(32))));
        }
        let firmware = attested.selectors.iter().find(|s| s.value().starts_with("firmware:")).unwrap();
        assert_eq!(firmware.value().split('.').count(), 4);
        assert_eq!(fact(&attested, "mode"), "attest");
        assert_eq!(attested.evidence_digest.len(), 64);

        proxy.reset_counts();
        let renewed = exchange(&node, &server, &store).await.unwrap();
        assert_eq!(proxy.private_key_operations(), 1, "a renewal is one quote");
        assert_eq!(fact(&renewed, "mode"), "renew");
        assert_eq!((&renewed.agent_id, &renewed.selectors), (&attested.agent_id, &attested.selectors));
        assert_ne!(renewed.evidence_digest, attested.evidence_digest);
        proxy.reset_counts();
        // A restarted agent finds its state again.
        let again = Node::agent(&node.tpm, &node.keys, &node.state_folder(), kind);
        let node = Node { agent: again, ..node };
        assert_eq!(fact(&exchange(&node, &server, &store).await.unwrap(), "mode"), "renew");
        let used = proxy.total();
        tokio::task::yield_now().await;
        assert_eq!(proxy.total(), used, "idle costs nothing");
    }
}

#[tokio::test]
async fn a_tpm_without_certificate_attests_by_enrolment() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::EcP256).await;
    let store = Arc::new(Store::default());
    let by_enrolment = server(config(anchors(&chip), Enrolling::Required), &store);
    let refused = exchange(&node, &by_enrolment, &store).await;
    assert_eq!(slug(refused), "ek_not_enrolled");
    let ek_hash = node.ek_hash(EkKind::EcP256).await;
    store.enrol(&ek_hash, Some("/rack-7/box-3"));
    let attested = exchange(&node, &by_enrolment, &store).await.unwrap();
    assert_eq!(attested.agent_id.as_str(), "spiffe://example.org/spire/agent/rack-7/box-3");
    assert!(!attested.selectors.iter().any(|s| s.value().starts_with("ek_issuer:")));
    assert_eq!(fact(&exchange(&node, &by_enrolment, &store).await.unwrap(), "mode"), "renew");
    // Removed from the list: the next renewal is refused.
    store.enrolments.lock().unwrap().clear();
    assert_eq!(slug(exchange(&node, &by_enrolment, &store).await), "ek_not_enrolled");
    let by_endorsement = server(config(anchors(&chip), Enrolling::Endorsement), &Arc::new(Store::default()));
    node.agent.ended(false).await;
    assert_eq!(slug(exchange(&node, &by_endorsement, &store).await), "ek_certificate_missing");
}

#[tokio::test]
async fn a_manufacturer_that_is_not_pinned_is_not_believed() {
    let chip = Swtpm::start().unwrap();
    let stranger = Manufacturer::new().unwrap().make_tpm().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::Rsa2048).await;
    let store = Arc::new(Store::default());
    let by_endorsement = server(config(anchors(&stranger), Enrolling::Endorsement), &store);
    assert_eq!(slug(exchange(&node, &by_endorsement, &store).await), "ek_certificate_untrusted");
    // Enrolled, the certificate is not needed; required as well, it is.
    store.enrol(&node.ek_hash(EkKind::Rsa2048).await, None);
    let by_enrolment = server(config(anchors(&stranger), Enrolling::Required), &store);
    let attested = exchange(&node, &by_enrolment, &store).await.unwrap();
    assert!(!attested.selectors.iter().any(|s| s.value().starts_with("ek_issuer:")));
    let mut both = config(anchors(&stranger), Enrolling::Required);
    both.require_certificate = true;
    assert_eq!(slug(exchange(&node, &server(both, &store), &store).await), "ek_certificate_untrusted");
    let mut late = node.context();
    late.now = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
    let fresh = endorsement_server(&chip, &Arc::new(Store::default()));
    let early = exchange_with(&node, &fresh, &late, &mut |_, message| message).await;
    assert_eq!(slug(early), "ek_certificate_untrusted", "not valid yet in 1970");
}

/// Decodes the evidence, lets `change` alter it, and encodes it again.
fn with_evidence(message: &[u8], change: impl FnOnce(&mut Evidence<'_>)) -> Vec<u8> {
    let Message::Evidence(mut evidence) = Message::decode(message).unwrap() else { panic!("no evidence") };
    // The change may lend from elsewhere for a shorter time.
    change(&mut evidence);
    Message::Evidence(evidence).encode()
}

#[tokio::test]
async fn evidence_of_two_tpms_does_not_mix() {
    let (chip, other) = (Swtpm::start().unwrap(), Swtpm::start().unwrap());
    let (node, accomplice) =
        (Node::on(&chip.tcti(), EkKind::Rsa2048).await, Node::on(&other.tcti(), EkKind::Rsa2048).await);
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    let (theirs, _) = accomplice.agent.begin(&accomplice.subject).await.unwrap();
    let Message::Evidence(their_evidence) = Message::decode(&theirs).unwrap() else { panic!() };

    // The certificate of another TPM, also where the enrolment alone makes ours trusted.
    let by_enrolment = super::tests::server(config(anchors(&chip), Enrolling::Required), &store);
    store.enrol(&node.ek_hash(EkKind::Rsa2048).await, None);
    for server in [&server, &by_enrolment] {
        let mixed = exchange_with(&node, server, &node.context(), &mut |n, message| {
            if n == 0 {
                let Message::Evidence(mut evidence) = Message::decode(&message).unwrap() else { panic!() };
                evidence.certificate = their_evidence.certificate;
                return Message::Evidence(evidence).encode();
            }
            message
        })
        .await;
        assert_eq!(slug(mixed), "ek_certificate_key_mismatch");
    }

    // The EK of another TPM: ours cannot activate what is sealed to it.
    let (ours, mut session) = node.agent.begin(&node.subject).await.unwrap();
    let Message::Evidence(mut evidence) = Message::decode(&ours).unwrap() else { panic!() };
    evidence.ek_public = their_evidence.ek_public;
    evidence.certificate = their_evidence.certificate;
    let Step::Challenge(challenge, waiting) =
        server.begin(&node.context(), &Message::Evidence(evidence).encode()).await.unwrap()
    else {
        panic!()
    };
    assert!(matches!(session.respond(&challenge).await, Err(AttestError::Unavailable { .. })));
    // And an attacker who answers with everything but the secret is refused for it.
    let guess = answer_for(&node, &server, &challenge, &[0; 32]).await;
    assert_eq!(slug(attested(waiting.respond(&guess).await)), "activation_mismatch");
}

fn attested(step: Result<Step, AttestError>) -> Result<AttestedNode, AttestError> {
    match step? {
        Step::Attested(node) => Ok(node),
        Step::Challenge(..) => panic!("a challenge"),
    }
}

/// The node's own response to a credential of its own, with the nonce of `challenge` and this activation.
async fn answer_for(node: &Node, server: &TpmQuoteServer, challenge: &[u8], activation: &[u8]) -> Vec<u8> {
    let (ours, mut session) = node.agent.begin(&node.subject).await.unwrap();
    let Step::Challenge(own, _) = server.begin(&node.context(), &ours).await.unwrap() else { panic!() };
    let (Message::Challenge { quote, .. }, Message::Challenge { id_object, encrypted_seed, .. }) =
        (Message::decode(challenge).unwrap(), Message::decode(&own).unwrap())
    else {
        panic!()
    };
    let response =
        session.respond(&Message::Challenge { quote, id_object, encrypted_seed }.encode()).await.unwrap();
    change_response(&response, |parts| parts.activation = activation.to_vec())
}

/// Alters the parts of a response; the second are those of an earlier one.
type Change = Box<dyn Fn(&mut Parts, &Parts) + Send + Sync>;

struct Parts {
    activation: Vec<u8>,
    certify: [Vec<u8>; 2],
    key_public: Vec<u8>,
    quote: [Vec<u8>; 3],
}

fn parts_of(message: &[u8]) -> Parts {
    let Message::Response { activation, certify_attest, certify_signature, key_public, quote } =
        Message::decode(message).unwrap()
    else {
        panic!("no response")
    };
    Parts {
        activation: activation.to_vec(),
        certify: [certify_attest.to_vec(), certify_signature.to_vec()],
        key_public: key_public.to_vec(),
        quote: [quote.attest.to_vec(), quote.signature.to_vec(), quote.values.to_vec()],
    }
}

fn change_response(message: &[u8], change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut parts = parts_of(message);
    change(&mut parts);
    let [certify_attest, certify_signature] = &parts.certify;
    let [attest, signature, values] = &parts.quote;
    Message::Response {
        activation: &parts.activation,
        certify_attest,
        certify_signature,
        key_public: &parts.key_public,
        quote: QuoteResponse { attest, signature, values },
    }
    .encode()
}

#[tokio::test]
async fn nothing_of_an_earlier_exchange_serves_again() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::EcP384).await;
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    let mut earlier = Vec::new();
    exchange_with(&node, &server, &node.context(), &mut |n, message| {
        if n == 1 {
            earlier.clone_from(&message);
        }
        message
    })
    .await
    .unwrap();
    let run = |change: Change| {
        let (node, server, earlier) = (&node, &server, &earlier);
        async move {
            slug(
                exchange_with(node, server, &node.context(), &mut |n, message| {
                    if n == 1 {
                        change_response(&message, |parts| change(parts, &parts_of(earlier)))
                    } else {
                        message
                    }
                })
                .await,
            )
        }
    };
    assert_eq!(
        run(Box::new(|now, old| now.activation.clone_from(&old.activation))).await,
        "activation_mismatch"
    );
    assert_eq!(
        run(Box::new(|now, old| now.certify.clone_from(&old.certify))).await,
        "qualifying_data_mismatch"
    );
    assert_eq!(run(Box::new(|now, old| now.quote.clone_from(&old.quote))).await, "qualifying_data_mismatch");
    // Mixed up within one exchange.
    assert_eq!(
        run(Box::new(|now, _| {
            let [attest, signature] = now.certify.clone();
            now.quote[0] = attest;
            now.quote[1] = signature;
        }))
        .await,
        "attest_type"
    );
    assert_eq!(
        run(Box::new(|now, _| {
            now.certify = [now.quote[0].clone(), now.quote[1].clone()];
        }))
        .await,
        "attest_type"
    );
    assert_eq!(run(Box::new(|now, _| now.certify[1].clone_from(&now.quote[1]))).await, "attest_signature");
    assert_eq!(run(Box::new(|now, _| now.quote[2][5] ^= 1)).await, "pcr_digest_mismatch");
    assert_eq!(run(Box::new(|now, _| now.quote[2].truncate(32))).await, "pcr_digest_mismatch");
    assert_eq!(run(Box::new(|now, _| now.quote[0][30] ^= 1)).await, "attest_signature");
    assert_eq!(run(Box::new(|now, _| now.quote[0][0] ^= 1)).await, "attest_magic");
    assert!(run(Box::new(|now, _| now.quote[0].push(0))).await.contains("trailing bytes"));
    assert!(run(Box::new(|now, _| now.certify[1].push(0))).await.contains("trailing bytes"));
    assert!(run(Box::new(|now, _| now.key_public.push(0))).await.contains("trailing bytes"));
    assert!(
        run(Box::new(|now, _| {
            now.quote[0].pop();
        }))
        .await
        .contains("truncated")
    );
}

#[tokio::test]
async fn the_key_of_the_request_must_be_the_certified_one() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::Rsa2048).await;
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    // Somebody in between swaps the CSR.
    let mut swapped = node.context();
    swapped.csr_spki_der = key(&node.tpm).await.0;
    let result = exchange_with(&node, &server, &swapped, &mut |_, message| message).await;
    assert_eq!(slug(result), "qualifying_data_mismatch");
    // Another trust domain is another binding too.
    let mut elsewhere = node.context();
    elsewhere.trust_domain = TrustDomain::new("other.example").unwrap();
    let result = exchange_with(&node, &server, &elsewhere, &mut |_, message| message).await;
    assert_eq!(slug(result), "qualifying_data_mismatch");
    // An agent that has one key certified and puts another one into its request.
    let (_, other) = key(&node.tpm).await;
    node.keys.0.lock().unwrap()[0].1 = other;
    let result = exchange_with(&node, &server, &node.context(), &mut |_, message| message).await;
    assert_eq!(slug(result), "csr_key_mismatch");
    // One that shows the public area of the right key beside the certification of the wrong one.
    let right = Node::on(&chip.tcti(), EkKind::Rsa2048).await.keys.0.lock().unwrap()[0].1.public.clone();
    let result = exchange_with(&node, &server, &node.context(), &mut |n, message| {
        if n == 1 { change_response(&message, |parts| parts.key_public.clone_from(&right)) } else { message }
    })
    .await;
    assert_eq!(slug(result), "certified_name_mismatch");
    // A key manager without that key ends the attempt on the agent's side.
    node.keys.0.lock().unwrap().clear();
    let (_, mut session) = node.agent.begin(&node.subject).await.unwrap();
    let (payload, _) = node.agent.begin(&node.subject).await.unwrap();
    let Step::Challenge(challenge, _) = server.begin(&node.context(), &payload).await.unwrap() else {
        panic!()
    };
    assert!(matches!(session.respond(&challenge).await, Err(AttestError::Unavailable { .. })));
}

#[tokio::test]
async fn an_ak_must_be_restricted_and_an_ek_a_storage_key() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::Rsa2048).await;
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    let unrestricted = node.keys.0.lock().unwrap()[0].1.public.clone();
    let (payload, _) = node.agent.begin(&node.subject).await.unwrap();
    let try_with = |change: &dyn for<'a> Fn(&mut Evidence<'a>, &'a [u8])| {
        let Message::Evidence(mut evidence) = Message::decode(&payload).unwrap() else { panic!() };
        change(&mut evidence, &unrestricted);
        Message::Evidence(evidence).encode()
    };
    let begin = |message: Vec<u8>| {
        let (server, context) = (&server, node.context());
        async move { slug(attested(server.begin(&context, &message).await)) }
    };
    assert_eq!(begin(try_with(&|evidence, key| evidence.ak_public = key)).await, "ak_not_restricted");
    assert_eq!(begin(try_with(&|evidence, key| evidence.ek_public = key)).await, "ek_attributes");
    assert_eq!(
        begin(try_with(&|evidence, _| evidence.ek_public = evidence.ak_public)).await,
        "ek_attributes"
    );
    assert_eq!(
        begin(try_with(&|evidence, _| evidence.ak_public = evidence.ek_public)).await,
        "ak_attributes"
    );
    // A software key with the attributes of an AK: nobody can activate its credential, see
    // `evidence_of_two_tpms_does_not_mix`; here it only gets as far as the challenge.
    let mut software = PublicArea::parse(&unrestricted).unwrap().as_bytes().to_vec();
    software[5] |= 1;
    let forged = with_evidence(&payload, |evidence| evidence.intermediates.clear());
    let Message::Evidence(mut evidence) = Message::decode(&forged).unwrap() else { panic!() };
    evidence.ak_public = &software;
    let Step::Challenge(challenge, waiting) =
        server.begin(&node.context(), &Message::Evidence(evidence).encode()).await.unwrap()
    else {
        panic!()
    };
    let guess = answer_for(&node, &server, &challenge, &[9; 32]).await;
    assert_eq!(slug(attested(waiting.respond(&guess).await)), "activation_mismatch");
}

#[tokio::test]
async fn a_reset_makes_the_next_renewal_a_full_attestation() {
    let mut chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::EcP384).await;
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    exchange(&node, &server, &store).await.unwrap();
    for how in [Shutdown::Orderly, Shutdown::PowerCut] {
        chip.restart(how).unwrap();
        chip.extend_pcr(7, [3; 32]).unwrap();
        let attested = exchange(&node, &server, &store).await.unwrap();
        assert_eq!(fact(&attested, "mode"), "attest", "{how:?}");
        assert!(!has(&attested, &format!("tpm_quote:pcr:sha256:7:{}", "00".repeat(32))));
    }
    // A PCR that changes while running shows in the selectors of the next renewal.
    chip.extend_pcr(4, [9; 32]).unwrap();
    let renewed = exchange(&node, &server, &store).await.unwrap();
    assert!(!has(&renewed, &format!("tpm_quote:pcr:sha256:4:{}", "00".repeat(32))));
}

fn alter_record(store: &Store, change: impl Fn(&mut serde_json::Value)) {
    for record in store.records.lock().unwrap().values_mut() {
        let mut value: serde_json::Value = serde_json::from_slice(&record.data).unwrap();
        change(&mut value);
        record.data = serde_json::to_vec(&value).unwrap();
    }
}

#[tokio::test]
async fn counters_that_went_back_are_refused_in_both_exchanges() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::Rsa2048).await;
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    exchange(&node, &server, &store).await.unwrap();
    alter_record(&store, |record| record["clock"]["reset_count"] = 1_000_000.into());
    assert_eq!(slug(exchange(&node, &server, &store).await), "tpm_clock_rollback");
    // After a failed short exchange the agent tries the full one.
    assert_eq!(slug(exchange(&node, &server, &store).await), "tpm_clock_rollback");
}

#[tokio::test]
async fn whatever_differs_from_the_record_asks_for_the_full_exchange() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::EcP384).await;
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    let mode = |result: Result<AttestedNode, AttestError>| fact(&result.unwrap(), "mode").to_owned();
    assert_eq!(mode(exchange(&node, &server, &store).await), "attest");
    assert_eq!(mode(exchange(&node, &server, &store).await), "renew");
    let changes: [fn(&mut serde_json::Value); 5] = [
        |record| record["key_hash"] = "00".into(),
        |record| record["policy_id"] = "00".into(),
        |record| record["ak_public"] = "AAAA".into(),
        |record| record["facts"]["until"] = 5.into(),
        |record| record["version"] = 7.into(),
    ];
    for change in changes {
        alter_record(&store, change);
        assert_eq!(mode(exchange(&node, &server, &store).await), "attest");
        assert_eq!(mode(exchange(&node, &server, &store).await), "renew");
    }
    // Another attestation key than the one on record.
    let claimed =
        exchange_with(&node, &server, &node.context(), &mut |_, message| match Message::decode(&message) {
            Ok(Message::Renew { ek_hash, ak_name }) => {
                let mut other = ak_name.to_vec();
                *other.last_mut().unwrap() ^= 1;
                Message::Renew { ek_hash, ak_name: &other }.encode()
            }
            _ => message.clone(),
        })
        .await;
    assert_eq!(mode(claimed), "attest");
    store.records.lock().unwrap().clear();
    assert_eq!(mode(exchange(&node, &server, &store).await), "attest", "evicted and back");
    // The server asks for other PCRs now.
    let mut other = config(anchors(&chip), Enrolling::Endorsement);
    other.pcrs = PcrPolicy::new(HashAlg::Sha256, &[7]).unwrap();
    let stricter = super::tests::server(other, &store);
    let attested = exchange(&node, &stricter, &store).await.unwrap();
    assert_eq!(fact(&attested, "mode"), "attest");
    assert_eq!(attested.selectors.iter().filter(|s| s.value().starts_with("pcr:")).count(), 1);
}

#[tokio::test]
async fn damaged_or_foreign_state_is_replaced_and_never_fatal() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::Rsa2048).await;
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    let ak = |attested: &AttestedNode| fact(attested, "ak_name").to_owned();
    let first = ak(&exchange(&node, &server, &store).await.unwrap());
    // A bit flips in the file: set aside.
    let mut bytes = std::fs::read(node.state_file()).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    std::fs::write(node.state_file(), &bytes).unwrap();
    let second = ak(&exchange(&node, &server, &store).await.unwrap());
    assert_ne!(first, second);
    assert!(std::fs::read_dir(node.state_folder()).unwrap().count() > 1, "the damaged file is kept");
    // The blob is damaged although the checksum fits: the TPM notices.
    let path = node.state_file();
    let mut state = super::state::State::load(&path, &trust_domain()).unwrap().unwrap();
    state.ak.private[50] ^= 1;
    state.save(&path, &trust_domain()).unwrap();
    let attested = exchange(&node, &server, &store).await.unwrap();
    assert_ne!(ak(&attested), second);
    assert_eq!(fact(&attested, "mode"), "attest");
    // The whole folder on another TPM: another EK, another AK, another node.
    let other = Swtpm::start().unwrap();
    let thief = Node::on(&other.tcti(), EkKind::Rsa2048).await;
    std::fs::create_dir(thief.state_folder()).unwrap();
    std::fs::copy(&path, thief.state_file()).unwrap();
    let elsewhere = exchange(&thief, &server, &store).await.unwrap();
    assert_ne!(elsewhere.agent_id, attested.agent_id);
    store.enrol(&node.ek_hash(EkKind::Rsa2048).await, None);
    let strict = super::tests::server(config(anchors(&chip), Enrolling::Required), &store);
    assert_eq!(slug(exchange(&thief, &strict, &store).await), "ek_not_enrolled");
}

#[tokio::test]
async fn an_agent_id_keeps_its_tpm() {
    let (chip, other) = (Swtpm::start().unwrap(), Swtpm::start().unwrap());
    let (node, spare) =
        (Node::on(&chip.tcti(), EkKind::Rsa2048).await, Node::on(&other.tcti(), EkKind::Rsa2048).await);
    let store = Arc::new(Store::default());
    store.enrol(&node.ek_hash(EkKind::Rsa2048).await, Some("/gateway"));
    let server = server(config(EkAnchors::default(), Enrolling::Required), &store);
    let attested = exchange(&node, &server, &store).await.unwrap();
    store.enrol(&spare.ek_hash(EkKind::Rsa2048).await, Some("/gateway"));
    assert_eq!(slug(exchange(&spare, &server, &store).await), "ek_changed");
    // Evicting the agent removes its record, and then the spare may take its place.
    store.records.lock().unwrap().remove(attested.agent_id.as_str());
    assert_eq!(exchange(&spare, &server, &store).await.unwrap().agent_id, attested.agent_id);
    assert_eq!(attested.agent_id, SpiffeId::new(&trust_domain(), "/spire/agent/gateway").unwrap());
}

#[tokio::test]
async fn challenges_differ_and_expire() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::EcP384).await;
    let store = Arc::new(Store::default());
    let seconds = Arc::new(AtomicU64::new(1000));
    let clock = Arc::clone(&seconds);
    let server = TpmQuoteServer::with_clock(
        config(anchors(&chip), Enrolling::Endorsement),
        Arc::<Store>::clone(&store),
        Arc::<Store>::clone(&store),
        Arc::new(move || Duration::from_secs(clock.load(Ordering::SeqCst))),
    );
    let (payload, mut session) = node.agent.begin(&node.subject).await.unwrap();
    let mut nonces = Vec::new();
    for (age, outcome) in [(61, "challenge_expired"), (60, "")] {
        let Step::Challenge(challenge, waiting) = server.begin(&node.context(), &payload).await.unwrap()
        else {
            panic!()
        };
        let Message::Challenge { quote, .. } = Message::decode(&challenge).unwrap() else { panic!() };
        nonces.push(quote.nonce);
        let response = session.respond(&challenge).await.unwrap();
        seconds.fetch_add(age, Ordering::SeqCst);
        let result = attested(waiting.respond(&response).await);
        if outcome.is_empty() {
            result.unwrap();
        } else {
            assert_eq!(slug(result), outcome);
        }
    }
    assert_ne!(nonces[0], nonces[1]);
}

#[tokio::test]
async fn challenges_of_renewals_differ_and_expire_too_and_the_digest_is_of_every_message() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::EcP384).await;
    let store = Arc::new(Store::default());
    let seconds = Arc::new(AtomicU64::new(1000));
    let clock = Arc::clone(&seconds);
    let server = TpmQuoteServer::with_clock(
        config(anchors(&chip), Enrolling::Endorsement),
        Arc::<Store>::clone(&store),
        Arc::<Store>::clone(&store),
        Arc::new(move || Duration::from_secs(clock.load(Ordering::SeqCst))),
    );
    let mut seen = Vec::new();
    let whole = exchange_with(&node, &server, &node.context(), &mut |_, message| {
        seen.extend(u64::try_from(message.len()).unwrap().to_be_bytes());
        seen.extend(&message);
        message
    })
    .await;
    let digest = whole.unwrap().evidence_digest;
    assert_eq!(digest, hex::encode(HashAlg::Sha256.digest(&[&seen])));
    exchange(&node, &server, &store).await.unwrap();
    let mut nonces = Vec::new();
    for (age, outcome) in [(61, "challenge_expired"), (60, "")] {
        let (payload, mut session) = node.agent.begin(&node.subject).await.unwrap();
        let Step::Challenge(challenge, waiting) = server.begin(&node.context(), &payload).await.unwrap()
        else {
            panic!()
        };
        let Message::RenewChallenge(quote) = Message::decode(&challenge).unwrap() else { panic!() };
        nonces.push(quote.nonce);
        let response = session.respond(&challenge).await.unwrap();
        seconds.fetch_add(age, Ordering::SeqCst);
        let result = attested(waiting.respond(&response).await);
        if outcome.is_empty() {
            assert_eq!(fact(&result.unwrap(), "mode"), "renew");
        } else {
            assert_eq!(slug(result), outcome);
        }
    }
    assert_ne!(nonces[0], nonces[1]);
}

#[tokio::test]
async fn messages_out_of_turn_are_malformed() {
    let chip = Swtpm::start().unwrap();
    let node = Node::on(&chip.tcti(), EkKind::EcP384).await;
    let store = Arc::new(Store::default());
    let server = endorsement_server(&chip, &store);
    let (payload, mut session) = node.agent.begin(&node.subject).await.unwrap();
    let Step::Challenge(challenge, waiting) = server.begin(&node.context(), &payload).await.unwrap() else {
        panic!()
    };
    assert!(slug(attested(waiting.respond(&payload).await)).starts_with("malformed"));
    assert!(slug(attested(server.begin(&node.context(), &challenge).await)).starts_with("malformed"));
    assert!(matches!(session.respond(&payload).await, Err(AttestError::Malformed { .. })));
    for bytes in [&b""[..], b"HRTQ", b"{}", b"HRTQ\x02\x01", b"HRTQ\x01\x09"] {
        assert!(slug(attested(server.begin(&node.context(), bytes).await)).starts_with("malformed"));
    }
    let large = [b"HRTQ\x01\x01".to_vec(), vec![0; 70_000]].concat();
    assert!(slug(attested(server.begin(&node.context(), &large).await)).contains("too large"));
    // Each cut of a good message is malformed, and quickly so.
    let started = Instant::now();
    for length in 0..payload.len() {
        assert!(
            slug(attested(server.begin(&node.context(), &payload[..length]).await)).starts_with("malformed")
        );
    }
    assert!(started.elapsed() / u32::try_from(payload.len()).unwrap() < Duration::from_millis(5));
}

fn bytes(limit: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..limit)
}

proptest! {
    #[test]
    fn any_bytes_decode_to_an_error_or_to_a_message_that_encodes_to_them(
        tail in bytes(600), kind in 0_u8..9, raw in bytes(64)
    ) {
        for message in [raw, [&b"HRTQ\x01"[..], &[kind], &tail].concat()] {
            if let Ok(decoded) = Message::decode(&message) {
                prop_assert_eq!(decoded.encode(), message);
            }
        }
    }

    #[test]
    fn messages_round_trip(
        nonce: [u8; 32], bits in 1_u32..0x0100_0000, a in bytes(64), b in bytes(256), c in bytes(500), kind in 0..6
    ) {
        let pcrs: Vec<u8> = (0..24).filter(|pcr| bits >> pcr & 1 == 1).collect();
        let quote = QuoteChallenge {
            nonce, pcrs: PcrPolicy::new(HashAlg::Sha256, &pcrs).unwrap(), policy_id: &a,
        };
        let response = QuoteResponse { attest: &b, signature: &c, values: &c };
        let message = match kind {
            0 => Message::Evidence(Evidence {
                ek_public: &b, certificate: (!c.is_empty()).then_some(&c), intermediates: vec![&a, &b], ak_public: &c,
            }),
            1 => Message::Renew { ek_hash: nonce, ak_name: &a },
            2 => Message::Challenge { quote, id_object: &b, encrypted_seed: &c },
            3 => Message::RenewChallenge(quote),
            4 => Message::Response {
                activation: &a, certify_attest: &b, certify_signature: &c, key_public: &b, quote: response,
            },
            _ => Message::RenewResponse(response),
        };
        let encoded = message.encode();
        prop_assert_eq!(Message::decode(&encoded).unwrap(), message);
    }
}
