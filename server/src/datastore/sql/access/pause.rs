//! A stop between a read and what follows from it, so that a test can let another server act in between.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<Option<Armed>>);

#[derive(Debug)]
struct Armed {
    op: &'static str,
    reads: u32,
    reached: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
}

impl Pause {
    /// Stops the `reads`th read of `op`, once: the receiver hears of it, the sender lets it go on.
    pub(crate) fn after(&self, op: &'static str, reads: u32) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let ((reached, heard), (go, may)) = (oneshot::channel(), oneshot::channel());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Armed { op, reads, reached, go: may });
        (heard, go)
    }

    fn armed_for(&self, op: &'static str) -> Option<Armed> {
        let mut armed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = armed.as_mut().filter(|armed| armed.op == op)?;
        here.reads -= 1;
        if here.reads == 0 { armed.take() } else { None }
    }

    pub(super) async fn reached(&self, op: &'static str) {
        if let Some(armed) = self.armed_for(op) {
            // A test that ended meanwhile hears nothing and stops nobody.
            let _nobody_waits = armed.reached.send(());
            let _gone = armed.go.await;
        }
    }
}
