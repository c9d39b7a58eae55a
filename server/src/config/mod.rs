//! The server's configuration: SPIRE's keys and blocks, every fault told at once with its line.

mod attestors;
mod plugins;
mod server_block;
#[cfg(test)]
mod tests;
mod unsupported;
mod x509pop;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hardroot_config::{Decoder, Document, Faults, LoadError};
use hardroot_hsm_keymanager::KeyType;
use hardroot_identity::{DistinguishedName, SpiffeId, TrustDomain};
use hardroot_runtime::logs::{LogFormat, LogLevel};

pub use attestors::AttestorConfigs;
pub use plugins::KeyManagerConfig;
pub use x509pop::{X509PopConfig, X509PopMode};

/// Where the configuration is looked for when no `-config` is given.
pub const DEFAULT_PATH: &str = "conf/server/server.conf";

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Host or address of the TLS port.
    pub bind_address: String,
    /// The TLS port; 0 lets the system choose (for tests).
    pub bind_port: u16,
    /// The admin socket.
    pub socket_path: PathBuf,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Where the server keeps its state.
    pub data_dir: PathBuf,
    /// Lifetime of an authority.
    pub ca_ttl: Duration,
    /// Key type of authorities and of the server's TLS key.
    pub ca_key_type: KeyType,
    /// Subject of authorities.
    pub ca_subject: DistinguishedName,
    /// Lifetime of workload SVIDs whose entry names none, and of the server's own.
    pub default_x509_svid_ttl: Duration,
    /// Lifetime of agent SVIDs.
    pub agent_ttl: Duration,
    /// Callers of the TLS port that are admins by name.
    pub admin_ids: BTreeSet<SpiffeId>,
    /// Whether software key managers may be used.
    pub allow_software_keys: bool,
    /// Whether audit lines are written.
    pub audit_log_enabled: bool,
    /// Limit on attestations per address.
    pub limit_attestation: bool,
    /// Limit on signing per address.
    pub limit_signing: bool,
    /// Log level.
    pub log_level: LogLevel,
    /// Log format.
    pub log_format: LogFormat,
    /// Log file; none means standard output.
    pub log_file: Option<PathBuf>,
    /// The SQLite file.
    pub database: PathBuf,
    /// Where keys live.
    pub key_manager: KeyManagerConfig,
    /// How nodes prove themselves.
    pub attestors: AttestorConfigs,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read or parsed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The configuration has faults, one a line.
    #[error(transparent)]
    Faults(#[from] Faults),
}

impl ServerConfig {
    /// Reads a file. With `expand_env`, `$NAME` and `${NAME}` are replaced from the environment first.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault in it.
    pub fn load(path: &Path, expand_env: bool) -> Result<Self, ConfigError> {
        let environment = |name: &str| std::env::var(name).ok();
        let document = hardroot_config::load(path, if expand_env { Some(&environment) } else { None })?;
        Self::from_document(&document, &path.display().to_string())
    }

    /// Reads a text; `name` stands for the file in faults.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault in it.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let document = Document::parse(text).map_err(|faults| Faults::new(name, faults))?;
        Self::from_document(&document, name)
    }

    fn from_document(document: &Document, name: &str) -> Result<Self, ConfigError> {
        let decoder = Decoder::new(document, name);
        let server = server_block::decode(&decoder);
        let plugins = plugins::decode(&decoder, server.allow_software_keys, &server.data_dir);
        unsupported::top_level(decoder.root());
        decoder.into_result()?;
        // Without faults every required part is there; a part that is not would be a fault above.
        let (Some(trust_domain), Some(key_manager), Some(database)) =
            (server.trust_domain, plugins.key_manager, plugins.database)
        else {
            return Err(Faults::new(name, Vec::new()).into());
        };
        Ok(Self {
            bind_address: server.bind_address,
            bind_port: server.bind_port,
            socket_path: server.socket_path,
            trust_domain,
            data_dir: server.data_dir,
            ca_ttl: server.ca_ttl,
            ca_key_type: server.ca_key_type,
            ca_subject: server.ca_subject,
            default_x509_svid_ttl: server.default_x509_svid_ttl,
            agent_ttl: server.agent_ttl,
            admin_ids: server.admin_ids,
            allow_software_keys: server.allow_software_keys,
            audit_log_enabled: server.audit_log_enabled,
            limit_attestation: server.limit_attestation,
            limit_signing: server.limit_signing,
            log_level: server.log_level,
            log_format: server.log_format,
            log_file: server.log_file,
            database,
            key_manager,
            attestors: plugins.attestors,
        })
    }
}
