//! The conformance suite on `memory` and `disk`.
#![cfg(all(feature = "conformance", feature = "memory", feature = "disk"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

use std::fs;
use std::sync::Arc;

use hardroot_hsm_keymanager::conformance::{Backend, run};
use hardroot_hsm_keymanager::disk::DiskKeyManager;
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{KeyId, KeyManager, KeyType};

struct Memory;

#[async_trait::async_trait]
impl Backend for Memory {
    async fn open(&self) -> Arc<dyn KeyManager> {
        Arc::new(MemoryKeyManager::new())
    }

    fn types(&self) -> Vec<KeyType> {
        vec![KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048]
    }

    fn survives_restart(&self) -> bool {
        false
    }

    async fn die_halfway(&self, _id: &KeyId) -> bool {
        false
    }
}

struct Disk(tempfile::TempDir);

#[async_trait::async_trait]
impl Backend for Disk {
    async fn open(&self) -> Arc<dyn KeyManager> {
        Arc::new(DiskKeyManager::open(self.0.path().join("keys.json")).unwrap())
    }

    fn types(&self) -> Vec<KeyType> {
        vec![KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096]
    }

    async fn die_halfway(&self, id: &KeyId) -> bool {
        // The new file was being written and had not been renamed.
        let text = format!("{{\n\t\"keys\": {{\n\t\t\"{id}\": \"MIGHAgEA");
        fs::write(self.0.path().join(".keys.json.1-0.tmp"), text).unwrap();
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    run(&Memory).await.unwrap();
    assert!(!MemoryKeyManager::new().custody().hardware);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_conforms() {
    let disk = Disk(tempfile::tempdir().unwrap());
    run(&disk).await.unwrap();
    assert!(!disk.open().await.custody().hardware);
}
