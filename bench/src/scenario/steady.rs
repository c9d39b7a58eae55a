//! `steady`: a fleet that has been running for long: agents synchronise, renew, and fetch SVIDs for workloads.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::live::{Habits, Life, Listener, Shared};
use super::{Setup, open_loop};
use crate::error::BenchError;
use crate::meter::Op;
use crate::random::Random;
use crate::schedule::plan;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    /// How often agents synchronise (protocols that poll).
    pub sync_interval: Duration,
    /// For how long it is measured.
    pub duration: Duration,
    /// X509-SVIDs a second that are fetched beside the renewals: workloads that come and go.
    pub fetch_rate: f64,
    /// JWT-SVIDs a second.
    pub jwt_rate: f64,
}

impl Steady {
    /// Runs it.
    ///
    /// # Errors
    /// The agents cannot join.
    pub async fn run(self, setup: &Setup) -> Result<(), BenchError> {
        let fleet = Fleet::begin(setup, self.sync_interval, None).await?;
        let began = setup.meter.begin("steady");
        let fetches = self.fetches(setup, &fleet, began, Op::X509, self.fetch_rate);
        let tokens = self.fetches(setup, &fleet, began, Op::Jwt, self.jwt_rate);
        tokio::join!(fetches, tokens, tokio::time::sleep(self.duration));
        setup.meter.end();
        fleet.stop().await;
        Ok(())
    }

    async fn fetches(self, setup: &Setup, fleet: &Fleet, began: tokio::time::Instant, op: Op, rate: f64) {
        if rate <= 0.0 {
            return;
        }
        let seed = setup.seed.wrapping_add(if op == Op::Jwt { 3 } else { 2 });
        let mut random = Random::new(seed, 0);
        let calls = plan(setup.arrivals, rate, self.duration, seed);
        open_loop::run(calls, began, |_number, intended| {
            let agent = fleet.shared.get(random.below(fleet.shared.len())).and_then(|shared| shared.get());
            let (which, meter) = (random.next_u64(), Arc::clone(&setup.meter));
            async move {
                let Some(agent) = agent else { return };
                let (issuer, entries) = &*agent;
                let mut random = Random::new(which, 0);
                let Some(entry) = entries.get(random.below(entries.len())) else { return };
                if op == Op::Jwt {
                    drop(meter.time(op, intended, |()| 1, issuer.jwt(entry)).await);
                } else {
                    let one = std::slice::from_ref(entry);
                    drop(meter.time(op, intended, |_| 1, issuer.x509(one)).await);
                }
            }
        })
        .await;
    }
}

/// Agents that live.
pub(super) struct Fleet {
    pub(super) shared: Vec<Arc<Shared>>,
    /// The agents by index, where they joined.
    lives: JoinSet<()>,
}

impl Fleet {
    /// All agents of the setup, joined, with SVIDs for their entries, living.
    pub(super) async fn begin(
        setup: &Setup,
        sync_interval: Duration,
        listener: Option<Arc<dyn Listener>>,
    ) -> Result<Self, BenchError> {
        let fleet = setup.joined_fleet().await?;
        setup.meter.phase("first SVIDs");
        let habits = Habits { sync_interval, workloads: true, seed: setup.seed, listener };
        let mut shared = Vec::with_capacity(fleet.len());
        let mut filling = JoinSet::new();
        let mut full = Vec::with_capacity(fleet.len());
        for (index, agent) in fleet {
            if filling.len() >= super::JOINING {
                full.extend(filling.join_next().await.and_then(Result::ok));
            }
            let slot = Arc::new(Shared::default());
            shared.push(Arc::clone(&slot));
            let mut life = Life::new(index, agent, Arc::clone(&setup.meter), habits.clone(), slot);
            filling.spawn(async move {
                life.fill().await;
                life
            });
        }
        while let Some(done) = filling.join_next().await {
            full.extend(done.ok());
        }
        let mut lives = JoinSet::new();
        for life in full {
            lives.spawn(life.run());
        }
        Ok(Self { shared, lives })
    }

    pub(super) async fn stop(mut self) {
        self.lives.shutdown().await;
    }
}
