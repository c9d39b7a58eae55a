//! `attest`: agents join at a rate, each over a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use super::{Setup, open_loop};
use crate::agent::SimAgent;
use crate::error::BenchError;
use crate::meter::Op;
use crate::schedule::plan;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Attest {
    /// Attestations a second.
    pub rate: f64,
    /// For how long.
    pub duration: Duration,
}

impl Attest {
    /// Runs it. With join tokens each agent joins once; with x509pop they take turns.
    ///
    /// # Errors
    /// The agents cannot be prepared, or the first one cannot join.
    pub async fn run(self, setup: &Setup) -> Result<(), BenchError> {
        let mut fleet = setup.fleet().await?.into_iter();
        if let Some(mut first) = fleet.next() {
            first.attest().await.map_err(|cause| setup.first_failed(cause))?;
        }
        let once = setup.attestor == crate::target::Attestor::JoinToken;
        let fleet: Arc<Vec<tokio::sync::Mutex<SimAgent>>> =
            Arc::new(fleet.map(tokio::sync::Mutex::new).collect());
        if fleet.is_empty() {
            return Err(BenchError::Flag { flag: "agents", reason: "at least 2 are needed".to_owned() });
        }
        let most = if once { fleet.len() } else { usize::MAX };
        let began = setup.meter.begin("attest");
        let arrivals = plan(setup.arrivals, self.rate, self.duration, setup.seed).take(most);
        open_loop::run(arrivals, began, |number, intended| {
            let (fleet, meter) = (Arc::clone(&fleet), Arc::clone(&setup.meter));
            async move {
                let Some(agent) = fleet.get(number % fleet.len()) else { return };
                let mut agent = agent.lock().await;
                // What went wrong is counted.
                drop(meter.time(Op::Attest, intended, |()| 1, agent.attest()).await);
                agent.forget();
            }
        })
        .await;
        setup.meter.end();
        Ok(())
    }
}
