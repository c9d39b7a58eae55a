//! Every method as every kind of caller.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::reason_of;
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{KeyId, KeyManager, KeyType};
use hardroot_identity::{Selector, SpiffeId, Template, TrustDomain};
use hardroot_transport::{LocalPeer, PeerInfo};
use prost::Message;
use tonic::Code;

use super::*;
use crate::authority::testing::{HOUR, Site, trust_domain};
use crate::authority::{Authority, AuthorityConfig};
use crate::datastore::{Entries, Entry, Node, Nodes};
use crate::endpoints::BundleCache;

/// Who may call what: the requirement, written down a second time so that the table cannot drift.
const WANTED: &str = "
any: agent.v1.Agent/AttestAgent bundle.v1.Bundle/GetBundle
agent: agent.v1.Agent/RenewAgent agent.v1.Agent/PostStatus entry.v1.Entry/GetAuthorizedEntries
agent: entry.v1.Entry/SyncAuthorizedEntries svid.v1.SVID/BatchNewX509SVID svid.v1.SVID/NewJWTSVID
agent: svid.v1.SVID/BatchNewWITSVID
down: svid.v1.SVID/NewDownstreamX509CA bundle.v1.Bundle/PublishJWTAuthority bundle.v1.Bundle/PublishWITAuthority
local admin agent: bundle.v1.Bundle/GetFederatedBundle
local: debug.v1.Debug/GetInfo logger.v1.Logger/GetLogger logger.v1.Logger/SetLogLevel logger.v1.Logger/ResetLogLevel
local admin: agent.v1.Agent/CountAgents agent.v1.Agent/ListAgents agent.v1.Agent/GetAgent agent.v1.Agent/DeleteAgent
local admin: agent.v1.Agent/BanAgent agent.v1.Agent/CreateJoinToken
local admin: entry.v1.Entry/CountEntries entry.v1.Entry/ListEntries entry.v1.Entry/GetEntry
local admin: entry.v1.Entry/BatchCreateEntry entry.v1.Entry/BatchUpdateEntry entry.v1.Entry/BatchDeleteEntry
local admin: svid.v1.SVID/MintX509SVID svid.v1.SVID/MintJWTSVID svid.v1.SVID/MintWITSVID
local admin: bundle.v1.Bundle/CountBundles bundle.v1.Bundle/AppendBundle bundle.v1.Bundle/ListFederatedBundles
local admin: bundle.v1.Bundle/BatchCreateFederatedBundle bundle.v1.Bundle/BatchUpdateFederatedBundle
local admin: bundle.v1.Bundle/BatchSetFederatedBundle bundle.v1.Bundle/BatchDeleteFederatedBundle
local admin: trustdomain.v1.TrustDomain/ListFederationRelationships trustdomain.v1.TrustDomain/RefreshBundle
local admin: trustdomain.v1.TrustDomain/GetFederationRelationship
local admin: trustdomain.v1.TrustDomain/BatchCreateFederationRelationship
local admin: trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship
local admin: trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship
local admin: localauthority.v1.LocalAuthority/GetJWTAuthorityState localauthority.v1.LocalAuthority/PrepareJWTAuthority
local admin: localauthority.v1.LocalAuthority/ActivateJWTAuthority localauthority.v1.LocalAuthority/TaintJWTAuthority
local admin: localauthority.v1.LocalAuthority/RevokeJWTAuthority localauthority.v1.LocalAuthority/GetX509AuthorityState
local admin: localauthority.v1.LocalAuthority/PrepareX509Authority localauthority.v1.LocalAuthority/TaintX509Authority
local admin: localauthority.v1.LocalAuthority/ActivateX509Authority localauthority.v1.LocalAuthority/RevokeX509Authority
local admin: localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority
local admin: localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority
local admin: localauthority.v1.LocalAuthority/GetWITAuthorityState localauthority.v1.LocalAuthority/PrepareWITAuthority
local admin: localauthority.v1.LocalAuthority/ActivateWITAuthority localauthority.v1.LocalAuthority/TaintWITAuthority
local admin: localauthority.v1.LocalAuthority/RevokeWITAuthority
";

fn wanted() -> Vec<(String, BTreeSet<&'static str>)> {
    let mut all = Vec::new();
    for line in WANTED.lines().filter(|line| !line.is_empty()) {
        let (who, methods) = line.split_once(": ").unwrap();
        for method in methods.split(' ') {
            all.push((format!("/spire.api.server.{method}"), who.split(' ').collect()));
        }
    }
    for method in ["Check", "List", "Watch"] {
        all.push((format!("/grpc.health.v1.Health/{method}"), BTreeSet::from(["local"])));
    }
    for method in ["Enrol", "GetEnrolment", "ListEnrolments", "RemoveEnrolment"] {
        all.push((format!("/hardroot.server.tpm.v1.Tpm/{method}"), BTreeSet::from(["local", "admin"])));
    }
    all
}

fn address() -> SocketAddr {
    "192.0.2.7:40000".parse().unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain(), path).unwrap()
}

/// A site with agents, admins and strangers, and what they show.
struct World {
    site: Site,
    authority: Authority,
    foreign: Authority,
    bundles: Arc<BundleCache>,
    authorizer: Authorizer,
}

const FOREIGN: &str = "other.test";
const LISTED: &str = "spiffe://other.test/their-admin";

impl World {
    async fn new() -> Self {
        let site = Site::new().await;
        let authority = site.start().await;
        let foreign = Authority::start(
            AuthorityConfig {
                trust_domain: TrustDomain::new(FOREIGN).unwrap(),
                ..crate::authority::testing::config()
            },
            Arc::new(MemoryKeyManager::new()),
            Arc::new(site.store.clone()),
            Arc::new(site.clock.clone()),
        )
        .await
        .unwrap();
        for (path, admin, downstream) in
            [("/admin", true, false), ("/down", false, true), ("/plain", false, false)]
        {
            site.store.create_entry(entry(path, admin, downstream)).await.unwrap();
        }
        let bundles = Arc::new(BundleCache::new(Arc::new(site.store.clone()), trust_domain()));
        bundles.refresh().await.unwrap();
        let authorizer = Authorizer::new(
            trust_domain(),
            BTreeSet::from([LISTED.parse().unwrap(), id("/listed")]),
            Arc::new(site.store.clone()),
            Arc::clone(&bundles) as Arc<dyn hardroot_transport::BundleSource>,
            Arc::new(site.clock.clone()),
        );
        Self { site, authority, foreign, bundles, authorizer }
    }

    async fn shows(&self, authority: &Authority, who: &SpiffeId) -> Arc<PeerInfo> {
        let keys = MemoryKeyManager::new();
        let key = keys.generate(&KeyId::new("k").unwrap(), KeyType::EcP256).await.unwrap();
        let signer = authority.signer();
        let issued = signer.sign_x509(Template::Agent, who, &key.spki_der, HOUR).await.unwrap();
        let now = hardroot_runtime::clock::Clock::now(&self.site.clock);
        Arc::new(PeerInfo::from_chain(address(), issued.chain, &*self.bundles, now).unwrap())
    }

    /// An attested agent with this certificate.
    async fn agent(&self, name: &str) -> Arc<PeerInfo> {
        let who = id(&format!("/spire/agent/join_token/{name}"));
        let peer = self.shows(&self.authority, &who).await;
        self.site.store.attested(node(&who, peer.leaf_serial.clone().unwrap(), &peer), None).await.unwrap();
        peer
    }

    async fn may(&self, method: &str, peer: &Peer) -> Result<Caller, tonic::Status> {
        self.authorizer.authorize(method, peer).await.map(|(caller, _)| caller)
    }
}

fn node(who: &SpiffeId, serial: String, peer: &PeerInfo) -> Node {
    Node {
        id: who.clone(),
        attestation_type: "join_token".into(),
        serial_number: serial,
        expires_at: peer.leaf_not_after.unwrap(),
        new_serial_number: String::new(),
        new_expires_at: None,
        can_reattest: false,
        agent_version: String::new(),
        selectors: vec![],
    }
}

fn entry(path: &str, admin: bool, downstream: bool) -> Entry {
    Entry {
        id: path.trim_start_matches('/').to_owned(),
        spiffe_id: id(path),
        parent_id: id("/spire/agent/join_token/somewhere"),
        selectors: vec![Selector::new("unix", "uid:1").unwrap()],
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
    }
}

#[test]
fn the_table_has_every_method_of_the_services_and_no_other() {
    let set = prost_types::FileDescriptorSet::decode(hardroot_api::FILE_DESCRIPTOR_SET).unwrap();
    let mut served = BTreeSet::new();
    for file in &set.file {
        let package = file.package();
        if !(package.starts_with("spire.api.server.") || package.starts_with("hardroot.server.")) {
            continue;
        }
        for service in &file.service {
            for method in &service.method {
                served.insert(format!("/{package}.{}/{}", service.name(), method.name()));
            }
        }
    }
    assert!(served.len() > 60);
    let ruled: BTreeSet<String> = RULES.iter().map(|(path, _)| (*path).to_owned()).collect();
    let health = |path: &&String| path.starts_with("/grpc.health.v1.");
    assert_eq!(ruled.iter().filter(|path| !health(path)).cloned().collect::<BTreeSet<_>>(), served);
    let wanted: BTreeSet<String> = wanted().into_iter().map(|(path, _)| path).collect();
    assert_eq!(ruled, wanted);
    assert!(RULES.is_sorted_by_key(|(path, _)| *path), "it is searched by halves");
}

#[tokio::test]
async fn every_method_lets_in_exactly_whom_it_should() {
    let world = World::new().await;
    let local = Peer::Local(Arc::new(LocalPeer { uid: 0, gid: 0, pid: Some(1) }));
    let anonymous = Peer::Remote(Arc::new(PeerInfo::anonymous(address())));
    let own = |path: &'static str| async { Peer::Remote(world.shows(&world.authority, &id(path)).await) };
    let foreign =
        |who: &'static str| async { Peer::Remote(world.shows(&world.foreign, &who.parse().unwrap()).await) };
    let callers: Vec<(&str, &str, Peer)> = vec![
        ("local", "local", local),
        ("anonymous", "nobody", anonymous),
        ("agent", "agent", Peer::Remote(world.agent("good").await)),
        ("admin by entry", "admin", own("/admin").await),
        ("admin by name", "admin", own("/listed").await),
        ("foreign admin by name", "admin", foreign(LISTED).await),
        ("downstream", "down", own("/down").await),
        ("workload", "nobody", own("/plain").await),
        ("workload without entry", "nobody", own("/unknown").await),
        ("foreign workload", "shut out", foreign("spiffe://other.test/workload").await),
    ];
    for (method, classes) in wanted() {
        for (name, class, peer) in &callers {
            let allowed = classes.contains(class) || (classes.contains("any") && *class != "shut out");
            let outcome = world.may(&method, peer).await;
            assert_eq!(outcome.is_ok(), allowed, "{method} as {name}: {outcome:?}");
            if let Err(status) = outcome {
                assert_eq!(status.code(), Code::PermissionDenied, "{method} as {name}");
            }
        }
    }
}

#[tokio::test]
async fn unknown_methods_do_not_exist() {
    let world = World::new().await;
    let local = Peer::Local(Arc::new(LocalPeer { uid: 0, gid: 0, pid: None }));
    for path in ["/spire.api.server.agent.v1.Agent/", "/x/y", "", "/spire.api.server.agent.v1.Agent/Attest\n"]
    {
        assert_eq!(world.may(path, &local).await.unwrap_err().code(), Code::Unimplemented);
    }
}

const AS_AGENT: &str = "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries";

async fn reason(world: &World, peer: &Arc<PeerInfo>) -> Option<Reason> {
    let status = world.may(AS_AGENT, &Peer::Remote(Arc::clone(peer))).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    reason_of(&status)
}

#[tokio::test]
async fn agents_learn_why_they_are_refused() {
    let world = World::new().await;
    let stranger = world.shows(&world.authority, &id("/spire/agent/join_token/stranger")).await;
    assert_eq!(reason(&world, &stranger).await, Some(Reason::AgentNotAttested));

    let banned = world.agent("banned").await;
    world.site.store.ban_node(banned.id.as_ref().unwrap()).await.unwrap();
    assert_eq!(reason(&world, &banned).await, Some(Reason::AgentBanned));

    let stale = world.agent("stale").await;
    world.agent("stale").await;
    assert_eq!(reason(&world, &stale).await, Some(Reason::AgentNotActive));

    let expired = world.agent("expired").await;
    world.site.clock.advance(HOUR);
    assert_eq!(reason(&world, &expired).await, Some(Reason::AgentExpired));
}

#[tokio::test]
async fn a_ban_counts_at_the_next_call_of_an_open_connection() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let peer = Peer::Remote(Arc::clone(&agent));
    world.may(AS_AGENT, &peer).await.unwrap();
    world.site.store.ban_node(agent.id.as_ref().unwrap()).await.unwrap();
    world.may(AS_AGENT, &peer).await.unwrap_err();
}

#[tokio::test]
async fn two_serials_are_good_until_the_new_one_is_used() {
    let world = World::new().await;
    let old = world.agent("a").await;
    let who = old.id.clone().unwrap();
    let new = world.shows(&world.authority, &who).await;
    let serial = new.leaf_serial.clone().unwrap();
    world.site.store.node_renewed(&who, &serial, new.leaf_not_after.unwrap()).await.unwrap();
    // The answer was lost: the agent goes on with the old one.
    world.may(AS_AGENT, &Peer::Remote(Arc::clone(&old))).await.unwrap();
    // It arrived after all.
    world.may(AS_AGENT, &Peer::Remote(Arc::clone(&new))).await.unwrap();
    assert_eq!(world.site.store.node(&who).await.unwrap().unwrap().serial_number, serial);
    // Now the old one is worth nothing.
    assert_eq!(reason(&world, &old).await, Some(Reason::AgentNotActive));
    world.may(AS_AGENT, &Peer::Remote(new)).await.unwrap();
}

#[tokio::test]
async fn a_connection_whose_authority_left_the_bundle_is_trusted_no_more() {
    let world = World::new().await;
    let agent = Peer::Remote(world.agent("a").await);
    let admin = Peer::Remote(world.shows(&world.authority, &id("/admin")).await);
    let down = Peer::Remote(world.shows(&world.authority, &id("/down")).await);
    crate::authority::published::update(&world.site.store, &trust_domain(), |bundle| {
        bundle.root_cas.clear();
        true
    })
    .await
    .unwrap();
    world.bundles.refresh().await.unwrap();
    for (method, peer) in [
        (AS_AGENT, &agent),
        ("/spire.api.server.entry.v1.Entry/ListEntries", &admin),
        ("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA", &down),
    ] {
        assert_eq!(world.may(method, peer).await.unwrap_err().code(), Code::Unauthenticated, "{method}");
    }
}

#[tokio::test]
async fn an_expired_admin_entry_makes_no_admin() {
    let world = World::new().await;
    let soon = unix_seconds(hardroot_runtime::clock::Clock::now(&world.site.clock)) + 60;
    let temporary = Entry { expires_at: soon, ..entry("/temporary", true, false) };
    world.site.store.create_entry(temporary).await.unwrap();
    let peer = Peer::Remote(world.shows(&world.authority, &id("/temporary")).await);
    let method = "/spire.api.server.entry.v1.Entry/ListEntries";
    world.may(method, &peer).await.unwrap();
    world.site.clock.advance(Duration::from_secs(60));
    world.may(method, &peer).await.unwrap_err();
}

#[test]
fn reads_are_not_audited_and_changes_are() {
    for path in [
        "/a.B/GetEntry",
        "/a.B/ListAgents",
        "/a.B/CountBundles",
        "/a.B/SyncAuthorizedEntries",
        "/a.B/PostStatus",
    ] {
        assert!(!is_audited(path), "{path}");
    }
    for path in
        ["/a.B/MintX509SVID", "/a.B/BatchDeleteEntry", "/a.B/BanAgent", "/a.B/Enrol", "/a.B/RenewAgent"]
    {
        assert!(is_audited(path), "{path}");
    }
}
