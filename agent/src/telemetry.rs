//! Gauges that are read when somebody asks: they cost nothing in between. Counters and times are emitted where
//! things happen.

use std::sync::Arc;
use std::time::SystemTime;

use hardroot_identity::TrustDomain;
use hardroot_runtime::clock::Clock;
use hardroot_telemetry::gauge;
use hardroot_telemetry::token::{self, TokenFacts};

use crate::cache::Cache;
use crate::health::AgentHealth;
use crate::status::AgentStatus;

/// Stands before SPIRE's metrics unless `MetricPrefix` says otherwise.
pub(crate) const METRIC_PREFIX: &str = "spire_agent";

/// What the gauges are read from.
pub(crate) struct Gauges {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) status: Arc<AgentStatus>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) token: Arc<TokenFacts>,
    pub(crate) health: AgentHealth,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Gauges {
    /// Sets them all.
    #[expect(clippy::cast_precision_loss, reason = "what Prometheus reads is a double anyway")]
    pub(crate) fn read(&self) {
        let now = self.clock.now();
        let id = self.trust_domain.id().to_string();
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("trust_domain_id", id.as_str())];
        gauge("started", 1.0, &labels);
        gauge("uptime_in_ms", self.status.uptime().as_secs_f64() * 1000.0, &[]);
        token::tell(&self.token, now);
        if let Some(end) = self.status.svid_end() {
            gauge("hardroot.agent_svid.remaining_seconds", seconds(end, now), &[]);
        }
        if let Some(at) = self.status.last_sync() {
            gauge("hardroot.sync.age_seconds", seconds(now, at), &[]);
        }
        gauge("hardroot.ready", f64::from(u8::from(self.health.is_ready())), &[]);
        let counts = self.cache.counts();
        let x509 = [("svid_type", "x509")];
        gauge("lru_cache_record_map_size", counts.entries as f64, &x509);
        gauge("lru_cache_svid_map_size", counts.svids as f64, &x509);
        gauge("lru_cache_svid_map_size", counts.tokens as f64, &[("svid_type", "jwt")]);
    }
}

/// Seconds from `earlier` to `later`; negative when they are the other way round.
fn seconds(later: SystemTime, earlier: SystemTime) -> f64 {
    match later.duration_since(earlier) {
        Ok(since) => since.as_secs_f64(),
        Err(error) => -error.duration().as_secs_f64(),
    }
}
