//! Gauges that are read when somebody asks: they cost nothing in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use hardroot_identity::TrustDomain;
use hardroot_runtime::clock::Clock;
use hardroot_telemetry::gauge;
use hardroot_telemetry::token::{self, TokenFacts};
use hardroot_transport::ListenStats;

use crate::authority::Signer;
use crate::authority::slots::unix_seconds;
use crate::entries::AuthorizedEntries;

/// A moment that somebody knows, if there is one.
pub type Moment = Box<dyn Fn() -> Option<SystemTime> + Send + Sync>;

/// What the gauges are read from.
pub struct Gauges {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The token.
    pub token: Arc<TokenFacts>,
    /// The active authority.
    pub signer: Arc<Signer>,
    /// Entries in memory.
    pub entries: Arc<AuthorizedEntries>,
    /// When the server's own SVID ends.
    pub svid_end: Moment,
    /// When the bundle was last read.
    pub bundle_read: Moment,
    /// When an authority was last put into the bundle.
    pub bundle_published: Moment,
    /// Whether the server is ready.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
    /// Each listener's name and counters.
    pub listeners: Vec<(&'static str, Arc<ListenStats>)>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// When the server started.
    pub began: SystemTime,
}

impl Gauges {
    /// Sets them all.
    pub fn read(&self) {
        let now = self.clock.now();
        let id = self.trust_domain.id().to_string();
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("trust_domain_id", id.as_str())];
        gauge("started", 1.0, &labels);
        gauge("uptime_in_ms", seconds(now, self.began) * 1000.0, &[]);
        token::tell(&self.token, now);
        self.signer.queue().tell();
        if let Some((_, end)) = self.signer.active_until() {
            let left = seconds(end, now);
            gauge("hardroot.authority.remaining_seconds", left, &[]);
            let of = [("trust_domain_id", id.as_str())];
            #[expect(clippy::cast_precision_loss, reason = "what Prometheus reads is a double anyway")]
            gauge("manager.x509_ca.rotate.expiration", unix_seconds(end) as f64, &of);
            gauge("manager.x509_ca.rotate.ttl", left, &of);
        }
        if let Some(end) = (self.svid_end)() {
            gauge("hardroot.server_svid.remaining_seconds", seconds(end, now), &[]);
        }
        if let Some(at) = (self.bundle_read)() {
            gauge("hardroot.bundle.last_read_seconds", seconds(now, at), &[]);
        }
        if let Some(at) = (self.bundle_published)() {
            gauge("hardroot.bundle.last_publication_seconds", seconds(now, at), &[]);
        }
        gauge("hardroot.ready", f64::from(u8::from((self.ready)())), &[]);
        let (entries, agents) = (self.entries.len(), self.entries.agents());
        #[expect(clippy::cast_precision_loss, reason = "what Prometheus reads is a double anyway")]
        {
            gauge("entry.entries_by_entryid_cache.count", entries as f64, &[]);
            gauge("node.agents_by_id_cache.count", agents as f64, &[]);
            gauge("hardroot.sync.streams", self.entries.followers() as f64, &[]);
            let drift = self.entries.last_check().map_or(0, |checked| checked.drift.len());
            gauge("hardroot.entries.drift", drift as f64, &[]);
        }
        for (listener, stats) in &self.listeners {
            tell_listener(listener, stats);
        }
    }
}

/// The listener's own counters, brought over as they are.
fn tell_listener(listener: &'static str, stats: &ListenStats) {
    let (accepted, failed) = (&stats.accepted, &stats.failed_handshakes);
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    metrics::counter!("hardroot.connections.accepted", "listener" => listener).absolute(load(accepted));
    metrics::counter!("hardroot.connections.refused", "listener" => listener).absolute(load(&stats.refused));
    metrics::counter!("hardroot.accept.errors", "listener" => listener).absolute(load(&stats.accept_errors));
    if listener == "tls" {
        metrics::counter!("hardroot.tls.handshakes", "result" => "ok").absolute(load(accepted));
        metrics::counter!("hardroot.tls.handshakes", "result" => "failed").absolute(load(failed));
    }
}

/// Seconds from `earlier` to `later`; negative when they are the other way round.
fn seconds(later: SystemTime, earlier: SystemTime) -> f64 {
    match later.duration_since(earlier) {
        Ok(since) => since.as_secs_f64(),
        Err(error) => -error.duration().as_secs_f64(),
    }
}
