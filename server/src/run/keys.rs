//! Opening the configured key manager.

use std::sync::Arc;

use hardroot_hsm_keymanager::disk::DiskKeyManager;
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::pkcs11::{Namespace, Pkcs11KeyManager};
use hardroot_hsm_keymanager::tpm::TpmKeyManager;
use hardroot_hsm_keymanager::{Custody, KeyManager};
use hardroot_identity::TrustDomain;
use hardroot_runtime::clock::Clock;
use hardroot_tpm_attestor::device::Tpm;
use tracing::{info, warn};

use super::error::RunError;
use crate::config::{KeyManagerConfig, ServerConfig};
use crate::datastore::KeyRecords;
use crate::instance::{RecordedKeys, keys_per_hour};

/// Opens it and says where keys live from now on.
pub(super) async fn open(
    config: &KeyManagerConfig,
    trust_domain: &TrustDomain,
) -> Result<Arc<dyn KeyManager>, RunError> {
    let name = config.name();
    let keys: Arc<dyn KeyManager> = match config {
        KeyManagerConfig::Pkcs11 { token, instance } => {
            let namespace = Namespace { trust_domain: trust_domain.as_str(), instance };
            Arc::new(
                Pkcs11KeyManager::open(token.clone(), namespace)
                    .await
                    .map_err(RunError::key_manager(name))?,
            )
        }
        KeyManagerConfig::Disk { keys_path } => Arc::new(
            DiskKeyManager::open(keys_path)
                .map_err(|cause| RunError::KeyManager { name, cause: Box::new(cause) })?,
        ),
        KeyManagerConfig::Tpm { device, keys } => {
            let tpm = Tpm::open(device.as_ref().clone())
                .await
                .map_err(|cause| RunError::KeyManager { name, cause: Box::new(cause) })?;
            Arc::new(TpmKeyManager::open(tpm, keys.clone()).await.map_err(RunError::key_manager(name))?)
        }
        KeyManagerConfig::Memory => Arc::new(MemoryKeyManager::new()),
    };
    tell(&keys.custody());
    Ok(keys)
}

/// The key manager with its keys recorded. Those of `memory` end with the process, so there is nothing to record.
pub(super) async fn recorded(
    keys: Arc<dyn KeyManager>,
    records: Arc<dyn KeyRecords>,
    clock: &Arc<dyn Clock>,
    instance: String,
    config: &ServerConfig,
) -> Result<(Arc<dyn KeyManager>, Option<Arc<RecordedKeys>>), RunError> {
    if matches!(config.key_manager, KeyManagerConfig::Memory) {
        return Ok((keys, None));
    }
    let limit = keys_per_hour(config.ca_ttl);
    let recorded = RecordedKeys::open(keys, records, Arc::clone(clock), instance, limit)
        .await
        .map_err(RunError::key_manager(config.key_manager.name()))?;
    let recorded = Arc::new(recorded);
    Ok((Arc::clone(&recorded) as Arc<dyn KeyManager>, Some(recorded)))
}

fn tell(custody: &Custody) {
    if custody.hardware {
        info!(key_manager = custody.backend, detail = %custody.detail, "keys are in hardware");
    } else {
        warn!(
            key_manager = custody.backend, detail = %custody.detail,
            "KEYS ARE IN SOFTWARE and can be copied: allow_software_keys = true is for evaluation"
        );
    }
}
