//! The TPM and the key manager that the configuration names.

use std::sync::Arc;

use hardroot_hsm_keymanager::KeyManager;
use hardroot_hsm_keymanager::disk::DiskKeyManager;
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::pkcs11::{Namespace, Pkcs11KeyManager};
use hardroot_hsm_keymanager::tpm::{self, ForeignKeys, TpmKeyManager};
use hardroot_node_attestors::AgentAttestor;
use hardroot_node_attestors::tpm_quote::{TpmQuoteAgent, TpmQuoteAgentConfig};
use hardroot_tpm_attestor::device::{Config, Tcti, Tpm, TpmError};

use super::RunError;
use crate::config::{AgentConfig, KeyManagerConfig, TpmConfig};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What the TPM key manager and the TPM attestor share.
pub(super) struct TpmKeys {
    tpm: Arc<Tpm>,
    keys: Arc<TpmKeyManager>,
}

/// Opens the TPM of a `tpm` block.
pub(crate) async fn open_tpm(config: &TpmConfig) -> Result<Arc<Tpm>, TpmError> {
    let tcti: Tcti = config.tcti.parse()?;
    Tpm::open(Config {
        owner_auth_file: config.owner_auth_file.clone(),
        endorsement_auth_file: config.endorsement_auth_file.clone(),
        key_auth_file: config.key_auth_file.clone(),
        ..Config::new(tcti)
    })
    .await
}

/// Opens the key manager, and the TPM with it where keys live there.
pub(super) async fn open(config: &AgentConfig) -> Result<(Arc<dyn KeyManager>, Option<TpmKeys>), RunError> {
    let name = config.key_manager.name();
    let failed = |cause: Cause| RunError::Keys { name, cause };
    match &config.key_manager {
        KeyManagerConfig::Memory => Ok((Arc::new(MemoryKeyManager::new()), None)),
        KeyManagerConfig::Disk { directory } => {
            let path = directory.join("keys.json");
            let opened = tokio::task::spawn_blocking(move || DiskKeyManager::open(path)).await;
            let keys = opened.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))?;
            Ok((Arc::new(keys), None))
        }
        KeyManagerConfig::Pkcs11 { token, instance } => {
            let namespace = Namespace { trust_domain: config.trust_domain.as_str(), instance };
            let keys =
                Pkcs11KeyManager::open(token.clone(), namespace).await.map_err(|e| failed(e.into()))?;
            Ok((Arc::new(keys), None))
        }
        KeyManagerConfig::Tpm { directory } => {
            let block = config.tpm.as_ref().ok_or_else(|| failed("there is no block agent.tpm".into()))?;
            let tpm = open_tpm(block)
                .await
                .map_err(|cause| RunError::Tpm { tcti: block.tcti.clone(), cause: cause.into() })?;
            // A node moved to another TPM proves itself anew; its old keys are worthless there and only set aside.
            let settings = tpm::Config { foreign_keys: ForeignKeys::SetAside, ..tpm::Config::new(directory) };
            let keys = TpmKeyManager::open(Arc::clone(&tpm), settings).await.map_err(|e| failed(e.into()))?;
            let keys = Arc::new(keys);
            Ok((Arc::clone(&keys) as Arc<dyn KeyManager>, Some(TpmKeys { tpm, keys })))
        }
    }
}

/// The TPM attestor.
pub(super) fn tpm_quote(
    config: &AgentConfig,
    tpm: Option<&TpmKeys>,
) -> Result<Arc<dyn AgentAttestor>, RunError> {
    let failed = |cause: Cause| RunError::Attestor { name: "tpm_quote", cause };
    // Configuration has checked this: the agent's key must live in the TPM that vouches for it.
    let TpmKeys { tpm, keys } = tpm.ok_or_else(|| failed("it needs KeyManager \"tpm\"".into()))?;
    let state_folder = config.data_dir.join("tpm-quote");
    hardroot_runtime::state::ensure_dir(&state_folder, 0o700).map_err(|e| failed(e.into()))?;
    let settings = TpmQuoteAgentConfig { state_folder, endorsement_key: None };
    Ok(Arc::new(TpmQuoteAgent::new(Arc::clone(tpm), Arc::clone(keys) as _, settings)))
}
