//! The life of one simulated agent: it synchronises, renews its own SVID and those of its workloads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::{Pauses, stream, until};
use crate::agent::{SimAgent, SvidIssuer};
use crate::error::CallError;
use crate::meter::{Meter, Op};
use crate::random::Random;
use crate::sync::Pace;

/// SVIDs asked for in one call, as agents do.
const MOST_IN_BATCH: usize = 500;

/// What others may use of a living agent: its connection and its entries.
#[derive(Default)]
pub(super) struct Shared(ArcSwapOption<(SvidIssuer, Vec<String>)>);

impl Shared {
    pub(super) fn get(&self) -> Option<Arc<(SvidIssuer, Vec<String>)>> {
        self.0.load_full()
    }
}

/// Who hears what an agent has heard.
pub(super) trait Listener: Send + Sync {
    fn heard(&self, index: usize, agent: &SimAgent);
}

/// How an agent lives.
#[derive(Clone)]
pub(super) struct Habits {
    pub(super) sync_interval: Duration,
    /// Whether it keeps SVIDs for its entries.
    pub(super) workloads: bool,
    pub(super) seed: u64,
    pub(super) listener: Option<Arc<dyn Listener>>,
}

/// A living agent.
pub(super) struct Life {
    index: usize,
    agent: SimAgent,
    meter: Arc<Meter>,
    habits: Habits,
    random: Random,
    pauses: Pauses,
    shared: Arc<Shared>,
    next_sync: Instant,
    renew: Instant,
    /// When the SVID of each entry is to be replaced.
    svids: BTreeMap<String, Instant>,
    /// Nothing before this: the last call failed.
    rest: Option<Instant>,
    must_attest: bool,
}

impl Life {
    /// Begins at a random point of every cycle, as if it had been running for long: the load is even from the start.
    pub(super) fn new(
        index: usize,
        agent: SimAgent,
        meter: Arc<Meter>,
        habits: Habits,
        shared: Arc<Shared>,
    ) -> Self {
        let mut random = Random::new(habits.seed, stream(index));
        let now = Instant::now();
        let next_sync = now + habits.sync_interval.mul_f64(random.unit());
        let renew = now + (agent.validity.lifetime / 2).mul_f64(random.unit());
        let pauses = Pauses::new(habits.seed, index);
        Self {
            index,
            agent,
            meter,
            habits,
            random,
            pauses,
            shared,
            next_sync,
            renew,
            svids: BTreeMap::new(),
            rest: None,
            must_attest: false,
        }
    }

    /// Gets an SVID for each entry, before the measurement begins.
    pub(super) async fn fill(&mut self) {
        self.reconcile();
        if self.habits.workloads {
            let now = Instant::now();
            let outcome = self.issue(now).await;
            self.settle(outcome);
            for due in self.svids.values_mut() {
                *due = now + due.saturating_duration_since(now).mul_f64(self.random.unit());
            }
        }
        self.share().await;
    }

    /// Lives until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let rest = self.rest.take();
            if let Some(rest) = rest {
                until(rest).await;
            }
            let outcome = self.step().await;
            self.settle(outcome);
        }
    }

    fn settle(&mut self, outcome: Result<(), CallError>) {
        match outcome {
            Ok(()) => self.pauses.succeeded(),
            Err(error) => {
                self.agent.after(&error);
                if matches!(
                    &error,
                    CallError::Status {
                        code: tonic::Code::PermissionDenied | tonic::Code::Unauthenticated,
                        ..
                    }
                ) {
                    self.must_attest = true;
                }
                self.rest = Some(Instant::now() + self.pauses.after(&error));
            }
        }
    }

    /// Waits for what is due next, and does it.
    async fn step(&mut self) -> Result<(), CallError> {
        if self.must_attest {
            let now = Instant::now();
            self.meter.clone().time(Op::Attest, now, |()| 1, self.agent.attest()).await?;
            self.must_attest = false;
            self.renewed(now);
            self.share().await;
            return Ok(());
        }
        let svid = self.svids.values().min().copied().filter(|_| self.habits.workloads);
        let polled = self.agent.pace() == Pace::Polled;
        let own = svid.map_or(self.renew, |svid| svid.min(self.renew));
        if !polled {
            // News may come at any time until something of our own is due.
            return match tokio::time::timeout_at(own, self.agent.news()).await {
                Ok(outcome) => {
                    outcome?;
                    self.took_news().await;
                    Ok(())
                }
                Err(_due) => self.own_work(own).await,
            };
        }
        if self.next_sync <= own {
            let intended = self.next_sync;
            until(intended).await;
            self.sync(intended).await
        } else {
            until(own).await;
            self.own_work(own).await
        }
    }

    async fn own_work(&mut self, due: Instant) -> Result<(), CallError> {
        if self.renew <= due {
            return self.renew(due).await;
        }
        self.issue(due).await
    }

    async fn sync(&mut self, intended: Instant) -> Result<(), CallError> {
        let outcome = self.meter.clone().time(Op::Sync, intended, |()| 1, self.agent.sync()).await;
        // Rounds that were due meanwhile are not made up for, as agents do not either; but each of them was late.
        self.next_sync = intended + self.habits.sync_interval;
        let now = Instant::now();
        while self.next_sync <= now {
            if outcome.is_ok() {
                self.meter.done(Op::Sync, self.next_sync, 1);
            }
            self.next_sync += self.habits.sync_interval;
        }
        outcome?;
        self.took_news().await;
        // Agents that poll ask for the bundle every time.
        let now = Instant::now();
        self.meter.clone().time(Op::Bundle, now, |()| 1, self.agent.bundle()).await
    }

    async fn took_news(&mut self) {
        if let Some(listener) = &self.habits.listener {
            listener.heard(self.index, &self.agent);
        }
        if self.reconcile() {
            self.share().await;
        }
    }

    /// Entries that are new get SVIDs at once, those that are gone none. Says whether anything changed.
    fn reconcile(&mut self) -> bool {
        let known = &self.agent.known.entries;
        let before = self.svids.len();
        self.svids.retain(|id, _| known.contains_key(id));
        let mut changed = self.svids.len() != before;
        let now = Instant::now();
        for id in known.keys() {
            if !self.svids.contains_key(id) {
                self.svids.insert(id.clone(), now);
                changed = true;
            }
        }
        changed
    }

    async fn renew(&mut self, intended: Instant) -> Result<(), CallError> {
        self.meter.clone().time(Op::Renew, intended, |()| 1, self.agent.renew()).await?;
        self.renewed(Instant::now());
        // What follows a renewal on the wire: the connection that shows the new SVID.
        let now = Instant::now();
        self.meter.clone().time(Op::Connect, now, |()| 1, self.agent.connect()).await?;
        self.share().await;
        Ok(())
    }

    fn renewed(&mut self, now: Instant) {
        self.renew = now + self.half(self.agent.validity.lifetime);
    }

    /// Half of a lifetime, a tenth earlier or later: when agents renew.
    fn half(&mut self, lifetime: Duration) -> Duration {
        (lifetime / 2).mul_f64(0.9 + 0.2 * self.random.unit())
    }

    /// Replaces the SVIDs that are due.
    async fn issue(&mut self, intended: Instant) -> Result<(), CallError> {
        let now = Instant::now().max(intended);
        let due: Vec<String> = self
            .svids
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(id, _)| id.clone())
            .take(MOST_IN_BATCH)
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let count = u64::try_from(due.len()).unwrap_or(u64::MAX);
        let meter = Arc::clone(&self.meter);
        let agent = &mut self.agent;
        let call = async move { agent.issuer().await?.x509(&due).await.map(|validity| (due, validity)) };
        let (done, validity) = meter.time(Op::X509, intended, |_| count, call).await?;
        for id in done {
            let next = Instant::now() + self.half(validity.lifetime);
            self.svids.insert(id, next);
        }
        Ok(())
    }

    async fn share(&mut self) {
        let ids = self.agent.known.ids();
        if let Ok(issuer) = self.agent.issuer().await {
            self.shared.0.store(Some(Arc::new((issuer, ids))));
        }
    }
}
