//! What the simulated agents do.

mod attest;
mod churn;
mod issue;
mod live;
mod open_loop;
mod steady;
mod storm;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::{Proof, SimAgent};
use crate::authority::Authority;
use crate::error::{BenchError, CallError};
use crate::key::SharedKey;
use crate::meter::{Meter, Op};
use crate::operator::Operator;
use crate::random::Random;
use crate::schedule::Arrivals;
use crate::sync::Protocol;
use crate::target::{Attestor, Target};

pub use attest::Attest;
pub use churn::Churn;
pub use issue::{Issue, Pressure};
pub use steady::Steady;
pub use storm::Storm;

/// Agents that join at the same time while a scenario is prepared.
const JOINING: usize = 64;
/// How often an agent tries to join before it is left out.
const JOIN_ATTEMPTS: u32 = 8;
/// Pauses after failures, as agents make them: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// The last one after a server that is there had no room, as our agents make it.
const TURNED_AWAY: Duration = Duration::from_secs(10);

/// What every scenario needs.
pub struct Setup {
    /// The server.
    pub target: Arc<Target>,
    /// Its admin socket, where it is at hand.
    pub operator: Option<Operator>,
    /// The agents' key.
    pub key: Arc<SharedKey>,
    /// How agents prove themselves.
    pub attestor: Attestor,
    /// The authority for x509pop.
    pub authority: Option<Authority>,
    /// How entries come.
    pub protocol: Protocol,
    /// How many agents.
    pub agents: usize,
    /// How arrivals follow each other.
    pub arrivals: Arrivals,
    /// For all that is random.
    pub seed: u64,
    /// Where results go.
    pub meter: Arc<Meter>,
}

impl Setup {
    /// The agents, not joined yet.
    ///
    /// # Errors
    /// Proofs cannot be made.
    pub async fn fleet(&self) -> Result<Vec<SimAgent>, BenchError> {
        self.meter.phase("preparing");
        let mut fleet = Vec::with_capacity(self.agents);
        for index in 0..self.agents {
            let proof = self.proof(index).await?;
            fleet.push(SimAgent::new(Arc::clone(&self.target), Arc::clone(&self.key), proof, self.protocol));
        }
        Ok(fleet)
    }

    async fn proof(&self, index: usize) -> Result<Proof, BenchError> {
        let missing = |what: &str| BenchError::Flag { flag: "attestor", reason: what.to_owned() };
        match self.attestor {
            Attestor::X509pop => {
                let authority = self.authority.as_ref().ok_or_else(|| missing("no authority at hand"))?;
                authority.node(index, self.key.spki_der()).map(Proof::Certificate)
            }
            Attestor::JoinToken => {
                let operator = self.operator.as_ref().ok_or_else(|| {
                    missing("join tokens are made through the admin socket: give -socketPath")
                })?;
                operator.join_token(index).await.map(Proof::Token)
            }
        }
    }

    /// All agents, joined, connected and synchronised. One that cannot join is tried again and then left out.
    ///
    /// # Errors
    /// The first agent cannot join: then none will.
    pub async fn joined_fleet(&self) -> Result<Vec<(usize, SimAgent)>, BenchError> {
        let mut fleet = self.fleet().await?.into_iter().enumerate();
        self.meter.phase("joining");
        let mut joined = Vec::with_capacity(self.agents);
        if let Some((index, mut first)) = fleet.next() {
            join(&mut first).await.map_err(|cause| self.first_failed(cause))?;
            self.meter.agent_joined();
            joined.push((index, first));
        }
        let mut tasks = JoinSet::new();
        let mut take = |outcome: Option<Result<(usize, Option<SimAgent>), tokio::task::JoinError>>| {
            if let Some(Ok((index, Some(agent)))) = outcome {
                joined.push((index, agent));
            }
        };
        for (index, mut agent) in fleet {
            if tasks.len() >= JOINING {
                take(tasks.join_next().await);
            }
            let (meter, seed) = (Arc::clone(&self.meter), self.seed);
            tasks.spawn(async move {
                let mut pauses = Pauses::new(seed, index);
                for _attempt in 0..JOIN_ATTEMPTS {
                    match join(&mut agent).await {
                        Ok(()) => {
                            meter.agent_joined();
                            return (index, Some(agent));
                        }
                        Err(error) => {
                            meter.failed(Op::Attest, &error);
                            agent.after(&error);
                            tokio::time::sleep(pauses.after(&error)).await;
                        }
                    }
                }
                (index, None)
            });
        }
        while !tasks.is_empty() {
            take(tasks.join_next().await);
        }
        if joined.len() < self.agents {
            #[expect(clippy::cast_precision_loss, reason = "a number of agents")]
            self.meter.figure("agents that could not join", (self.agents - joined.len()) as f64, "");
        }
        Ok(joined)
    }

    fn first_failed(&self, cause: CallError) -> BenchError {
        let told = cause.to_string();
        let hint = match &cause {
            CallError::Connect { .. } => {
                "Is the server running, is -serverAddress right, and is -trustDomain its trust domain?"
            }
            _ if told.contains("could not find node attestor")
                || told.contains("not configured")
                || told.contains("unknown") =>
            {
                "Give server.conf of `hardroot-bench prepare` to the server and restart it."
            }
            _ if self.attestor == Attestor::X509pop => {
                "Does the server's configuration name the ca.pem in -dir, and the agent_path_template beside it?"
            }
            _ => "See the server's log.",
        };
        BenchError::FirstAgent { cause, hint: hint.to_owned() }
    }
}

async fn join(agent: &mut SimAgent) -> Result<(), CallError> {
    agent.attest().await?;
    agent.connect().await?;
    agent.sync().await
}

/// Pauses of one agent after failures: the server's own hint where it gives one, else doubled each time; spread, so that
/// agents do not come back together.
struct Pauses {
    random: Random,
    failures: u32,
}

impl Pauses {
    fn new(seed: u64, index: usize) -> Self {
        Self { random: Random::new(seed, stream(index)), failures: 0 }
    }

    fn after(&mut self, error: &CallError) -> Duration {
        let longest = if error.is_turned_away() { TURNED_AWAY } else { LAST_PAUSE };
        let own = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(longest);
        self.failures += 1;
        match error.retry_after() {
            Some(asked) => asked.mul_f64(1.0 + self.random.unit() / 4.0),
            None => own.mul_f64(0.5 + self.random.unit()),
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// The random stream of an agent.
fn stream(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX).wrapping_add(1)
}

/// Waits until `at`, at once if that is over.
async fn until(at: Instant) {
    tokio::time::sleep_until(at).await;
}
