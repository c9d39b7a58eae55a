//! `storm`: the SVIDs of all agents have expired, and all of them want everything anew at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Pauses, Setup, until};
use crate::agent::SimAgent;
use crate::error::{BenchError, CallError};
use crate::meter::{Meter, Op};
use crate::process::usage;
use crate::random::Random;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// How long all are joined and quiet before the storm: what the server's memory is compared with.
    pub calm: Duration,
    /// Over which time agents notice that they have expired; zero is the worst case.
    pub spread: Duration,
    /// When it is given up.
    pub give_up: Duration,
    /// The server's process, to compare its memory in the calm and in the storm.
    pub server_pid: Option<u32>,
}

impl Storm {
    /// Runs it.
    ///
    /// # Errors
    /// The agents cannot join in the first place, or cannot attest twice.
    pub async fn run(self, setup: &Setup) -> Result<(), BenchError> {
        if setup.attestor == crate::target::Attestor::JoinToken {
            return Err(BenchError::Flag {
                flag: "attestor",
                reason: "a join token is good for one time; a storm needs x509pop".to_owned(),
            });
        }
        let mut fleet = setup.joined_fleet().await?;
        setup.meter.phase("calm");
        tokio::time::sleep(self.calm).await;
        let memory = || self.server_pid.and_then(usage).map(|usage| usage.resident);
        let calm = memory();
        for (_, agent) in &mut fleet {
            agent.forget();
        }
        setup.meter.agents_gone();
        let count = fleet.len();
        let began = setup.meter.begin("storm");
        let mut agents = JoinSet::new();
        for (index, agent) in fleet {
            let meter = Arc::clone(&setup.meter);
            let mut random = Random::new(setup.seed, super::stream(index).wrapping_mul(31));
            let at = began + self.spread.mul_f64(random.unit());
            let pauses = Pauses::new(setup.seed, index);
            agents.spawn(async move {
                until(at).await;
                heal(agent, meter, at, pauses).await
            });
        }
        let mut healed = Vec::with_capacity(count);
        let mut retries = 0_u32;
        let mut svids = 0_u32;
        let all = async {
            while let Some(done) = agents.join_next().await {
                // A panicked task shows in the number of the healed.
                let Ok((agent, tried, issued)) = done else { continue };
                retries = retries.saturating_add(tried);
                svids = svids.saturating_add(issued);
                // Kept, so that its connection stays as a real agent's does.
                healed.push(agent);
                tell(&setup.meter, healed.len(), count, began, retries, svids);
            }
        };
        let in_time = tokio::time::timeout(self.give_up, all).await.is_ok();
        setup.meter.end();
        if !in_time {
            setup.meter.figure("given up after", self.give_up.as_secs_f64(), "s");
        }
        #[expect(clippy::cast_precision_loss, reason = "memory of a process is far below 2^53 bytes")]
        if let (Some(calm), Some(now)) = (calm, memory()) {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            setup.meter.figure("server's memory in the calm", mib(calm), "MiB");
            setup.meter.figure("server's memory after the storm", mib(now), "MiB");
        }
        Ok(())
    }
}

fn tell(meter: &Meter, healed: usize, count: usize, began: Instant, retries: u32, svids: u32) {
    #[expect(clippy::cast_precision_loss, reason = "a number of agents")]
    let number = |count: usize| count as f64;
    meter.figure("agents healed", number(healed), "");
    meter.figure("agents not healed", number(count - healed), "");
    meter.figure("until the last was healed", began.elapsed().as_secs_f64(), "s");
    meter.figure("attempts that had to be repeated", f64::from(retries), "");
    meter.figure("SVIDs issued to agents and workloads", f64::from(svids), "");
}

/// Everything an agent does that wakes up with an expired SVID. Comes back with the agent, the number of attempts that
/// failed and of SVIDs issued.
async fn heal(
    mut agent: SimAgent,
    meter: Arc<Meter>,
    began: Instant,
    mut pauses: Pauses,
) -> (SimAgent, u32, u32) {
    let mut retries = 0;
    let mut progress = Progress::default();
    loop {
        match attempt(&mut agent, &meter, &mut progress).await {
            Ok(()) => {
                meter.done(Op::Heal, began, 1);
                meter.agent_joined();
                return (agent, retries, progress.svids);
            }
            Err(error) => {
                retries += 1;
                agent.after(&error);
                tokio::time::sleep(pauses.after(&error)).await;
            }
        }
    }
}

/// What is done already: a failure does not begin anew.
#[derive(Default)]
struct Progress {
    attested: bool,
    synchronised: bool,
    svids: u32,
}

async fn attempt(agent: &mut SimAgent, meter: &Meter, progress: &mut Progress) -> Result<(), CallError> {
    if !progress.attested {
        meter.time(Op::Attest, Instant::now(), |()| 1, agent.attest()).await?;
        progress.attested = true;
        progress.svids += 1;
    }
    meter.time(Op::Connect, Instant::now(), |()| 1, agent.connect()).await?;
    if !progress.synchronised {
        meter.time(Op::Sync, Instant::now(), |()| 1, agent.sync()).await?;
        progress.synchronised = true;
    }
    let entries = agent.known.ids();
    if !entries.is_empty() {
        let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        let issuer = agent.issuer().await?;
        meter.time(Op::X509, Instant::now(), |_| count, issuer.x509(&entries)).await?;
        progress.svids += u32::try_from(count).unwrap_or(u32::MAX);
    }
    Ok(())
}
