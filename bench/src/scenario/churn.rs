//! `churn`: the operator changes entries at a rate; how long until the agents concerned hear of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::live::Listener;
use super::steady::Fleet;
use super::{Setup, open_loop};
use crate::agent::SimAgent;
use crate::error::{BenchError, CallError};
use crate::meter::{Meter, Op};
use crate::operator::{Operator, PREFIX};
use crate::random::Random;
use crate::schedule::plan;

/// Entries of churn that an agent has at most: beyond, the next change deletes one.
const MOST_EACH: usize = 3;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// Changes a second.
    pub rate: f64,
    /// How often agents synchronise (protocols that poll).
    pub sync_interval: Duration,
    /// For how long.
    pub duration: Duration,
}

impl Churn {
    /// Runs it. Entries it made are deleted in the end.
    ///
    /// # Errors
    /// There is no admin socket, or the agents cannot join.
    pub async fn run(self, setup: &Setup) -> Result<(), BenchError> {
        let operator = setup.operator.clone().ok_or_else(|| BenchError::Flag {
            flag: "socketPath",
            reason: "entries are changed through the admin socket".to_owned(),
        })?;
        let board = Arc::new(Board { meter: Arc::clone(&setup.meter), agents: Mutex::default() });
        let listener = Arc::clone(&board) as Arc<dyn Listener>;
        let fleet = Fleet::begin(setup, self.sync_interval, Some(listener)).await?;
        let began = setup.meter.begin("churn");
        let changes = plan(setup.arrivals, self.rate, self.duration, setup.seed);
        let mut random = Random::new(setup.seed, 0x0c4a);
        // Identities of another run must not be taken for this one's.
        let run = random.next_u64() ^ u64::from(std::process::id());
        open_loop::run(changes, began, |number, intended| {
            let agent = random.below(setup.agents);
            let (board, operator) = (Arc::clone(&board), operator.clone());
            let attestor = setup.attestor;
            async move {
                let path = format!("{PREFIX}churn/{run:x}/{number}");
                let entry = operator.entry(attestor, agent, &path, number);
                board.change(&operator, agent, entry, intended).await;
            }
        })
        .await;
        // The last changes are heard of at the next synchronisation.
        setup.meter.phase("last news");
        let patience = self.sync_interval * 2 + setup.target.timeout();
        let quiet = tokio::time::timeout(patience, async {
            while board.waiting() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        // What nobody heard of is told as a failure.
        let _late = quiet.await;
        setup.meter.end();
        for _ in 0..board.waiting() {
            setup.meter.failed_because(Op::Heard, "the agent never heard of it".to_owned());
        }
        fleet.stop().await;
        setup.meter.phase("tidying up");
        operator.delete(board.entries()).await.map_err(|cause| BenchError::Admin {
            op: "deleting the entries of this run",
            socket: std::path::PathBuf::new(),
            cause,
            hint: "; hardroot-bench clean removes them",
        })
    }
}

/// Who has yet to hear of what.
struct Board {
    meter: Arc<Meter>,
    agents: Mutex<HashMap<usize, Seen>>,
}

#[derive(Default)]
struct Seen {
    known: HashSet<String>,
    /// Entries of this run that exist, oldest first.
    entries: VecDeque<String>,
    waiting: Vec<Change>,
}

struct Change {
    id: String,
    created: bool,
    began: Instant,
}

impl Seen {
    /// Counts what has come true.
    fn look(&mut self, meter: &Meter) {
        let known = &self.known;
        self.waiting.retain(|change| {
            let heard = known.contains(&change.id) == change.created;
            if heard {
                meter.done(Op::Heard, change.began, 1);
            }
            !heard
        });
    }
}

impl Board {
    // Holders only move values.
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Seen>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn change(
        &self,
        operator: &Operator,
        agent: usize,
        entry: hardroot_api::spire::api::types::Entry,
        intended: Instant,
    ) {
        let old = {
            let mut agents = self.lock();
            let seen = agents.entry(agent).or_default();
            if seen.entries.len() >= MOST_EACH { seen.entries.pop_front() } else { None }
        };
        let made = async {
            match &old {
                Some(id) => operator.delete(vec![id.clone()]).await.map(|()| id.clone()),
                None => {
                    let outcome = operator.create(vec![entry]).await?;
                    let none = || CallError::protocol("BatchCreateEntry", "no result");
                    outcome.into_iter().next().ok_or_else(none)?
                }
            }
        };
        let Ok(id) = self.meter.time(Op::Change, intended, |_| 1, made).await else { return };
        let mut agents = self.lock();
        let seen = agents.entry(agent).or_default();
        if old.is_none() {
            seen.entries.push_back(id.clone());
        }
        seen.waiting.push(Change { id, created: old.is_none(), began: intended });
        // An agent may have heard before the operator had the answer.
        seen.look(&self.meter);
    }

    fn waiting(&self) -> usize {
        self.lock().values().map(|seen| seen.waiting.len()).sum()
    }

    fn entries(&self) -> Vec<String> {
        self.lock().values().flat_map(|seen| seen.entries.iter().cloned()).collect()
    }
}

impl Listener for Board {
    fn heard(&self, index: usize, agent: &SimAgent) {
        let mut agents = self.lock();
        let seen = agents.entry(index).or_default();
        seen.known = agent.known.entries.keys().cloned().collect();
        seen.look(&self.meter);
    }
}
