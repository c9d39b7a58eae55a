//! What is to outlive a restart, on disk: tried again for as long as the disk is full.

use hardroot_identity::Bundle;
use tokio::time::Instant;

use super::identity::{AgentSvid, chain_of};
use super::{Lifecycle, jitter};
use crate::storage::{StorageError, StoredSvid};
use crate::sync::{Hint, Server};

/// What is in use from memory and not on disk yet.
#[derive(Debug, Default)]
pub(super) struct Unstored {
    svid: bool,
    bundle: bool,
}

impl<S: Server> Lifecycle<S> {
    /// Stores the SVID in use. A full disk does not take a running agent down: it is tried again until it works.
    pub(super) fn keep_svid(&mut self, svid: &AgentSvid) {
        let stored =
            StoredSvid { chain: svid.chain.clone(), reattestable: svid.reattestable, csr: self.csr.clone() };
        let kept = self.storage.keep_svid(&stored);
        self.unstored.svid = self.told("SVID", kept);
    }

    /// Stores the own bundle.
    pub(super) fn keep_bundle(&mut self, bundle: &Bundle) {
        let kept = self.storage.keep_bundle(bundle);
        self.unstored.bundle = self.told("trust bundle", kept);
    }

    /// Stores what could not be stored before, when it is time to.
    pub(super) fn keep_again(&mut self) {
        if !self.unstored.svid && !self.unstored.bundle || !self.store_retry.is_ready(Instant::now()) {
            return;
        }
        let svid = self.svid.clone().filter(|_| self.unstored.svid);
        let bundle = self.own_bundle().filter(|_| self.unstored.bundle);
        self.unstored = Unstored::default();
        if let Some(svid) = svid {
            self.keep_svid(&svid);
        }
        if let Some(bundle) = bundle {
            self.keep_bundle(&bundle);
        }
        if !self.unstored.svid && !self.unstored.bundle {
            self.store_retry.succeeded();
            tracing::info!("what is in use is on disk now");
        }
    }

    /// When that is.
    pub(super) fn keep_at(&self) -> Option<Instant> {
        if self.unstored.svid || self.unstored.bundle { self.store_retry.at() } else { None }
    }

    /// Whether it has to be tried again.
    fn told(&mut self, what: &str, kept: Result<(), StorageError>) -> bool {
        let Err(error) = kept else { return false };
        let pause = self.store_retry.after(Instant::now(), Hint::Nothing, jitter());
        tracing::error!(
            error = %error,
            cause = %chain_of(&error),
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "the new {what} cannot be stored; it is used from memory, and lost if the agent is restarted before it is stored"
        );
        true
    }
}
