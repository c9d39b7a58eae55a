//! Simulated agents (`hardroot-bench`) for the measurements.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hardroot_bench::authority::{Authority, prepare};
use hardroot_bench::error::BenchError;
use hardroot_bench::key::SharedKey;
use hardroot_bench::meter::{Measured, Meter};
use hardroot_bench::operator::Operator;
use hardroot_bench::scenario::Setup;
use hardroot_bench::schedule::Arrivals;
use hardroot_bench::sync::Protocol;
use hardroot_bench::target::{Attestor, Target};
use hardroot_identity::TrustDomain;

use crate::site::{PORT, Site, TRUST_DOMAIN};

/// Starts the site's server with what simulated agents need.
///
/// # Errors
/// It did not come up.
pub fn start(site: &mut Site) -> Result<()> {
    let made = prepare(&site.folder().join("bench"))?;
    let text = std::fs::read_to_string(made.snippet)?;
    let inside = |name: &str| -> Result<String> {
        let (_, rest) = text.split_once(&format!("{name} {{\n")).context("no such block")?;
        Ok(rest.split_once("\n}\n").context("the block has no end")?.0.to_owned() + "\n")
    };
    site.server_lines = inside("server")?;
    site.attestors.push_str(&inside("plugins")?);
    site.start_server()
}

/// Simulated agents with entries.
pub struct Fleet<'a> {
    runtime: &'a tokio::runtime::Runtime,
    setup: Setup,
}

impl<'a> Fleet<'a> {
    /// So many agents of a started site, with so many entries each.
    ///
    /// # Errors
    /// The server refuses.
    pub fn new(
        runtime: &'a tokio::runtime::Runtime,
        site: &Site,
        agents: usize,
        per_agent: usize,
    ) -> Result<Self> {
        let setup = runtime.block_on(async {
            let operator = Operator::connect(&site.server_socket(), TrustDomain::new(TRUST_DOMAIN)?).await?;
            operator.create_entries(Attestor::X509pop, agents, per_agent, |_done| {}).await?;
            let bundle = operator.bundle().await?;
            let target = Target::new(format!("{}:{PORT}", site.address), bundle, Duration::from_secs(30))?;
            anyhow::Ok(Setup {
                target: Arc::new(target),
                operator: Some(operator),
                key: Arc::new(SharedKey::make()?),
                attestor: Attestor::X509pop,
                authority: Some(Authority::read(&site.folder().join("bench"))?),
                protocol: Protocol::Sync,
                agents,
                arrivals: Arrivals::Poisson,
                seed: 1,
                meter: Arc::new(Meter::default()),
            })
        })?;
        Ok(Self { runtime, setup })
    }

    /// The same agents with another protocol.
    #[must_use]
    pub fn speaking(mut self, protocol: Protocol) -> Self {
        self.setup.protocol = protocol;
        self
    }

    /// From now on so many agents, which hear of their entries by this protocol, and a measurement of its own.
    pub fn change(&mut self, agents: usize, protocol: Protocol) {
        self.setup.agents = agents;
        self.setup.protocol = protocol;
        self.setup.meter = Arc::new(Meter::default());
    }

    /// The CSR that all of them send.
    #[must_use]
    pub fn csr(&self) -> &[u8] {
        self.setup.key.csr()
    }

    /// Runs a scenario.
    ///
    /// # Errors
    /// The scenario could not be run.
    pub fn run(&self, scenario: impl AsyncFnOnce(&Setup) -> Result<(), BenchError>) -> Result<Measured> {
        self.runtime.block_on(scenario(&self.setup))?;
        Ok(self.setup.meter.measured())
    }
}
