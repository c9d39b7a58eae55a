//! Whose handshake has the server's key next.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

/// The key is one handshake's until this is dropped.
pub type SigningTurn = Box<dyn Send>;

/// Puts handshakes in order that need a signature of the server's key. They hold no thread while they wait, and
/// leave when their peer does.
#[async_trait]
pub trait SigningOrder: Send + Sync {
    /// Waits until it is this handshake's turn; asked once for each ClientHello, of which a handshake has two when another
    /// key exchange is asked for (RFC 8446 4.1.4). Dropping the call gives the wait up.
    ///
    /// # Errors
    /// It would come too late; the connection is closed before it costs a signature.
    async fn turn(&self) -> Result<SigningTurn, Box<dyn Error + Send + Sync>>;
}

/// So many handshakes at a time, in the order in which they came.
#[derive(Debug)]
pub struct FirstCome(Arc<Semaphore>);

impl FirstCome {
    /// `count` signatures may be wanted of the key at a time, at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS))))
    }
}

/// Thirty-two at a time: each that signs holds a thread of the runtime until its signature is there.
impl Default for FirstCome {
    fn default() -> Self {
        Self::new(32)
    }
}

#[async_trait]
impl SigningOrder for FirstCome {
    async fn turn(&self) -> Result<SigningTurn, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(Arc::clone(&self.0).acquire_owned().await?))
    }
}
