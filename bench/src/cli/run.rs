//! The scenarios' commands: run, report, also when broken off.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::flags::{LoadFlags, ReportFlags, duration, duration_or_zero, rate, rate_or_zero};
use super::print;
use crate::error::BenchError;
use crate::meter::Meter;
use crate::process::{Watch, raise_open_files};
use crate::progress;
use crate::report::{Report, svg, table};
use crate::scenario::{Attest, Churn, Issue, Pressure, Setup, Steady, Storm};

/// Open files beside the agents' connections.
const OTHER_FILES: u64 = 100;

#[derive(Debug, Args)]
pub(super) struct AttestArgs {
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    report: ReportFlags,
    /// Attestations a second
    #[arg(long, value_name = "N", default_value = "10", value_parser = rate)]
    rate: f64,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    duration: Duration,
}

impl AttestArgs {
    pub(super) async fn run(self) -> Result<ExitCode, BenchError> {
        let scenario = Attest { rate: self.rate, duration: self.duration };
        let own = vec![("rate", self.rate.to_string()), ("duration", shown(self.duration))];
        go("attest", &self.load, &self.report, own, async |setup| scenario.run(setup).await).await
    }
}

#[derive(Debug, Args)]
pub(super) struct SteadyArgs {
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    report: ReportFlags,
    /// How often agents ask for their entries
    #[arg(long = "syncInterval", value_name = "TIME", default_value = "5s", value_parser = duration)]
    sync_interval: Duration,
    /// For how long it is measured
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    duration: Duration,
    /// X509-SVIDs a second for workloads that start, beside the renewals
    #[arg(long = "fetchRate", value_name = "N", default_value = "0", value_parser = rate_or_zero)]
    fetch_rate: f64,
    /// JWT-SVIDs a second
    #[arg(long = "jwtRate", value_name = "N", default_value = "0", value_parser = rate_or_zero)]
    jwt_rate: f64,
}

impl SteadyArgs {
    pub(super) async fn run(self) -> Result<ExitCode, BenchError> {
        let scenario = Steady {
            sync_interval: self.sync_interval,
            duration: self.duration,
            fetch_rate: self.fetch_rate,
            jwt_rate: self.jwt_rate,
        };
        let own = vec![
            ("syncInterval", shown(self.sync_interval)),
            ("duration", shown(self.duration)),
            ("fetchRate", self.fetch_rate.to_string()),
            ("jwtRate", self.jwt_rate.to_string()),
        ];
        go("steady", &self.load, &self.report, own, async |setup| scenario.run(setup).await).await
    }
}

#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    report: ReportFlags,
    /// X509-SVIDs a second
    #[arg(long, value_name = "N", default_value = "100", value_parser = rate)]
    rate: f64,
    /// As fast as the server gives them, instead of at a rate
    #[arg(long = "closedLoop", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    closed_loop: Option<bool>,
    /// With -closedLoop: calls that each agent has under way
    #[arg(long = "inFlight", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    in_flight: u64,
    /// SVIDs in one call
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=500))]
    batch: u64,
    /// JWT-SVIDs a second beside them
    #[arg(long = "jwtRate", value_name = "N", default_value = "0", value_parser = rate_or_zero)]
    jwt_rate: f64,
    /// For how long it is measured
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// With -closedLoop: for how long it runs before that
    #[arg(long = "warmUp", value_name = "TIME", default_value = "2s", value_parser = duration_or_zero)]
    warm_up: Duration,
}

impl IssueArgs {
    pub(super) async fn run(self) -> Result<ExitCode, BenchError> {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let closed = self.closed_loop == Some(true);
        let pressure =
            if closed { Pressure::InFlight(count(self.in_flight)) } else { Pressure::Rate(self.rate) };
        let scenario = Issue {
            pressure,
            batch: count(self.batch),
            jwt_rate: self.jwt_rate,
            duration: self.duration,
            warm_up: self.warm_up,
        };
        let mut own = vec![("batch", self.batch.to_string()), ("duration", shown(self.duration))];
        own.push(if closed {
            ("closedLoop -inFlight", self.in_flight.to_string())
        } else {
            ("rate", self.rate.to_string())
        });
        own.push(("jwtRate", self.jwt_rate.to_string()));
        go("issue", &self.load, &self.report, own, async |setup| scenario.run(setup).await).await
    }
}

#[derive(Debug, Args)]
pub(super) struct StormArgs {
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    report: ReportFlags,
    /// How long all agents are joined and quiet before the storm
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration_or_zero)]
    calm: Duration,
    /// Over which time agents notice that they have expired; 0 is all at once
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration_or_zero)]
    spread: Duration,
    /// When it is given up
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    duration: Duration,
}

impl StormArgs {
    pub(super) async fn run(self) -> Result<ExitCode, BenchError> {
        let scenario = Storm {
            calm: self.calm,
            spread: self.spread,
            give_up: self.duration,
            server_pid: self.report.server_pid,
        };
        let own = vec![("spread", shown(self.spread)), ("calm", shown(self.calm))];
        go("storm", &self.load, &self.report, own, async |setup| scenario.run(setup).await).await
    }
}

#[derive(Debug, Args)]
pub(super) struct ChurnArgs {
    #[command(flatten)]
    load: LoadFlags,
    #[command(flatten)]
    report: ReportFlags,
    /// Changes a second
    #[arg(long, value_name = "N", default_value = "1", value_parser = rate)]
    rate: f64,
    /// How often agents ask for their entries
    #[arg(long = "syncInterval", value_name = "TIME", default_value = "5s", value_parser = duration)]
    sync_interval: Duration,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    duration: Duration,
}

impl ChurnArgs {
    pub(super) async fn run(self) -> Result<ExitCode, BenchError> {
        let scenario = Churn { rate: self.rate, sync_interval: self.sync_interval, duration: self.duration };
        let own = vec![
            ("rate", self.rate.to_string()),
            ("syncInterval", shown(self.sync_interval)),
            ("duration", shown(self.duration)),
        ];
        go("churn", &self.load, &self.report, own, async |setup| scenario.run(setup).await).await
    }
}

fn shown(duration: Duration) -> String {
    hardroot_config::duration::format(duration)
}

/// Runs a scenario until it ends or is broken off, and reports.
async fn go(
    name: &'static str,
    load: &LoadFlags,
    report: &ReportFlags,
    own: Vec<(&'static str, String)>,
    scenario: impl AsyncFnOnce(&Setup) -> Result<(), BenchError>,
) -> Result<ExitCode, BenchError> {
    let files = raise_open_files();
    if files < load.agents().saturating_add(OTHER_FILES) {
        let needed = load.agents() + OTHER_FILES;
        let reason =
            format!("each agent is a connection and {files} open files are allowed; run: ulimit -n {needed}");
        return Err(BenchError::Flag { flag: "agents", reason });
    }
    let server = match report.server_pid {
        Some(pid) => Some(Watch::begin(pid).ok_or_else(|| BenchError::Flag {
            flag: "serverPid",
            reason: format!("there is no process {pid} on this machine, or it may not be looked at"),
        })?),
        None => None,
    };
    let generator = Watch::begin(std::process::id());
    let signals = |kind: SignalKind| {
        signal(kind).map_err(|cause| BenchError::File {
            op: "waiting for signals",
            path: "this process".into(),
            cause,
            hint: "",
        })
    };
    let (mut interrupt, mut terminate) =
        (signals(SignalKind::interrupt())?, signals(SignalKind::terminate())?);
    let meter = Arc::new(Meter::default());
    let telling = progress::begin(Arc::clone(&meter), report.progress == Some(true));
    let run = async {
        let setup = load.setup(Arc::clone(&meter)).await?;
        scenario(&setup).await
    };
    let interrupted = tokio::select! {
        outcome = run => {
            outcome?;
            false
        }
        () = follow(&meter, [&server, &generator]) => false,
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
    };
    drop(telling);
    let mut parameters = load.parameters();
    parameters.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let span = |watch: &Option<Watch>| watch.as_ref().and_then(Watch::span);
    let made = Report::new(name, parameters, interrupted, &meter.measured(), span(&server), span(&generator));
    if let Some(path) = &report.svg {
        std::fs::write(path, svg(&made)).map_err(|cause| BenchError::File {
            op: "writing",
            path: path.clone(),
            cause,
            hint: "",
        })?;
    }
    match report.output {
        hardroot_runtime::cli::Output::Json => {
            let json = serde_json::to_string(&made).map_err(|error| BenchError::Crypto {
                op: "writing the report",
                reason: error.to_string(),
            })?;
            print(&format!("{json}\n"))?;
        }
        hardroot_runtime::cli::Output::Pretty => print(&table(&made))?,
    }
    Ok(if interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Counts what the processes use anew whenever measuring begins. Never ends.
async fn follow(meter: &Meter, watched: [&Option<Watch>; 2]) {
    let mut began = meter.began();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = meter.began();
        if now != began {
            began = now;
            for watch in watched.into_iter().flatten() {
                watch.restart();
            }
        }
    }
}
