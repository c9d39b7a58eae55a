//! How the server is: the one source for gRPC health on the admin socket and for the HTTP listener.
//!
//! Nothing here asks the token for anything, unless a probe is wanted: what health says of it is what the last
//! signature said, and how long ago that was. The server renews its own SVID at half life, so with the default of
//! an hour a token that went away is noticed within half an hour even when nobody wants a certificate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hardroot_hsm_keymanager::Custody;
use hardroot_identity::{Bundle, X509Svid};
use hardroot_runtime::clock::Clock;
use hardroot_telemetry::health::{Healthy, Part};
use hardroot_telemetry::token::TokenFacts;
use hardroot_transport::IdentitySlot;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};
use tracing::{info, warn};

use crate::attest::chain;
use crate::authority::slots::{CaFacts, authority_id, unix_seconds};
use crate::authority::{ServerSvid, Signer};
use crate::datastore::{Datastore, Entries};
use crate::endpoints::BundleCache;

/// A probe is made at most this often; whoever asks in between is told of the last one.
const PROBE_PAUSE: Duration = Duration::from_secs(10);
/// A probe that takes longer has failed.
const PROBE_DEADLINE: Duration = Duration::from_secs(15);
/// The database is asked at most this often for health.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// The database must answer within this time.
const DATABASE_DEADLINE: Duration = Duration::from_secs(3);

/// What health looks at.
pub(super) struct Subjects {
    pub(super) signing: watch::Receiver<bool>,
    /// Whether this process is the server instance.
    pub(super) lease: watch::Receiver<bool>,
    pub(super) token: Arc<TokenFacts>,
    pub(super) custody: Custody,
    pub(super) signer: Arc<Signer>,
    pub(super) svid: Arc<ServerSvid>,
    pub(super) identity: IdentitySlot,
    pub(super) bundles: Arc<BundleCache>,
    /// When an authority was last put into the bundle.
    pub(super) published_at: watch::Receiver<Option<SystemTime>>,
    pub(super) store: Arc<dyn Datastore>,
    pub(super) clock: Arc<dyn Clock>,
}

/// How the last round of the authority's job went.
#[derive(Clone)]
struct Round {
    at: SystemTime,
    fine: bool,
}

type Outcome = Option<(SystemTime, Result<(), String>)>;

struct Shared {
    of: Subjects,
    began: SystemTime,
    reporter: HealthReporter,
    open: AtomicBool,
    ready: AtomicBool,
    alive: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    round: Mutex<Round>,
    bundle_read: Mutex<SystemTime>,
    database: tokio::sync::Mutex<Outcome>,
    probed: tokio::sync::Mutex<Outcome>,
}

/// Health of this server; a cheap handle.
#[derive(Clone)]
pub(super) struct Health {
    shared: Arc<Shared>,
}

impl Health {
    /// Not ready yet; the gRPC service to serve.
    pub(super) async fn new(of: Subjects) -> (Self, HealthServer<impl HealthApi>) {
        let (reporter, service) = health_reporter();
        reporter.set_service_status("", ServingStatus::NotServing).await;
        let now = of.clock.now();
        let shared = Shared {
            of,
            began: now,
            reporter,
            open: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            alive: OnceLock::new(),
            round: Mutex::new(Round { at: now, fine: true }),
            bundle_read: Mutex::new(now),
            database: tokio::sync::Mutex::default(),
            probed: tokio::sync::Mutex::default(),
        };
        (Self { shared: Arc::new(shared) }, service)
    }

    /// The endpoints are open; `alive` says whether they still are.
    pub(super) async fn ready(&self, alive: impl Fn() -> bool + Send + Sync + 'static) {
        // Said once, at the start.
        drop(self.shared.alive.set(Box::new(alive)));
        self.shared.open.store(true, Ordering::Relaxed);
        self.tell().await;
    }

    /// A rotation round went well, or not.
    pub(super) async fn rotation(&self, fine: bool) {
        *lock(&self.shared.round) = Round { at: self.now(), fine };
        self.tell().await;
    }

    /// The bundles were read from the database.
    pub(super) fn bundle_read(&self) {
        *lock(&self.shared.bundle_read) = self.now();
    }

    /// When the bundles were last read.
    pub(super) fn bundle_read_at(&self) -> SystemTime {
        *lock(&self.shared.bundle_read)
    }

    /// Follows the key manager and the lease until the signer is gone.
    pub(super) async fn follow(self) {
        let (mut signing, mut lease) = (self.shared.of.signing.clone(), self.shared.of.lease.clone());
        loop {
            let changed = tokio::select! {
                changed = signing.changed() => changed,
                changed = lease.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            self.tell().await;
        }
    }

    /// Whether the key manager's last operation succeeded.
    pub(super) fn signs(&self) -> bool {
        *self.shared.of.signing.borrow() && self.shared.of.token.known().failing.is_none()
    }

    /// Whether the server was ready when that was last looked at: at most ten seconds ago.
    pub(super) fn was_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Relaxed)
    }

    /// The server is going away.
    pub(super) async fn stopping(&self) {
        self.shared.open.store(false, Ordering::Relaxed);
        self.shared.ready.store(false, Ordering::Relaxed);
        self.shared.reporter.set_service_status("", ServingStatus::NotServing).await;
    }

    fn now(&self) -> SystemTime {
        self.shared.of.clock.now()
    }

    /// Looks at everything, and tells gRPC and, when it changed, the log.
    async fn tell(&self) {
        let parts = self.parts(false).await;
        let ready = parts.iter().all(|part| part.ready);
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.shared.reporter.set_service_status("", status).await;
        if self.shared.ready.swap(ready, Ordering::Relaxed) != ready {
            if ready {
                info!("the server is ready");
            } else {
                for part in parts.iter().filter(|part| !part.ready) {
                    let why = part.details.get("message").and_then(Value::as_str).unwrap_or_default();
                    warn!(check = part.name, error = why, "the server is not ready");
                }
            }
        }
    }

    fn server(&self) -> Part {
        let open = self.shared.open.load(Ordering::Relaxed);
        let alive = self.shared.alive.get().is_none_or(|alive| alive());
        let held = *self.shared.of.lease.borrow();
        let message = match (open, alive) {
            (_, false) => Some("an endpoint is served no more; see the log"),
            _ if !held => Some("another process took over this server instance; see the log"),
            (false, true) => Some("the endpoints are not open"),
            (true, true) => None,
        };
        let mut part = Part::new(
            "server",
            open && alive && held,
            json!({ "version": env!("CARGO_PKG_VERSION"), "uptime_seconds": seconds(self.now(), self.shared.began) }),
        );
        part.live = alive;
        say(&mut part.details, message.map(ToOwned::to_owned));
        part
    }

    fn ca(&self, probed: Option<Result<(), String>>) -> Part {
        let of = &self.shared.of;
        let (now, known, custody) = (self.now(), of.token.known(), &of.custody);
        let mut details = Map::new();
        details.insert("key_manager".to_owned(), json!(custody.backend));
        details.insert("keys_in_hardware".to_owned(), json!(custody.hardware));
        if let Some(at) = known.last_signature {
            details.insert("last_signature_age_seconds".to_owned(), json!(seconds(now, at)));
        }
        let mut message = None;
        match of.signer.active_until() {
            None => message = Some("no X.509 authority is active".to_owned()),
            Some((authority_id, end)) => {
                details.insert("authority_id".to_owned(), json!(authority_id));
                details.insert("authority_expires_at".to_owned(), json!(unix_seconds(end)));
                details.insert("authority_remaining_seconds".to_owned(), json!(seconds(end, now)));
                if end <= now {
                    message = Some(format!("the active X.509 authority {authority_id} has expired"));
                }
            }
        }
        if let Some(end) = served_until(&of.identity) {
            details.insert("server_svid_remaining_seconds".to_owned(), json!(seconds(end, now)));
        }
        if let Some((since, why)) = known.failing {
            details.insert("failing_seconds".to_owned(), json!(seconds(now, since)));
            message = Some(why);
        } else if !*of.signing.borrow() {
            message = Some("the last signature failed; see the log".to_owned());
        }
        if let Some(probed) = probed {
            details.insert("probed".to_owned(), json!(true));
            if let Err(why) = probed {
                message = Some(why);
            }
        }
        let ready = message.is_none();
        say(&mut details, message);
        Part::new("server.ca", ready, Value::Object(details))
    }

    fn rotator(&self) -> Part {
        let round = lock(&self.shared.round).clone();
        let mut details = Map::new();
        details.insert("last_round_age_seconds".to_owned(), json!(seconds(self.now(), round.at)));
        say(&mut details, (!round.fine).then(|| "the last round failed; see the log".to_owned()));
        Part::new("server.ca.rotator", round.fine, Value::Object(details))
    }

    fn bundle(&self) -> Part {
        let (of, now) = (&self.shared.of, self.now());
        let own = of.bundles.own();
        let mut details = Map::new();
        if let Some(bundle) = &own {
            details.insert("x509_authorities".to_owned(), json!(bundle.x509_authorities.len()));
            details.insert("sequence_number".to_owned(), json!(bundle.sequence_number));
        }
        details.insert("last_read_age_seconds".to_owned(), json!(seconds(now, self.bundle_read_at())));
        if let Some(at) = *of.published_at.borrow() {
            details.insert("last_publication_age_seconds".to_owned(), json!(seconds(now, at)));
        }
        let message = match (&own, of.signer.authority_id()) {
            (None, _) => Some("the trust domain has no bundle".to_owned()),
            (Some(bundle), Some(active)) if !holds(bundle, &active) => {
                Some(format!("the bundle does not hold the active X.509 authority {active}"))
            }
            _ => None,
        };
        let ready = message.is_none();
        say(&mut details, message);
        Part::new("server.bundle", ready, Value::Object(details))
    }

    async fn datastore(&self) -> Part {
        let mut known = self.shared.database.lock().await;
        let now = self.now();
        let fresh = known.as_ref().is_some_and(|(at, _)| is_recent(now, *at, DATABASE_PAUSE));
        if !fresh {
            let asked = Entries::entries_version(&*self.shared.of.store);
            let outcome = match tokio::time::timeout(DATABASE_DEADLINE, asked).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(chain(&error)),
                Err(_elapsed) => Err(format!("no answer within {} s", DATABASE_DEADLINE.as_secs())),
            };
            *known = Some((now, outcome));
        }
        let failure = known.as_ref().and_then(|(_, outcome)| outcome.clone().err());
        let ready = failure.is_none();
        let mut details = Map::new();
        say(&mut details, failure);
        Part::new("catalog.datastore", ready, Value::Object(details))
    }

    /// A signature that nobody gets.
    async fn probe(&self) -> Result<(), String> {
        let mut known = self.shared.probed.lock().await;
        let now = self.now();
        if let Some((at, outcome)) = &*known
            && is_recent(now, *at, PROBE_PAUSE)
        {
            return outcome.clone();
        }
        let outcome = match tokio::time::timeout(PROBE_DEADLINE, self.shared.of.svid.probe()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_elapsed) => Err(format!("no signature within {} s", PROBE_DEADLINE.as_secs())),
        };
        *known = Some((now, outcome.clone()));
        outcome
    }
}

#[async_trait]
impl Healthy for Health {
    async fn parts(&self, probe: bool) -> Vec<Part> {
        let probed = if probe { Some(self.probe().await) } else { None };
        vec![self.server(), self.ca(probed), self.rotator(), self.bundle(), self.datastore().await]
    }
}

/// When the SVID in the slot ends.
pub(super) fn served_until(identity: &IdentitySlot) -> Option<SystemTime> {
    let chain = identity.load().as_ref().map(|identity| identity.chain.clone())?;
    X509Svid::parse(chain).ok().map(|svid| svid.not_after)
}

/// Whether a bundle holds an X.509 authority.
fn holds(bundle: &Bundle, authority: &str) -> bool {
    let mut known = bundle.x509_authorities.iter().filter_map(|one| CaFacts::of(&one.der));
    known.any(|facts| authority_id(&facts.spki_der) == authority)
}

fn say(details: &mut Map<String, Value>, message: Option<String>) {
    if let Some(message) = message {
        details.insert("message".to_owned(), Value::String(message));
    }
}

/// Whole seconds from `earlier` to `later`; negative when they are the other way round.
fn seconds(later: SystemTime, earlier: SystemTime) -> i64 {
    match later.duration_since(earlier) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(error) => i64::try_from(error.duration().as_secs()).map_or(i64::MIN, |back| -back),
    }
}

/// A clock that was set back makes nothing recent.
fn is_recent(now: SystemTime, at: SystemTime, within: Duration) -> bool {
    now.duration_since(at).is_ok_and(|age| age < within)
}

/// What is behind these locks is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
