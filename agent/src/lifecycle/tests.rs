//! The life cycle on paused time, against a server that follows a script.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;

use hardroot_api::spire::api::types::permission_denied_details::Reason;
use hardroot_api::status::permission_denied;
use hardroot_hsm_keymanager::KeyManager;
use hardroot_identity::{Csr, Selector, SpiffeId};
use hardroot_runtime::clock::Sleep;
use hardroot_transport::{ConnectError, TlsIdentity};
use tokio::sync::watch;
use tonic::Status;

use super::*;
use crate::cache::{AuthorizedEntry, EntryChanges};
use crate::source::{Availability, IdentitySource};
use crate::status::AgentStatus;
use crate::sync::{Attested, IssueRequest, Pushed, Refused, Resume};
use crate::testing::{CountingKeys, TestCa, memory_keys};

const AGENT: &str = "spiffe://example.org/spire/agent/test/node";
const AGENT_TTL: Duration = Duration::from_secs(4000);
const WORKLOAD_TTL: Duration = Duration::from_secs(1000);

/// Wall time that follows tokio's paused clock, and can be set.
#[derive(Debug, Clone)]
struct TestClock {
    start: SystemTime,
    origin: Instant,
    offset: Arc<Mutex<i64>>,
}

impl TestClock {
    fn set_off_by(&self, seconds: i64) {
        *self.offset.lock().unwrap() = seconds;
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        let time = self.start + self.origin.elapsed();
        let offset = *self.offset.lock().unwrap();
        if offset < 0 {
            time - Duration::from_secs(offset.unsigned_abs())
        } else {
            time + Duration::from_secs(offset.unsigned_abs())
        }
    }

    fn sleep(&self, duration: Duration) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct Script {
    ca: TestCa,
    reattestable: bool,
    attest: VecDeque<ServerError>,
    renew: VecDeque<ServerError>,
    entries: VecDeque<ServerError>,
    issue: VecDeque<ServerError>,
    away: bool,
    known: Vec<AuthorizedEntry>,
    wrong_key: bool,
    calls: Vec<String>,
    identity: Option<Vec<u8>>,
    data_dir: std::path::PathBuf,
    /// Whether it has streams.
    pushes: bool,
    pushed: VecDeque<Result<Pushed, ServerError>>,
    resumes: Vec<Resume>,
}

impl Script {
    /// The first update of a stream.
    fn everything(&self) -> Pushed {
        Pushed {
            everything: true,
            upserts: self.known.clone(),
            bundles: vec![self.ca.bundle()],
            resume: Resume { token: self.known.len().to_string().into_bytes(), ..Resume::default() },
            number: 1,
            ..Pushed::default()
        }
    }
}

#[derive(Clone)]
struct FakeServer {
    wake: Arc<tokio::sync::Notify>,
    script: Arc<Mutex<Script>>,
    clock: TestClock,
}

fn away() -> ServerError {
    let cause = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    ServerError::Connect(ConnectError::Unreachable { address: "server:1".into(), cause })
}

fn denied(rpc: &'static str, reason: Reason) -> ServerError {
    ServerError::Call { rpc, status: Box::new(permission_denied(reason, "no")) }
}

fn refused(rpc: &'static str, status: Status) -> ServerError {
    ServerError::Call { rpc, status: Box::new(status) }
}

impl FakeServer {
    fn call(
        &self,
        name: &str,
        queue: impl FnOnce(&mut Script) -> &mut VecDeque<ServerError>,
    ) -> Result<(), ServerError> {
        let mut script = self.script.lock().unwrap();
        script.calls.push(name.to_owned());
        if script.away {
            return Err(away());
        }
        match queue(&mut script).pop_front() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn agent_chain(&self, csr: &[u8]) -> Vec<Vec<u8>> {
        let script = self.script.lock().unwrap();
        let mut spki = Csr::parse(csr).unwrap().spki_der;
        if script.wrong_key {
            spki = script.ca.spki();
        }
        script.ca.agent_at(&AGENT.parse().unwrap(), &spki, self.clock.now(), AGENT_TTL)
    }

    fn calls(&self, name: &str) -> usize {
        self.script.lock().unwrap().calls.iter().filter(|c| *c == name).count()
    }

    fn push(&self, next: Result<Pushed, ServerError>) {
        self.with(|s| s.pushed.push_back(next));
        self.wake.notify_one();
    }

    fn update(&self, number: u64, token: &str) -> Pushed {
        Pushed {
            number,
            resume: Resume { token: token.as_bytes().to_vec(), ..Resume::default() },
            ..Pushed::default()
        }
    }

    /// How often it was asked what changed.
    fn asked(&self) -> usize {
        self.calls("entries") + self.calls("follow")
    }

    /// It is not there any more: streams break.
    fn goes_away(&self) {
        self.with(|s| s.away = true);
        self.push(Err(away()));
    }

    /// It will not talk to this agent: at the next poll, or by the end of the stream.
    fn denies(&self, reason: Reason) {
        if self.with(|s| s.pushes) {
            self.push(Err(denied("Follow", reason)));
        } else {
            self.with(|s| s.entries.push_back(denied("SyncAuthorizedEntries", reason)));
        }
    }

    /// Something changes, and is told to whoever has a stream: as the first update of one, which says everything.
    fn changes(&self, change: impl FnOnce(&mut Script)) {
        let update = self.with(|s| {
            change(s);
            s.everything()
        });
        self.push(Ok(update));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().unwrap())
    }
}

#[async_trait::async_trait]
impl Server for FakeServer {
    async fn attest(&self, _spki: &[u8], csr: &[u8]) -> Result<Attested, ServerError> {
        self.call("attest", |s| &mut s.attest)?;
        let chain = self.agent_chain(csr);
        let script = self.script.lock().unwrap();
        Ok(Attested { chain, reattestable: script.reattestable, bundle: script.ca.bundle() })
    }

    async fn attestation_ended(&self, accepted: bool) {
        self.with(|s| s.calls.push(if accepted { "accepted" } else { "not accepted" }.to_owned()));
    }

    async fn renew(&self, csr: &[u8]) -> Result<Vec<Vec<u8>>, ServerError> {
        self.call("renew", |s| &mut s.renew)?;
        Ok(self.agent_chain(csr))
    }

    async fn use_identity(&self, identity: Option<TlsIdentity>) {
        self.with(|s| {
            let leaf = identity.map(|i| i.chain[0].clone());
            // Without the directory there is nowhere to store it.
            if let Some(leaf) = leaf.as_ref().filter(|_| s.data_dir.exists()) {
                // Two serials: what is shown must be on disk first.
                let stored = std::fs::read(s.data_dir.join("agent-svid.json")).unwrap();
                use base64::Engine as _;
                let text = base64::engine::general_purpose::STANDARD.encode(leaf);
                assert!(String::from_utf8_lossy(&stored).contains(&text), "used before it was stored");
            }
            s.identity = leaf;
        });
    }

    async fn follow(&self, resume: Resume) -> Result<bool, ServerError> {
        if !self.with(|s| s.pushes) {
            return Ok(false);
        }
        self.call("follow", |s| &mut s.entries)?;
        self.with(|s| {
            s.resumes.push(resume.clone());
            // What the agent says it has is current, or it gets everything.
            let current = resume.token == s.known.len().to_string().into_bytes();
            s.pushed.clear();
            if !current {
                let update = s.everything();
                s.pushed.push_back(Ok(update));
            }
        });
        self.wake.notify_one();
        Ok(true)
    }

    async fn pushed(&self) -> Result<Pushed, ServerError> {
        loop {
            if let Some(next) = self.with(|s| s.pushed.pop_front()) {
                return next;
            }
            self.wake.notified().await;
        }
    }

    async fn acknowledge(&self, number: u64) {
        self.with(|s| s.calls.push(format!("ack {number}")));
    }

    async fn entries(&self, _known: &Cache) -> Result<EntryChanges, ServerError> {
        self.call("entries", |s| &mut s.entries)?;
        Ok(EntryChanges { upserts: self.with(|s| s.known.clone()), unchanged: Default::default() })
    }

    async fn bundle(&self) -> Result<Bundle, ServerError> {
        Ok(self.with(|s| s.ca.bundle()))
    }

    async fn federated_bundle(&self, _td: &TrustDomain) -> Result<Option<Bundle>, ServerError> {
        Ok(None)
    }

    async fn issue(
        &self,
        requests: Vec<IssueRequest>,
    ) -> Result<Vec<Result<Vec<Vec<u8>>, Refused>>, ServerError> {
        self.call(&format!("issue {}", requests.len()), |s| &mut s.issue)?;
        let script = self.script.lock().unwrap();
        Ok(requests
            .iter()
            .map(|request| {
                let spki = Csr::parse(&request.csr).unwrap().spki_der;
                let entry = script.known.iter().find(|e| e.id == request.entry_id).unwrap();
                Ok(script.ca.workload_at(&entry.spiffe_id, &spki, self.clock.now(), WORKLOAD_TTL))
            })
            .collect())
    }

    async fn post_status(&self, _sequence: u64) -> Result<(), ServerError> {
        self.call("status", |s| &mut s.entries)
    }
}

struct Rig {
    server: FakeServer,
    clock: TestClock,
    keys: Arc<dyn KeyManager>,
    dir: tempfile::TempDir,
}

struct Running {
    cache: Arc<Cache>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), Ended>>,
}

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

fn entry(id: &str) -> AuthorizedEntry {
    AuthorizedEntry {
        id: id.into(),
        spiffe_id: format!("spiffe://example.org/{id}").parse().unwrap(),
        selectors: vec!["unix:uid:1".parse().unwrap()],
        federates_with: vec![],
        hint: String::new(),
        revision: 0,
        created_at: 0,
        prefetch: true,
        jwt_include_jti: false,
        store_svid: false,
    }
}

fn rig_by(way: Way, reattestable: bool, keys: Arc<dyn KeyManager>) -> Rig {
    let rig = rig(reattestable, keys);
    rig.server.with(|s| s.pushes = way == Way::Pushed);
    rig
}

fn rig(reattestable: bool, keys: Arc<dyn KeyManager>) -> Rig {
    let start = std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    let clock = TestClock { start, origin: Instant::now(), offset: Arc::default() };
    let dir = tempfile::tempdir().unwrap();
    let script = Script {
        ca: TestCa::new(&td()),
        reattestable,
        attest: VecDeque::new(),
        renew: VecDeque::new(),
        entries: VecDeque::new(),
        issue: VecDeque::new(),
        away: false,
        known: vec![entry("web")],
        wrong_key: false,
        calls: vec![],
        identity: None,
        data_dir: dir.path().to_owned(),
        pushes: false,
        pushed: VecDeque::new(),
        resumes: vec![],
    };
    // The server's clock is right, whatever becomes of the agent's.
    let right = TestClock { offset: Arc::default(), ..clock.clone() };
    Rig {
        server: FakeServer { wake: Arc::default(), script: Arc::new(Mutex::new(script)), clock: right },
        clock,
        keys,
        dir,
    }
}

impl Rig {
    fn start(&self, refusal_is_final: bool) -> Running {
        let wall = self.clock.clone();
        let cache = Arc::new(Cache::new(td(), 1000, 1000, Arc::new(move || wall.now())));
        let parts = Parts {
            settings: Settings {
                trust_domain: td(),
                workload_key_type: KeyType::EcP256,
                sync_interval: Duration::from_secs(5),
                refusal_is_final,
                node_attestor: "fake",
            },
            server: Arc::new(self.server.clone()),
            keys: AgentKeys::new(Arc::clone(&self.keys)),
            storage: Storage::open(self.dir.path()).unwrap(),
            cache: Arc::clone(&cache),
            bundles: Arc::new(BundleSet::new([self.server.with(|s| s.ca.bundle())])),
            clock: Arc::new(self.clock.clone()),
            status: Arc::new(AgentStatus::new()),
        };
        let shutdown = Shutdown::new();
        let task = tokio::spawn(Lifecycle::new(parts).run(shutdown.clone()));
        Running { cache, shutdown, task }
    }

    fn state(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(Path::new(self.dir.path()).join(name)).ok()
    }
}

impl Running {
    fn stream(&self) -> watch::Receiver<Availability> {
        self.cache.subscribe(vec!["unix:uid:1".parse::<Selector>().unwrap()])
    }

    async fn ready(&self) {
        let mut stream = self.stream();
        let ready = stream.wait_for(|a| matches!(a, Availability::Ready(_)));
        drop(tokio::time::timeout(Duration::from_secs(20_000), ready).await.expect("ready in time").unwrap());
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

/// How the server tells what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Polled,
    Pushed,
}

/// Stories that are the same whether the agent polls or is told.
macro_rules! either_way {
    ($($story:ident),* $(,)?) => { $(
        mod $story {
            #[tokio::test(start_paused = true)]
            async fn polled() {
                super::$story(super::Way::Polled).await;
            }

            #[tokio::test(start_paused = true)]
            async fn pushed() {
                super::$story(super::Way::Pushed).await;
            }
        }
    )* };
}

either_way! {
    a_node_attests_and_serves_and_a_restart_needs_no_attestation,
    a_start_without_the_server_keeps_trying,
    a_server_that_does_not_know_the_agent_gets_a_new_proof,
    a_banned_agent_serves_nobody_and_ends,
    cut_off_workloads_are_served_until_expiry_and_healing_needs_no_restart,
    workload_svids_are_renewed_at_half_life_and_batches_shrink_under_pressure,
    a_clock_that_was_set_back_throws_nothing_away,
    a_new_bundle_is_stored_and_pushed,
    an_entry_for_the_wrong_identity_is_never_served,
    renewal_is_at_half_life_with_a_new_software_key_and_a_failed_one_keeps_the_old,
}

/// Waits on paused time until it is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..200_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

async fn a_node_attests_and_serves_and_a_restart_needs_no_attestation(way: Way) {
    let rig = rig_by(way, false, memory_keys());
    let running = rig.start(true);
    assert!(matches!(*running.stream().borrow(), Availability::Starting));
    running.ready().await;
    let stream = running.stream();
    let Availability::Ready(update) = stream.borrow().clone() else { panic!() };
    let identity = &update.identities[0];
    assert_eq!(identity.spiffe_id.as_str(), "spiffe://example.org/web");
    assert!(update.bundles.contains_key(&td()));
    drop((stream, update));
    running.stop().await;
    assert_eq!(
        (rig.server.calls("attest"), rig.server.calls("accepted"), rig.server.calls("status")),
        (1, 1, 1)
    );

    let again = rig.start(true);
    again.ready().await;
    again.stop().await;
    assert_eq!(rig.server.calls("attest"), 1, "the stored SVID was used");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_foreign_state_means_attesting_anew() {
    let rig = rig(true, memory_keys());
    let running = rig.start(false);
    running.ready().await;
    running.stop().await;
    std::fs::write(rig.dir.path().join("agent-svid.json"), b"garbage").unwrap();
    let running = rig.start(false);
    running.ready().await;
    running.stop().await;
    assert_eq!(rig.server.calls("attest"), 2);
    let elsewhere = Rig { keys: memory_keys(), ..rig };
    let running = elsewhere.start(false);
    running.ready().await;
    running.stop().await;
    assert_eq!(elsewhere.server.calls("attest"), 3, "an SVID without its key is worth nothing");
}

async fn a_start_without_the_server_keeps_trying(way: Way) {
    let rig = rig_by(way, false, memory_keys());
    let running = rig.start(true);
    running.ready().await;
    running.stop().await;
    rig.server.goes_away();
    let before = rig.server.asked();
    let running = rig.start(true);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!running.task.is_finished());
    assert!(matches!(*running.stream().borrow(), Availability::Starting));
    assert!((2..60).contains(&(rig.server.asked() - before)), "with pauses");
    rig.server.with(|s| s.away = false);
    running.ready().await;
    assert_eq!(rig.server.calls("attest"), 1);
    running.stop().await;
}

async fn renewal_is_at_half_life_with_a_new_software_key_and_a_failed_one_keeps_the_old(way: Way) {
    let rig = rig_by(way, false, memory_keys());
    let running = rig.start(true);
    running.ready().await;
    let first = rig.server.with(|s| s.identity.clone());
    rig.server
        .with(|s| s.renew = (0..3).map(|_| refused("RenewAgent", Status::internal("disk full"))).collect());
    // notBefore lies ten seconds before the issue; half of 4010 s is 2005 s, spread by a tenth.
    tokio::time::sleep(Duration::from_secs(1790)).await;
    assert_eq!(rig.server.calls("renew"), 0);
    until("a renewal", || rig.server.calls("renew") == 1).await;
    assert_eq!(rig.server.with(|s| s.identity.clone()), first, "the old one is kept");
    until("success", || rig.server.with(|s| s.identity.clone()) != first).await;
    assert_eq!((rig.server.calls("renew"), rig.server.calls("attest")), (4, 1));
    let keys = rig.keys.list().await.unwrap();
    assert_eq!(keys.len(), 2, "one key for all attempts, in the other slot");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_stored_is_stored_as_soon_as_it_can_be() {
    let rig = rig(false, memory_keys());
    let running = rig.start(true);
    running.ready().await;
    let (first, stored) = (rig.server.with(|s| s.identity.clone()), rig.state("agent-svid.json"));
    let gone = rig.dir.path().with_extension("gone");
    std::fs::rename(rig.dir.path(), &gone).unwrap();
    until("a renewal", || rig.server.with(|s| s.identity.clone()) != first).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.server.calls("renew"), 1, "the new SVID is in use");
    std::fs::rename(&gone, rig.dir.path()).unwrap();
    assert_eq!(rig.state("agent-svid.json"), stored, "the old one is whole");
    let asked = rig.server.calls("renew");
    until("it is stored", || rig.state("agent-svid.json") != stored).await;
    assert_eq!(rig.server.calls("renew"), asked, "and not only with the next one");
    running.stop().await;
    let again = rig.start(true);
    again.ready().await;
    again.stop().await;
    assert_eq!(rig.server.calls("attest"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hardware_node_renews_by_attesting_with_the_same_key_and_one_csr() {
    let keys = Arc::new(CountingKeys::new(true));
    let rig = rig(true, keys.clone());
    let running = rig.start(false);
    running.ready().await;
    let signatures = keys.signatures();
    until("a second attestation", || rig.server.calls("attest") == 2).await;
    assert_eq!(rig.server.calls("renew"), 0);
    assert_eq!(rig.keys.list().await.unwrap().len(), 1);
    assert_eq!(keys.signatures(), signatures, "the CSR is signed once");
    running.stop().await;
    let again = rig.start(false);
    again.ready().await;
    until("a third attestation", || rig.server.calls("attest") == 3).await;
    assert_eq!(keys.signatures(), signatures, "also over a restart");
    again.stop().await;
}

async fn a_server_that_does_not_know_the_agent_gets_a_new_proof(way: Way) {
    for reason in
        [Reason::AgentExpired, Reason::AgentNotAttested, Reason::AgentNotActive, Reason::AgentMustReattest]
    {
        let rig = rig_by(way, true, memory_keys());
        let running = rig.start(false);
        running.ready().await;
        let before = rig.server.asked();
        rig.server.denies(reason);
        until("attested in place", || rig.server.calls("attest") == 2).await;
        until("asked again", || rig.server.asked() > before + usize::from(way == Way::Polled)).await;
        running.ready().await;
        assert!(!running.task.is_finished());
        running.stop().await;
    }
}

async fn a_banned_agent_serves_nobody_and_ends(way: Way) {
    let rig = rig_by(way, true, memory_keys());
    let running = rig.start(false);
    running.ready().await;
    rig.server.denies(Reason::AgentBanned);
    let Running { cache, task, .. } = running;
    assert!(matches!(task.await.unwrap(), Err(Ended::Banned)));
    let stream = cache.subscribe(vec!["unix:uid:1".parse().unwrap()]);
    assert!(matches!(*stream.borrow(), Availability::None));
    assert!(rig.state("agent-svid.json").is_none());
    assert!(rig.server.with(|s| s.identity.is_none()));

    rig.server.with(|s| {
        s.attest
            .push_back(refused("AttestAgent", Status::permission_denied("failed to attest: agent is banned")))
    });
    assert!(matches!(rig.start(false).task.await.unwrap(), Err(Ended::Banned)), "also when it attests");
}

#[tokio::test(start_paused = true)]
async fn a_refused_join_token_is_final_and_a_refused_machine_tries_on() {
    let no = || {
        refused("AttestAgent", Status::invalid_argument("join token does not exist or has already been used"))
    };
    let rig_token = rig(false, memory_keys());
    rig_token.server.with(|s| s.attest.push_back(no()));
    assert!(matches!(rig_token.start(true).task.await.unwrap(), Err(Ended::Refused { .. })));

    let rig_away = rig(false, memory_keys());
    rig_away.server.with(|s| s.attest = (0..5).map(|_| away()).collect());
    let running = rig_away.start(true);
    running.ready().await;
    assert_eq!(rig_away.server.calls("attest"), 6, "a server that is away has refused nothing");
    running.stop().await;

    let machine = rig(true, memory_keys());
    machine.server.with(|s| {
        s.attest =
            (0..20).map(|_| refused("AttestAgent", Status::permission_denied("ek not enrolled"))).collect()
    });
    let running = machine.start(false);
    running.ready().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_svid_for_another_key_is_not_used() {
    let rig = rig(true, memory_keys());
    rig.server.with(|s| s.wrong_key = true);
    let running = rig.start(false);
    until("attempts", || rig.server.calls("not accepted") >= 3).await;
    assert!(rig.server.with(|s| s.identity.is_none()) && rig.state("agent-svid.json").is_none());
    rig.server.with(|s| s.wrong_key = false);
    running.ready().await;
    running.stop().await;
}

async fn cut_off_workloads_are_served_until_expiry_and_healing_needs_no_restart(way: Way) {
    let rig = rig_by(way, true, memory_keys());
    let running = rig.start(false);
    running.ready().await;
    rig.server.goes_away();
    let mut stream = running.stream();
    tokio::time::sleep(WORKLOAD_TTL / 2).await;
    assert!(matches!(*stream.borrow_and_update(), Availability::Ready(_)));
    // Everything expires, the agent's own SVID included.
    tokio::time::sleep(AGENT_TTL * 2).await;
    assert!(matches!(*stream.borrow_and_update(), Availability::Pending), "nothing valid is left");
    assert!(!running.task.is_finished());
    rig.server.with(|s| s.away = false);
    running.ready().await;
    running.stop().await;
}

async fn workload_svids_are_renewed_at_half_life_and_batches_shrink_under_pressure(way: Way) {
    let rig = rig_by(way, true, memory_keys());
    rig.server.with(|s| {
        s.known = (0..8).map(|n| entry(&format!("e{n}"))).collect();
        s.issue =
            (0..2).map(|_| refused("BatchNewX509SVID", Status::resource_exhausted("slow down"))).collect();
    });
    let running = rig.start(false);
    until("all issued", || running.cache.counts().svids == 8).await;
    assert_eq!(rig.server.calls("issue 8"), 3, "8 is less than a quarter of the largest batch");
    running.ready().await;
    let mut stream = running.stream();
    stream.borrow_and_update();
    tokio::time::sleep(Duration::from_secs(440)).await;
    assert!(!stream.has_changed().unwrap());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(stream.has_changed().unwrap(), "renewed between 450 s and 555 s");
    running.stop().await;
}

async fn a_clock_that_was_set_back_throws_nothing_away(way: Way) {
    let rig = rig_by(way, true, memory_keys());
    let running = rig.start(false);
    running.ready().await;
    rig.clock.set_off_by(-1_700_000_000);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(matches!(*running.stream().borrow(), Availability::Ready(_)));
    assert_eq!(rig.server.calls("attest"), 1);
    assert!(rig.state("agent-svid.json").is_some());
    running.stop().await;
    let again = rig.start(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.server.calls("attest"), 1, "a machine that starts in 1970 keeps its SVID");
    rig.clock.set_off_by(0);
    again.ready().await;
    again.stop().await;
}

async fn a_new_bundle_is_stored_and_pushed(way: Way) {
    let rig = rig_by(way, true, memory_keys());
    let running = rig.start(false);
    running.ready().await;
    let mut stream = running.stream();
    stream.borrow_and_update();
    let before = rig.state("bundle.json");
    rig.server.changes(|s| s.ca = TestCa::new(&td()));
    until("new bundle on disk", || rig.state("bundle.json") != before).await;
    // The old SVIDs no longer verify: they are replaced at once, from the new authority.
    until("agent renewed", || rig.server.calls("attest") >= 1).await;
    tokio::time::timeout(Duration::from_secs(20_000), stream.changed())
        .await
        .expect("pushed in time")
        .unwrap();
    running.stop().await;
}

async fn an_entry_for_the_wrong_identity_is_never_served(way: Way) {
    let rig = rig_by(way, true, memory_keys());
    let running = rig.start(false);
    running.ready().await;
    let id: SpiffeId = "spiffe://example.org/other".parse().unwrap();
    let other = AuthorizedEntry { revision: 1, spiffe_id: id.clone(), ..entry("web") };
    rig.server.changes(|s| s.known = vec![other]);
    let mut stream = running.stream();
    let served = stream
        .wait_for(|a| matches!(a, Availability::Ready(update) if update.identities[0].spiffe_id == id))
        .await
        .is_ok();
    assert!(served);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_pushed_is_served_without_a_poll_and_a_stream_goes_on_after_it_broke() {
    let rig = rig(true, memory_keys());
    rig.server.with(|s| s.pushes = true);
    let running = rig.start(true);
    running.ready().await;
    until("acknowledged", || rig.server.calls("ack 1") == 1).await;
    let other = AuthorizedEntry { spiffe_id: "spiffe://example.org/db".parse().unwrap(), ..entry("db") };
    rig.server.with(|s| s.known.push(other.clone()));
    rig.server.push(Ok(Pushed { upserts: vec![other], ..rig.server.update(2, "2") }));
    until("the change arrives", || running.cache.counts().entries == 2).await;
    // Far longer than the interval of polls.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.server.calls("entries"), 0, "nothing is polled");
    rig.server.push(Err(refused("Follow", Status::unavailable("stopping"))));
    until("a new stream", || rig.server.calls("follow") == 2).await;
    assert_eq!(rig.server.with(|s| s.resumes[1].token.clone()), b"2", "it says where it was");
    rig.server.with(|s| drop(s.known.remove(0)));
    rig.server.push(Ok(Pushed { removed: vec!["web".into()], ..rig.server.update(3, "1") }));
    until("the removal arrives", || running.cache.counts().entries == 1).await;
    assert_eq!(rig.server.calls("entries"), 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streams_is_polled_and_asked_again_later() {
    let rig = rig(true, memory_keys());
    let running = rig.start(true);
    running.ready().await;
    until("polls", || rig.server.calls("entries") > 3).await;
    rig.server.with(|s| s.pushes = true);
    until("the stream", || rig.server.calls("follow") == 1).await;
    assert_eq!(
        rig.server.with(|s| s.resumes[0].clone()),
        Resume::default(),
        "no stream knows what polls brought"
    );
    let polls = rig.server.calls("entries");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.server.calls("entries"), polls);
    running.stop().await;
}
