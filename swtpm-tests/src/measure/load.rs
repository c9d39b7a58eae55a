//! Latency below saturation (row P2), and recovery of a fleet whose SVIDs have all expired (row P3).

use std::time::Duration;

use anyhow::{Context as _, Result};
use hardroot_bench::meter::{Measured, Op};
use hardroot_bench::scenario::{Issue, Pressure, Storm};

use super::fleet::{self, Fleet};
use super::number;
use super::raw_token::{self, Load};
use super::report::Row;
use crate::site::Site;

const LANES: u32 = 4;
const DELAY: Duration = Duration::from_millis(2);
/// Part of the token's rate that is asked for.
const PART: f64 = 0.7;
/// Agents of the storm, unless `HARDROOT_STORM_AGENTS` says otherwise.
const STORM_AGENTS: usize = 10_000;
/// SVIDs of each agent's workloads in the storm.
const PER_AGENT: usize = 1;
/// Signatures for an agent in a storm: two TLS connections, its own SVID, its workloads'.
const SIGNATURES: f64 = 3.0 + PER_AGENT as f64;

/// p99 at 70 % of what a token of 2 ms and 4 lanes signs, arrivals planned in advance.
///
/// # Errors
/// The server or the token failed.
pub fn latency(runtime: &tokio::runtime::Runtime) -> Result<Vec<Row>> {
    let mut site = Site::new()?;
    site.slow_token(DELAY)?;
    site.server_sessions = Some(LANES);
    fleet::start(&mut site)?;
    let fleet = Fleet::new(runtime, &site, 64, 1)?;
    let raw = raw_token::measure(&site, LANES, Load::Alone)?;
    let rate = raw.rate * PART;
    let direct = raw_token::latency(&site, LANES, rate)?;
    let issue = Issue {
        pressure: Pressure::Rate(rate),
        batch: 1,
        jwt_rate: 0.0,
        duration: Duration::from_secs(15),
        warm_up: Duration::ZERO,
    };
    let measured = fleet.run(async |setup| issue.run(setup).await)?;
    let series = measured.series.get(&Op::X509).context("nothing was issued")?;
    let ms = |q: f64| series.latency.quantile(q).as_secs_f64() * 1000.0;
    let row = |what: &str, measured: f64, limit: f64, limit_is: &str| Row {
        what: format!("{what}, {rate:.0}/s of {:.0}/s", raw.rate),
        measured,
        limit,
        limit_is: limit_is.to_owned(),
        unit: "ms",
    };
    Ok(vec![
        row(
            "issuance p99 at 70 % of the token",
            ms(0.99),
            direct.p99 * 1.5 + 3.0,
            "p99 of the raw token x 1.5 + 3 ms",
        ),
        row(
            "issuance p50 at 70 % of the token",
            ms(0.5),
            direct.p50,
            "p50 of the raw token at the same arrivals",
        ),
    ])
}

/// All SVIDs of a fleet have expired; the token makes some 500 signatures a second.
///
/// # Errors
/// The server or the token failed.
pub fn storm(runtime: &tokio::runtime::Runtime) -> Result<Vec<Row>> {
    let agents = number("HARDROOT_STORM_AGENTS", STORM_AGENTS)?;
    let _files = hardroot_bench::process::raise_open_files();
    let mut site = Site::new()?;
    site.slow_token(DELAY)?;
    site.server_sessions = Some(1);
    fleet::start(&mut site)?;
    let fleet = Fleet::new(runtime, &site, agents, PER_AGENT)?;
    let raw = raw_token::measure(&site, 1, Load::Alone)?;
    let storm = Storm {
        calm: Duration::from_secs(10),
        spread: Duration::ZERO,
        give_up: Duration::from_secs(1200),
        server_pid: site.server.as_ref().map(crate::daemon::Daemon::pid),
    };
    let measured = fleet.run(async |setup| storm.run(setup).await)?;
    let figure = |name: &str| figure(&measured, name);
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let count = agents as f64;
    let row = |what: String, measured: f64, limit: f64, limit_is: String, unit: &'static str| Row {
        what,
        measured,
        limit,
        limit_is,
        unit,
    };
    Ok(vec![
        row(
            format!("a storm of {agents} agents heals"),
            figure("until the last was healed")?,
            count * SIGNATURES / raw.rate,
            format!("{SIGNATURES} signatures each at {:.0}/s", raw.rate),
            "s",
        ),
        row(
            "  the server's memory after the storm".to_owned(),
            figure("server's memory after the storm")?,
            figure("server's memory in the calm")?,
            "before it".to_owned(),
            "MiB",
        ),
        row("  agents not healed".to_owned(), figure("agents not healed")?, 0.0, String::new(), ""),
        row(
            "  attempts that had to be repeated".to_owned(),
            figure("attempts that had to be repeated")?,
            0.0,
            String::new(),
            "",
        ),
    ])
}

fn figure(measured: &Measured, name: &str) -> Result<f64> {
    let found = measured.figures.iter().find(|figure| figure.name == name);
    Ok(found.with_context(|| format!("the storm did not say \"{name}\""))?.value)
}
