//! Ending in order: one token that everything waits on, asked for by SIGTERM or SIGINT.

use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The exit code after a second signal that cut draining short: 128 + SIGTERM.
pub const FORCED_EXIT: i32 = 143;

/// A request to end, seen by every clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    sender: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A token that nobody has asked yet.
    #[must_use]
    pub fn new() -> Self {
        Self { sender: Arc::new(watch::Sender::new(false)) }
    }

    /// Asks everybody to end.
    pub fn request(&self) {
        self.sender.send_replace(true);
    }

    /// Whether somebody has asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.sender.borrow()
    }

    /// Returns when somebody has asked; at once if that was before. Owns its token, so it can be moved into a task.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.sender.subscribe();
        let sender = Arc::clone(&self.sender);
        async move {
            drop(receiver.wait_for(|requested| *requested).await);
            // Kept until here: without a sender the wait would end.
            drop(sender);
        }
    }
}

/// A token that SIGTERM and SIGINT request. A second signal ends the process at once with [`FORCED_EXIT`].
///
/// A file that may not grow any more (`LimitFSIZE`, SIGXFSZ) is an error of the write from here on, as a full disk is, and
/// not the end of the process.
///
/// # Errors
/// The handlers cannot be installed. Call it inside a tokio runtime.
pub fn signals() -> std::io::Result<Shutdown> {
    let shutdown = Shutdown::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The handler stays when the stream is dropped; that it is there is all that is wanted of it.
    drop(signal(SignalKind::from_raw(Signal::SIGXFSZ as i32))?);
    let token = shutdown.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                Some(()) = terminate.recv() => "SIGTERM",
                Some(()) = interrupt.recv() => "SIGINT",
                else => return,
            };
            if token.is_requested() {
                tracing::warn!(signal = name, "second signal: ending at once");
                std::process::exit(FORCED_EXIT);
            }
            tracing::info!(signal = name, "signal received: shutting down");
            token.request();
        }
    });
    Ok(shutdown)
}

/// Calls `act` at each SIGUSR1 or SIGUSR2 (by kind), until `shutdown` is requested.
///
/// # Errors
/// The handler cannot be installed.
pub fn on_signal(
    kind: SignalKind,
    shutdown: &Shutdown,
    mut act: impl FnMut() + Send + 'static,
) -> std::io::Result<()> {
    let mut stream = signal(kind)?;
    let ended = shutdown.requested();
    tokio::spawn(async move {
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => return,
                received = stream.recv() => match received {
                    Some(()) => act(),
                    None => return,
                },
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise;

    #[tokio::test]
    async fn everybody_hears_a_request() {
        let shutdown = Shutdown::new();
        let (early, clone) = (shutdown.requested(), shutdown.clone());
        assert!(!clone.is_requested());
        shutdown.request();
        early.await;
        clone.requested().await;
        drop(shutdown);
        assert!(clone.is_requested());
    }

    #[tokio::test]
    async fn a_signal_is_a_request() {
        let shutdown = signals().unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        on_signal(SignalKind::user_defined2(), &shutdown, move || sender.send(()).unwrap()).unwrap();
        raise(Signal::SIGUSR2).unwrap();
        receiver.recv().await.unwrap();
        raise(Signal::SIGTERM).unwrap();
        shutdown.requested().await;
    }
}
