//! Workload attestors: from a held process to selectors.

mod digest;
mod names;
pub mod unix;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hardroot_identity::Selector;
use hardroot_telemetry::Call;

use crate::peer::{Peer, PeerError};

/// Why an attestor could not tell. It is never "this process has no identity": that is an answer without a matching selector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadAttestError {
    /// The process is gone, has changed, or cannot be looked at.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The program cannot be hashed.
    #[error("the program of pid {pid} cannot be hashed: {why}")]
    Program {
        /// The process id.
        pid: i32,
        /// Why, and what to do.
        why: String,
    },
    /// It took too long.
    #[error("attesting pid {pid} took longer than {seconds} s")]
    TooLong {
        /// The process id.
        pid: i32,
        /// The limit.
        seconds: u64,
    },
    /// The process was another one after attestation than before.
    #[error("the process {pid} changed while it was attested")]
    Moved {
        /// The process id.
        pid: i32,
    },
    /// The attestor itself broke.
    #[error("the attestor ended without an answer")]
    Broken,
}

/// From a held process handle to selectors.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync {
    /// The name in the configuration, which is also the selectors' type.
    fn name(&self) -> &str;

    /// The selectors of a process. May be called any number of times at once; holds nothing afterwards.
    ///
    /// # Errors
    /// The attestor could not tell. Its selectors are then missing, which can only make fewer entries match.
    async fn attest(&self, peer: &Peer) -> Result<Vec<Selector>, WorkloadAttestError>;
}

/// Asks every attestor at once, between two samples of the process that must agree; sorted, without duplicates.
///
/// An attestor that fails is logged and left out. With no attestor configured there are no selectors.
///
/// # Errors
/// The process ended or changed, all attestors failed, or `within` has passed.
pub async fn attest(
    peer: &Peer,
    attestors: &[Arc<dyn WorkloadAttestor>],
    within: Duration,
) -> Result<Vec<Selector>, WorkloadAttestError> {
    let pid = peer.pid();
    let before = peer.sample()?;
    let asked = futures_util::future::join_all(attestors.iter().map(|attestor| ask(attestor.as_ref(), peer)));
    let answers = tokio::time::timeout(within, asked)
        .await
        .map_err(|_elapsed| WorkloadAttestError::TooLong { pid, seconds: within.as_secs() })?;
    let mut selectors = Vec::new();
    let mut failed = None;
    let mut answered = attestors.is_empty();
    for (attestor, answer) in attestors.iter().zip(answers) {
        match answer {
            Ok(found) => {
                answered = true;
                selectors.extend(found);
            }
            Err(error) => {
                tracing::warn!(subsystem_name = "workload_attestor", attestor = attestor.name(), pid, error = %error,
                    "workload attestor failed");
                failed = Some(error);
            }
        }
    }
    let after = peer.sample()?;
    if before != after {
        return Err(WorkloadAttestError::Moved { pid });
    }
    match failed {
        Some(error) if !answered => Err(error),
        _ => {
            selectors.sort();
            selectors.dedup();
            Ok(selectors)
        }
    }
}

async fn ask(attestor: &dyn WorkloadAttestor, peer: &Peer) -> Result<Vec<Selector>, WorkloadAttestError> {
    let mut call = Call::start("workload_api.workload_attestor");
    call.label("attestor", attestor.name());
    call.finish(attestor.attest(peer).await)
}

/// Runs what may block off the asynchronous threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkloadAttestError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| WorkloadAttestError::Broken)
}
