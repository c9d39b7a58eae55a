//! Whole servers in this process, with genuine TLS and sockets.

mod audit;
mod callers;
mod lease;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hardroot_api::spire::api::server::agent::v1::agent_client::AgentClient;
use hardroot_api::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, BanAgentRequest, CreateJoinTokenRequest, ListAgentsRequest,
    RenewAgentRequest, attest_agent_request, attest_agent_response,
};
use hardroot_api::spire::api::server::bundle::v1::GetBundleRequest;
use hardroot_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_api::spire::api::server::entry::v1::{BatchCreateEntryRequest, SyncAuthorizedEntriesRequest};
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use hardroot_api::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, MintX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::spire::api::types::{AttestationData, Entry, JwtKey, Selector, Spiffeid};
use hardroot_api::status::reason_of;
use hardroot_emulators::softhsm::{self, SoftHsm};
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyId, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_identity::{
    Bundle, DistinguishedName, JwtAuthority, SignatureAlgorithm, SpiffeId, TrustDomain, X509Svid,
    assemble_csr, csr_to_be_signed, verify_jwt_svid, verify_x509_svid,
};
use hardroot_runtime::clock::SystemClock;
use hardroot_runtime::logs::{self, LogFormat, LogHandle, LogLevel, LogOutput};
use hardroot_transport::{
    BundleSet, ConnectOptions, IdentitySlot, RemoteKey, ServerTrust, TlsIdentity, client_config, connect,
    uds_channel,
};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::*;
use crate::datastore::{Entries as _, KeyRecords as _, Nodes as _};
use crate::instance::instance_id;

/// A place where servers are started again and again.
struct Place {
    directory: TempDir,
    key_manager: String,
    /// More keys of the `server` block.
    server_keys: &'static str,
    log: LogHandle,
    lines: Arc<Mutex<Vec<u8>>>,
}

impl Place {
    fn with_disk_keys() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let key_manager =
            format!("KeyManager \"disk\" {{ plugin_data {{ keys_path = \"{}\" }} }}", path.display());
        Self::new(directory, key_manager, "")
    }

    fn new(directory: TempDir, key_manager: String, server_keys: &'static str) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = LogOutput::Buffer(Arc::clone(&lines));
        let (_, log) = logs::subscriber(LogFormat::Json, LogLevel::Info, output).unwrap();
        Self { directory, key_manager, server_keys, log, lines }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> ServerConfig {
        self.config_with("example.org")
    }

    fn config_with(&self, trust_domain: &str) -> ServerConfig {
        let text = format!(
            "server {{\n trust_domain = \"{trust_domain}\"\n data_dir = \"{data}\"\n bind_address = \"127.0.0.1\"\n bind_port = 0\n \
             socket_path = \"{socket}\"\n allow_software_keys = true\n ratelimit {{ attestation = false }}\n {server_keys} }}\n\
             plugins {{\n DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\" connection_string = \"{database}\" }} }}\n \
             {keys}\n NodeAttestor \"join_token\" {{}}\n}}\n",
            data = self.path("data").display(),
            socket = self.path("api.sock").display(),
            database = self.path("server.sqlite3").display(),
            keys = self.key_manager,
            server_keys = self.server_keys,
        );
        ServerConfig::parse(&text, "server.conf").unwrap()
    }

    async fn start(&self) -> RunningServer {
        Box::pin(RunningServer::start(self.config(), Arc::new(SystemClock), self.log.clone())).await.unwrap()
    }

    async fn fails(&self, config: ServerConfig) -> (u8, String) {
        let what = format!("{:?} {:?} {:?}", config.data_dir, config.database, config.key_manager);
        let started = Box::pin(RunningServer::start(config, Arc::new(SystemClock), self.log.clone())).await;
        let Err(error) = started else { panic!("started with {what}") };
        (error.exit_code(), crate::attest::chain(&error))
    }
}

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

async fn admin(server: &RunningServer) -> Channel {
    uds_channel(server.admin_socket()).await.unwrap()
}

async fn bundle(server: &RunningServer) -> Bundle {
    let mut client = BundleClient::new(admin(server).await);
    let message = client.get_bundle(GetBundleRequest::default()).await.unwrap().into_inner();
    let der: Vec<u8> = message.x509_authorities.into_iter().flat_map(|authority| authority.asn1).collect();
    let mut bundle = Bundle::from_der_concat(td(), &der).unwrap();
    let authority = |key: JwtKey| JwtAuthority {
        key_id: key.key_id,
        spki_der: key.public_key,
        expires_at: key.expires_at,
        tainted: key.tainted,
    };
    bundle.jwt_authorities = message.jwt_authorities.into_iter().map(authority).collect();
    bundle
}

/// A key in memory, its CSRs and what is issued for it.
struct Holder {
    keys: Arc<MemoryKeyManager>,
    public: PublicKey,
}

impl Holder {
    async fn new() -> Self {
        let keys = MemoryKeyManager::new();
        let public = keys.generate(&Self::key(), KeyType::EcP256).await.unwrap();
        Self { keys: Arc::new(keys), public }
    }

    fn key() -> KeyId {
        KeyId::new("key").unwrap()
    }

    async fn csr(&self, uri: Option<&str>) -> Vec<u8> {
        let tbs = csr_to_be_signed(&DistinguishedName::default_svid().to_der(), &self.public.spki_der, uri);
        let digest = Digest::of(HashAlgorithm::Sha256, &tbs);
        let signature = self.keys.sign(&Self::key(), SignatureScheme::Ecdsa, &digest).await.unwrap();
        assemble_csr(&tbs, SignatureAlgorithm::for_key(&self.public.spki_der).unwrap(), &signature)
    }

    fn identity(&self, chain: Vec<Vec<u8>>) -> IdentitySlot {
        let keys: Arc<dyn KeyManager> = Arc::clone(&self.keys) as Arc<dyn KeyManager>;
        let remote = RemoteKey::new(keys, Self::key(), self.public.clone());
        let identity = TlsIdentity::new(chain, Arc::new(remote)).unwrap();
        IdentitySlot::new(arc_swap::ArcSwapOption::from_pointee(identity))
    }
}

async fn remote(server: &RunningServer, identity: Option<IdentitySlot>) -> Channel {
    let trust = ServerTrust::Bundle(Arc::new(BundleSet::new([bundle(server).await])));
    let expected = "spiffe://example.org/spire/server".parse().unwrap();
    let address = server.remote_address().to_string();
    connect(&address, client_config(expected, trust, identity), ConnectOptions::default()).await.unwrap()
}

/// Attests with a fresh join token; the agent's path and its chain.
async fn attest(server: &RunningServer, holder: &Holder) -> (String, Vec<Vec<u8>>) {
    let mut admin = AgentClient::new(admin(server).await);
    let token = CreateJoinTokenRequest { ttl: 60, ..Default::default() };
    let token = admin.create_join_token(token).await.unwrap().into_inner().value;
    let params = attest_agent_request::Params {
        data: Some(AttestationData { r#type: "join_token".into(), payload: token.into_bytes() }),
        params: Some(AgentX509svidParams { csr: holder.csr(None).await }),
    };
    let request = AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) };
    let mut client = AgentClient::new(remote(server, None).await);
    let mut answers = client.attest_agent(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(attest_agent_response::Step::Result(result)) = answer.step else { panic!("no result") };
    assert!(!result.reattestable);
    let svid = result.svid.unwrap();
    (svid.id.unwrap().path, svid.cert_chain)
}

fn spiffe_id(path: &str) -> Option<Spiffeid> {
    Some(Spiffeid { trust_domain: "example.org".into(), path: path.into() })
}

async fn create_entry(server: &RunningServer, parent: &str, path: &str) -> String {
    let entry = Entry {
        spiffe_id: spiffe_id(path),
        parent_id: spiffe_id(parent),
        selectors: vec![Selector { r#type: "unix".into(), value: "uid:1".into() }],
        x509_svid_ttl: 120,
        dns_names: vec!["db.example.org".into()],
        ..Default::default()
    };
    let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let mut client = EntryClient::new(admin(server).await);
    let result = client.batch_create_entry(request).await.unwrap().into_inner().results.remove(0);
    assert_eq!(result.status.unwrap().code, 0);
    result.entry.unwrap().id
}

/// From nothing to a workload's SVID; the agent's channel and path.
async fn journey(server: &RunningServer) -> (Channel, String) {
    let holder = Holder::new().await;
    let (path, chain) = attest(server, &holder).await;
    let agent = remote(server, Some(holder.identity(chain))).await;
    let entry = create_entry(server, &path, "/db").await;
    let workload = Holder::new().await;
    let mut broken = workload.csr(None).await;
    *broken.last_mut().unwrap() ^= 1;
    let params = [
        (entry.clone(), workload.csr(None).await),
        (entry.clone(), broken),
        (entry.clone(), vec![]),
        (entry.clone(), b"none".to_vec()),
        ("no-such-entry".to_owned(), workload.csr(None).await),
        (String::new(), workload.csr(None).await),
    ];
    let params = params.into_iter().map(|(entry_id, csr)| NewX509svidParams { entry_id, csr }).collect();
    let mut client = SvidClient::new(agent.clone());
    let results =
        client.batch_new_x509svid(BatchNewX509svidRequest { params }).await.unwrap().into_inner().results;
    let codes: Vec<i32> = results.iter().map(|result| result.status.as_ref().unwrap().code).collect();
    let (invalid, missing) = (Code::InvalidArgument.into(), Code::NotFound.into());
    assert_eq!(codes, [0, invalid, invalid, invalid, missing, invalid]);
    let svid = results.into_iter().next().unwrap().svid.unwrap();
    let verified =
        verify_x509_svid(&svid.cert_chain, &bundle(server).await, std::time::SystemTime::now()).unwrap();
    assert_eq!(verified.id.path(), "/db");
    assert_eq!(verified.dns_names, ["db.example.org"]);
    assert_eq!(verified.spki_der, workload.public.spki_der);
    let lifetime = verified.not_after.duration_since(verified.not_before).unwrap();
    assert_eq!(lifetime, Duration::from_secs(130));
    let request = NewJwtsvidRequest { entry_id: entry, audience: vec!["cache".into()] };
    let token = client.new_jwtsvid(request).await.unwrap().into_inner().svid.unwrap().token;
    let (bundle, now) = (bundle(server).await, std::time::SystemTime::now());
    let judged = verify_jwt_svid(&token, &["cache"], |_| Some(&bundle), now, Duration::ZERO).unwrap();
    assert_eq!(judged.id.path(), "/db");
    (agent, path)
}

async fn may_sync(agent: &Channel) -> Result<usize, tonic::Status> {
    let mut client = EntryClient::new(agent.clone());
    let ask = tokio_stream::iter([SyncAuthorizedEntriesRequest::default()]);
    let mut answers = client.sync_authorized_entries(ask).await?.into_inner();
    Ok(answers.message().await?.map_or(0, |answer| answer.entries.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_and_its_workload_gets_an_svid() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let (agent, path) = journey(&server).await;
    assert_eq!(may_sync(&agent).await.unwrap(), 1);

    // The operator bans it: the open connection is worth nothing from the next call on.
    let ban = BanAgentRequest { id: spiffe_id(&path) };
    AgentClient::new(admin(&server).await).ban_agent(ban).await.unwrap();
    let refused = may_sync(&agent).await.unwrap_err();
    assert_eq!(reason_of(&refused), Some(Reason::AgentBanned));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_makes_no_key_and_agents_go_on() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let holder = Holder::new().await;
    let (_, chain) = attest(&server, &holder).await;
    let before = bundle(&server).await;
    let keys = std::fs::read(place.path("keys.json")).unwrap();
    server.stop().await.unwrap();

    let server = place.start().await;
    assert_eq!(bundle(&server).await, before);
    assert_eq!(std::fs::read(place.path("keys.json")).unwrap(), keys);
    let agent = remote(&server, Some(holder.identity(chain))).await;
    may_sync(&agent).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_renews_and_its_old_certificate_ends_with_the_first_use_of_the_new_one() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let holder = Holder::new().await;
    let (_, chain) = attest(&server, &holder).await;
    let old = remote(&server, Some(holder.identity(chain))).await;
    let params = Some(AgentX509svidParams { csr: holder.csr(None).await });
    let renewed = AgentClient::new(old.clone()).renew_agent(RenewAgentRequest { params }).await.unwrap();
    let chain = renewed.into_inner().svid.unwrap().cert_chain;
    may_sync(&old).await.unwrap();
    may_sync(&remote(&server, Some(holder.identity(chain))).await).await.unwrap();
    let refused = may_sync(&old).await.unwrap_err();
    assert_eq!(reason_of(&refused), Some(Reason::AgentNotActive));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_mints_and_an_agent_may_not() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let holder = Holder::new().await;
    let mint = async |channel: Channel, uri: Option<&str>| {
        let request = MintX509svidRequest { csr: holder.csr(uri).await, ttl: 60 };
        SvidClient::new(channel).mint_x509svid(request).await
    };
    let minted = mint(admin(&server).await, Some("spiffe://example.org/job")).await.unwrap().into_inner();
    let svid = X509Svid::parse(minted.svid.unwrap().cert_chain).unwrap();
    assert_eq!(svid.id.path(), "/job");
    for bad in
        [None, Some("spiffe://other.test/job"), Some("spiffe://example.org/spire/agent/x"), Some("https://x")]
    {
        let refused = mint(admin(&server).await, bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}");
    }
    let (_, chain) = attest(&server, &holder).await;
    let agent = remote(&server, Some(holder.identity(chain))).await;
    let refused = mint(agent, Some("spiffe://example.org/job")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_may_do_anything_without_a_certificate() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let stranger = remote(&server, None).await;
    BundleClient::new(stranger.clone()).get_bundle(GetBundleRequest::default()).await.unwrap();
    let refused =
        AgentClient::new(stranger.clone()).list_agents(ListAgentsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(may_sync(&stranger).await.unwrap_err().code(), Code::PermissionDenied);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_offered_says_so() {
    use hardroot_api::spire::api::server::localauthority::v1::GetX509AuthorityStateRequest;
    use hardroot_api::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let ask = async |channel: Channel| {
        let mut client = LocalAuthorityClient::new(channel);
        client.get_x509_authority_state(GetX509AuthorityStateRequest {}).await.unwrap_err()
    };
    let answer = ask(admin(&server).await).await;
    assert_eq!(answer.code(), Code::Unimplemented);
    assert!(answer.message().contains("GetX509AuthorityState"), "{answer}");
    assert_eq!(ask(remote(&server, None).await).await.code(), Code::PermissionDenied);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giant_headers_harm_nobody_else() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let hostile = remote(&server, None).await;
    let mut request = Request::new(GetBundleRequest::default());
    request.metadata_mut().insert("x-big", "x".repeat(1 << 20).parse().unwrap());
    BundleClient::new(hostile).get_bundle(request).await.unwrap_err();
    let good = remote(&server, None).await;
    BundleClient::new(good).get_bundle(GetBundleRequest::default()).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_takes_seconds_even_with_open_streams() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    let mut client = AgentClient::new(remote(&server, None).await);
    let silent = client.attest_agent(tokio_stream::pending()).await.unwrap();
    let begin = Instant::now();
    server.stop().await.unwrap();
    assert!(begin.elapsed() < crate::endpoints::GRACE * 2 + Duration::from_secs(2), "{:?}", begin.elapsed());
    drop(silent);
    // Socket and database are free again.
    place.start().await.stop().await.unwrap();
}

async fn is_serving(server: &RunningServer) -> bool {
    use tonic_health::pb::health_client::HealthClient;
    let mut client = HealthClient::new(admin(server).await);
    let answer = client.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    answer.into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_on_the_admin_socket_alone() {
    let place = Place::with_disk_keys();
    let server = place.start().await;
    assert!(is_serving(&server).await);
    let mut outside = tonic_health::pb::health_client::HealthClient::new(remote(&server, None).await);
    let refused = outside.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_starting_fails_with_its_own_code() {
    let place = Place::with_disk_keys();
    let broken = |change: &dyn Fn(&mut ServerConfig)| {
        let mut config = place.config();
        change(&mut config);
        config
    };
    std::fs::write(place.path("file"), "x".repeat(8192)).unwrap();
    let (code, text) = place.fails(broken(&|c| c.data_dir = place.path("file"))).await;
    assert_eq!(code, 3, "{text}");
    let (code, text) = place
        .fails(broken(&|c| c.database = crate::datastore::DatabaseConfig::file(place.path("file"))))
        .await;
    assert_eq!(code, 4, "{text}");
    std::fs::write(place.path("bad.json"), "not json").unwrap();
    let (code, text) = place
        .fails(broken(&|c| {
            c.key_manager = crate::config::KeyManagerConfig::Disk { keys_path: place.path("bad.json") };
        }))
        .await;
    assert_eq!(code, 5, "{text}");

    let server = place.start().await;
    // A server of its own, but for the admin socket.
    let (code, text) = place.fails(broken(&|c| c.data_dir = place.path("other"))).await;
    assert_eq!(code, 8, "{text}");
    create_entry(&server, "/node", "/db").await;
    server.stop().await.unwrap();
    let (code, text) = place.fails(place.config_with("other.test")).await;
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("example.org") && text.contains("other.test"), "{text}");
}

#[test]
fn with_keys_in_a_token() {
    softhsm::isolated(|token| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(Box::pin(in_a_token(token)));
    });
}

async fn in_a_token(token: &SoftHsm) {
    for (instance, server_keys) in [
        ("ec", "ca_key_type = \"ec-p384\""),
        ("rsa", "ca_key_type = \"rsa-2048\"\n jwt_key_type = \"rsa-2048\""),
        ("mixed", "jwt_key_type = \"rsa-2048\""),
    ] {
        in_a_token_with(token, instance, server_keys).await;
    }
}

async fn in_a_token_with(token: &SoftHsm, instance: &str, server_keys: &'static str) {
    let key_manager = format!(
        "KeyManager \"pkcs11\" {{ plugin_data {{ module_path = \"{}\"\n token_label = \"{}\"\n pin_file = \"{}\"\n instance = \"{instance}\" }} }}",
        token.module().display(),
        SoftHsm::TOKEN,
        token.pin_file().display()
    );
    let place = Place::new(tempfile::tempdir().unwrap(), key_manager, server_keys);
    let server = place.start().await;
    journey(&server).await;
    let before = bundle(&server).await;
    server.stop().await.unwrap();
    let server = place.start().await;
    assert_eq!(bundle(&server).await, before, "the same keys");
    let (agent, _) = journey_again(&server).await;
    may_sync(&agent).await.unwrap();
    server.stop().await.unwrap();
    assert!(!holds_private_key(place.directory.path()), "no key of the server is in a file");
}

async fn journey_again(server: &RunningServer) -> (Channel, String) {
    let holder = Holder::new().await;
    let (path, chain) = attest(server, &holder).await;
    (remote(server, Some(holder.identity(chain))).await, path)
}

/// Whether any file below holds what looks like a PKCS#8 or SEC 1 private key.
fn holds_private_key(directory: &Path) -> bool {
    let looks_like = |bytes: &[u8]| {
        let marks: [&[u8]; 2] = [b"PRIVATE KEY", &[0x02, 0x01, 0x01, 0x04, 0x20]];
        marks.iter().any(|mark| bytes.windows(mark.len()).any(|window| window == *mark))
    };
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            holds_private_key(&path)
        } else {
            std::fs::read(&path).is_ok_and(|bytes| looks_like(&bytes))
        }
    })
}
