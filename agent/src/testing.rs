//! What several tests of this crate need.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hardroot_hsm_keymanager::{
    Custody, Digest, KeyError, KeyId, KeyInfo, KeyManager, KeyType, PublicKey, SignatureScheme,
};

/// Software keys.
pub(crate) fn memory_keys() -> Arc<dyn KeyManager> {
    Arc::new(hardroot_hsm_keymanager::memory::MemoryKeyManager::new())
}

/// A memory key manager that may say it is hardware, and counts its signatures.
pub(crate) struct CountingKeys {
    inner: Arc<dyn KeyManager>,
    hardware: bool,
    signed: AtomicUsize,
}

impl CountingKeys {
    pub(crate) fn new(hardware: bool) -> Self {
        Self { inner: memory_keys(), hardware, signed: AtomicUsize::new(0) }
    }

    pub(crate) fn signatures(&self) -> usize {
        self.signed.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl KeyManager for CountingKeys {
    fn custody(&self) -> Custody {
        Custody { hardware: self.hardware, ..self.inner.custody() }
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        self.inner.generate(id, kind).await
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        self.inner.find(id).await
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        self.inner.list().await
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        self.signed.fetch_add(1, Ordering::SeqCst);
        self.inner.sign(id, scheme, digest).await
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        self.inner.destroy(id).await
    }
}
