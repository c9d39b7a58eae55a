//! One metric with one set of labels: its value, and the datagrams that tell of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metrics::{CounterFn, GaugeFn, HistogramFn};

use crate::quantiles::Quantiles;
use crate::statsd::Outlet;

/// What kind of metric a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Summary,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
        }
    }

    fn statsd(self) -> &'static str {
        match self {
            Self::Counter => "c",
            Self::Gauge => "g",
            Self::Summary => "ms",
        }
    }
}

enum Value {
    Counter(AtomicU64),
    Gauge(AtomicU64),
    Summary(Mutex<Quantiles>),
}

/// A series.
pub(crate) struct Series {
    pub(crate) kind: Kind,
    /// SPIRE's parts joined by dots, without a prefix.
    pub(crate) key: String,
    /// As Prometheus knows it.
    pub(crate) name: String,
    /// Sanitised, sorted by name.
    pub(crate) labels: Vec<(String, String)>,
    value: Value,
    outlets: Vec<(Arc<Outlet>, Head)>,
}

/// What stands before and after the value in a datagram's line.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) tags: String,
}

/// What a summary holds.
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) sum: f64,
    /// Quantile and value; none when nothing was observed lately.
    pub(crate) quantiles: Vec<(&'static str, f64)>,
}

impl Series {
    pub(crate) fn new(
        kind: Kind,
        key: String,
        name: String,
        labels: Vec<(String, String)>,
        outlets: Vec<(Arc<Outlet>, Head)>,
    ) -> Self {
        let value = match kind {
            Kind::Counter => Value::Counter(AtomicU64::new(0)),
            Kind::Gauge => Value::Gauge(AtomicU64::new(0)),
            Kind::Summary => Value::Summary(Mutex::default()),
        };
        Self { kind, key, name, labels, value, outlets }
    }

    /// A counter's or gauge's value; a summary's sum.
    pub(crate) fn number(&self) -> f64 {
        match &self.value {
            #[expect(clippy::cast_precision_loss, reason = "what Prometheus reads is a double anyway")]
            Value::Counter(count) => count.load(Ordering::Relaxed) as f64,
            Value::Gauge(bits) => f64::from_bits(bits.load(Ordering::Relaxed)),
            Value::Summary(quantiles) => quantiles.lock().unwrap_or_else(PoisonError::into_inner).sum(),
        }
    }

    /// A summary, as of `now`.
    pub(crate) fn summary(&self, now: Instant) -> Option<Summary> {
        let Value::Summary(quantiles) = &self.value else { return None };
        // A poisoned lock only means that another thread panicked between two additions.
        let mut quantiles = quantiles.lock().unwrap_or_else(PoisonError::into_inner);
        Some(quantiles.read(now))
    }

    fn tell(&self, value: f64) {
        for (outlet, head) in &self.outlets {
            outlet.send(format!("{}:{value}|{}{}", head.name, self.kind.statsd(), head.tags));
        }
    }

    fn set_to(&self, value: f64) {
        if let Value::Gauge(bits) = &self.value {
            bits.store(value.to_bits(), Ordering::Relaxed);
            self.tell(value);
        }
    }

    fn add(&self, delta: f64) {
        if let Value::Gauge(bits) = &self.value {
            let add = |old: u64| Some((f64::from_bits(old) + delta).to_bits());
            // The closure never refuses, so this never fails.
            let old = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or_default();
            self.tell(f64::from_bits(old) + delta);
        }
    }
}

impl CounterFn for Series {
    fn increment(&self, by: u64) {
        if let Value::Counter(count) = &self.value {
            count.fetch_add(by, Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "steps are small")]
            self.tell(by as f64);
        }
    }

    fn absolute(&self, value: u64) {
        if let Value::Counter(count) = &self.value {
            let before = count.fetch_max(value, Ordering::Relaxed);
            let step = value.saturating_sub(before);
            if step > 0 {
                #[expect(clippy::cast_precision_loss, reason = "steps are small")]
                self.tell(step as f64);
            }
        }
    }
}

impl GaugeFn for Series {
    fn increment(&self, by: f64) {
        self.add(by);
    }

    fn decrement(&self, by: f64) {
        self.add(-by);
    }

    fn set(&self, value: f64) {
        self.set_to(value);
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        if let Value::Summary(quantiles) = &self.value {
            quantiles.lock().unwrap_or_else(PoisonError::into_inner).observe(value, Instant::now());
            self.tell(value);
        }
    }
}
