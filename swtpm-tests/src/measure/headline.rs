//! `make bench-fleet`: a whole fleet with SPIRE's default lifetimes on one server, at rest and with an entry changed every
//! second, once with our agents' protocol and once with SPIRE's.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::fleet;
use super::issuance::verify_time;
use super::raw_token::{self, Load};
use super::report::Row;
use crate::daemon::binary;
use crate::site::{PORT, Site, TRUST_DOMAIN};

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Agents, each with two workloads; `HARDROOT_FLEET_AGENTS`.
    pub agents: usize,
    /// Of each of the four runs; `HARDROOT_FLEET_SECONDS`.
    pub duration: Duration,
}

impl Size {
    /// The headline's, or what the environment says.
    ///
    /// # Errors
    /// A variable is no number.
    pub fn from_environment() -> Result<Self> {
        let number = |name: &str, usual: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
            Err(_) => Ok(usual),
        };
        let agents = usize::try_from(number("HARDROOT_FLEET_AGENTS", 5_000)?)?;
        Ok(Self { agents, duration: Duration::from_secs(number("HARDROOT_FLEET_SECONDS", 600)?) })
    }
}

/// Protocols, as `hardroot-bench` and readers call them.
const PROTOCOLS: [(&str, &str); 2] =
    [("push", "hardroot.server.sync.v1"), ("sync", "SyncAuthorizedEntries every 5 s")];

/// Each protocol at rest, then with a change a second. A picture of the latencies of each run goes to `pictures`;
/// `tell` hears what begins.
///
/// # Errors
/// The server or the load generator failed.
pub fn measure(size: Size, pictures: &Path, tell: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (protocol, name) in PROTOCOLS {
        // A server of its own: memory of one run is not another's.
        let mut site = Site::new()?;
        fleet::start(&mut site)?;
        let bench = Bench { site: &site, agents: size.agents.to_string() };
        bench.run(&["entries", "-perAgent", "2"])?;
        let signature = raw_token::measure(&site, 1, Load::Alone)?.cpu;
        let duration = format!("{}s", size.duration.as_secs());
        for (scenario, flags) in [("steady", &[][..]), ("churn", &["-rate", "1"][..])] {
            tell(&format!("{scenario}, {} agents, {name}", size.agents));
            let picture = pictures.join(format!("fleet-{scenario}-{protocol}.svg")).display().to_string();
            let common = [scenario, "-sync", protocol, "-duration", &duration, "-svg", &picture];
            let arguments = [&common[..], flags].concat();
            let report = bench.report(&arguments)?;
            let title = format!("{scenario}, {protocol}");
            rows.extend(rows_of(&title, &report, signature)?);
        }
    }
    Ok(rows)
}

struct Bench<'a> {
    site: &'a Site,
    agents: String,
}

impl Bench<'_> {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("hardroot-bench")?);
        command.args(arguments).args(["-agents", &self.agents, "-trustDomain", TRUST_DOMAIN]);
        command.arg("-socketPath").arg(self.site.server_socket());
        Ok(command)
    }

    /// Runs a command to its end; its progress is shown.
    fn run(&self, arguments: &[&str]) -> Result<()> {
        let status = self.command(arguments)?.stdout(Stdio::null()).status()?;
        ensure!(status.success(), "hardroot-bench {} ended with {status}", arguments.join(" "));
        Ok(())
    }

    fn report(&self, arguments: &[&str]) -> Result<Value> {
        let pid = self.site.server.as_ref().context("the server is not running")?.pid();
        let mut command = self.command(arguments)?;
        command.arg("-dir").arg(self.site.folder().join("bench"));
        command.args(["-serverAddress", &format!("{}:{PORT}", self.site.address)]);
        command.args(["-serverPid", &pid.to_string(), "-output", "json", "-progress"]);
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "hardroot-bench {} failed", arguments.join(" "));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn rows_of(title: &str, report: &Value, signature: f64) -> Result<Vec<Row>> {
    let row = |what: String, measured: f64, limit: f64, limit_is: String, unit: &'static str| Row {
        what,
        measured,
        limit,
        limit_is,
        unit,
    };
    let number = |path: &str| -> Result<f64> {
        report.pointer(path).and_then(Value::as_f64).with_context(|| format!("the report has no {path}"))
    };
    let operations =
        report.get("operations").and_then(Value::as_array).context("the report has no operations")?;
    let name =
        |operation: &'_ Value| operation.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let total = |member: &str, names: &[&str]| -> f64 {
        let chosen = operations
            .iter()
            .filter(|operation| names.is_empty() || names.contains(&name(operation).as_str()));
        chosen.filter_map(|operation| operation.get(member)?.as_f64()).sum()
    };
    let signatures = total("items", &["x509"]) + total("done", &["attest", "renew", "connect"]);
    let csr = verify_time(hardroot_bench::key::SharedKey::make()?.csr())?;
    let mut rows = vec![
        row(
            format!("{title}: the server's processor time in {:.0} s", number("/seconds")?),
            number("/server/cpu_seconds")?,
            signatures * (signature + csr),
            format!("{signatures:.0} signatures and CSR verifications"),
            "s",
        ),
        row(
            "  its memory at most".to_owned(),
            number("/server/resident_most_mib")?,
            number("/server/resident_first_mib")?,
            "when measuring began".to_owned(),
            "MiB",
        ),
        row("  failures".to_owned(), total("failed", &[]), 0.0, "0".to_owned(), ""),
    ];
    for operation in operations {
        let done = operation.get("done").and_then(Value::as_u64).unwrap_or_default();
        rows.push(row(
            format!("  p99 of {} ({done})", name(operation)),
            operation.pointer("/latency_ms/p99").and_then(Value::as_f64).unwrap_or(f64::NAN),
            0.0,
            String::new(),
            "ms",
        ));
    }
    Ok(rows)
}
