//! Where emissions become series.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};

use crate::filter::Filter;
use crate::prometheus;
use crate::series::{Head, Kind, Series};
use crate::statsd::Outlet;

/// Series at most. Every label comes from a small set, so this is never reached; if a mistake of ours made one grow,
/// memory would still be bounded.
const MOST_SERIES: usize = 4096;

/// Keys that begin so are our own: they get no prefix.
const OWN: &str = "hardroot.";

/// How metrics are named and labelled.
#[derive(Debug, Clone, Default)]
pub struct Naming {
    /// Stands before SPIRE's keys: `MetricPrefix`.
    pub prefix: String,
    /// Value of the label `host`, unless it is switched off.
    pub host: Option<String>,
    /// Value of the label `trust_domain`, when it is switched on.
    pub trust_domain: Option<String>,
}

/// Holds every series; a cheap handle.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

/// What is measured under which name; none where a filter wants it left out.
type AllSeries = HashMap<(Kind, Key), Option<Arc<Series>>>;

struct Shared {
    naming: Naming,
    filter: Filter,
    outlets: Vec<Arc<Outlet>>,
    series: RwLock<AllSeries>,
    dropped: AtomicU64,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("naming", &self.shared.naming).finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder that tells everything, to nobody but who asks.
    #[must_use]
    pub fn new(naming: Naming) -> Self {
        Self::with(naming, Filter::default(), Vec::new())
    }

    pub(crate) fn with(naming: Naming, filter: Filter, outlets: Vec<Arc<Outlet>>) -> Self {
        let shared =
            Shared { naming, filter, outlets, series: RwLock::default(), dropped: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Every series, in the text format of Prometheus (version 0.0.4).
    #[must_use]
    pub fn render(&self) -> String {
        prometheus::render(&self.all(), Instant::now())
    }

    /// Every series with its number, for the log.
    pub(crate) fn all(&self) -> Vec<Arc<Series>> {
        let series = self.shared.series.read().unwrap_or_else(PoisonError::into_inner);
        series.values().flatten().cloned().collect()
    }

    /// Emissions that found no place among the series, and datagrams that found none in their queue.
    pub(crate) fn dropped(&self) -> u64 {
        let datagrams: u64 = self.shared.outlets.iter().map(|outlet| outlet.dropped()).sum();
        self.shared.dropped.load(Ordering::Relaxed) + datagrams
    }

    fn series(&self, kind: Kind, key: &Key) -> Option<Arc<Series>> {
        let place = (kind, key.clone());
        if let Some(known) = self.shared.series.read().unwrap_or_else(PoisonError::into_inner).get(&place) {
            return known.clone();
        }
        let mut all = self.shared.series.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_SERIES && !all.contains_key(&place) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let key = place.1.clone();
        all.entry(place).or_insert_with(|| self.make(kind, &key)).clone()
    }

    fn make(&self, kind: Kind, key: &Key) -> Option<Arc<Series>> {
        let Shared { naming, filter, outlets, .. } = &*self.shared;
        let name = match key.name().starts_with(OWN) || naming.prefix.is_empty() {
            true => key.name().to_owned(),
            false => format!("{}.{}", naming.prefix, key.name()),
        };
        if !filter.allows(&name) {
            return None;
        }
        let mut labels: Vec<(String, String)> =
            key.labels().map(|label| (sanitised(label.key()), sanitised(label.value()))).collect();
        if let Some(trust_domain) = &naming.trust_domain {
            labels.push(("trust_domain".to_owned(), sanitised(trust_domain)));
        }
        if let Some(host) = &naming.host {
            labels.push(("host".to_owned(), host.clone()));
        }
        labels.retain(|(name, _)| filter.allows_label(name));
        let heads = outlets.iter().map(|outlet| (Arc::clone(outlet), outlet.head(&name, &labels))).collect();
        labels.sort();
        let (key, name) = (key.name().to_owned(), prometheus::metric_name(&name));
        Some(Arc::new(Series::new(kind, key, name, labels, heads)))
    }
}

impl metrics::Recorder for Recorder {
    // What a metric means is in `families`, once.
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.series(Kind::Counter, key).map_or_else(Counter::noop, Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.series(Kind::Gauge, key).map_or_else(Gauge::noop, Gauge::from_arc)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.series(Kind::Summary, key).map_or_else(Histogram::noop, Histogram::from_arc)
    }
}

/// A label as SPIRE writes it: runs of what is no letter, digit or underscore become one underscore.
fn sanitised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            continue;
        }
        out.push('_');
        while rest.next_if(|c| !c.is_ascii_alphanumeric() && *c != '_').is_some() {}
        // One underscore of the text itself may follow, and is part of the run.
        let _merged = rest.next_if_eq(&'_');
    }
    out
}

/// The name of a head in a plain StatsD line: label values are further parts.
pub(crate) fn flat(name: &str, labels: &[(String, String)]) -> Head {
    let mut text = name.to_owned();
    for (_, value) in labels {
        text.push('.');
        text.push_str(value);
    }
    let text = text.chars().map(|c| if matches!(c, ':' | ' ' | '|' | '\n') { '_' } else { c }).collect();
    Head { name: text, tags: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Local;
    use crate::{count, gauge};

    #[test]
    fn labels_are_written_as_spire_writes_them() {
        for (text, written) in [
            ("spiffe://example.org", "spiffe_example_org"),
            ("0.1.0", "0_1_0"),
            ("a-_b", "a_b"),
            ("a--__b", "a__b"),
            ("plain_one", "plain_one"),
            ("\"\n\\", "_"),
            ("é", "_"),
        ] {
            assert_eq!(sanitised(text), written, "{text}");
        }
    }

    #[test]
    fn hosts_trust_domains_prefixes_and_filters() {
        let naming = Naming {
            prefix: "fleet".to_owned(),
            host: Some("node-1.example.org".to_owned()),
            trust_domain: Some("example.org".to_owned()),
        };
        let blocked = ["fleet.secret".to_owned()];
        let filter = Filter::new(&[], &blocked, &[], &["status".to_owned()]);
        let local = Local::with(Recorder::with(naming, filter, Vec::new()));
        count("svid.rotate", &[("status", "OK")]);
        count("secret.thing", &[]);
        gauge("hardroot.queue", 4.0, &[]);
        let text = local.render();
        let labels = "{host=\"node-1.example.org\",trust_domain=\"example_org\"}";
        assert!(text.contains(&format!("fleet_svid_rotate{labels} 1\n")), "{text}");
        assert!(text.contains(&format!("hardroot_queue{labels} 4\n")), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let local = Local::new();
        for number in 0..MOST_SERIES + 100 {
            count("wide", &[("label", &number.to_string())]);
        }
        assert_eq!(local.recorder().all().len(), MOST_SERIES);
        assert_eq!(local.recorder().dropped(), 100);
    }
}
