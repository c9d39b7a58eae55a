//! X509-SVID issuance against what token and processor could do at most (row P1): the token's raw signing rate, and the
//! rate at which all cores together could verify the CSRs, each of which must be verified.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hardroot_bench::meter::Op;
use hardroot_bench::scenario::{Issue, Pressure};
use hardroot_identity::Csr;
use nix::time::{ClockId, clock_gettime};

use super::fleet::{self, Fleet};
use super::raw_token::{self, Load};
use super::report::Row;
use crate::site::Site;

const AGENTS: usize = 8;
/// The largest batch; slower tokens get smaller ones, a quarter of a second for each agent.
const BATCH: f64 = 50.0;
const SECONDS: u64 = 8;

/// SoftHSM as it is, and slower tokens with 1, 4 and 8 lanes.
///
/// # Errors
/// The server or the token failed.
pub fn measure(runtime: &tokio::runtime::Runtime) -> Result<Vec<Row>> {
    let mut rows = one(runtime, None, u32::try_from(thread::available_parallelism()?.get())?)?;
    for delay in [2, 14, 73] {
        for lanes in [1, 4, 8] {
            rows.extend(one(runtime, Some(Duration::from_millis(delay)), lanes)?);
        }
    }
    Ok(rows)
}

fn one(runtime: &tokio::runtime::Runtime, delay: Option<Duration>, lanes: u32) -> Result<Vec<Row>> {
    let mut site = Site::new()?;
    if let Some(delay) = delay {
        site.slow_token(delay)?;
        site.server_sessions = Some(lanes);
    }
    fleet::start(&mut site)?;
    let fleet = Fleet::new(runtime, &site, AGENTS, 50)?;
    let before = raw_token::measure(&site, lanes, Load::Alone)?;
    let shared = raw_token::measure(&site, lanes, Load::Verifying)?;
    let verified = verify_time(fleet.csr())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 50")]
    let batch = (before.rate / 4.0).clamp(1.0, BATCH) as usize;
    let issue = Issue {
        pressure: Pressure::InFlight(1),
        batch,
        jwt_rate: 0.0,
        duration: Duration::from_secs(SECONDS),
        warm_up: Duration::from_secs(2),
    };
    let busy_before = site.server_time()?;
    let measured = fleet.run(async |setup| issue.run(setup).await)?;
    let busy = site.server_time()?.saturating_sub(busy_before);
    let raw = before.between(raw_token::measure(&site, lanes, Load::Alone)?);
    let series = measured.series.get(&Op::X509).context("nothing was issued")?;
    ensure!(series.failed() == 0, "calls failed: {:?}", series.failures);
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let (issued, cores) = (series.items as f64, thread::available_parallelism()?.get() as f64);
    let seconds = measured.ended.map_or(1.0, |end| (end - measured.began).as_secs_f64());
    let (rate, all_cores) = (issued / seconds, cores / verified);
    let token = match delay {
        None => "SoftHSM".to_owned(),
        Some(delay) => format!("{} ms x {lanes} lanes", delay.as_millis()),
    };
    let row = |what: String, measured: f64, limit: f64, limit_is: &str, unit: &'static str| Row {
        what,
        measured,
        limit,
        limit_is: limit_is.to_owned(),
        unit,
    };
    let limit_is = if raw.rate < all_cores { "raw C_Sign loop, alone" } else { "CSRs verified by all cores" };
    let what = format!("X509-SVIDs, {token}, {AGENTS} agents, batches of {batch}");
    let mut rows = vec![row(what, rate, raw.rate.min(all_cores), limit_is, "/s")];
    rows.push(row(
        "  the same beside the least that must be done for each".to_owned(),
        rate,
        shared.rate,
        "raw loop that verifies CSR and signature on the same cores",
        "/s",
    ));
    if delay.is_none() {
        // SoftHSM is software: what signs, verifies and loads shares the cores. Processor time tells the server's part.
        let through = issued * (seconds + 2.0) / seconds;
        rows.push(row(
            "  the server's processor time for one of them".to_owned(),
            1e6 * busy.as_secs_f64() / through,
            1e6 * (raw.cpu + 2.0 * verified),
            "C_Sign, CSR and signature verified",
            "us",
        ));
    }
    Ok(rows)
}

/// Processor time, in seconds, of verifying a CSR.
///
/// # Errors
/// It does not verify.
pub fn verify_time(csr: &[u8]) -> Result<f64> {
    const TIMES: u32 = 5000;
    let time = || -> Result<Duration> { Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into()) };
    let begun = time()?;
    for _ in 0..TIMES {
        ensure!(Csr::parse(csr)?.signature_valid, "the CSR's signature does not verify");
    }
    Ok(time()?.saturating_sub(begun).as_secs_f64() / f64::from(TIMES))
}
