//! Flags that several commands have.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hardroot_identity::{Bundle, TrustDomain};
use hardroot_runtime::cli::Output;

use crate::authority::Authority;
use crate::error::BenchError;
use crate::key::SharedKey;
use crate::meter::Meter;
use crate::operator::Operator;
use crate::scenario::Setup;
use crate::schedule::Arrivals;
use crate::sync::Protocol;
use crate::target::{Attestor, Target};

/// Most agents or workloads that a command takes.
const MOST: u64 = 1_000_000;

/// Where the server's operators are served.
#[derive(Debug, Args)]
pub(super) struct AdminFlags {
    /// Admin socket of the server
    #[arg(long = "socketPath", value_name = "PATH", default_value = "/tmp/spire-server/private/api.sock")]
    pub(super) socket: PathBuf,
    /// Trust domain of the server
    #[arg(long = "trustDomain", value_name = "NAME", value_parser = trust_domain)]
    pub(super) trust_domain: TrustDomain,
}

/// Where the server is, and who the agents are.
#[derive(Debug, Args)]
pub(super) struct LoadFlags {
    #[command(flatten)]
    pub(super) admin: AdminFlags,
    /// Address of the server
    #[arg(long = "serverAddress", value_name = "HOST:PORT", default_value = "127.0.0.1:8081")]
    address: String,
    /// Trust bundle of the server, PEM; without it the admin socket is asked
    #[arg(long = "trustBundle", value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// How agents prove themselves: x509pop or join_token
    #[arg(long, value_name = "NAME", default_value_t)]
    attestor: Attestor,
    /// Folder that `prepare` wrote
    #[arg(long, value_name = "DIR", default_value = "hardroot-bench")]
    dir: PathBuf,
    /// How agents hear of entries: sync (SyncAuthorizedEntries), get (GetAuthorizedEntries) or push (hardroot.server.sync.v1)
    #[arg(long, value_name = "PROTOCOL", default_value_t)]
    sync: Protocol,
    /// How many agents
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=MOST))]
    agents: u64,
    /// How requests follow each other: poisson or constant
    #[arg(long, value_name = "KIND", default_value_t)]
    arrivals: Arrivals,
    /// For all that is random: the same seed plans the same run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How long a connection or a call may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

/// How results are shown.
#[derive(Debug, Args)]
pub(super) struct ReportFlags {
    /// pretty or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub(super) output: Output,
    /// Also draws latency over time into this file
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Tells how it goes also when standard error is no terminal
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    pub(super) progress: Option<bool>,
    /// Process of the server, on this machine: its processor time and memory are reported
    #[arg(long = "serverPid", value_name = "PID")]
    pub(super) server_pid: Option<u32>,
}

impl LoadFlags {
    /// What scenarios need. The admin socket is used when it is there, and must be there when it is needed.
    pub(super) async fn setup(&self, meter: Arc<Meter>) -> Result<Setup, BenchError> {
        let trust_domain = &self.admin.trust_domain;
        let operator = Operator::connect(&self.admin.socket, trust_domain.clone()).await;
        let (operator, bundle) = match &self.bundle {
            Some(path) => (operator.ok(), read_bundle(path, trust_domain)?),
            None => {
                let operator = operator?;
                let bundle = operator.bundle().await?;
                (Some(operator), bundle)
            }
        };
        let target = Target::new(self.address.clone(), bundle, self.timeout)
            .map_err(|error| BenchError::Flag { flag: "trustDomain", reason: error.to_string() })?;
        let authority = match self.attestor {
            Attestor::X509pop => Some(Authority::read(&self.dir)?),
            Attestor::JoinToken => None,
        };
        Ok(Setup {
            target: Arc::new(target),
            operator,
            key: Arc::new(SharedKey::make()?),
            attestor: self.attestor,
            authority,
            protocol: self.sync,
            agents: usize::try_from(self.agents).unwrap_or(usize::MAX),
            arrivals: self.arrivals,
            seed: self.seed,
            meter,
        })
    }

    /// How many agents.
    pub(super) fn agents(&self) -> u64 {
        self.agents
    }

    /// What the report says about them.
    pub(super) fn parameters(&self) -> Vec<(String, String)> {
        [
            ("serverAddress", self.address.clone()),
            ("attestor", self.attestor.to_string()),
            ("sync", self.sync.to_string()),
            ("agents", self.agents.to_string()),
            ("arrivals", self.arrivals.to_string()),
            ("seed", self.seed.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

fn read_bundle(path: &std::path::Path, trust_domain: &TrustDomain) -> Result<Bundle, BenchError> {
    let pem = std::fs::read(path).map_err(|cause| BenchError::File {
        op: "reading",
        path: path.to_owned(),
        cause,
        hint: "; hardroot-server bundle show -format pem writes one",
    })?;
    Bundle::from_pem(trust_domain.clone(), &pem)
        .map_err(|error| BenchError::Content { path: path.to_owned(), reason: error.to_string() })
}

pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::from_name_or_id(text).map_err(|error| error.to_string())
}

/// A duration above zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = duration_or_zero(text)?;
    if duration.is_zero() { Err("it must be above 0".to_owned()) } else { Ok(duration) }
}

/// A duration.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    hardroot_config::duration::parse(text).map_err(|error| error.to_string())
}

/// A rate above zero, a million at most.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = rate_or_zero(text)?;
    if rate > 0.0 { Ok(rate) } else { Err("a rate must be above 0".to_owned()) }
}

/// A rate, a million at most; zero is none.
pub(super) fn rate_or_zero(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error: std::num::ParseFloatError| error.to_string())?;
    if number < 0.0 {
        return Err("a rate must be above 0".to_owned());
    }
    if number.is_nan() || number > 1e6 {
        return Err("a rate is a number a second, a million at most".to_owned());
    }
    Ok(number)
}
