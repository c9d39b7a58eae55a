use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{KeyId, KeyManager, KeyType};
use hardroot_identity::{Bundle, X509Authority};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, RsaKeySize, SanType, SerialNumber, SignatureAlgorithm,
    SubjectPublicKeyInfo, date_time_ymd,
};
use tempfile::TempDir;

use super::certificate::fingerprint;
use super::*;
use crate::{
    AgentAttestor, AttestError, AttestationSubject, AttestedNode, ServerAttestor, ServerContext, Step,
};

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    pem: String,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Ca {
    fn root(name: &str) -> Self {
        Self::root_with(ca_params(name))
    }

    fn root_with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { der: cert.der().to_vec(), pem: cert.pem(), issuer: Issuer::new(params, key) }
    }

    fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Self { der: cert.der().to_vec(), pem: cert.pem(), issuer: Issuer::new(params, key) }
    }

    fn leaf(&self, params: &CertificateParams, key: &impl PublicKeyData) -> rcgen::Certificate {
        params.signed_by(key, &self.issuer).unwrap()
    }
}

fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Edge Works");
    params.distinguished_name.push(DnType::CommonName, "gw-7");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc]));
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A node: its files, and the attestor over them.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new(chain: &str, key_pem: &str) -> Self {
        let node = Self { dir: TempDir::new().unwrap() };
        fs::write(node.path("cert.pem"), chain).unwrap();
        fs::write(node.path("key.pem"), key_pem).unwrap();
        fs::set_permissions(node.path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn agent(&self) -> X509popAgent {
        X509popAgent::new(self.path("cert.pem"), None, NodeKey::File(self.path("key.pem")))
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn subject() -> AttestationSubject {
    AttestationSubject { trust_domain: "example.org".parse().unwrap(), csr_spki_der: b"csr key".to_vec() }
}

fn context() -> ServerContext {
    ServerContext {
        trust_domain: "example.org".parse().unwrap(),
        csr_spki_der: b"csr key".to_vec(),
        peer: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        now: now(),
    }
}

fn server(roots: &[&Ca]) -> X509popServer {
    server_with(roots, X509popPolicy::default())
}

fn server_with(roots: &[&Ca], policy: X509popPolicy) -> X509popServer {
    let roots = roots.iter().map(|ca| ca.der.clone()).collect();
    X509popServer::new(policy, X509popTrust::ExternalPki { roots }).unwrap()
}

async fn challenge(
    server: &X509popServer,
    context: &ServerContext,
    payload: &[u8],
) -> Result<(Vec<u8>, Box<dyn crate::ServerSession>), AttestError> {
    match server.begin(context, payload).await? {
        Step::Challenge(challenge, session) => Ok((challenge, session)),
        Step::Attested(_) => panic!("attested without proof of possession"),
    }
}

async fn attest_at(
    server: &X509popServer,
    context: &ServerContext,
    agent: &X509popAgent,
) -> Result<AttestedNode, AttestError> {
    let (payload, mut node) = agent.begin(&subject()).await?;
    let (question, session) = challenge(server, context, &payload).await?;
    match session.respond(&node.respond(&question).await?).await? {
        Step::Attested(node) => Ok(node),
        Step::Challenge(..) => panic!("a second challenge"),
    }
}

async fn attest(server: &X509popServer, agent: &X509popAgent) -> Result<AttestedNode, AttestError> {
    attest_at(server, &context(), agent).await
}

fn selectors(node: &AttestedNode) -> Vec<String> {
    node.selectors.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn slug(result: Result<impl Sized, AttestError>) -> &'static str {
    match result {
        Err(AttestError::Rejected { reason, .. }) => reason,
        Err(other) => panic!("expected a rejection, got {other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[track_caller]
fn malformed(result: Result<impl Sized, AttestError>, text: &str) {
    match result {
        Err(AttestError::Malformed { reason, .. }) => {
            assert!(reason.contains(text), "{reason:?} does not say {text:?}")
        }
        Err(other) => panic!("expected malformed, got {other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[tokio::test]
async fn the_whole_exchange_with_an_intermediate() {
    let root = Ca::root("root");
    let middle = root.intermediate("middle");
    let key = KeyPair::generate().unwrap();
    let mut params = leaf_params();
    params.subject_alt_names = vec![
        uri("x509pop://example.org/env/prod"),
        uri("x509pop://example.org/rack/r12/u%203"),
        uri("x509pop://example.org/env/test"),
        uri("x509pop://other.org/env/x"),
        uri("x509pop://example.orgx/env/y"),
        uri("x509pop://example.org/alone"),
        uri("https://example.org/env/z"),
    ];
    let leaf = middle.leaf(&params, &key);
    let node = Node::new(&(leaf.pem() + &middle.pem), &key.serialize_pem());
    let attested = attest(&server(&[&root]), &node.agent()).await.unwrap();
    let print = fingerprint(leaf.der());
    assert_eq!(attested.agent_id.to_string(), format!("spiffe://example.org/spire/agent/x509pop/{print}"));
    assert!(attested.can_reattest);
    assert_eq!(
        selectors(&attested),
        [
            "x509pop:subject:cn:gw-7".to_owned(),
            format!("x509pop:ca:fingerprint:{}", fingerprint(&middle.der)),
            format!("x509pop:ca:fingerprint:{}", fingerprint(&root.der)),
            "x509pop:serialnumber:0abc".to_owned(),
            "x509pop:san:env:test".to_owned(),
            "x509pop:san:rack:r12/u 3".to_owned(),
        ]
    );
}

#[tokio::test]
async fn intermediates_from_their_own_file_and_the_certificate_is_read_anew() {
    let root = Ca::root("root");
    let middle = root.intermediate("middle");
    let key = KeyPair::generate().unwrap();
    let node = Node::new(&middle.leaf(&leaf_params(), &key).pem(), &key.serialize_pem());
    fs::write(node.path("middle.pem"), &middle.pem).unwrap();
    let agent = X509popAgent::new(
        node.path("cert.pem"),
        Some(node.path("middle.pem")),
        NodeKey::File(node.path("key.pem")),
    );
    attest(&server(&[&root]), &agent).await.unwrap();
    let mut renewed = leaf_params();
    renewed.serial_number = Some(SerialNumber::from_slice(&[0x7f]));
    fs::write(node.path("cert.pem"), middle.leaf(&renewed, &key).pem()).unwrap();
    let attested = attest(&server(&[&root]), &agent).await.unwrap();
    assert!(selectors(&attested).contains(&"x509pop:serialnumber:7f".to_owned()));
}

#[tokio::test]
async fn every_kind_of_key_file() {
    let root = Ca::root("root");
    let keys = [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap(),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072).unwrap(),
    ];
    for key in keys {
        let node = Node::new(&root.leaf(&leaf_params(), &key).pem(), &key.serialize_pem());
        attest(&server(&[&root]), &node.agent()).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_that_a_key_manager_holds() {
    let root = Ca::root("root");
    let keys = Arc::new(MemoryKeyManager::new());
    for (name, kind) in [("a", KeyType::EcP256), ("b", KeyType::EcP384), ("c", KeyType::Rsa2048)] {
        let id = KeyId::new(name).unwrap();
        let public = keys.generate(&id, kind).await.unwrap();
        let spki = SubjectPublicKeyInfo::from_der(&public.spki_der).unwrap();
        let node = Node::new(&root.leaf(&leaf_params(), &spki).pem(), "");
        let managed = NodeKey::Managed { keys: keys.clone(), id };
        let agent = X509popAgent::new(node.path("cert.pem"), None, managed);
        attest(&server(&[&root]), &agent).await.unwrap();
    }
    let node = Node::new(&root.pem, "");
    let managed = NodeKey::Managed { keys, id: KeyId::new("absent").unwrap() };
    let agent = X509popAgent::new(node.path("cert.pem"), None, managed);
    assert!(matches!(agent.begin(&subject()).await, Err(AttestError::Unavailable { .. })));
}

#[tokio::test]
async fn every_path_counts_for_fingerprints() {
    // A cross-signed intermediate: one key and name, two issuers.
    let (one, two) = (Ca::root("one"), Ca::root("two"));
    let (params, key) = (ca_params("shared"), KeyPair::generate().unwrap());
    let by_one = params.signed_by(&key, &one.issuer).unwrap();
    let by_two = params.signed_by(&key, &two.issuer).unwrap();
    let shared = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = leaf_params().signed_by(&leaf_key, &shared).unwrap();
    let node = Node::new(&(leaf.pem() + &by_one.pem() + &by_two.pem()), &leaf_key.serialize_pem());
    let found = selectors(&attest(&server(&[&one, &two]), &node.agent()).await.unwrap());
    for der in [by_one.der(), by_two.der(), &one.der.clone().into(), &two.der.clone().into()] {
        let selector = format!("x509pop:ca:fingerprint:{}", fingerprint(der));
        assert!(found.contains(&selector), "{selector} is not in {found:?}");
    }
}

#[tokio::test]
async fn chains_that_do_not_lead_to_a_root_are_refused() {
    let (root, other) = (Ca::root("root"), Ca::root("root"));
    let middle = root.intermediate("middle");
    let key = KeyPair::generate().unwrap();
    let node = Node::new(&middle.leaf(&leaf_params(), &key).pem(), &key.serialize_pem());
    assert_eq!(
        slug(attest(&server(&[&root]), &node.agent()).await),
        "x509pop_chain_untrusted",
        "intermediate missing"
    );
    let node = Node::new(&(middle.leaf(&leaf_params(), &key).pem() + &middle.pem), &key.serialize_pem());
    assert_eq!(
        slug(attest(&server(&[&other]), &node.agent()).await),
        "x509pop_chain_untrusted",
        "same name, other key"
    );

    let mut expired = leaf_params();
    expired.not_after = date_time_ymd(2026, 1, 1);
    let mut early = leaf_params();
    early.not_before = date_time_ymd(2028, 1, 1);
    for params in [expired, early] {
        let node = Node::new(&root.leaf(&params, &key).pem(), &key.serialize_pem());
        assert_eq!(slug(attest(&server(&[&root]), &node.agent()).await), "x509pop_chain_untrusted");
    }

    let mut params = ca_params("expired root");
    params.not_after = date_time_ymd(2026, 1, 1);
    let expired_root = Ca::root_with(params);
    let node = Node::new(&expired_root.leaf(&leaf_params(), &key).pem(), &key.serialize_pem());
    assert_eq!(slug(attest(&server(&[&expired_root]), &node.agent()).await), "x509pop_chain_untrusted");

    // A leaf that signs another leaf is no authority.
    let leaf_issuer = Issuer::new(leaf_params(), KeyPair::generate().unwrap());
    let fake_ca = root.leaf(&leaf_params(), leaf_issuer.key());
    let forged = leaf_params().signed_by(&key, &leaf_issuer).unwrap();
    let node = Node::new(&(forged.pem() + &fake_ca.pem()), &key.serialize_pem());
    assert_eq!(slug(attest(&server(&[&root]), &node.agent()).await), "x509pop_chain_untrusted");

    let mut critical = leaf_params();
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    critical.custom_extensions = vec![extension];
    let node = Node::new(&root.leaf(&critical, &key).pem(), &key.serialize_pem());
    assert_eq!(slug(attest(&server(&[&root]), &node.agent()).await), "x509pop_chain_untrusted");
}

#[tokio::test]
async fn the_leaf_must_be_for_digital_signatures() {
    let root = Ca::root("root");
    let key = KeyPair::generate().unwrap();
    for usages in [vec![], vec![KeyUsagePurpose::KeyEncipherment]] {
        let mut params = leaf_params();
        params.key_usages = usages;
        let node = Node::new(&root.leaf(&params, &key).pem(), &key.serialize_pem());
        assert_eq!(slug(attest(&server(&[&root]), &node.agent()).await), "x509pop_no_digital_signature");
    }
}

struct HugeRsa(Vec<u8>);

impl PublicKeyData for HugeRsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

/// An `RSAPublicKey` with a modulus of so many bytes.
fn huge_rsa(bytes: usize) -> HugeRsa {
    let length = |n: usize| [vec![0x82], u16::try_from(n).unwrap().to_be_bytes().to_vec()].concat();
    let modulus = [vec![0x02], length(bytes + 1), vec![0], vec![0xff; bytes]].concat();
    let content = [modulus, vec![0x02, 3, 1, 0, 1]].concat();
    HugeRsa([vec![0x30], length(content.len()), content].concat())
}

#[tokio::test]
async fn counts_and_sizes_are_bounded_before_any_cryptography() {
    let root = Ca::root("root");
    let key = KeyPair::generate().unwrap();
    let leaf = root.leaf(&leaf_params(), &key).der().to_vec();
    let payload = |certificates| Payload { certificates }.to_json();
    let server = server(&[&root]);
    let five = [vec![leaf.clone()], vec![root.der.clone(); 5]].concat();
    malformed(challenge(&server, &context(), &payload(five)).await, "too many intermediate");
    let four = [vec![leaf.clone()], vec![root.der.clone(); 4]].concat();
    challenge(&server, &context(), &payload(four)).await.unwrap();
    malformed(challenge(&server, &context(), &payload(vec![])).await, "no certificate");
    malformed(challenge(&server, &context(), b"{}").await, "no certificate");
    malformed(challenge(&server, &context(), &payload(vec![vec![0; 40_000]])).await, "at most");
    malformed(
        challenge(&server, &context(), b"{\"certificates\":[\"AAAA\"]}").await,
        "leaf certificate cannot be read",
    );
    let trailing = [leaf.clone(), vec![0]].concat();
    malformed(challenge(&server, &context(), &payload(vec![trailing])).await, "1 bytes follow");
    malformed(
        challenge(&server, &context(), &[payload(vec![leaf.clone()]), b"x".to_vec()].concat()).await,
        "trailing",
    );

    let absurd = root.leaf(&leaf_params(), &huge_rsa(2048)).der().to_vec();
    malformed(
        challenge(&server, &context(), &payload(vec![absurd.clone()])).await,
        "leaf certificate's key size",
    );
    malformed(
        challenge(&server, &context(), &payload(vec![leaf, absurd])).await,
        "intermediate 0 certificate's key size",
    );
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072).unwrap();
    let node = Node::new(&root.leaf(&leaf_params(), &rsa).pem(), &rsa.serialize_pem());
    let strict = server_with(&[&root], X509popPolicy { max_rsa_key_size: 2048, ..Default::default() });
    malformed(attest(&strict, &node.agent()).await, "3072 bits, at most 2048");
}

#[tokio::test]
async fn the_response_must_be_by_the_key_and_over_this_challenge() {
    let root = Ca::root("root");
    for key in [
        KeyPair::generate().unwrap(),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    ] {
        let node = Node::new(&root.leaf(&leaf_params(), &key).pem(), &key.serialize_pem());
        let server = server(&[&root]);
        let (payload, mut agent) = node.agent().begin(&subject()).await.unwrap();
        let (first, session) = challenge(&server, &context(), &payload).await.unwrap();
        let good = agent.respond(&first).await.unwrap();

        let (second, replayed) = challenge(&server, &context(), &payload).await.unwrap();
        assert_ne!(first, second, "two challenges differ");
        assert_eq!(slug(replayed.respond(&good).await), "x509pop_signature", "replayed");

        let parsed = Response::from_json(&good).unwrap();
        let mut wrong = parsed.clone();
        for nonce in
            wrong.rsa.iter_mut().map(|r| &mut r.nonce).chain(wrong.ecdsa.iter_mut().map(|e| &mut e.nonce))
        {
            nonce[0] ^= 1;
        }
        let (_, fresh) = challenge(&server, &context(), &payload).await.unwrap();
        assert_eq!(
            slug(fresh.respond(&wrong.to_json()).await),
            "x509pop_signature",
            "another nonce of the node"
        );
        let other = KeyPair::generate().unwrap();
        let thief = Node::new(&root.leaf(&leaf_params(), &other).pem(), &other.serialize_pem());
        let (_, mut thief) = thief.agent().begin(&subject()).await.unwrap();
        let (question, fresh) = challenge(&server, &context(), &payload).await.unwrap();
        if let Challenge::Ecdsa(_) = Challenge::from_json(&question).unwrap() {
            let stolen = thief.respond(&question).await.unwrap();
            assert_eq!(slug(fresh.respond(&stolen).await), "x509pop_signature", "another node's key");
        } else {
            let stolen = thief.respond(&Challenge::Ecdsa(vec![0; 32]).to_json()).await.unwrap();
            malformed(fresh.respond(&stolen).await, "expecting RSA");
        }
        for length in [0, 31, 33] {
            let mut wrong = parsed.clone();
            if let Some(rsa) = &mut wrong.rsa {
                rsa.nonce.resize(length, 0)
            }
            if let Some(ecdsa) = &mut wrong.ecdsa {
                ecdsa.nonce.resize(length, 0)
            }
            let (_, fresh) = challenge(&server, &context(), &payload).await.unwrap();
            malformed(fresh.respond(&wrong.to_json()).await, "the nonce has");
        }
        for response in [&b"{}"[..], b"{\"rsa_signature\":null,\"ecdsa_signature\":null}"] {
            let (_, fresh) = challenge(&server, &context(), &payload).await.unwrap();
            malformed(fresh.respond(response).await, "expecting");
        }
        for response in [&b""[..], b"null", b"[", &[&good[..], b"{}"].concat()] {
            let (_, fresh) = challenge(&server, &context(), &payload).await.unwrap();
            malformed(fresh.respond(response).await, "");
        }
        assert!(matches!(session.respond(&good).await, Ok(Step::Attested(_))), "the right one, in the end");
    }
}

#[tokio::test]
async fn numbers_of_a_signature_are_bounded_and_may_have_leading_zeros() {
    let root = Ca::root("root");
    let key = KeyPair::generate().unwrap();
    let node = Node::new(&root.leaf(&leaf_params(), &key).pem(), &key.serialize_pem());
    let server = server(&[&root]);
    let (payload, mut agent) = node.agent().begin(&subject()).await.unwrap();
    type Change = fn(&mut EcdsaResponse);
    let changes: [(Change, bool); 6] = [
        (|e| e.r.insert(0, 0), true),
        (|e| e.r.insert(0, 1), false),
        (|e| e.s.clear(), false),
        (|e| e.s = vec![0; 32], false),
        (|e| e.s = vec![0xff; 4096], false),
        (|e| std::mem::swap(&mut e.r, &mut e.s), false),
    ];
    for (at, (change, accepted)) in changes.into_iter().enumerate() {
        let (question, session) = challenge(&server, &context(), &payload).await.unwrap();
        let mut response = Response::from_json(&agent.respond(&question).await.unwrap()).unwrap();
        change(response.ecdsa.as_mut().unwrap());
        let outcome = session.respond(&response.to_json()).await;
        if accepted {
            assert!(outcome.is_ok(), "{at}")
        } else {
            assert_eq!(slug(outcome), "x509pop_signature", "{at}")
        }
    }
}

#[test]
fn salts_of_spires_agents_and_of_tokens_are_accepted() {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        KeyPair as _, RSA_PSS_SHA256, RsaKeyPair, RsaPssSaltLength, RsaSignatureEncoding,
    };
    static MAX: RsaSignatureEncoding = RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);
    static NONE: RsaSignatureEncoding = RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Custom(0));
    static SHA1: RsaSignatureEncoding = RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Custom(20));
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki: PublicKeyX509Der<'static> = pair.public_key().as_der().unwrap();
    let digest = combined(&[1; NONCE], &[2; NONCE]);
    for encoding in [&MAX, &RSA_PSS_SHA256, &SHA1, &NONE] {
        let mut signature = vec![0; 256];
        pair.sign_digest(encoding, &digest, &mut signature).unwrap();
        assert!(super::proof::rsa_holds(spki.as_ref(), &digest, &signature), "{encoding:?}");
        signature[9] ^= 1;
        assert!(!super::proof::rsa_holds(spki.as_ref(), &digest, &signature), "{encoding:?}");
    }
    let mut pkcs1 = vec![0; 256];
    pair.sign_digest(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &digest, &mut pkcs1).unwrap();
    assert!(!super::proof::rsa_holds(spki.as_ref(), &digest, &pkcs1), "PKCS#1 v1.5 is not PSS");
}

#[tokio::test]
async fn the_client_address_must_be_in_the_certificate_when_asked_for() {
    let root = Ca::root("root");
    let key = KeyPair::generate().unwrap();
    let policy = X509popPolicy { verify_client_ip: true, ..Default::default() };
    let strict = server_with(&[&root], policy);
    let mut params = leaf_params();
    params.subject_alt_names = vec![
        SanType::IpAddress("192.0.2.7".parse().unwrap()),
        SanType::IpAddress("2001:db8::7".parse().unwrap()),
    ];
    let node = Node::new(&root.leaf(&params, &key).pem(), &key.serialize_pem());
    let from = |peer: Option<&str>| ServerContext { peer: peer.map(|ip| ip.parse().unwrap()), ..context() };
    for good in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7"] {
        attest_at(&strict, &from(Some(good)), &node.agent()).await.unwrap();
    }
    let outcome = attest_at(&strict, &from(Some("192.0.2.8")), &node.agent()).await;
    assert_eq!(slug(outcome), "x509pop_client_ip_mismatch");
    let unknown = attest_at(&strict, &from(None), &node.agent()).await;
    assert!(matches!(unknown, Err(AttestError::Unavailable { .. })));
    attest_at(&server(&[&root]), &from(Some("192.0.2.8")), &node.agent()).await.unwrap();
}

#[tokio::test]
async fn agent_path_templates() {
    let root = Ca::root("root");
    let key = KeyPair::generate().unwrap();
    let mut params = leaf_params();
    params.subject_alt_names = vec![
        SanType::DnsName("gw-7.example.org".try_into().unwrap()),
        uri("x509pop://example.org/site/north"),
    ];
    let leaf = root.leaf(&params, &key);
    let node = Node::new(&leaf.pem(), &key.serialize_pem());
    let with = |template: &str| {
        server_with(
            &[&root],
            X509popPolicy { agent_path_template: Some(template.to_owned()), ..Default::default() },
        )
    };
    for (template, path) in [
        ("/{{ .PluginName }}/{{ .Subject.CommonName | upper }}", "/x509pop/GW-7"),
        ("/n/{{ .SerialNumberHex }}-{{ .SerialNumber }}", "/n/0abc-2748"),
        ("/{{ .TrustDomain }}/{{ .URISanSelectors.site }}", "/example.org/north"),
        ("/{{ index .DNSNames 0 }}", "/gw-7.example.org"),
        ("/{{ index .Subject.Organization 0 | lower | replace \" \" \"-\" }}", "/edge-works"),
        ("/{{ .Issuer.CommonName }}/{{ (index .URIs 0).Path | trimPrefix \"/\" }}", "/root/site/north"),
    ] {
        let attested = attest(&with(template), &node.agent()).await.unwrap();
        assert_eq!(attested.agent_id.path(), format!("/spire/agent{path}"), "{template}");
    }
    for template in [
        "{{ .Fingerprint }}",
        "/{{ .Nope }}",
        "/{{ .URISanSelectors.nope }}",
        "/a b",
        "/a/",
        "/../server",
        "/",
    ] {
        assert_eq!(slug(attest(&with(template), &node.agent()).await), "x509pop_agent_path", "{template}");
    }
}

fn spiffe_server(bundle: Option<Bundle>, prefix: &str) -> X509popServer {
    let bundle = bundle.map(Arc::new);
    let trust = X509popTrust::Spiffe { bundle: Arc::new(move || bundle.clone()), prefix: prefix.to_owned() };
    X509popServer::new(X509popPolicy::default(), trust).unwrap()
}

#[tokio::test]
async fn mode_spiffe() {
    let mut params = ca_params("trust domain");
    params.subject_alt_names = vec![uri("spiffe://example.org")];
    let authority = Ca::root_with(params);
    let mut bundle = Bundle::new("example.org".parse().unwrap());
    bundle.x509_authorities.push(X509Authority { der: authority.der.clone(), tainted: false });
    let key = KeyPair::generate().unwrap();
    let svid = |id: &str| {
        let mut params = leaf_params();
        params.subject_alt_names = vec![uri(id)];
        Node::new(&authority.leaf(&params, &key).pem(), &key.serialize_pem())
    };
    let node = svid("spiffe://example.org/spire-exchange/site/gw-7");
    for prefix in ["/spire-exchange/", "/spire-exchange"] {
        let attested = attest(&spiffe_server(Some(bundle.clone()), prefix), &node.agent()).await.unwrap();
        assert_eq!(attested.agent_id.path(), "/spire/agent/x509pop/site/gw-7");
    }
    let server = spiffe_server(Some(bundle), "/spire-exchange");
    for other in ["spiffe://example.org/web", "spiffe://example.org/spire-exchanges/x"] {
        assert_eq!(slug(attest(&server, &svid(other).agent()).await), "x509pop_svid_prefix", "{other}");
    }
    for untrusted in ["spiffe://other.org/spire-exchange/x", "https://example.org/spire-exchange/x"] {
        assert_eq!(
            slug(attest(&server, &svid(untrusted).agent()).await),
            "x509pop_chain_untrusted",
            "{untrusted}"
        );
    }
    let none = spiffe_server(None, "/spire-exchange");
    assert!(matches!(attest(&none, &node.agent()).await, Err(AttestError::Unavailable { .. })));
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let root = Ca::root("root");
    let trust = || X509popTrust::ExternalPki { roots: vec![root.der.clone()] };
    for policy in [
        X509popPolicy { max_intermediates: 0, ..Default::default() },
        X509popPolicy { max_intermediates: 32, ..Default::default() },
        X509popPolicy { max_rsa_key_size: 0, ..Default::default() },
        X509popPolicy { max_rsa_key_size: 16_384, ..Default::default() },
    ] {
        assert!(matches!(X509popServer::new(policy, trust()), Err(BadX509popConfig::Limit { .. })));
    }
    let policy = X509popPolicy { agent_path_template: Some("{{".to_owned()), ..Default::default() };
    assert!(matches!(X509popServer::new(policy, trust()), Err(BadX509popConfig::Template(_))));
    let none = X509popTrust::ExternalPki { roots: vec![] };
    assert!(matches!(X509popServer::new(X509popPolicy::default(), none), Err(BadX509popConfig::NoRoots)));
}

#[test]
fn root_files() {
    let dir = TempDir::new().unwrap();
    let (good, empty, absent) =
        (dir.path().join("good"), dir.path().join("empty"), dir.path().join("absent"));
    let (one, two) = (Ca::root("one"), Ca::root("two"));
    fs::write(&good, format!("{}{}", one.pem, two.pem)).unwrap();
    fs::write(&empty, "nothing\n").unwrap();
    assert_eq!(read_roots(&[&good]).unwrap(), [one.der, two.der]);
    for bad in [empty, absent] {
        let error = read_roots(&[&good, &bad]).unwrap_err().to_string();
        assert!(error.contains(&*bad.to_string_lossy()), "{error}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_nodes_files_is_said() {
    let root = Ca::root("root");
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let leaf = root.leaf(&leaf_params(), &key).pem();
    let reason = |node: Node| async move {
        match node.agent().begin(&subject()).await {
            Err(AttestError::Unavailable { cause, .. }) => cause.to_string(),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    };
    assert!(reason(Node::new(&leaf, &other.serialize_pem())).await.contains("another key"));
    assert!(reason(Node::new("", &key.serialize_pem())).await.contains("cert.pem"));
    assert!(reason(Node::new(&leaf, "")).await.contains("no PEM block"));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(reason(Node::new(&leaf, encrypted)).await.contains("encrypted"));
    let exposed = Node::new(&leaf, &key.serialize_pem());
    fs::set_permissions(exposed.path("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(reason(exposed).await.contains("chmod"));
    let gone = Node::new(&leaf, "");
    fs::remove_file(gone.path("key.pem")).unwrap();
    assert!(reason(gone).await.contains("cannot be read"));
}

#[tokio::test]
async fn the_agent_refuses_challenges_that_do_not_fit() {
    let root = Ca::root("root");
    let key = KeyPair::generate().unwrap();
    let node = Node::new(&root.leaf(&leaf_params(), &key).pem(), &key.serialize_pem());
    let (_, mut session) = node.agent().begin(&subject()).await.unwrap();
    for (challenge, text) in [
        (Challenge::Rsa(vec![0; 32]).to_json(), "another kind"),
        (Challenge::Ecdsa(vec![0; 31]).to_json(), "31 bytes"),
        (b"{}".to_vec(), "expected one of"),
    ] {
        malformed(session.respond(&challenge).await, text);
    }
}

#[test]
fn sec1_and_pkcs1_key_files() {
    use super::file_key::FileKey;
    use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair};
    use base64::Engine;
    let pem = |label: &str, der: &[u8]| {
        let base64 = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    };
    let ec = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
    let sec1: EcPrivateKeyRfc5915Der<'static> = ec.private_key().as_der().unwrap();
    // openssl writes the curve in a block of its own before the key.
    let text = pem("EC PARAMETERS", &[6, 5, 0x2b, 0x81, 4, 0, 0x22]) + &pem("EC PRIVATE KEY", sec1.as_ref());
    let key = FileKey::from_pem(&text).unwrap();
    assert!(matches!(key, FileKey::P384(_)));
    // PKCS#8 of RSA-2048 is a header of 26 bytes before the PKCS#1 key.
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    assert!(FileKey::from_pem(&pem("RSA PRIVATE KEY", &rsa.serialized_der()[26..])).unwrap().is_rsa());
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert!(FileKey::from_pem(&ed25519.serialize_pem()).is_err());
    assert!(FileKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n").is_err());
    assert!(FileKey::from_pem("-----BEGIN PRIVATE KEY-----\n*\n-----END PRIVATE KEY-----\n").is_err());
}
