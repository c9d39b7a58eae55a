//! The `plugins` block: one datastore, one key manager, any number of node attestors, each with its
//! `plugin_data` read into a type of its own.

use std::fs;
use std::path::{Path, PathBuf};

use hardroot_config::{Block, Decoder};
use hardroot_hsm_keymanager::{KeyId, pkcs11, tpm};
use hardroot_tpm_attestor::device::{self, Tcti};

use super::attestors::{self, AttestorConfigs};
use super::{datastore, unsupported};
use crate::datastore::DatabaseConfig;

/// Where the server's keys live.
#[derive(Debug, Clone)]
pub enum KeyManagerConfig {
    /// A PKCS#11 token.
    Pkcs11 {
        /// Module, token and PIN.
        token: pkcs11::Config,
        /// The server's own name on the token.
        instance: String,
    },
    /// A TPM 2.0.
    Tpm {
        /// How to open it.
        device: Box<device::Config>,
        /// Where wrapped keys are kept.
        keys: tpm::Config,
    },
    /// A file of software keys (evaluation only).
    Disk {
        /// The file.
        keys_path: PathBuf,
    },
    /// Software keys that end with the process (evaluation only).
    Memory,
}

impl KeyManagerConfig {
    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pkcs11 { .. } => "pkcs11",
            Self::Tpm { .. } => "tpm",
            Self::Disk { .. } => "disk",
            Self::Memory => "memory",
        }
    }
}

pub(super) struct Plugins {
    pub(super) database: Option<DatabaseConfig>,
    pub(super) key_manager: Option<KeyManagerConfig>,
    pub(super) attestors: AttestorConfigs,
}

pub(super) fn decode(decoder: &Decoder<'_>, allow_software_keys: bool, data_dir: &Path) -> Plugins {
    let plugins = decoder.root().required_block("plugins");
    let decoded = Plugins {
        database: database(&plugins),
        key_manager: key_manager(&plugins, allow_software_keys, data_dir),
        attestors: attestors::decode(&plugins),
    };
    unsupported::plugins(&plugins);
    plugins.finish();
    decoded
}

/// The enabled plugins of a kind, with their `plugin_data`.
pub(super) fn enabled<'a>(plugins: &Block<'a>, kind: &str) -> Vec<(&'a str, Block<'a>, Block<'a>)> {
    let mut all = Vec::new();
    for (name, block) in plugins.labelled_blocks(kind) {
        let on = block.bool_or("enabled", true);
        unsupported::plugin(&block);
        let data = block.block("plugin_data");
        block.finish();
        // A plugin that is switched off is not judged.
        if on {
            all.push((name, block, data));
        }
    }
    all
}

/// The only plugin of a kind.
fn only<'a>(plugins: &Block<'a>, kind: &str, example: &str) -> Option<(&'a str, Block<'a>, Block<'a>)> {
    let mut all = enabled(plugins, kind).into_iter();
    let first = all.next();
    if first.is_none() {
        plugins.fault_here(format_args!("needs one {kind} plugin, such as {kind} {example}"));
    }
    for (_, block, _) in all {
        block.fault_here(format_args!("only one {kind} plugin can be used"));
    }
    first
}

fn database(plugins: &Block<'_>) -> Option<DatabaseConfig> {
    let (name, block, data) = only(plugins, "DataStore", "\"sql\"")?;
    if name != "sql" {
        block.fault_here("the only DataStore is \"sql\"");
        return None;
    }
    let database = datastore::decode(&data);
    data.finish();
    database
}

fn key_manager(plugins: &Block<'_>, allow_software_keys: bool, data_dir: &Path) -> Option<KeyManagerConfig> {
    let (name, block, data) = only(plugins, "KeyManager", "\"pkcs11\"")?;
    let config = match name {
        "pkcs11" => pkcs11(&data),
        "tpm" => tpm_keys(&data, data_dir)?,
        "disk" => KeyManagerConfig::Disk { keys_path: data.required_path("keys_path") },
        "memory" => KeyManagerConfig::Memory,
        "aws_kms" | "gcp_kms" | "azure_key_vault" | "hashicorp_vault" => {
            block.fault_here("cloud key managers are not supported; use pkcs11 or tpm");
            return None;
        }
        _ => {
            block.fault_here("is no key manager: choose pkcs11, tpm, disk or memory");
            return None;
        }
    };
    let software = matches!(config, KeyManagerConfig::Disk { .. } | KeyManagerConfig::Memory);
    if software && !allow_software_keys {
        block.fault_here(
            "keeps keys in software, where they can be copied; use pkcs11 or tpm, or say \
             allow_software_keys = true in the server block if this is an evaluation",
        );
    }
    data.finish();
    Some(config)
}

fn pkcs11(data: &Block<'_>) -> KeyManagerConfig {
    let mut token = pkcs11::Config::new(data.required_path("module_path"), data.required_path("pin_file"));
    token.token_label = data.string("token_label");
    token.token_serial = data.string("token_serial");
    if let Some(sessions) = data.int("sessions") {
        token.sessions = usize::try_from(sessions).unwrap_or(0);
    }
    if let Some(timeout) = data.duration("timeout") {
        token.timeout = timeout;
    }
    if let Some(timeout) = data.duration("generate_timeout") {
        token.generate_timeout = timeout;
    }
    token.tolerate_missing_attributes = data.string_list("tolerate_missing_attributes").unwrap_or_default();
    // Every certificate and every token is verified before it leaves the server; doing it twice would halve
    // what a device faster than this machine can issue.
    token.verify_signatures = false;
    for fault in token.faults() {
        data.fault_here(fault);
    }
    readable(data, "module_path", &token.module_path);
    readable(data, "pin_file", &token.pin_file);
    let instance = data.string_or("instance", "server");
    if KeyId::new(&instance).is_err() {
        data.fault("instance", "is 1 to 64 letters, digits and . _ -");
    }
    KeyManagerConfig::Pkcs11 { token, instance }
}

fn tpm_keys(data: &Block<'_>, data_dir: &Path) -> Option<KeyManagerConfig> {
    let tcti = match (data.path("device"), data.string("tcti")) {
        (Some(path), None) => Tcti::device(&path).map_err(|error| data.fault("device", error)),
        (None, Some(text)) => text.parse::<Tcti>().map_err(|error| data.fault("tcti", error)),
        (None, None) => Tcti::device(Path::new("/dev/tpmrm0")).map_err(|error| data.fault_here(error)),
        (Some(_), Some(_)) => {
            data.fault("tcti", "device and tcti exclude each other");
            Err(())
        }
    };
    let directory = data.path("directory").unwrap_or_else(|| data_dir.join("keys"));
    let auth = |key| {
        let path = data.path(key);
        if let Some(path) = &path {
            readable(data, key, path);
        }
        path
    };
    let (owner_auth_file, key_auth_file) = (auth("owner_auth_file"), auth("key_auth_file"));
    let timeout = data.duration("timeout");
    let mut device = device::Config::new(tcti.ok()?);
    device.owner_auth_file = owner_auth_file;
    device.key_auth_file = key_auth_file;
    device.timeout = timeout.unwrap_or(device.timeout);
    Some(KeyManagerConfig::Tpm { device: Box::new(device), keys: tpm::Config::new(directory) })
}

/// Notes a fault when a file that is needed at start cannot be opened.
pub(super) fn readable(data: &Block<'_>, key: &str, path: &Path) {
    // Which file a systemd credential is, is known only inside the unit.
    if path.as_os_str().is_empty() || path.to_string_lossy().starts_with("credential:") {
        return;
    }
    if let Err(error) = fs::File::open(path) {
        data.fault(key, format_args!("cannot be read: {error}"));
    }
}
