//! The server's configuration: SPIRE's keys and blocks, every fault told at once with its line.

mod attestors;
mod connection;
mod datastore;
mod limits;
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
use hardroot_telemetry::TelemetryConfig;
use hardroot_telemetry::health::HealthConfig;

use crate::endpoints::EndpointLimits;
pub use attestors::AttestorConfigs;
pub use plugins::KeyManagerConfig;
pub use server_block::PruneAgents;
pub use x509pop::{X509PopConfig, X509PopMode};

use crate::datastore::DatabaseConfig;

/// Where the configuration is looked for when no `-config` is given.
pub const DEFAULT_PATH: &str = "conf/server/server.conf";

/// How JWT-SVIDs are issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSettings {
    /// Type of the keys that sign them.
    pub key_type: KeyType,
    /// Their claim `iss`, if any.
    pub issuer: Option<String>,
    /// Lifetime of those whose entry or request names none.
    pub default_ttl: Duration,
}

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
    /// How JWT-SVIDs are issued; `None` when they are disabled.
    pub jwt: Option<JwtSettings>,
    /// Callers of the TLS port that are admins by name.
    pub admin_ids: BTreeSet<SpiffeId>,
    /// Whether software key managers may be used.
    pub allow_software_keys: bool,
    /// How old what was read of an agent may be when it calls, while the database answers; zero asks at every call.
    pub node_staleness: Duration,
    /// Which agents are removed when they are over; none unless it is asked for.
    pub prune_agents: Option<PruneAgents>,
    /// Whether audit lines are written.
    pub audit_log_enabled: bool,
    /// Whether a certificate or token is handed out only when its audit line was written.
    pub audit_log_required: bool,
    /// Limit on attestations per address.
    pub limit_attestation: bool,
    /// Limit on signing per address.
    pub limit_signing: bool,
    /// Bounds of the endpoints, and from whom PROXY headers are honoured.
    pub limits: EndpointLimits,
    /// Log level.
    pub log_level: LogLevel,
    /// Log format.
    pub log_format: LogFormat,
    /// Log file; none means standard output.
    pub log_file: Option<PathBuf>,
    /// Whether each line says where in the source it comes from.
    pub log_source_location: bool,
    /// The database.
    pub database: DatabaseConfig,
    /// Where keys live.
    pub key_manager: KeyManagerConfig,
    /// How nodes prove themselves.
    pub attestors: AttestorConfigs,
    /// Where metrics go.
    pub telemetry: TelemetryConfig,
    /// Health over HTTP.
    pub health_checks: HealthConfig,
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

/// Where a SPIRE server's configuration says that its database is.
pub(crate) fn spire_database(document: &Document, name: &str) -> Result<DatabaseConfig, Faults> {
    let decoder = Decoder::new(document, name);
    decoder.root().ignore_all();
    let plugins = decoder.root().block("plugins");
    let stores = plugins.labelled_blocks("DataStore");
    let found = match stores.into_iter().find(|(label, _)| *label == "sql") {
        Some((_, block)) => datastore::spires(&block.block("plugin_data")),
        None => {
            plugins.fault_here("has no DataStore \"sql\": is this a SPIRE server's configuration?");
            None
        }
    };
    decoder.into_result()?;
    found.ok_or_else(|| Faults::new(name, vec![hardroot_config::Fault::at(1, "names no database")]))
}

impl ServerConfig {
    /// Reads a file. With `expand_env`, `$NAME` and `${NAME}` are replaced from the environment first.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault in it.
    pub fn load(path: &Path, expand_env: bool) -> Result<Self, ConfigError> {
        Self::load_document(path, expand_env).map(|(config, _)| config)
    }

    /// As [`ServerConfig::load`], with the file's own tree: for comparing one reading with the next.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault in it.
    pub fn load_document(path: &Path, expand_env: bool) -> Result<(Self, Document), ConfigError> {
        let environment = |name: &str| std::env::var(name).ok();
        let document = hardroot_config::load(path, if expand_env { Some(&environment) } else { None })?;
        let config = Self::from_document(&document, &path.display().to_string())?;
        Ok((config, document))
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
        let telemetry = TelemetryConfig::decode(decoder.root());
        let health_checks = HealthConfig::decode(decoder.root());
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
            jwt: server.jwt,
            admin_ids: server.admin_ids,
            allow_software_keys: server.allow_software_keys,
            node_staleness: server.node_staleness,
            prune_agents: server.prune_agents,
            audit_log_enabled: server.audit_log_enabled,
            audit_log_required: server.audit_log_required,
            limit_attestation: server.limit_attestation,
            limit_signing: server.limit_signing,
            limits: server.limits,
            log_level: server.log_level,
            log_format: server.log_format,
            log_file: server.log_file,
            log_source_location: server.log_source_location,
            database,
            key_manager,
            attestors: plugins.attestors,
            telemetry,
            health_checks,
        })
    }
}
