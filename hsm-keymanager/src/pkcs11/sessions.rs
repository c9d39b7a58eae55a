//! Who holds which session. A token that drops its sessions may give their numbers out again, so a thread
//! that still holds a dead session must not use or close what is another's by now.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::error::Error as CkError;
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::error::Pkcs11Error;
use super::module::State;
use super::worker::lock;

/// The sessions of one key manager, by the module's setup and their number.
#[derive(Default)]
pub(super) struct Sessions {
    holders: Mutex<HashMap<(u64, usize), u64>>,
    next: AtomicU64,
}

/// A session and the proof of who opened it.
pub(super) struct Lease {
    pub(super) session: Session,
    epoch: u64,
    holder: u64,
}

impl Lease {
    fn number(&self) -> (u64, usize) {
        (self.epoch, usize::try_from(self.session.handle()).unwrap_or(usize::MAX))
    }
}

/// What a session may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Sessions {
    pub(super) fn open(&self, state: &State, slot: Slot, access: Access) -> Result<Lease, CkError> {
        let session = match access {
            Access::Read => state.context.open_ro_session_no_drop(slot),
            Access::Write => state.context.open_rw_session_no_drop(slot),
        }?;
        let lease = Lease { session, epoch: state.epoch, holder: self.next.fetch_add(1, Ordering::Relaxed) };
        lock(&self.holders).insert(lease.number(), lease.holder);
        Ok(lease)
    }

    /// Whether the session's number was not given out again since it was opened.
    pub(super) fn is_held(&self, lease: &Lease, state: &State) -> bool {
        lease.epoch == state.epoch && lock(&self.holders).get(&lease.number()) == Some(&lease.holder)
    }

    /// Closes a session, unless it is gone already.
    pub(super) fn close(&self, lease: Lease, state: &State) {
        let held = self.is_held(&lease, state);
        if held {
            lock(&self.holders).remove(&lease.number());
            if let Err(error) = lease.session.close() {
                tracing::debug!(error = %Pkcs11Error::from(error), "closing a session failed");
            }
        }
    }
}
