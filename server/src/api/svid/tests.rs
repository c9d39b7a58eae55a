//! The SVID service, call by call, with SPIRE's codes and texts.

use std::time::{Duration, SystemTime};

use hardroot_api::spire::api::server::svid::v1::{NewWitsvidParams, NewX509svidParams};
use hardroot_api::spire::api::types;
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyId, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_identity::{
    Bundle, Certificate, DistinguishedName, SignatureAlgorithm, X509Svid, assemble_csr,
    csr_to_be_signed_with_names, verify_jwt_svid, verify_x509_svid,
};
use hardroot_runtime::clock::Clock as _;
use proptest::prelude::*;
use tonic::Code;

use super::*;
use crate::api::testing::{Issuing, Site, from_agent, own, wire_entry, wire_id};
use crate::authority::published;
use crate::datastore::Entries;

const AGENT: &str = "/spire/agent/join_token/a";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A key of whoever asks for an SVID.
struct Holder {
    keys: MemoryKeyManager,
    public: PublicKey,
}

impl Holder {
    async fn new() -> Self {
        let keys = MemoryKeyManager::new();
        let public = keys.generate(&Self::id(), KeyType::EcP256).await.unwrap();
        Self { keys, public }
    }

    fn id() -> KeyId {
        KeyId::new("k").unwrap()
    }

    async fn csr(&self, subject: &DistinguishedName, dns: &[&str], uri: Option<&str>) -> Vec<u8> {
        let dns: Vec<String> = dns.iter().map(|&name| name.to_owned()).collect();
        let message = csr_to_be_signed_with_names(&subject.to_der(), &self.public.spki_der, &dns, uri);
        let digest = Digest::of(HashAlgorithm::Sha256, &message);
        let signature = self.keys.sign(&Self::id(), SignatureScheme::Ecdsa, &digest).await.unwrap();
        assemble_csr(&message, SignatureAlgorithm::EcdsaSha256, &signature)
    }

    async fn plain_csr(&self, uri: &str) -> Vec<u8> {
        self.csr(&DistinguishedName::default(), &[], Some(uri)).await
    }
}

async fn bundle(site: &Site) -> Bundle {
    let (stored, _) = published::read(&*site.store, &own()).await.unwrap();
    published::to_identity(&own(), &stored)
}

fn broken(mut csr: Vec<u8>) -> Vec<u8> {
    *csr.last_mut().unwrap() ^= 1;
    csr
}

fn said(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

/// An entry of the agent; its id.
async fn entry(site: &Site, change: impl FnOnce(&mut types::Entry)) -> String {
    let mut message = wire_entry("/db", AGENT, &["unix:uid:1"]);
    change(&mut message);
    let entry = crate::api::convert::entry(&own(), &message, &crate::datastore::EntryMask::ALL, 0).unwrap();
    site.store.create_entry(entry).await.unwrap().0.id
}

async fn mint(service: &SvidService, csr: Vec<u8>, ttl: i32) -> Result<types::X509svid, Status> {
    let answer = service.mint_x509svid(Request::new(MintX509svidRequest { csr, ttl })).await?;
    Ok(answer.into_inner().svid.unwrap())
}

#[tokio::test]
async fn a_minted_certificate_has_the_csrs_names_subject_and_key() {
    let issuing = Issuing::new().await;
    let (service, holder) = (issuing.service(), Holder::new().await);
    let subject = DistinguishedName {
        organization: vec!["ACME".into()],
        common_name: "replaced by the first DNS name".into(),
        ..DistinguishedName::default()
    };
    let dns = ["db.example.org", "*.web.example.org"];
    let csr = holder.csr(&subject, &dns, Some("spiffe://example.org/job")).await;
    let svid = mint(&service, csr, 60).await.unwrap();
    let now = issuing.site.clock.now();
    let verified = verify_x509_svid(&svid.cert_chain, &bundle(&issuing.site).await, now).unwrap();
    assert_eq!(verified.id.as_str(), "spiffe://example.org/job");
    assert_eq!(verified.dns_names, dns);
    assert_eq!(verified.spki_der, holder.public.spki_der);
    assert_eq!(verified.not_after, now + Duration::from_secs(60));
    assert_eq!(svid.expires_at, unix_seconds(verified.not_after));
    assert_eq!(svid.id, wire_id("/job"));
    let leaf = Certificate::parse(&svid.cert_chain[0]).unwrap();
    let wanted = DistinguishedName { common_name: "db.example.org".into(), ..subject };
    assert_eq!(leaf.subject_der, wanted.to_der());

    // Without a subject it is SPIRE's; without a TTL the default; never past the authority's end.
    let plain = holder.plain_csr("spiffe://example.org/job").await;
    let svid = mint(&service, plain.clone(), 0).await.unwrap();
    let leaf = Certificate::parse(&svid.cert_chain[0]).unwrap();
    assert_eq!(leaf.subject_der, DistinguishedName::default_svid().to_der());
    assert_eq!(leaf.not_after, now + Duration::from_secs(3600));
    assert_eq!(mint(&service, plain.clone(), -5).await.unwrap().expires_at, svid.expires_at);
    let svid = mint(&service, plain, i32::MAX).await.unwrap();
    assert_eq!(svid.expires_at, unix_seconds(now + DAY));
}

#[tokio::test]
async fn a_csr_that_must_not_be_certified_is_told_as_spire_tells_it() {
    let issuing = Issuing::new().await;
    let (service, holder) = (issuing.service(), Holder::new().await);
    let empty = DistinguishedName::default();
    let good = "spiffe://example.org/job";
    for (csr, text) in [
        (vec![], "missing CSR"),
        (b"none".to_vec(), "malformed CSR: "),
        (broken(holder.plain_csr(good).await), "failed to verify CSR signature"),
        (holder.csr(&empty, &[], None).await, "CSR URI SAN is required"),
        (
            holder.plain_csr("https://example.org").await,
            "CSR URI SAN is invalid: scheme is missing or invalid",
        ),
        (
            holder.plain_csr("spiffe://other.test/job").await,
            "CSR URI SAN is invalid: \"spiffe://other.test/job\" is not a member of trust domain \"example.org\"",
        ),
        (
            holder.plain_csr("spiffe://example.org").await,
            "CSR URI SAN is invalid: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path is empty",
        ),
        (
            holder.plain_csr("spiffe://example.org/spire/agent/x").await,
            "CSR URI SAN is invalid: \"spiffe://example.org/spire/agent/x\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace",
        ),
        (holder.csr(&empty, &["a..b"], Some(good)).await, "CSR DNS name is invalid: "),
        (
            holder.csr(&empty, &["*.example.org", "a.example.org"], Some(good)).await,
            "CSR DNS name contains a wildcard that covers another non-wildcard name: ",
        ),
    ] {
        let refused = mint(&service, csr, 0).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        assert!(refused.message().starts_with(text), "{} is not {text}", refused.message());
    }
    assert_eq!(issuing.signed(), 1, "nothing but the root was signed");
}

#[tokio::test]
async fn two_uris_are_one_too_many() {
    let issuing = Issuing::new().await;
    let params = {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = ["spiffe://example.org/a", "spiffe://example.org/b"]
            .map(|uri| rcgen::SanType::URI(uri.try_into().unwrap()))
            .to_vec();
        params
    };
    let csr = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let refused = mint(&issuing.service(), csr, 0).await.unwrap_err();
    assert_eq!(said(&refused), (Code::InvalidArgument, "only one URI SAN is expected"));
}

#[tokio::test]
async fn a_batch_takes_the_key_from_the_csr_and_everything_else_from_the_entry() {
    let issuing = Issuing::new().await;
    let (service, holder) = (issuing.service(), Holder::new().await);
    let entry = entry(&issuing.site, |entry| {
        entry.x509_svid_ttl = 120;
        entry.dns_names = vec!["db.example.org".into()];
    })
    .await;
    let empty = DistinguishedName::default();
    let lying = holder.csr(&empty, &["evil.example.org"], Some("spiffe://example.org/admin")).await;
    let params = [
        (entry.as_str(), lying.clone()),
        (&entry, broken(lying.clone())),
        (&entry, vec![]),
        ("none", lying),
        ("", vec![]),
    ];
    let params = params.map(|(id, csr)| NewX509svidParams { entry_id: id.to_owned(), csr }).to_vec();
    let request = from_agent(AGENT, BatchNewX509svidRequest { params });
    let results = service.batch_new_x509svid(request).await.unwrap().into_inner().results;
    let texts: Vec<_> = results
        .iter()
        .map(|result| result.status.as_ref().unwrap())
        .map(|status| (Code::from(status.code), status.message.as_str()))
        .collect();
    let wanted = [
        (Code::Ok, "OK"),
        (Code::InvalidArgument, "invalid CSR signature"),
        (Code::InvalidArgument, "missing CSR"),
        (Code::NotFound, "entry not found or not authorized"),
        (Code::InvalidArgument, "missing entry ID"),
    ];
    assert_eq!(texts, wanted);
    let svid = X509Svid::parse(results[0].svid.clone().unwrap().cert_chain).unwrap();
    assert_eq!((svid.id.path(), svid.dns_names), ("/db", vec!["db.example.org".to_owned()]));
    let none = from_agent(AGENT, BatchNewX509svidRequest::default());
    let refused = service.batch_new_x509svid(none).await.unwrap_err();
    assert_eq!(said(&refused), (Code::InvalidArgument, "missing parameters"));
}

async fn mint_jwt(
    service: &SvidService,
    id: Option<types::Spiffeid>,
    audience: &[&str],
    ttl: i32,
) -> Result<types::Jwtsvid, Status> {
    let audience = audience.iter().map(|&one| one.to_owned()).collect();
    let answer = service.mint_jwtsvid(Request::new(MintJwtsvidRequest { id, audience, ttl })).await?;
    Ok(answer.into_inner().svid.unwrap())
}

async fn new_jwt(service: &SvidService, entry_id: &str, audience: &[&str]) -> Result<types::Jwtsvid, Status> {
    let audience = audience.iter().map(|&one| one.to_owned()).collect();
    let request = from_agent(AGENT, NewJwtsvidRequest { entry_id: entry_id.to_owned(), audience });
    Ok(service.new_jwtsvid(request).await?.into_inner().svid.unwrap())
}

async fn verify(site: &Site, token: &str, audience: &str) -> hardroot_identity::JwtSvid {
    let bundle = bundle(site).await;
    verify_jwt_svid(token, &[audience], |_| Some(&bundle), site.clock.now(), Duration::ZERO).unwrap()
}

#[tokio::test]
async fn a_minted_token_names_whom_the_admin_says() {
    let issuing = Issuing::new().await;
    let service = issuing.service();
    let svid = mint_jwt(&service, wire_id("/job"), &["db", "cache"], 60).await.unwrap();
    let verified = verify(&issuing.site, &svid.token, "cache").await;
    let now = issuing.site.clock.now();
    assert_eq!((verified.id.path(), verified.audience), ("/job", vec!["db".to_owned(), "cache".to_owned()]));
    assert_eq!(verified.expires_at, now + Duration::from_secs(60));
    assert_eq!((svid.expires_at, svid.issued_at), (unix_seconds(now) + 60, unix_seconds(now)));
    assert_eq!(svid.id, wire_id("/job"));
    assert!(!verified.claims.contains_key("jti"));
    for ttl in [0, -1] {
        let svid = mint_jwt(&service, wire_id("/job"), &["db"], ttl).await.unwrap();
        assert_eq!(svid.expires_at - svid.issued_at, 300, "the default");
    }
    let capped = mint_jwt(&service, wire_id("/job"), &["db"], i32::MAX).await.unwrap();
    assert_eq!(capped.expires_at, unix_seconds(now + DAY), "the key's end");
}

#[tokio::test]
async fn a_token_that_must_not_be_minted_is_told_as_spire_tells_it() {
    let issuing = Issuing::new().await;
    let service = issuing.service();
    let foreign = Some(types::Spiffeid { trust_domain: "other.test".into(), path: "/job".into() });
    for (id, audience, code, text) in [
        (None, &["db"][..], Code::InvalidArgument, "invalid SPIFFE ID: request must specify SPIFFE ID"),
        (
            foreign,
            &["db"],
            Code::InvalidArgument,
            "invalid SPIFFE ID: \"spiffe://other.test/job\" is not a member of trust domain \"example.org\"",
        ),
        (
            wire_id("/spire/server"),
            &["db"],
            Code::InvalidArgument,
            "invalid SPIFFE ID: \"spiffe://example.org/spire/server\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace",
        ),
        (
            wire_id(""),
            &["db"],
            Code::InvalidArgument,
            "invalid SPIFFE ID: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path is empty",
        ),
        (wire_id("/job"), &[], Code::InvalidArgument, "at least one audience is required"),
        (
            wire_id("/job"),
            &[""],
            Code::Internal,
            "failed to sign JWT-SVID: invalid JWT-SVID audience: cannot be empty",
        ),
    ] {
        let refused = mint_jwt(&service, id, audience, 0).await.unwrap_err();
        assert_eq!(said(&refused), (code, text));
    }
}

#[tokio::test]
async fn an_agents_token_is_what_the_entry_says() {
    let issuing = Issuing::new().await;
    let service = issuing.service();
    let plain = entry(&issuing.site, |_| {}).await;
    let special = entry(&issuing.site, |entry| {
        entry.spiffe_id = wire_id("/special");
        entry.jwt_svid_ttl = 77;
        let jti = types::entry::AdditionalAttributes { jwt_svid_include_jti: true, ..Default::default() };
        entry.additional_attributes = Some(jti);
    })
    .await;
    let other = entry(&issuing.site, |entry| entry.parent_id = wire_id("/spire/agent/join_token/b")).await;
    let svid = new_jwt(&service, &plain, &["db"]).await.unwrap();
    let verified = verify(&issuing.site, &svid.token, "db").await;
    assert_eq!(verified.id.path(), "/db");
    assert!(!verified.claims.contains_key("jti"));
    assert_eq!(svid.expires_at - svid.issued_at, 300);
    let svid = new_jwt(&service, &special, &["db"]).await.unwrap();
    assert!(verify(&issuing.site, &svid.token, "db").await.claims.contains_key("jti"));
    assert_eq!(svid.expires_at - svid.issued_at, 77);
    for id in [other.as_str(), "none", ""] {
        let refused = new_jwt(&service, id, &["db"]).await.unwrap_err();
        assert_eq!(said(&refused), (Code::NotFound, "entry not found or not authorized"));
    }
    let refused = new_jwt(&service, &plain, &[]).await.unwrap_err();
    assert_eq!(said(&refused), (Code::InvalidArgument, "at least one audience is required"));
    let nobody = Request::new(NewJwtsvidRequest { entry_id: plain, audience: vec!["db".into()] });
    let refused = service.new_jwtsvid(nobody).await.unwrap_err();
    assert_eq!(said(&refused), (Code::Internal, "caller ID missing from request context"));
}

#[tokio::test]
async fn disabled_tokens_are_unimplemented() {
    let issuing = Issuing::without_jwt().await;
    let service = issuing.service();
    let wanted = (Code::Unimplemented, "JWT functionality is disabled");
    assert_eq!(said(&mint_jwt(&service, wire_id("/job"), &["db"], 0).await.unwrap_err()), wanted);
    assert_eq!(said(&new_jwt(&service, "x", &["db"]).await.unwrap_err()), wanted);
    let (bundle, _) = published::read(&*issuing.site.store, &own()).await.unwrap();
    assert!(bundle.jwt_signing_keys.is_empty());
}

#[tokio::test]
async fn wit_svids_are_answered_as_spire_answers_without_its_flag() {
    let issuing = Issuing::new().await;
    let service = issuing.service();
    let refused = service.mint_witsvid(Request::new(MintWitsvidRequest::default())).await.unwrap_err();
    assert_eq!(said(&refused), (Code::Unimplemented, "WIT functionality is disabled"));
    let entry = entry(&issuing.site, |_| {}).await;
    let key = crate::api::testing::public_key_der();
    let params = [
        ("", vec![], ""),
        (&entry, vec![], ""),
        ("none", key.clone(), "ES256"),
        (&entry, vec![1], "ES256"),
        (&entry, key.clone(), "RS256"),
        (&entry, key, "ES256"),
    ];
    let params = params.map(|(entry_id, public_key, algorithm)| NewWitsvidParams {
        entry_id: entry_id.to_owned(),
        public_key,
        signing_algorithm: algorithm.to_owned(),
    });
    let request = from_agent(AGENT, BatchNewWitsvidRequest { params: params.to_vec() });
    let results = service.batch_new_witsvid(request).await.unwrap().into_inner().results;
    let texts: Vec<(Code, String)> = results
        .into_iter()
        .map(|result| (result.status.unwrap(), result.svid))
        .map(|(status, svid)| {
            assert!(svid.is_none());
            (Code::from(status.code), status.message)
        })
        .collect();
    for (found, (code, text)) in texts.iter().zip([
        (Code::InvalidArgument, "missing entry ID"),
        (Code::InvalidArgument, "missing public key"),
        (Code::NotFound, "entry not found or not authorized"),
        (Code::InvalidArgument, "malformed public key: "),
        (
            Code::InvalidArgument,
            "invalid signing algorithm or key type: unsupported signing algorithm for ec-p256 key: RS256",
        ),
        (Code::Internal, "failed to sign WIT-SVID: WIT key is not available for signing"),
    ]) {
        assert!(found.0 == code && found.1.starts_with(text), "{found:?} is not {code:?} {text}");
    }
    let none = from_agent(AGENT, BatchNewWitsvidRequest::default());
    let refused = service.batch_new_witsvid(none).await.unwrap_err();
    assert_eq!(said(&refused), (Code::InvalidArgument, "missing parameters"));
}

async fn downstream(
    service: &SvidService,
    csr: Vec<u8>,
    preferred_ttl: i32,
) -> Result<NewDownstreamX509caResponse, Status> {
    let mut request = Request::new(NewDownstreamX509caRequest { csr, preferred_ttl });
    let id = "spiffe://example.org/downstream".parse().unwrap();
    request.extensions_mut().insert(Caller::Downstream { id, addr: "192.0.2.1:5".parse().unwrap() });
    service.new_downstream_x509ca(request).await.map(Response::into_inner)
}

#[tokio::test]
async fn a_downstream_server_gets_a_ca_of_our_trust_domain() {
    let issuing = Issuing::new().await;
    let (service, holder) = (issuing.service(), Holder::new().await);
    // Only the key of the CSR counts.
    let csr = holder.csr(&DistinguishedName::default_svid(), &["x.test"], Some("spiffe://other.test")).await;
    let answer = downstream(&service, csr.clone(), 600).await.unwrap();
    let roots = bundle(&issuing.site).await;
    assert_eq!(answer.x509_authorities, [roots.x509_authorities[0].der.clone()]);
    let [ca] = answer.ca_cert_chain.as_slice() else { panic!("a chain of one") };
    let (ca, root) =
        (Certificate::parse(ca).unwrap(), Certificate::parse(&roots.x509_authorities[0].der).unwrap());
    assert!(ca.is_authority());
    assert_eq!(ca.spki_der, holder.public.spki_der);
    assert_eq!(ca.extensions.names.unwrap().uris, ["spiffe://example.org"]);
    assert_eq!(ca.issuer_der, root.subject_der);
    let now = issuing.site.clock.now();
    assert_eq!(ca.not_after, now + Duration::from_secs(600));
    let text = String::from_utf8_lossy(&ca.subject_der).into_owned();
    assert!(text.contains("DOWNSTREAM-1") && text.contains("SPIFFE"), "{text}");
    // An SVID signed with it verifies to our bundle.
    let svid = below(&answer.ca_cert_chain[0], &holder, now).await;
    let chain = vec![svid, answer.ca_cert_chain[0].clone()];
    assert_eq!(verify_x509_svid(&chain, &roots, now).unwrap().id.path(), "/deep");

    for ttl in [0, -3, i32::MAX] {
        let answer = downstream(&service, csr.clone(), ttl).await.unwrap();
        let ca = Certificate::parse(&answer.ca_cert_chain[0]).unwrap();
        assert_eq!(ca.not_after, now + DAY, "ca_ttl, and never past the authority's end");
    }
}

/// A workload's SVID signed by the holder of an intermediate CA.
async fn below(ca: &[u8], holder: &Holder, now: SystemTime) -> Vec<u8> {
    let issuer = hardroot_identity::Issuer::from_certificate(ca).unwrap();
    let leaf = Holder::new().await;
    let tbs = hardroot_identity::certificate(
        hardroot_identity::Template::Workload { dns_names: &[] },
        &"spiffe://example.org/deep".parse().unwrap(),
        &leaf.public.spki_der,
        [7; 16],
        now,
        Duration::from_secs(60),
        &issuer,
        issuer.signature_algorithm(),
    )
    .unwrap();
    let digest = Digest::of(HashAlgorithm::Sha256, tbs.to_be_signed());
    let signature = holder.keys.sign(&Holder::id(), SignatureScheme::Ecdsa, &digest).await.unwrap();
    tbs.assemble(&signature).unwrap()
}

#[tokio::test]
async fn a_downstream_ca_is_refused_as_spire_refuses_it() {
    let issuing = Issuing::new().await;
    let (service, holder) = (issuing.service(), Holder::new().await);
    let csr = holder.plain_csr("spiffe://example.org").await;
    let refused = downstream(&service, b"none".to_vec(), 0).await.unwrap_err();
    assert!(refused.message().starts_with("malformed CSR: "), "{refused}");
    let refused = downstream(&service, broken(csr.clone()), 0).await.unwrap_err();
    assert_eq!(said(&refused), (Code::InvalidArgument, "invalid CSR signature"));
    let request = from_agent(AGENT, NewDownstreamX509caRequest { csr, preferred_ttl: 0 });
    let refused = service.new_downstream_x509ca(request).await.unwrap_err();
    assert_eq!(said(&refused), (Code::Internal, "caller is not a downstream workload"));
}

#[tokio::test]
async fn malformed_items_of_a_batch_are_told_and_recorded_one_by_one() {
    let issuing = Issuing::new().await;
    let (service, holder) = (issuing.service(), Holder::new().await);
    let id = entry(&issuing.site, |_| {}).await;
    let good = holder.plain_csr("spiffe://example.org/job").await;
    issuing.site.audit_lines();
    let items = [
        (String::new(), good.clone()),
        (id.clone(), Vec::new()),
        (id.clone(), b"none".to_vec()),
        (id.clone(), broken(good.clone())),
        ("e\u{1b}[31m".repeat(200), good.clone()),
        (id, good),
    ];
    let params = items.iter().cloned().map(|(entry_id, csr)| NewX509svidParams { entry_id, csr }).collect();
    let request = from_agent(AGENT, BatchNewX509svidRequest { params });
    let results = service.batch_new_x509svid(request).await.unwrap().into_inner().results;
    let mut lines = issuing.site.audit_lines();
    lines.retain(|line| line["type"] == "audit");
    assert_eq!((results.len(), lines.len()), (items.len(), items.len()));
    for ((_, csr), result) in items.iter().zip(&results).take(items.len() - 1) {
        let told = result.status.as_ref().unwrap();
        assert!(told.code != 0 && !told.message.is_empty());
        let digest = crate::audit::sha256_hex(csr);
        let at =
            lines.iter().position(|line| line["csr"] == digest && line["status_message"] == told.message);
        let line = lines.remove(at.unwrap_or_else(|| panic!("{} is not recorded: {lines:?}", told.message)));
        assert_eq!((&line["status"], &line["status_code"]), (&"error".into(), &told.code.into()));
        assert!(line["entry_id"].as_str().unwrap().chars().count() <= 513, "cut");
    }
    assert_eq!(lines[0]["status"], "success", "what is good among them is issued");
    assert!(results.last().unwrap().svid.is_some());
}

/// A CSR made of arbitrary names, signed with its own key.
fn arbitrary_csr() -> impl Strategy<Value = (Vec<String>, Option<String>)> {
    let uri = prop_oneof![
        Just("spiffe://example.org/job".to_owned()),
        "spiffe://example\\.org(/[a-zA-Z0-9._-]{0,9}){0,4}",
        "spiffe://example\\.org/spire(/[a-z]{0,5}){0,2}",
        "spiffe://[a-z.]{1,12}/[a-z/]{0,9}",
        "[ -~]{0,40}",
    ];
    let dns = prop_oneof!["[a-z]{1,8}\\.example\\.org", "\\*\\.example\\.org", "[ -~]{0,20}"];
    (prop::collection::vec(dns, 0..4), prop::option::of(uri))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_a_csr_asks_for_is_judged_and_never_changed((dns, uri) in arbitrary_csr()) {
        runtime().block_on(async {
            let holder = Holder::new().await;
            let names: Vec<&str> = dns.iter().map(String::as_str).collect();
            let csr = holder.csr(&DistinguishedName::default(), &names, uri.as_deref()).await;
            match names::of_mint_csr(&own(), &csr) {
                Err(refused) => prop_assert_eq!(refused.code(), Code::InvalidArgument),
                Ok((id, csr)) => {
                    prop_assert_eq!(Some(id.as_str()), uri.as_deref());
                    prop_assert!(id.is_member_of(&own()) && !id.is_reserved() && !id.path().is_empty());
                    prop_assert_eq!(&csr.dns_names, &dns);
                    prop_assert!(hardroot_identity::check_dns_names(&csr.dns_names).is_ok());
                    prop_assert_eq!(&csr.spki_der, &holder.public.spki_der);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_changed_csr_is_refused(at in 0..400_usize, bit in 0..8_u32, cut in 0..400_usize) {
        runtime().block_on(async {
            let holder = Holder::new().await;
            let whole = holder.plain_csr("spiffe://example.org/job").await;
            let mut flipped = whole.clone();
            let at = at % flipped.len();
            flipped[at] ^= 1 << bit;
            let cut = whole[..cut % whole.len()].to_vec();
            for der in [flipped, cut, [&whole[..], &[0]].concat()] {
                let refused = names::of_mint_csr(&own(), &der).map(|(id, _)| id);
                prop_assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
            }
            Ok(())
        })?;
    }
}

/// A key manager of ten signatures a second that has 20 s of work: everybody is told at once when to come back, nothing is
/// signed, and what fits into a caller's own time is served.
#[tokio::test]
async fn what_cannot_be_signed_in_time_is_refused_at_once_with_a_time_to_come_back() {
    use crate::authority::queue::Class;

    let issuing = Issuing::new().await;
    let (service, holder, queue) = (issuing.service(), Holder::new().await, issuing.queue());
    let id = entry(&issuing.site, |_| {}).await;
    let csr = holder.plain_csr("spiffe://example.org/db").await;
    let batch = |count: usize| BatchNewX509svidRequest {
        params: vec![NewX509svidParams { entry_id: id.clone(), csr: csr.clone() }; count],
    };
    queue.believe(Duration::from_millis(100));
    let ahead = queue.admit(Class::Workload, 200, None).unwrap();
    let share = queue.admit(Class::Token, 200, None).unwrap();
    let before = issuing.signed();
    let jwt = NewJwtsvidRequest { entry_id: id.clone(), audience: vec!["a".into()] };
    let refusals = [
        service.batch_new_x509svid(from_agent(AGENT, batch(3))).await.unwrap_err(),
        service.new_jwtsvid(from_agent(AGENT, jwt)).await.unwrap_err(),
        mint(&service, csr.clone(), 0).await.unwrap_err(),
    ];
    for refused in refusals {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        let after = hardroot_api::status::retry_after(&refused).unwrap();
        assert!((Duration::from_secs(1)..=Duration::from_secs(30)).contains(&after), "{after:?}");
    }
    assert_eq!(issuing.signed(), before);

    drop((ahead, share));
    let ahead = queue.admit(Class::Workload, 10, None).unwrap();
    let mut hurried = from_agent(AGENT, batch(9));
    hurried.set_timeout(Duration::from_millis(1550));
    let answer = service.batch_new_x509svid(hurried).await.unwrap().into_inner();
    let codes: Vec<_> =
        answer.results.iter().map(|result| Code::from(result.status.as_ref().unwrap().code)).collect();
    let served = codes.iter().filter(|code| **code == Code::Ok).count();
    assert_eq!(served, 5, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, Code::Ok | Code::ResourceExhausted)), "{codes:?}");
    drop(ahead);
    assert_eq!(queue.admitted(), [0, 0, 0, 0]);
}
