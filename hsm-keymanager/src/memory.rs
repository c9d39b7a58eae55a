//! `memory`: keys in this process, gone with it. For evaluation and tests.

use crate::KeyManager;
use crate::software::{KeyMap, generate};
use crate::types::{Custody, Digest, KeyError, KeyId, KeyInfo, KeyType, PublicKey, SignatureScheme};

/// Keys in memory. They are lost with the process, and anyone who reads its memory has them.
#[derive(Default)]
pub struct MemoryKeyManager {
    keys: KeyMap,
}

impl MemoryKeyManager {
    /// An empty key manager.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait::async_trait]
impl KeyManager for MemoryKeyManager {
    fn custody(&self) -> Custody {
        Custody {
            backend: "memory",
            hardware: false,
            detail: "software keys in this process's memory, lost when it ends".to_owned(),
        }
    }

    fn lanes(&self) -> usize {
        crate::software::lanes()
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        let key = generate(id, kind).await?;
        let public = key.public().clone();
        self.keys.put(id, key);
        Ok(public)
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        Ok(self.keys.get(id).map(|key| key.public().clone()))
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        Ok(self.keys.list())
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        self.keys.sign(id, scheme, digest).await
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        self.keys.remove(id);
        Ok(())
    }
}
