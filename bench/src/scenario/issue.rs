//! `issue`: SVIDs for workloads, at a rate or as fast as the server gives them.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Pauses, Setup, open_loop};
use crate::agent::SvidIssuer;
use crate::error::BenchError;
use crate::meter::{Meter, Op};
use crate::schedule::plan;

/// How hard to press.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pressure {
    /// SVIDs a second, by a plan made in advance.
    Rate(f64),
    /// Calls that each agent has under way at any time: the next is sent when one is answered.
    InFlight(usize),
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Issue {
    /// How hard to press.
    pub pressure: Pressure,
    /// SVIDs in one call.
    pub batch: usize,
    /// JWT-SVIDs a second beside them.
    pub jwt_rate: f64,
    /// For how long it is measured.
    pub duration: Duration,
    /// For how long it runs before that (as fast as the server gives them only).
    pub warm_up: Duration,
}

/// An agent's connection and its entries.
struct Source {
    issuer: SvidIssuer,
    batch: Vec<String>,
}

impl Issue {
    /// Runs it.
    ///
    /// # Errors
    /// The agents cannot join, or have no entries.
    pub async fn run(self, setup: &Setup) -> Result<(), BenchError> {
        let mut sources = Vec::new();
        for (_index, mut agent) in setup.joined_fleet().await? {
            let ids = agent.known.ids();
            if ids.is_empty() {
                continue;
            }
            let issuer = agent.issuer().await.map_err(|cause| setup.first_failed(cause))?;
            let batch = ids.iter().cycle().take(self.batch).cloned().collect();
            sources.push(Arc::new(Source { issuer, batch }));
        }
        if sources.is_empty() {
            return Err(BenchError::NoEntries);
        }
        match self.pressure {
            Pressure::Rate(rate) => self.at_rate(setup, &sources, rate).await,
            Pressure::InFlight(count) => self.closed(setup, &sources, count).await,
        }
        setup.meter.end();
        Ok(())
    }

    async fn at_rate(self, setup: &Setup, sources: &[Arc<Source>], rate: f64) {
        let began = setup.meter.begin("issue");
        let per_call = u32::try_from(self.batch).map_or(1.0, f64::from);
        let calls = plan(setup.arrivals, rate / per_call, self.duration, setup.seed);
        let x509 = open_loop::run(calls, began, |number, intended| {
            let (source, meter) = (sources.get(number % sources.len()).cloned(), Arc::clone(&setup.meter));
            async move {
                if let Some(source) = source {
                    drop(call(&meter, &source, intended).await);
                }
            }
        });
        tokio::join!(x509, self.jwts(setup, sources, began));
    }

    async fn closed(self, setup: &Setup, sources: &[Arc<Source>], count: usize) {
        setup.meter.phase("warming up");
        let mut calls = JoinSet::new();
        for (index, source) in sources.iter().enumerate() {
            for lane in 0..count.max(1) {
                let (source, meter) = (Arc::clone(source), Arc::clone(&setup.meter));
                let mut pauses = Pauses::new(setup.seed, index * 1000 + lane);
                calls.spawn(async move {
                    loop {
                        match call(&meter, &source, Instant::now()).await {
                            Ok(()) => pauses.succeeded(),
                            Err(pause) => tokio::time::sleep(pauses.after(&pause)).await,
                        }
                    }
                });
            }
        }
        tokio::time::sleep(self.warm_up).await;
        let began = setup.meter.begin("issue");
        let jwts = self.jwts(setup, sources, began);
        tokio::join!(jwts, tokio::time::sleep(self.duration));
        setup.meter.end();
        calls.shutdown().await;
    }

    async fn jwts(self, setup: &Setup, sources: &[Arc<Source>], began: Instant) {
        if self.jwt_rate <= 0.0 {
            return;
        }
        let calls = plan(setup.arrivals, self.jwt_rate, self.duration, setup.seed.wrapping_add(1));
        open_loop::run(calls, began, |number, intended| {
            let (source, meter) = (sources.get(number % sources.len()).cloned(), Arc::clone(&setup.meter));
            async move {
                let Some(source) = source else { return };
                let Some(entry) = source.batch.first() else { return };
                drop(meter.time(Op::Jwt, intended, |()| 1, source.issuer.jwt(entry)).await);
            }
        })
        .await;
    }
}

async fn call(meter: &Meter, source: &Source, intended: Instant) -> Result<(), crate::error::CallError> {
    let count = u64::try_from(source.batch.len()).unwrap_or(u64::MAX);
    meter.time(Op::X509, intended, |_| count, source.issuer.x509(&source.batch)).await.map(drop)
}
