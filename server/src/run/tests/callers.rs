//! Every RPC of every service, as every kind of caller, over genuine TLS and the admin socket.

use std::collections::BTreeSet;

use hardroot_api::spire::api::server::bundle::v1::BatchSetFederatedBundleRequest;
use hardroot_api::spire::api::types;
use hardroot_identity::Template;
use hardroot_runtime::clock::ManualClock;
use tonic::Status;
use tonic_prost::ProstCodec;

use super::*;
use crate::authority::AuthorityConfig;
use crate::authz::wanted::{Method, served, wanted};
use crate::datastore::{Entry as StoredEntry, Node};

/// Who calls: the class that opens methods to them, and the reason that methods for agents refuse them with.
struct Who {
    name: &'static str,
    class: &'static str,
    reason: Option<Reason>,
    channel: Channel,
}

const HOUR: Duration = Duration::from_secs(3600);
const FOREIGN: &str = "other.test";

/// A server with all kinds of callers.
struct World {
    place: Place,
    server: RunningServer,
    clock: ManualClock,
}

impl World {
    async fn start() -> Self {
        let place = Place::with_disk_keys();
        let clock = ManualClock::new(std::time::SystemTime::now());
        let mut config = place.config();
        config.limit_signing = false;
        config.admin_ids.insert("spiffe://example.org/listed".parse().unwrap());
        config.admin_ids.insert("spiffe://other.test/their-admin".parse().unwrap());
        let started = RunningServer::start(config, Arc::new(clock.clone()), place.log.clone());
        let server = Box::pin(started).await.unwrap();
        Self { place, server, clock }
    }

    /// A channel with a certificate of this server for `path`, and the certificate's serial number.
    async fn own(&self, path: &str, ttl: Duration) -> (Channel, String) {
        let holder = Holder::new().await;
        let id = SpiffeId::new(&td(), path).unwrap();
        let template =
            if path.starts_with("/spire/") { Template::Agent } else { Template::Workload { dns_names: &[] } };
        let signer = self.server.authority().signer();
        let issued = signer.sign_x509(template, &id, &holder.public.spki_der, ttl).await.unwrap();
        (remote(&self.server, Some(holder.identity(issued.chain))).await, issued.serial)
    }

    /// An attested agent.
    async fn agent(&self, name: &str, ttl: Duration) -> Channel {
        let path = format!("/spire/agent/join_token/{name}");
        let (channel, serial_number) = self.own(&path, ttl).await;
        let node = Node {
            id: SpiffeId::new(&td(), &path).unwrap(),
            attestation_type: "join_token".into(),
            serial_number,
            expires_at: self.clock.now() + ttl,
            new_serial_number: String::new(),
            new_expires_at: None,
            can_reattest: false,
            agent_version: String::new(),
            selectors: vec![],
        };
        self.server.store.attested(node, None).await.unwrap();
        channel
    }

    /// A workload with an entry.
    async fn workload(&self, path: &str, admin: bool, downstream: bool) -> Channel {
        let entry = StoredEntry {
            id: String::new(),
            spiffe_id: SpiffeId::new(&td(), path).unwrap(),
            parent_id: SpiffeId::new(&td(), "/spire/agent/join_token/somewhere").unwrap(),
            selectors: vec!["unix:uid:1".parse().unwrap()],
            x509_svid_ttl: 0,
            jwt_svid_ttl: 0,
            federates_with: vec![],
            admin,
            downstream,
            expires_at: 0,
            dns_names: vec![],
            revision_number: 0,
            store_svid: false,
            hint: String::new(),
            created_at: 0,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        };
        self.server.store.create_entry(entry).await.unwrap();
        self.own(path, HOUR).await.0
    }

    /// Channels with certificates of another trust domain, whose bundle this server has.
    async fn foreign<const N: usize>(&self, paths: [&str; N]) -> [Channel; N] {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open_file(directory.path().join("db")).await.unwrap();
        let own = self.place.config();
        let foreign = TrustDomain::new(FOREIGN).unwrap();
        let config = AuthorityConfig {
            trust_domain: foreign.clone(),
            ca_ttl: own.ca_ttl,
            ca_key_type: own.ca_key_type,
            ca_subject: own.ca_subject.clone(),
            jwt: None,
        };
        let keys: Arc<dyn KeyManager> = Arc::new(MemoryKeyManager::new());
        let clock = Arc::new(self.clock.clone());
        let authority = Authority::start(config, keys, Arc::new(store.clone()), clock).await.unwrap();
        let (stored, _) = crate::authority::published::read(&store, &foreign).await.unwrap();
        let asn1 = stored.root_cas[0].der_bytes.clone();
        let bundle = types::Bundle {
            trust_domain: FOREIGN.into(),
            x509_authorities: vec![types::X509Certificate { asn1, tainted: false }],
            ..Default::default()
        };
        let request = BatchSetFederatedBundleRequest { bundle: vec![bundle], output_mask: None };
        let mut client = BundleClient::new(admin(&self.server).await);
        let answer = client.batch_set_federated_bundle(request).await.unwrap().into_inner();
        assert_eq!(answer.results[0].status.as_ref().unwrap().code, 0);
        let mut channels = Vec::new();
        for path in paths {
            let holder = Holder::new().await;
            let id = SpiffeId::new(&foreign, path).unwrap();
            let template = Template::Workload { dns_names: &[] };
            let signer = authority.signer();
            let issued = signer.sign_x509(template, &id, &holder.public.spki_der, HOUR).await.unwrap();
            channels.push(remote(&self.server, Some(holder.identity(issued.chain))).await);
        }
        channels.try_into().unwrap()
    }

    async fn callers(&self) -> Vec<Who> {
        let who = |name, class, reason, channel| Who { name, class, reason, channel };
        let stranger = Some(Reason::AgentNotAttested);
        let store = &self.server.store;
        let node = |name: &str| SpiffeId::new(&td(), &format!("/spire/agent/join_token/{name}")).unwrap();

        let banned = self.agent("banned", HOUR).await;
        store.ban_node(&node("banned")).await.unwrap();
        let evicted = self.agent("evicted", HOUR).await;
        store.delete_node(&node("evicted")).await.unwrap();
        let old = self.agent("old", HOUR).await;
        self.agent("old", HOUR).await;
        let expired = self.agent("expired", HOUR / 6).await;
        let [their_admin, their_workload] = self.foreign(["/their-admin", "/workload"]).await;
        let all = vec![
            who("admin socket", "local", None, admin(&self.server).await),
            who("nobody", "nobody", None, remote(&self.server, None).await),
            who("agent", "agent", None, self.agent("good", HOUR).await),
            who("banned agent", "nobody", Some(Reason::AgentBanned), banned),
            who("expired agent", "expired", Some(Reason::AgentExpired), expired),
            who("evicted agent", "nobody", Some(Reason::AgentNotAttested), evicted),
            who("agent with an old serial", "nobody", Some(Reason::AgentNotActive), old),
            who("workload", "nobody", stranger, self.workload("/plain", false, false).await),
            who("workload without entry", "nobody", stranger, self.own("/unknown", HOUR).await.0),
            who("admin by entry", "admin", stranger, self.workload("/admin", true, false).await),
            who("downstream", "down", stranger, self.workload("/down", false, true).await),
            who("admin by name", "admin", stranger, self.own("/listed", HOUR).await.0),
            who("foreign admin by name", "admin", stranger, their_admin),
            who("foreign workload", "shut out", None, their_workload),
        ];
        // The connection outlives the certificate.
        self.clock.advance(HOUR / 5);
        all
    }
}

/// Calls a method with an empty message and takes the first answer.
async fn call(channel: &Channel, method: &Method) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path: http::uri::PathAndQuery = method.path.parse().unwrap();
    let codec = ProstCodec::<(), ()>::default();
    if method.streams {
        let once = tokio_stream::iter([()]);
        let mut answers = client.streaming(Request::new(once), path, codec).await?.into_inner();
        // A health watch stays open.
        answers.message().await.map(drop)
    } else {
        client.unary(Request::new(()), path, codec).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_as_every_kind_of_caller() {
    let world = World::start().await;
    let callers = world.callers().await;
    let wanted = wanted();
    let methods = served();
    let described: BTreeSet<&str> = methods.iter().map(|method| method.path.as_str()).collect();
    let required: BTreeSet<&str> = wanted.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(described, required, "each method needs a row, and each row a method");
    let mut faults = Vec::new();
    for method in &methods {
        let (_, classes) = wanted.iter().find(|(path, _)| *path == method.path).unwrap();
        for who in &callers {
            let outcome = call(&who.channel, method).await;
            if let Err(fault) = judge(&method.path, classes, who, &outcome) {
                faults.push(format!("{} as {}: {fault}, got {outcome:?}", method.path, who.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    world.server.stop().await.unwrap();
}

fn judge(
    path: &str,
    classes: &BTreeSet<&str>,
    who: &Who,
    outcome: &Result<(), Status>,
) -> Result<(), &'static str> {
    let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
    let allowed = classes.contains(who.class) || (classes.contains("any") && who.class != "shut out");
    if allowed {
        // What the handler says of an empty message is its own business.
        let refused = [Code::PermissionDenied, Code::Unauthenticated, Code::Unavailable, Code::Cancelled];
        return if refused.contains(&code) { Err("should be let in") } else { Ok(()) };
    }
    let Err(status) = outcome else { return Err("should be refused") };
    if classes.contains("agent") && who.reason.is_some() {
        let right = code == Code::PermissionDenied && reason_of(status) == who.reason;
        return if right { Ok(()) } else { Err("should be refused with another reason") };
    }
    if who.class == "expired" {
        let right = code == Code::Unauthenticated && reason_of(status).is_none();
        return if right { Ok(()) } else { Err("should have to connect again") };
    }
    let text = format!("authorization denied for method {path}");
    let right = code == Code::PermissionDenied && status.message() == text && reason_of(status).is_none();
    if right { Ok(()) } else { Err("should be refused without a reason") }
}
