//! The `plugins` block: exactly one key manager, one node attestor, and the workload attestors.

use std::path::PathBuf;

use hardroot_config::Block;
use hardroot_hsm_keymanager::{KeyId, pkcs11};

use super::agent_block::Decoded;
use crate::attestors::unix::UnixConfig;

/// Where the agent's own key lives.
#[derive(Debug, Clone)]
pub enum KeyManagerConfig {
    /// In the TPM of the `tpm` block; wrapped keys are kept in this directory.
    Tpm {
        /// The directory.
        directory: PathBuf,
    },
    /// In a PKCS#11 token.
    Pkcs11 {
        /// Module, token and PIN.
        token: pkcs11::Config,
        /// The agent's own name on the token, for tokens that several share.
        instance: String,
    },
    /// In a file; for evaluation and migration.
    Disk {
        /// Where `keys.json` is.
        directory: PathBuf,
    },
    /// In memory; for evaluation.
    Memory,
}

impl KeyManagerConfig {
    /// The name in the configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tpm { .. } => "tpm",
            Self::Pkcs11 { .. } => "pkcs11",
            Self::Disk { .. } => "disk",
            Self::Memory => "memory",
        }
    }
}

/// How the node proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAttestorConfig {
    /// By a quote of its TPM.
    TpmQuote,
    /// By a certificate and its key.
    X509Pop(X509PopConfig),
    /// By a token that the server's operator made.
    JoinToken,
}

impl NodeAttestorConfig {
    /// The name in the configuration and on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::TpmQuote => "tpm_quote",
            Self::X509Pop(_) => "x509pop",
            Self::JoinToken => "join_token",
        }
    }
}

/// A node's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509PopConfig {
    /// PEM: the certificate, and intermediates after it if they are in the same file.
    pub certificate_path: PathBuf,
    /// PEM: further intermediates.
    pub intermediates_path: Option<PathBuf>,
    /// Where its key is.
    pub key: X509PopKey,
}

/// Where the key of a node's certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum X509PopKey {
    /// PEM in a file.
    File(PathBuf),
    /// In the agent's key manager, under this key id.
    KeyManager(String),
}

pub(super) struct Plugins {
    pub(super) key_manager: KeyManagerConfig,
    pub(super) node_attestor: NodeAttestorConfig,
    pub(super) unix: UnixConfig,
}

/// Options of the plugin block itself, beside `plugin_data`.
fn data<'a>(plugin: &Block<'a>) -> Block<'a> {
    for key in ["plugin_cmd", "plugin_args", "plugin_checksum"] {
        plugin.unsupported(key, "plugins are built in; remove it");
    }
    plugin.unsupported("plugin_data_file", "write the options into plugin_data");
    plugin.ignore("enabled");
    plugin.block("plugin_data")
}

fn enabled(plugin: &Block<'_>) -> bool {
    plugin.bool_or("enabled", true)
}

/// The only plugin of a kind.
fn only<'a>(plugins: &Block<'a>, kind: &str, names: &str) -> Option<(&'a str, Block<'a>)> {
    let (on, off): (Vec<_>, Vec<_>) =
        plugins.labelled_blocks(kind).into_iter().partition(|(_, b)| enabled(b));
    for (_, block) in &off {
        // What is switched off need not be right.
        block.ignore_all();
    }
    let mut on = on.into_iter();
    let first = on.next();
    match &first {
        None => plugins.fault_here(format_args!("one {kind} is required: {names}")),
        Some(_) => {
            for (name, block) in on {
                block
                    .fault_here(format_args!("exactly one {kind} can be configured; \"{name}\" is one more"));
                block.ignore_all();
            }
        }
    }
    first
}

pub(super) fn decode(plugins: &Block<'_>, agent: &Decoded) -> Option<Plugins> {
    plugins.unsupported("SVIDStore", "this agent stores no SVIDs elsewhere");
    let key_manager = only(plugins, "KeyManager", "tpm, pkcs11, disk or memory")
        .and_then(|(name, block)| key_manager(name, &block, agent));
    let node_attestor = only(plugins, "NodeAttestor", "tpm_quote, x509pop or join_token")
        .and_then(|(name, block)| node_attestor(name, &block, agent, key_manager.as_ref()));
    let unix = workload_attestors(plugins);
    Some(Plugins { key_manager: key_manager?, node_attestor: node_attestor?, unix })
}

fn key_manager(name: &str, plugin: &Block<'_>, agent: &Decoded) -> Option<KeyManagerConfig> {
    let data = data(plugin);
    let software = || {
        if !agent.allow_software_keys {
            plugin.fault_here(
                "software keys can be copied off the node; use \"tpm\" or \"pkcs11\", or set \
                 agent.allow_software_keys = true for evaluation",
            );
        }
    };
    let config = match name {
        "tpm" => {
            if agent.tpm.is_none() {
                plugin.fault_here("needs the block agent.tpm, which says where the TPM is");
            }
            let directory = data.path("directory").unwrap_or_else(|| agent.data_dir().join("tpm-keys"));
            Some(KeyManagerConfig::Tpm { directory })
        }
        "pkcs11" => Some(pkcs11(&data)),
        "disk" => {
            software();
            Some(KeyManagerConfig::Disk {
                directory: data.path("directory").unwrap_or_else(|| agent.data_dir()),
            })
        }
        "memory" => {
            software();
            Some(KeyManagerConfig::Memory)
        }
        _ => {
            plugin.fault_here("there is no such key manager: tpm, pkcs11, disk and memory are");
            data.ignore_all();
            None
        }
    };
    data.finish();
    plugin.finish();
    config
}

fn pkcs11(data: &Block<'_>) -> KeyManagerConfig {
    data.unsupported(
        "pin",
        "a PIN in a configuration file is readable by whoever may read the file; use pin_file",
    );
    let mut token = pkcs11::Config::new(data.required_path("module_path"), data.required_path("pin_file"));
    token.token_label = data.string("token_label").filter(|label| !label.is_empty());
    token.token_serial = data.string("token_serial").filter(|serial| !serial.is_empty());
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
    for fault in token.faults() {
        data.fault_here(fault);
    }
    let instance = data.string_or("instance", "agent");
    if KeyId::new(&instance).is_err() {
        data.fault("instance", "must be 1 to 64 letters, digits and . _ -");
    }
    KeyManagerConfig::Pkcs11 { token, instance }
}

fn node_attestor(
    name: &str,
    plugin: &Block<'_>,
    agent: &Decoded,
    keys: Option<&KeyManagerConfig>,
) -> Option<NodeAttestorConfig> {
    let data = data(plugin);
    let config = match name {
        "tpm_quote" => {
            if agent.tpm.is_none() {
                plugin.fault_here("needs the block agent.tpm, which says where the TPM is");
            }
            if keys.is_some_and(|keys| keys.name() != "tpm") {
                plugin.fault_here(
                    "needs KeyManager \"tpm\": the agent's key must live in the TPM that vouches for it",
                );
            }
            Some(NodeAttestorConfig::TpmQuote)
        }
        "x509pop" => Some(NodeAttestorConfig::X509Pop(x509pop(&data))),
        "join_token" => Some(NodeAttestorConfig::JoinToken),
        _ => {
            plugin.fault_here("there is no such node attestor: tpm_quote, x509pop and join_token are");
            data.ignore_all();
            None
        }
    };
    data.finish();
    plugin.finish();
    config
}

fn x509pop(data: &Block<'_>) -> X509PopConfig {
    let file = data.path("private_key_path");
    let id = data.string("private_key_id").filter(|id| !id.is_empty());
    let key = match (file, id) {
        (Some(file), None) => X509PopKey::File(file),
        (None, Some(id)) => X509PopKey::KeyManager(id),
        (Some(file), Some(_)) => {
            data.fault("private_key_id", "only one of private_key_path and private_key_id can be set");
            X509PopKey::File(file)
        }
        (None, None) => {
            data.fault_here(
                "private_key_path (a PEM file) or private_key_id (a key of the key manager) is required",
            );
            X509PopKey::File(PathBuf::new())
        }
    };
    X509PopConfig {
        certificate_path: data.required_path("certificate_path"),
        intermediates_path: data.path("intermediates_path"),
        key,
    }
}

fn workload_attestors(plugins: &Block<'_>) -> UnixConfig {
    let mut unix = None;
    for (name, plugin) in plugins.labelled_blocks("WorkloadAttestor") {
        if !enabled(&plugin) {
            plugin.ignore_all();
            continue;
        }
        let data = data(&plugin);
        if name == "unix" {
            if unix.is_some() {
                plugin.fault_here("is configured twice");
            }
            unix = Some(UnixConfig::decode(&data));
        } else {
            plugin.fault_here("there is no such workload attestor: unix is");
            data.ignore_all();
        }
        data.finish();
        plugin.finish();
    }
    if unix.is_none() {
        plugins.fault_here("a WorkloadAttestor is required: unix");
    }
    unix.unwrap_or_default()
}
