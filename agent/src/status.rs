//! How the agent is, for those who ask: written by its life cycle, read by the Debug API.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hardroot_identity::X509Svid;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct AgentStatus {
    started: Instant,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    chain: Vec<Vec<u8>>,
    ends: Option<SystemTime>,
    synchronised: Option<SystemTime>,
}

impl Default for AgentStatus {
    fn default() -> Self {
        Self::new()
    }
}

impl AgentStatus {
    /// Of an agent that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), now: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the agent's certificates, DER, leaf first; empty when it has none.
    pub(crate) fn svid_in_use(&self, chain: Vec<Vec<u8>>) {
        let ends = X509Svid::parse(chain.clone()).ok().map(|svid| svid.not_after);
        let mut now = self.lock();
        (now.chain, now.ends) = (chain, ends);
    }

    /// Notes a synchronisation that succeeded.
    pub(crate) fn synchronised(&self, at: SystemTime) {
        self.lock().synchronised = Some(at);
    }

    /// How long the agent has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The agent's certificates, DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> Vec<Vec<u8>> {
        self.lock().chain.clone()
    }

    /// When the agent's SVID ends; `None` when it has none.
    #[must_use]
    pub fn svid_end(&self) -> Option<SystemTime> {
        self.lock().ends
    }

    /// When the last synchronisation that succeeded was.
    #[must_use]
    pub fn last_sync(&self) -> Option<SystemTime> {
        self.lock().synchronised
    }
}
