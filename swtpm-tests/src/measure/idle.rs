//! What servers ask their database for while nothing changes (row P4), counted by PostgreSQL.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hardroot_bench::agent::SimAgent;
use hardroot_bench::error::CallError;
use hardroot_bench::sync::{Pace, Protocol};
use hardroot_emulators::Postgres;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::fleet::{self, Fleet};
use super::number;
use super::report::Row;
use crate::site::Site;

/// Entries in the database, unless `HARDROOT_IDLE_ENTRIES` says otherwise.
const ENTRIES: usize = 100_000;
/// The largest fleet, unless `HARDROOT_IDLE_AGENTS` says otherwise; the others have a tenth and a hundredth of it.
const AGENTS: usize = 10_000;
/// For how long statements are counted, in seconds, unless `HARDROOT_IDLE_SECONDS` says otherwise.
const SECONDS: usize = 60;
/// What was begun while the agents joined is over after this long.
const SETTLE: Duration = Duration::from_secs(15);
/// How often agents poll that do.
const INTERVAL: Duration = Duration::from_secs(5);
/// Queries a second that an idle server may make.
const LIMIT: f64 = 2.0;

/// Fleets of three sizes with streams, and the largest one polling.
///
/// # Errors
/// The server or the database failed, or an agent lost its server.
pub fn measure(runtime: &tokio::runtime::Runtime) -> Result<Vec<Row>> {
    let _files = hardroot_bench::process::raise_open_files();
    let (entries, most) =
        (number("HARDROOT_IDLE_ENTRIES", ENTRIES)?, number("HARDROOT_IDLE_AGENTS", AGENTS)?);
    let postgres = Postgres::start()?;
    let database = postgres.create_database()?;
    let mut site = Site::new()?;
    site.place_on("postgres", postgres.address(), &database, "")?;
    fleet::start(&mut site)?;
    let mut fleet = Fleet::new(runtime, &site, most, entries.div_ceil(most))?;
    let mut rows = Vec::new();
    let mut rates = Vec::new();
    let fleets = [(most / 100, Protocol::Push), (most / 10, Protocol::Push), (most, Protocol::Push)];
    for (agents, protocol) in fleets.into_iter().chain([(most, Protocol::Sync)]) {
        let agents = agents.max(1);
        fleet.change(agents, protocol);
        let counted = Counted::of(&fleet, &site, &postgres, &database)?;
        let how = match protocol {
            Protocol::Push => "with streams".to_owned(),
            _ => format!("that poll every {} s", INTERVAL.as_secs()),
        };
        rows.push(row(
            format!("queries, idle, {entries} entries, {agents} agents {how}"),
            counted.queries,
            LIMIT,
            "wanted at most",
            "/s",
        ));
        rows.push(row(
            "  the server's processor time meanwhile".to_owned(),
            counted.busy * 100.0,
            0.0,
            "",
            "% of a core",
        ));
        rates.push((agents, counted.queries));
    }
    if let [(few, least), _, (many, pushed), (_, polled)] = rates.as_slice() {
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let more = (many - few) as f64;
        for (how, rate) in [("stream", pushed), ("polls", polled)] {
            let what = format!("  queries for one more idle agent, {how}");
            rows.push(row(what, (rate - least) / more, 0.0, "", "/s"));
        }
    }
    Ok(rows)
}

fn row(what: String, measured: f64, limit: f64, limit_is: &str, unit: &'static str) -> Row {
    Row { what, measured, limit, limit_is: limit_is.to_owned(), unit }
}

/// What was counted in the window.
struct Counted {
    /// Statements a second.
    queries: f64,
    /// The server's processor time by time.
    busy: f64,
}

impl Counted {
    #[expect(clippy::print_stderr, reason = "tells which statements they were")]
    fn of(fleet: &Fleet<'_>, site: &Site, postgres: &Postgres, database: &str) -> Result<Self> {
        let window = Duration::from_secs(u64::try_from(number("HARDROOT_IDLE_SECONDS", SECONDS)?)?);
        let mut outcome = None;
        fleet.run(async |setup| {
            let joined = setup.joined_fleet().await?;
            let (wanted, count) = (setup.agents, joined.len());
            let mut agents = JoinSet::new();
            for (index, agent) in joined {
                let part = INTERVAL.mul_f64(
                    f64::from(u32::try_from(index).unwrap_or_default())
                        / f64::from(u32::try_from(count.max(1)).unwrap_or(1)),
                );
                agents.spawn(idle(agent, part));
            }
            tokio::time::sleep(SETTLE).await;
            // An agent that comes back makes work: then nothing was idle.
            let counted = async {
                ensure!(count == wanted, "{} of {wanted} agents could not join", wanted - count);
                postgres.count_statements()?;
                let (began, before) = (Instant::now(), site.server_time()?);
                tokio::time::sleep(window).await;
                let statements = postgres.statements(database)?;
                let (took, busy) = (began.elapsed(), site.server_time()?.saturating_sub(before));
                if let Some(ended) = agents.try_join_next() {
                    let why = ended.map_or_else(|panic| panic.to_string(), |error| error.to_string());
                    anyhow::bail!("an agent lost its server: {why}");
                }
                for (calls, text) in &statements {
                    eprintln!("  {calls:>6} {}", text.chars().take(100).collect::<String>());
                }
                let all = statements.iter().map(|(calls, _)| *calls).sum::<u64>();
                #[expect(clippy::cast_precision_loss, reason = "thousands")]
                let queries = all as f64 / took.as_secs_f64();
                Ok(Self { queries, busy: busy.as_secs_f64() / took.as_secs_f64() })
            };
            outcome = Some(counted.await);
            agents.shutdown().await;
            Ok(())
        })?;
        outcome.context("nothing was counted")?
    }
}

/// An agent that does nothing but hear of its entries, until its server is lost.
async fn idle(mut agent: SimAgent, first: Duration) -> CallError {
    let mut ticks = tokio::time::interval_at(Instant::now() + first, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let outcome = match agent.pace() {
            Pace::Pushed => agent.news().await,
            Pace::Polled => {
                ticks.tick().await;
                agent.sync().await
            }
        };
        if let Err(error) = outcome {
            return error;
        }
    }
}
