//! TLS handshakes in the queue.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use hardroot_transport::{SigningOrder, SigningTurn};

use super::{Class, Queue};

/// The TLS port's handshakes, which sign with a key of the same token as everything else.
///
/// How long they take is not learnt from: not every `ClientHello` is answered with a signature, and a stranger could teach
/// the queue that signatures cost nothing.
#[derive(Debug, Clone)]
pub struct Handshakes(pub Arc<Queue>);

#[async_trait]
impl SigningOrder for Handshakes {
    async fn turn(&self) -> Result<SigningTurn, Box<dyn Error + Send + Sync>> {
        let places = self.0.admit(Class::Connection, 1, None)?;
        Ok(Box::new(places.turn().await?))
    }
}
