//! Leases and key records, with processes that die, copies that start, and a token that outlives them.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hardroot_hsm_keymanager::{KeyError, KeyId, KeyManager, KeyType};
use hardroot_runtime::clock::{Clock, ManualClock};

use super::lease::Process;
use super::*;
use crate::authority::testing::{DAY, HOUR, Site, Steps, StoreSession, config};
use crate::authority::{Authority, IssueError, JwtIssueError};
use crate::datastore::{KeyRecord, KeyRecords, KeyState, Lease, StoreError};

const ID: &str = "6b0f6a0e-0000-4000-8000-000000000001";

async fn take(site: &Site, process: Process) -> Result<Tenancy, LeaseError> {
    let (store, clock) = (Arc::new(site.store.clone()), Arc::new(site.clock.clone()));
    Tenancy::take_as(store, clock, ID.to_owned(), "token".to_owned(), process).await
}

fn elsewhere(nonce: &str) -> Process {
    Process::made_up(nonce, &format!("the machine of {nonce}"), 1, 1)
}

/// Lets a waiting task go to sleep on the clock.
async fn until_asleep(clock: &ManualClock) {
    tokio::time::timeout(Duration::from_secs(20), clock.until_asleep(1)).await.expect("somebody waits");
}

#[test]
fn an_instance_id_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let id = instance_id(directory.path()).unwrap();
    assert_eq!(instance_id(directory.path()).unwrap(), id);
    let file = directory.path().join("server-id");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let other = tempfile::tempdir().unwrap();
    assert_ne!(instance_id(other.path()).unwrap(), id);
}

#[tokio::test]
async fn a_copy_of_a_living_server_is_refused() {
    let site = Site::new().await;
    let first = take(&site, elsewhere("one")).await.unwrap();
    let (clock, copy_site) = (site.clock.clone(), site.neighbour());
    let copy = tokio::spawn(async move { take(&copy_site, elsewhere("two")).await.map(drop) });
    for _ in 0..4 {
        until_asleep(&clock).await;
        clock.advance(RENEW_LEASE);
        first.renew("").await;
        tokio::task::yield_now().await;
    }
    let refused = copy.await.unwrap().unwrap_err();
    assert!(matches!(refused, LeaseError::Held { pid: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("server-id"), "{refused}");
    assert_eq!(crate::run::RunError::Lease(refused).exit_code(), 10);
    assert!(*first.held().borrow());
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_and_the_former_holder_signs_no_more() {
    let site = Site::new().await;
    let authority = site.start().await;
    let signer = authority.signer();
    let first = take(&site, elsewhere("one")).await.unwrap();
    site.clock.advance(LEASE);
    let second = take(&site, elsewhere("two")).await.unwrap();
    first.renew("").await;
    assert!(!*first.held().borrow() && *second.held().borrow());
    signer.suspend(true);
    let refused = crate::authority::tests::issue(&authority).await;
    assert!(matches!(refused, Err(IssueError::Suspended)));
    let refused = crate::authority::tests::issue_jwt(&authority, HOUR).await;
    assert!(matches!(refused, Err(JwtIssueError::Suspended)));
    let lost = first.lost().await;
    assert!(matches!(&lost, LeaseError::Lost { machine, .. } if machine.ends_with("two")), "{lost}");
    assert_eq!(crate::run::RunError::Lease(lost).exit_code(), 10);
    // The copy goes away: what the former holder knows is old, so it is the instance again when it starts anew.
    second.release().await;
    first.renew("").await;
    assert!(!*first.held().borrow());
    take(&site, elsewhere("one, again")).await.unwrap();
}

#[tokio::test]
async fn a_lease_counts_as_held_while_the_database_is_away() {
    let site = Site::new().await;
    let store = Arc::new(Failing::new(&site.store));
    let clock: Arc<dyn Clock> = Arc::new(site.clock.clone());
    let records: Arc<dyn KeyRecords> = Arc::clone(&store) as Arc<dyn KeyRecords>;
    let first =
        Tenancy::take_as(records, clock, ID.to_owned(), String::new(), elsewhere("one")).await.unwrap();
    store.away.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        site.clock.advance(RENEW_LEASE);
        first.renew("").await;
        assert!(first.is_held(), "it ended, and nobody else can have it");
    }
    first.release().await;
    store.away.store(false, Ordering::SeqCst);
    first.renew("").await;
    assert!(first.is_held());
    let holder = site.store.take_lease(&made_up_lease(&site), None, site.clock.now()).await.unwrap();
    assert_eq!(holder.map(|holder| holder.nonce), Some("one".to_owned()), "renewed, not given back");
}

/// What another process would write.
fn made_up_lease(site: &Site) -> Lease {
    Lease {
        instance: ID.to_owned(),
        nonce: "nonce".to_owned(),
        machine: String::new(),
        pid: 1,
        started: 1,
        token: String::new(),
        authority_id: String::new(),
        expires_at: site.clock.now() + LEASE,
    }
}

#[tokio::test]
async fn a_process_of_this_machine_that_is_gone_is_followed_at_once() {
    let site = Site::new().await;
    let here = Process::real();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = Process::made_up("dead", &here.machine, child.id(), 1);
    child.wait().unwrap();
    take(&site, dead).await.unwrap();
    take(&site, Process::real()).await.unwrap();
    // A process id that was given to another process since is gone too.
    let site = Site::new().await;
    take(&site, Process::made_up("reused", &here.machine, here.pid, here.started + 1)).await.unwrap();
    take(&site, Process::real()).await.unwrap();
    // Dead, and not yet reaped by its parent.
    let site = Site::new().await;
    let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let since = super::lease::started(child.id()).unwrap();
    take(&site, Process::made_up("zombie", &here.machine, child.id(), since)).await.unwrap();
    child.kill().unwrap();
    let gone = async {
        while super::lease::started(child.id()).is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it dies");
    take(&site, Process::real()).await.unwrap();
    child.wait().unwrap();
    // This process, which starts its server again without having stopped it in order.
    take(&site, Process::real()).await.unwrap();
    // Another one that lives is not gone.
    let site = Site::new().await;
    let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let since = super::lease::started(child.id()).unwrap();
    take(&site, Process::made_up("alive", &here.machine, child.id(), since)).await.unwrap();
    let (clock, neighbour) = (site.clock.clone(), site.neighbour());
    let waiting = tokio::spawn(async move { take(&neighbour, Process::real()).await.map(drop) });
    until_asleep(&clock).await;
    assert!(!waiting.is_finished());
    waiting.abort();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_lease_given_back_is_free_and_nobody_elses_is_given_back() {
    let site = Site::new().await;
    let first = take(&site, elsewhere("one")).await.unwrap();
    first.release().await;
    let second = take(&site, elsewhere("two")).await.unwrap();
    first.release().await;
    second.renew("").await;
    first.renew("").await;
    assert!(*second.held().borrow() && !*first.held().borrow());
}

/// Records whose commits fail, and leases that cannot be asked for, when told.
struct Failing {
    store: crate::datastore::SqlStore,
    commits_fail: AtomicBool,
    away: AtomicBool,
}

impl Failing {
    fn new(store: &crate::datastore::SqlStore) -> Self {
        Self { store: store.clone(), commits_fail: AtomicBool::new(false), away: AtomicBool::new(false) }
    }

    fn reach(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Away { op: "lease", cause: "away".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl KeyRecords for Failing {
    async fn take_lease(
        &self,
        lease: &Lease,
        replacing: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<Lease>, StoreError> {
        self.reach()?;
        self.store.take_lease(lease, replacing, now).await
    }
    async fn release_lease(&self, instance: &str, nonce: &str) -> Result<(), StoreError> {
        self.reach()?;
        self.store.release_lease(instance, nonce).await
    }
    async fn intend_key(&self, record: &KeyRecord) -> Result<i64, StoreError> {
        self.store.intend_key(record).await
    }
    async fn key_made(&self, row: i64, spki_sha256: &str) -> Result<(), StoreError> {
        if self.commits_fail.load(Ordering::SeqCst) {
            return Err(StoreError::Database { op: "commit", cause: "killed".into() });
        }
        self.store.key_made(row, spki_sha256).await
    }
    async fn key_retired(&self, instance: &str, key_id: &str) -> Result<(), StoreError> {
        self.store.key_retired(instance, key_id).await
    }
    async fn key_records(&self, instance: &str) -> Result<Vec<KeyRecord>, StoreError> {
        self.store.key_records(instance).await
    }
    async fn prune_key_records(&self, before: SystemTime) -> Result<(), StoreError> {
        self.store.prune_key_records(before).await
    }
}

async fn recorded(site: &Site, per_hour: usize) -> RecordedKeys {
    let keys = site.keys(&Steps::immortal());
    let (store, clock) = (Arc::new(site.store.clone()), Arc::new(site.clock.clone()));
    RecordedKeys::open(keys, store, clock, ID.to_owned(), per_hour).await.unwrap()
}

async fn records(site: &Site) -> Vec<(String, KeyState)> {
    let all = site.store.key_records(ID).await.unwrap();
    all.into_iter().map(|record| (record.key_id, record.state)).collect()
}

fn id(name: &str) -> KeyId {
    KeyId::new(name).unwrap()
}

#[tokio::test]
async fn a_key_made_before_its_commit_is_adopted() {
    let site = Site::new().await;
    let failing = Arc::new(Failing::new(&site.store));
    failing.commits_fail.store(true, Ordering::SeqCst);
    let keys = site.keys(&Steps::immortal());
    let clock: Arc<dyn Clock> = Arc::new(site.clock.clone());
    let first = RecordedKeys::open(keys, failing, clock, ID.to_owned(), 10).await.unwrap();
    first.generate(&id("x509-CA-A"), KeyType::EcP256).await.unwrap_err();
    assert_eq!(records(&site).await, [("x509-CA-A".to_owned(), KeyState::Intent)]);
    assert_eq!(site.generated(), 1, "the object is there");

    let second = Arc::new(recorded(&site, 10).await);
    assert_eq!(records(&site).await, [("x509-CA-A".to_owned(), KeyState::Present)]);
    let stored = site.store.key_records(ID).await.unwrap();
    assert_eq!(stored[0].spki_sha256.len(), 64);
    // The authority goes on with it: no second key.
    let store = StoreSession { store: site.store.clone(), steps: Steps::immortal(), forgets_bundles: false };
    let authority =
        Authority::start(config(), second, Arc::new(store), Arc::new(site.clock.clone())).await.unwrap();
    assert_eq!(site.generated(), 1);
    crate::authority::tests::issue(&authority).await.unwrap();
}

#[tokio::test]
async fn records_outlive_keys_that_are_not_seen_and_keys_get_records() {
    let site = Site::new().await;
    let keys = recorded(&site, 10).await;
    keys.generate(&id("x509-CA-A"), KeyType::EcP256).await.unwrap();
    // Another token, or none of its objects visible now.
    recorded(&site.neighbour(), 10).await;
    assert_eq!(records(&site).await, [("x509-CA-A".to_owned(), KeyState::Present)]);
    // A key of an earlier version, without a record.
    site.token_keys().generate(&id("x509-CA-B"), KeyType::EcP256).await.unwrap();
    recorded(&site, 10).await;
    let both = [("x509-CA-A".to_owned(), KeyState::Present), ("x509-CA-B".to_owned(), KeyState::Present)];
    assert_eq!(records(&site).await, both);
    // Replaced and destroyed keys are retired.
    keys.generate(&id("x509-CA-A"), KeyType::EcP256).await.unwrap();
    keys.destroy(&id("x509-CA-B")).await.unwrap();
    let states: Vec<KeyState> = records(&site).await.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [KeyState::Retired, KeyState::Retired, KeyState::Present]);
}

#[tokio::test]
async fn keys_made_in_a_loop_are_stopped() {
    let site = Site::new().await;
    let keys = recorded(&site, 3).await;
    for _ in 0..3 {
        keys.generate(&id("x509-CA-A"), KeyType::EcP256).await.unwrap();
    }
    let refused = keys.generate(&id("x509-CA-A"), KeyType::EcP256).await.unwrap_err();
    assert!(matches!(refused, KeyError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("3 keys were made within the last hour"), "{refused}");
    // A restart is no way around it; an hour later it goes on.
    let keys = recorded(&site, 3).await;
    keys.generate(&id("x509-CA-A"), KeyType::EcP256).await.unwrap_err();
    assert_eq!(site.generated(), 3);
    site.clock.advance(HOUR);
    keys.generate(&id("x509-CA-A"), KeyType::EcP256).await.unwrap();
}

#[test]
fn rotation_fits_into_the_limit() {
    assert_eq!(keys_per_hour(DAY), 18);
    assert_eq!(keys_per_hour(Duration::from_secs(120)), 372, "three keys a minute are 180");
    assert!(keys_per_hour(Duration::ZERO) > 1000);
}

#[tokio::test]
async fn only_old_keys_that_nothing_refers_to_are_destroyed() {
    let site = Site::new().await;
    let keys = Arc::new(recorded(&site, 100).await);
    let store = StoreSession { store: site.store.clone(), steps: Steps::immortal(), forgets_bundles: false };
    let shared: Arc<dyn KeyManager> = Arc::clone(&keys) as Arc<dyn KeyManager>;
    let authority =
        Authority::start(config(), shared, Arc::new(store), Arc::new(site.clock.clone())).await.unwrap();
    keys.generate(&id("JWT-Signer-B"), KeyType::EcP256).await.unwrap();
    keys.generate(&id("server-svid-A"), KeyType::EcP256).await.unwrap();
    keys.generate(&id("somebody-elses"), KeyType::EcP256).await.unwrap();
    let names = async || {
        let all = keys.list().await.unwrap();
        all.into_iter().map(|key| key.id.to_string()).collect::<Vec<_>>()
    };
    let all = ["JWT-Signer-A", "JWT-Signer-B", "server-svid-A", "somebody-elses", "x509-CA-A"];
    site.clock.advance(DAY * 2);
    keys.reap(&authority, DAY * 2).await.unwrap();
    assert_eq!(names().await, all, "not older than the limit");
    site.clock.advance(Duration::from_secs(1));
    keys.reap(&authority, DAY * 2).await.unwrap();
    let left = ["JWT-Signer-A", "server-svid-A", "somebody-elses", "x509-CA-A"];
    assert_eq!(names().await, left, "what signs, and what is not ours to judge, stays");
}
