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
use tonic::Code;

use super::wanted::{served, wanted};
use super::*;
use crate::authority::testing::{HOUR, Site, trust_domain};
use crate::authority::{Authority, AuthorityConfig};
use crate::datastore::{Entries, Entry, Node, Nodes};
use crate::endpoints::BundleCache;
use crate::entries::AuthorizedEntries;

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
    entries: Arc<AuthorizedEntries>,
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
        let entries = load(&site, Duration::from_secs(60)).await;
        let authorizer = Authorizer::new(
            trust_domain(),
            BTreeSet::from([LISTED.parse().unwrap(), id("/listed")]),
            Arc::new(site.store.clone()),
            Arc::clone(&entries),
            Arc::clone(&bundles) as Arc<dyn hardroot_transport::BundleSource>,
            Arc::new(site.clock.clone()),
        );
        Self { site, authority, foreign, bundles, entries, authorizer }
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

async fn load(site: &Site, outage_staleness: Duration) -> Arc<AuthorizedEntries> {
    let store = Arc::new(site.store.clone());
    AuthorizedEntries::load(store, trust_domain(), outage_staleness).await.unwrap()
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
    let served: BTreeSet<String> = served().into_iter().map(|method| method.path).collect();
    assert!(served.len() > 60);
    let ruled: BTreeSet<String> = RULES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(ruled, served);
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
    let current = old.leaf_serial.clone().unwrap();
    world.site.store.node_renewed(&who, &current, &serial, new.leaf_not_after.unwrap()).await.unwrap();
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
fn what_is_polled_is_not_recorded_and_what_is_issued_is_not_handed_out_unrecorded() {
    let with = |flag: fn(&Rule) -> bool| -> Vec<&str> {
        let found = RULES.iter().filter(|(_, rule)| flag(rule)).map(|(path, _)| *path);
        found.map(|path| path.rsplit_once('.').unwrap().1).collect()
    };
    let polled = [
        "Health/Check",
        "Health/List",
        "Health/Watch",
        "Sync/Follow",
        "Agent/PostStatus",
        "Bundle/GetBundle",
        "Bundle/GetFederatedBundle",
        "Entry/GetAuthorizedEntries",
        "Entry/SyncAuthorizedEntries",
    ];
    assert_eq!(with(|rule| rule.polled), polled);
    let issues = [
        "Agent/AttestAgent",
        "Agent/CreateJoinToken",
        "Agent/RenewAgent",
        "SVID/BatchNewWITSVID",
        "SVID/BatchNewX509SVID",
        "SVID/MintJWTSVID",
        "SVID/MintWITSVID",
        "SVID/MintX509SVID",
        "SVID/NewDownstreamX509CA",
        "SVID/NewJWTSVID",
    ];
    assert_eq!(with(|rule| rule.issues), issues);
}

const SYNC: &str = "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries";

/// An agent is judged from memory, which follows the database: this server's bans count at once, another's when memory has
/// followed.
#[tokio::test]
async fn an_agent_that_memory_knows_is_not_looked_up() {
    let world = World::new().await;
    let another_server = world.site.another_store().await;
    let who = |name: &str| id(&format!("/spire/agent/join_token/{name}"));
    let a = Peer::Remote(world.agent("a").await);
    world.may(SYNC, &a).await.unwrap();
    another_server.ban_node(&who("a")).await.unwrap();
    world.entries.refresh().await.unwrap();
    assert_eq!(reason_of(&world.may(SYNC, &a).await.unwrap_err()), Some(Reason::AgentBanned));

    // A renewed serial is looked up and becomes the current one; the old one is over then.
    let old = world.agent("d").await;
    world.may(SYNC, &Peer::Remote(Arc::clone(&old))).await.unwrap();
    let new = world.shows(&world.authority, &who("d")).await;
    let (current, serial) = (old.leaf_serial.clone().unwrap(), new.leaf_serial.clone().unwrap());
    let ends = new.leaf_not_after.unwrap();
    world.site.store.node_renewed(&who("d"), &current, &serial, ends).await.unwrap();
    world.may(SYNC, &Peer::Remote(new)).await.unwrap();
    assert_eq!(world.site.store.node(&who("d")).await.unwrap().unwrap().serial_number, serial);
    let late = world.may(SYNC, &Peer::Remote(old)).await;
    assert_eq!(reason_of(&late.unwrap_err()), Some(Reason::AgentNotActive));
}

/// Fault 6: a datastore that is away stops nobody who was let in lately, and nobody else is let in.
#[tokio::test]
async fn while_the_datastore_is_away_known_agents_are_judged_from_memory() {
    let world = World::new().await;
    let known = Peer::Remote(world.agent("known").await);
    let banned = Peer::Remote(world.agent("banned").await);
    world.authorizer.authorize(SYNC, &known).await.unwrap();
    world.authorizer.authorize(SYNC, &banned).await.unwrap();
    world.site.store.ban_node(&id("/spire/agent/join_token/banned")).await.unwrap();
    world.entries.refresh().await.unwrap();
    let unseen = Peer::Remote(world.shows(&world.authority, &id("/spire/agent/join_token/unseen")).await);
    world.site.store.close().await;
    world.authorizer.authorize(SYNC, &known).await.unwrap();
    for refused in [&banned, &unseen] {
        assert_eq!(world.authorizer.authorize(SYNC, refused).await.unwrap_err().code(), Code::Unavailable);
    }
    // Somebody wanted it banned, and the datastore could not be told.
    world.entries.distrust(&id("/spire/agent/join_token/known"));
    assert_eq!(world.authorizer.authorize(SYNC, &known).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn an_agent_that_calls_again_costs_no_query_and_one_that_is_banned_is_seen_at_once() {
    let world = World::new().await;
    let peer = Peer::Remote(world.agent("a").await);
    world.may(AS_AGENT, &peer).await.unwrap();
    let before = world.site.store.statements();
    for _ in 0..100 {
        world.may(AS_AGENT, &peer).await.unwrap();
        world.may("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle", &peer).await.unwrap();
    }
    assert_eq!(world.site.store.statements(), before);
    world.site.store.ban_node(&id("/spire/agent/join_token/a")).await.unwrap();
    let refused = world.may(AS_AGENT, &peer).await.unwrap_err();
    assert_eq!(reason_of(&refused), Some(Reason::AgentBanned));
}
