//! A server whose place another process takes.

use hardroot_runtime::clock::ManualClock;
use hardroot_runtime::shutdown::Shutdown;

use super::*;
use crate::datastore::Lease;
use crate::instance::{LEASE, LeaseError, RENEW_LEASE};

/// Writes another process's lease over the one of the server that runs in `place`.
async fn take_from(place: &Place, clock: &ManualClock) {
    let instance = instance_id(&place.path("data")).unwrap();
    let store = SqlStore::open_file(place.path("server.sqlite3")).await.unwrap();
    let later = clock.now() + LEASE * 2;
    let other = Lease {
        instance,
        nonce: "another".to_owned(),
        machine: "elsewhere".to_owned(),
        pid: 4711,
        started: 1,
        token: String::new(),
        authority_id: String::new(),
        expires_at: later + Duration::from_secs(24 * 3600),
    };
    assert_eq!(store.take_lease(&other, None, later).await.unwrap(), None);
    store.close().await;
}

/// Jobs of a server that wait for the clock between two rounds.
const JOBS: usize = 6;

/// Lets the jobs come round, each time when all of them wait for the clock, until the server has seen it.
async fn until_seen(clock: &ManualClock, seen: impl AsyncFn() -> bool) {
    let seen = async {
        while !seen().await {
            if clock.sleepers() >= JOBS {
                clock.advance(RENEW_LEASE);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it is seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_place_is_taken_is_not_ready_and_signs_nothing() {
    let place = Place::with_disk_keys();
    let clock = ManualClock::new(std::time::SystemTime::now());
    let started = RunningServer::start(place.config(), Arc::new(clock.clone()), place.log.clone());
    let server = Box::pin(started).await.unwrap();
    let holder = Holder::new().await;
    let mint = async || {
        let csr = holder.csr(Some("spiffe://example.org/job")).await;
        SvidClient::new(admin(&server).await).mint_x509svid(MintX509svidRequest { csr, ttl: 60 }).await
    };
    mint().await.unwrap();
    assert!(is_serving(&server).await);
    let keys = std::fs::read(place.path("keys.json")).unwrap();

    take_from(&place, &clock).await;
    until_seen(&clock, async || !server.tenancy.is_held() && !is_serving(&server).await).await;
    let lost = server.tenancy.lost().await;
    assert!(matches!(lost, LeaseError::Lost { pid: 4711, .. }), "{lost}");
    until_seen(&clock, async || mint().await.is_err()).await;
    // Not even the rotation that is due makes a key.
    clock.advance(Duration::from_secs(20 * 3600));
    let due = clock.now();
    until_seen(&clock, async || server.health.bundle_read_at() > due).await;
    assert_eq!(std::fs::read(place.path("keys.json")).unwrap(), keys);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_a_code_of_its_own() {
    let place = Place::with_disk_keys();
    let clock = ManualClock::new(std::time::SystemTime::now());
    let options = RunOptions {
        config: place.config(),
        clock: Arc::new(clock.clone()),
        log: place.log.clone(),
        shutdown: Shutdown::new(),
        reloads: Reloads {
            requests: tokio::sync::mpsc::channel(1).1,
            load: Box::new(|| panic!("nobody asks")),
            log: place.log.clone(),
            running: reload::Settings::default(),
        },
    };
    let running = tokio::spawn(Box::pin(run(options)));
    let up = tokio::time::timeout(Duration::from_secs(30), clock.until_asleep(JOBS));
    up.await.expect("it starts");
    take_from(&place, &clock).await;
    until_seen(&clock, async || running.is_finished()).await;
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 10, "{error}");
}
