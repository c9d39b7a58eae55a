//! Saying that something happened.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metrics::{Key, KeyName, Label, Level, Metadata};

/// Whether anybody listens. Set once, when a recorder is installed.
static ACTIVE: AtomicBool = AtomicBool::new(false);

static METADATA: Metadata<'static> = Metadata::new("hardroot", Level::INFO, None);

/// Names and values of labels. Values must come from a small set that no peer can widen.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

pub(crate) fn activate() {
    ACTIVE.store(true, Ordering::Relaxed);
}

/// Whether metrics go anywhere: for callers who would have to work for a value.
#[must_use]
pub fn is_active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

fn key(name: impl Into<KeyName>, labels: Labels<'_>) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

/// Counts one.
pub fn count(name: impl Into<KeyName>, labels: Labels<'_>) {
    count_by(name, 1, labels);
}

/// Counts several.
pub fn count_by(name: impl Into<KeyName>, by: u64, labels: Labels<'_>) {
    if is_active() {
        let key = key(name, labels);
        metrics::with_recorder(|recorder| recorder.register_counter(&key, &METADATA)).increment(by);
    }
}

/// Sets a gauge.
pub fn gauge(name: impl Into<KeyName>, value: f64, labels: Labels<'_>) {
    if is_active() {
        let key = key(name, labels);
        metrics::with_recorder(|recorder| recorder.register_gauge(&key, &METADATA)).set(value);
    }
}

/// Adds one observation to a summary.
pub fn sample(name: impl Into<KeyName>, value: f64) {
    sample_with(name, value, &[]);
}

/// Adds one observation to a summary with labels.
pub fn sample_with(name: impl Into<KeyName>, value: f64, labels: Labels<'_>) {
    if is_active() {
        let key = key(name, labels);
        metrics::with_recorder(|recorder| recorder.register_histogram(&key, &METADATA)).record(value);
    }
}

/// SPIRE's "call counter": a counter of calls and a summary `….elapsed_time` in milliseconds, both with the label
/// `status`, whose value is the name of a gRPC code. A call that is dropped without [`Call::done`] or
/// [`Call::finish`] counts as `Canceled`: its future was given up.
#[must_use = "a call counts when it is done"]
pub struct Call {
    open: Option<Open>,
}

struct Open {
    name: KeyName,
    began: Instant,
    labels: Vec<Label>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("open", &self.open.as_ref().map(|open| &open.name)).finish()
    }
}

impl Call {
    /// Begins a call.
    pub fn start(name: impl Into<KeyName>) -> Self {
        if !is_active() {
            return Self { open: None };
        }
        Self { open: Some(Open { name: name.into(), began: Instant::now(), labels: Vec::new() }) }
    }

    /// Adds a label.
    pub fn label(&mut self, name: &'static str, value: &str) {
        if let Some(open) = &mut self.open {
            open.labels.push(Label::new(name, value.to_owned()));
        }
    }

    /// Ends the call with a gRPC code's name, as Go spells it (`OK`, `NotFound`).
    pub fn done(mut self, status: &'static str) {
        self.close(status);
    }

    /// Ends the call: `OK` or, as SPIRE counts errors that carry no gRPC code, `Unknown`. Returns the outcome.
    pub fn finish<T, E>(self, outcome: Result<T, E>) -> Result<T, E> {
        self.done(if outcome.is_ok() { "OK" } else { "Unknown" });
        outcome
    }

    /// Forgets the call: nothing is counted.
    pub fn discard(mut self) {
        self.open = None;
    }

    fn close(&mut self, status: &'static str) {
        let Some(Open { name, began, mut labels }) = self.open.take() else { return };
        let elapsed = milliseconds(began.elapsed());
        labels.push(Label::new("status", status));
        let time = KeyName::from(format!("{}.elapsed_time", name.as_str()));
        let (count, time) = (Key::from_parts(name, labels.clone()), Key::from_parts(time, labels));
        metrics::with_recorder(|recorder| {
            recorder.register_counter(&count, &METADATA).increment(1);
            recorder.register_histogram(&time, &METADATA).record(elapsed);
        });
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.close("Canceled");
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Local;

    #[test]
    fn a_call_counts_once_with_its_status_and_time() {
        let local = Local::new();
        let mut call = Call::start("datastore.node.fetch");
        call.label("attestor", "unix");
        assert_eq!(call.finish::<_, ()>(Ok(7)), Ok(7));
        assert!(Call::start("datastore.node.fetch").finish::<(), _>(Err(())).is_err());
        drop(Call::start("datastore.node.fetch"));
        Call::start("datastore.node.fetch").discard();
        let text = local.render();
        for line in [
            "spire_server_datastore_node_fetch{attestor=\"unix\",status=\"OK\"} 1",
            "spire_server_datastore_node_fetch{status=\"Unknown\"} 1",
            "spire_server_datastore_node_fetch{status=\"Canceled\"} 1",
            "spire_server_datastore_node_fetch_elapsed_time_count{status=\"Canceled\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_kind_reaches_the_recorder() {
        let local = Local::new();
        count("a.b", &[]);
        count_by("a.b", 2, &[]);
        gauge("c", 1.5, &[("svid_type", "x509")]);
        sample("d", 3.0);
        let text = local.render();
        assert!(text.contains("\nspire_server_a_b 3\n"), "{text}");
        assert!(text.contains("\nspire_server_c{svid_type=\"x509\"} 1.5\n"), "{text}");
        assert!(text.contains("\nspire_server_d_sum 3\n"), "{text}");
    }
}
