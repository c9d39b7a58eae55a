//! Where results are collected while the load runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::CallError;
use crate::histogram::Histogram;

/// Values are known to a part in 128.
const FINE: u32 = 7;
/// Values of one second are known to a part in 16: enough for a picture.
const COARSE: u32 = 4;
/// Kinds of failure that are told apart for one operation; the others are counted together.
const MOST_FAILURES: usize = 20;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// `AttestAgent`, the TLS connection for it included.
    Attest,
    /// The connection that shows an agent's SVID.
    Connect,
    /// An agent replaces its own SVID.
    Renew,
    /// One round of the protocol that entries come by.
    Sync,
    /// `GetBundle`.
    Bundle,
    /// `BatchNewX509SVID`.
    X509,
    /// `NewJWTSVID`.
    Jwt,
    /// An entry is created or deleted by the operator.
    Change,
    /// From the moment the operator changed an entry until the agent concerned heard of it.
    Heard,
    /// From the storm's beginning until an agent has everything again.
    Heal,
}

impl Op {
    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Attest => "attest",
            Self::Connect => "connect",
            Self::Renew => "renew",
            Self::Sync => "sync",
            Self::Bundle => "bundle",
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Change => "change",
            Self::Heard => "heard",
            Self::Heal => "heal",
        }
    }
}

/// The results of one operation.
#[derive(Debug, Clone)]
pub struct Series {
    /// Of those that succeeded.
    pub latency: Histogram,
    /// What they brought: SVIDs, where one call brings several.
    pub items: u64,
    /// How many failed, by reason.
    pub failures: BTreeMap<String, u64>,
    /// By the second in which they were meant to begin.
    pub timeline: Vec<Histogram>,
}

impl Default for Series {
    fn default() -> Self {
        Self { latency: Histogram::new(FINE), items: 0, failures: BTreeMap::new(), timeline: Vec::new() }
    }
}

impl Series {
    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// A number that a scenario reports beside the operations.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// Everything measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// When measuring began.
    pub began: Instant,
    /// When it ended, if the scenario says so; otherwise it is when one looks.
    pub ended: Option<Instant>,
    /// By operation.
    pub series: BTreeMap<Op, Series>,
    /// See [`Figure`].
    pub figures: Vec<Figure>,
    /// What is going on, for the progress line.
    pub phase: &'static str,
    /// Agents that are joined.
    pub agents: usize,
    /// Calls under way.
    pub in_flight: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Meter(Mutex<Measured>);

impl Default for Meter {
    fn default() -> Self {
        Self(Mutex::new(Measured {
            began: Instant::now(),
            ended: None,
            series: BTreeMap::new(),
            figures: Vec::new(),
            phase: "starting",
            agents: 0,
            in_flight: 0,
        }))
    }
}

impl Meter {
    // Holders only add numbers: a panic elsewhere leaves them whole.
    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was measured so far: preparation is over and the measurement begins. Returns when.
    pub fn begin(&self, phase: &'static str) -> Instant {
        let mut measured = self.lock();
        measured.began = Instant::now();
        measured.ended = None;
        measured.series.clear();
        measured.phase = phase;
        measured.began
    }

    /// When measuring began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.lock().began
    }

    /// The measurement is over; what follows is tidying up.
    pub fn end(&self) {
        self.lock().ended = Some(Instant::now());
    }

    /// What is going on.
    pub fn phase(&self, phase: &'static str) {
        self.lock().phase = phase;
    }

    /// One more agent is joined.
    pub fn agent_joined(&self) {
        self.lock().agents += 1;
    }

    /// No agent is joined.
    pub fn agents_gone(&self) {
        self.lock().agents = 0;
    }

    /// Runs an operation and notes how it went; `intended` is when it was meant to begin.
    pub async fn time<T>(
        &self,
        op: Op,
        intended: Instant,
        items: impl Fn(&T) -> u64,
        run: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let under_way = UnderWay::begin(self);
        let outcome = run.await;
        drop(under_way);
        match &outcome {
            Ok(got) => self.done(op, intended, items(got)),
            Err(error) => self.failed(op, error),
        }
        outcome
    }

    /// An operation succeeded just now.
    pub fn done(&self, op: Op, intended: Instant, items: u64) {
        let latency = intended.elapsed();
        let mut measured = self.lock();
        // What was planned before measuring began belongs to no second of it.
        let second = intended.checked_duration_since(measured.began).map(|since| since.as_secs());
        let series = measured.series.entry(op).or_default();
        series.latency.record(latency);
        series.items += items;
        let Some(second) = second.and_then(|second| usize::try_from(second).ok()) else { return };
        if series.timeline.len() <= second {
            series.timeline.resize(second + 1, Histogram::new(COARSE));
        }
        if let Some(histogram) = series.timeline.get_mut(second) {
            histogram.record(latency);
        }
    }

    /// An operation failed.
    pub fn failed(&self, op: Op, error: &CallError) {
        self.failed_because(op, error.class());
    }

    /// An operation failed for this reason.
    pub fn failed_because(&self, op: Op, reason: String) {
        let mut measured = self.lock();
        let failures = &mut measured.series.entry(op).or_default().failures;
        let reason = if failures.len() < MOST_FAILURES || failures.contains_key(&reason) {
            reason
        } else {
            "other reasons".to_owned()
        };
        *failures.entry(reason).or_default() += 1;
    }

    /// Reports a number; a later one of the same name takes its place.
    pub fn figure(&self, name: impl Into<String>, value: f64, unit: &'static str) {
        let name = name.into();
        let mut measured = self.lock();
        measured.figures.retain(|figure| figure.name != name);
        measured.figures.push(Figure { name, value, unit });
    }

    /// A copy of everything.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.lock().clone()
    }

    /// What the progress line shows: phase, time, agents, calls under way, successes and failures.
    #[must_use]
    pub fn glance(&self) -> Glance {
        let measured = self.lock();
        Glance {
            phase: measured.phase,
            elapsed: measured.began.elapsed(),
            agents: measured.agents,
            in_flight: measured.in_flight,
            done: measured.series.values().map(|series| series.latency.len()).sum(),
            failed: measured.series.values().map(Series::failed).sum(),
        }
    }
}

/// See [`Meter::glance`].
#[derive(Debug, Clone, Copy)]
pub struct Glance {
    /// What is going on.
    pub phase: &'static str,
    /// Since measuring began.
    pub elapsed: Duration,
    /// Agents that are joined.
    pub agents: usize,
    /// Calls under way.
    pub in_flight: usize,
    /// Operations that succeeded.
    pub done: u64,
    /// Operations that failed.
    pub failed: u64,
}

/// Counts a call while it is under way, a dropped one included.
struct UnderWay<'a>(&'a Meter);

impl<'a> UnderWay<'a> {
    fn begin(meter: &'a Meter) -> Self {
        meter.lock().in_flight += 1;
        Self(meter)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn latency_counts_from_the_intended_time() {
        let meter = Meter::default();
        let began = meter.begin("run");
        tokio::time::advance(Duration::from_secs(3)).await;
        // Meant for second 1, begun in second 3, done in second 4.
        let intended = began + Duration::from_secs(1);
        let call = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(())
        };
        meter.time(Op::Sync, intended, |()| 5, call).await.unwrap();
        let measured = meter.measured();
        let series = &measured.series[&Op::Sync];
        assert_eq!(series.latency.max(), Duration::from_secs(3));
        assert_eq!((series.items, series.timeline.len()), (5, 2));
        assert_eq!(series.timeline[1].len(), 1);
    }

    #[tokio::test]
    async fn failures_are_counted_by_reason_and_a_flood_of_reasons_is_bounded() {
        let meter = Meter::default();
        for number in 0..50 {
            let error = CallError::protocol("X", format!("entry {number} is gone"));
            meter.failed(Op::X509, &error);
            meter.failed_because(Op::X509, format!("reason {}", "x".repeat(number)));
        }
        let failures = &meter.measured().series[&Op::X509].failures;
        assert_eq!(failures["X: entry # is gone"], 50, "what differs in numbers alone is one reason");
        assert!(failures.len() <= MOST_FAILURES + 1);
        assert_eq!(failures.values().sum::<u64>(), 100);
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_is_not_under_way() {
        let meter = Meter::default();
        let call = meter.time(Op::Sync, Instant::now(), |()| 0, std::future::pending());
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
        assert_eq!(meter.glance().in_flight, 0);
    }
}
