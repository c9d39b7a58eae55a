//! The TPM and the key manager that the configuration names.

use std::sync::Arc;

use hardroot_hsm_keymanager::KeyManager;
use hardroot_hsm_keymanager::disk::DiskKeyManager;
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_node_attestors::AgentAttestor;

use super::RunError;
use crate::config::{AgentConfig, KeyManagerConfig};

/// What the TPM key manager and the TPM attestor share.
pub(super) struct TpmHandle {}

/// Opens the key manager.
pub(super) async fn open(config: &AgentConfig) -> Result<(Arc<dyn KeyManager>, Option<TpmHandle>), RunError> {
    let name = config.key_manager.name();
    let failed = |cause: Box<dyn std::error::Error + Send + Sync>| RunError::Keys { name, cause };
    match &config.key_manager {
        KeyManagerConfig::Memory => Ok((Arc::new(MemoryKeyManager::new()), None)),
        KeyManagerConfig::Disk { directory } => {
            let path = directory.join("keys.json");
            let opened = tokio::task::spawn_blocking(move || DiskKeyManager::open(path)).await;
            let keys = opened.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))?;
            Ok((Arc::new(keys), None))
        }
        KeyManagerConfig::Pkcs11(_) | KeyManagerConfig::Tpm { .. } => Err(failed("not built in".into())),
    }
}

/// The TPM attestor.
pub(super) fn tpm_quote(
    _config: &AgentConfig,
    _tpm: Option<&TpmHandle>,
) -> Result<Arc<dyn AgentAttestor>, RunError> {
    Err(RunError::Attestor { name: "tpm_quote", cause: "not built in".into() })
}
