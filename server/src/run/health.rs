//! Readiness, as gRPC health on the admin socket tells it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

/// Ready means: the endpoints are open, the last rotation round went well, and the key manager's last
/// signature succeeded. An HSM that is away makes the server not ready, and it stays alive.
#[derive(Clone)]
pub(super) struct Health {
    reporter: HealthReporter,
    rotating: Arc<AtomicBool>,
    signing: watch::Receiver<bool>,
}

impl Health {
    /// Not ready yet; the service to serve.
    pub(super) async fn new(signing: watch::Receiver<bool>) -> (Self, HealthServer<impl HealthApi>) {
        let (reporter, service) = health_reporter();
        reporter.set_service_status("", ServingStatus::NotServing).await;
        (Self { reporter, rotating: Arc::new(AtomicBool::new(true)), signing }, service)
    }

    /// The endpoints are open.
    pub(super) async fn ready(&self) {
        self.tell().await;
    }

    /// A rotation round went well, or not.
    pub(super) async fn rotation(&self, fine: bool) {
        self.rotating.store(fine, Ordering::Relaxed);
        self.tell().await;
    }

    /// Follows the key manager until the signer is gone.
    pub(super) async fn follow_signing(self) {
        let mut signing = self.signing.clone();
        while signing.changed().await.is_ok() {
            self.tell().await;
        }
    }

    /// Whether the key manager's last signature succeeded.
    pub(super) fn signs(&self) -> bool {
        *self.signing.borrow()
    }

    /// The server is going away.
    pub(super) async fn stopping(&self) {
        self.reporter.set_service_status("", ServingStatus::NotServing).await;
    }

    async fn tell(&self) {
        let ready = self.rotating.load(Ordering::Relaxed) && *self.signing.borrow();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status("", status).await;
    }
}
