//! The agent's configuration: SPIRE's keys and blocks, and ours beside them.
//!
//! Decoding reports every fault at once, with its line. Options of SPIRE's agent that Hardroot does not have
//! are refused with the reason, never ignored. The pages `docs/guide/agent-configuration.md` and
//! `conf/agent/agent.conf` describe the same options; a test reads the latter.

mod agent_block;
mod plugins;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hardroot_config::{Decoder, Document, Faults, LoadError};
use hardroot_hsm_keymanager::KeyType;
use hardroot_identity::TrustDomain;
use hardroot_runtime::logs::{LogFormat, LogLevel};
use hardroot_telemetry::TelemetryConfig;
use hardroot_telemetry::health::HealthConfig;
pub use plugins::{KeyManagerConfig, NodeAttestorConfig, X509PopConfig, X509PopKey};
use zeroize::Zeroizing;

use crate::attestors::unix::UnixConfig;

/// Where SPIRE's agent has its socket, and ours too.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-agent/public/api.sock";
/// Where the commands look for the admin API's socket, as SPIRE's do.
pub const DEFAULT_ADMIN_SOCKET_PATH: &str = "/tmp/spire-agent/private/admin.sock";
/// Where the configuration is looked for.
pub const DEFAULT_CONFIG_PATH: &str = "conf/agent/agent.conf";
/// How often entries and bundles are synchronised unless `experimental.sync_interval` says otherwise.
pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How many X509-SVIDs and how many JWT-SVIDs are kept unless `x509_svid_cache_max_size` and
/// `jwt_svid_cache_max_size` say otherwise.
pub const DEFAULT_CACHE_SIZE: usize = 1000;

/// Everything an agent needs to know to start.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The trust domain the node joins.
    pub trust_domain: TrustDomain,
    /// The server's host name or address.
    pub server_address: String,
    /// The server's port.
    pub server_port: u16,
    /// Where state is kept; made with mode 0700.
    pub data_dir: PathBuf,
    /// The Workload API's socket.
    pub socket_path: PathBuf,
    /// The admin API's socket, if there is to be one.
    pub admin_socket_path: Option<PathBuf>,
    /// How the server is recognised the first time.
    pub bootstrap: Bootstrap,
    /// The token of the `join_token` attestor.
    pub join_token: Option<JoinToken>,
    /// The type of the keys made for workloads.
    pub workload_key_type: KeyType,
    /// About how many X509-SVIDs are kept.
    pub cache_size: usize,
    /// How many JWT-SVIDs are kept at most.
    pub jwt_cache_size: usize,
    /// How long a workload waits for a new JWT-SVID while there is one that is still valid.
    pub jwt_cache_hit_timeout: Duration,
    /// How often entries and bundles are synchronised.
    pub sync_interval: Duration,
    /// TLS versions and key exchanges with the server.
    pub tls: hardroot_transport::TlsPolicy,
    /// Claims of foreign JWT-SVIDs that ValidateJWTSVID shows.
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// Whether programs without an identity get the own bundle and may have tokens validated.
    pub allow_unauthenticated_verifiers: bool,
    /// The TPM, if there is a `tpm` block.
    pub tpm: Option<TpmConfig>,
    /// Where the agent's own key lives.
    pub key_manager: KeyManagerConfig,
    /// How the node proves itself.
    pub node_attestor: NodeAttestorConfig,
    /// The `unix` workload attestor.
    pub unix: UnixConfig,
    /// Logging.
    pub log: LogConfig,
    /// Where metrics go.
    pub telemetry: TelemetryConfig,
    /// Health over HTTP.
    pub health_checks: HealthConfig,
}

impl AgentConfig {
    /// The server as `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn server(&self) -> String {
        match self.server_address.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.server_port),
            _ => format!("{}:{}", self.server_address, self.server_port),
        }
    }
}

/// How the server is recognised before the agent has a bundle of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bootstrap {
    /// By the trust bundle in a file.
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is in it.
        format: BundleFormat,
    },
    /// By nothing but the name it claims: whoever answers first is believed.
    Insecure,
}

/// What a bundle file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleFormat {
    /// PEM certificates.
    Pem,
    /// A SPIFFE bundle document (JWKS).
    Spiffe,
}

/// Where the join token comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum JoinToken {
    /// Written in the configuration or on the command line.
    Value(Zeroizing<String>),
    /// In a file, read anew for each attempt.
    File(PathBuf),
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// How the TPM is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmConfig {
    /// TCTI configuration as tpm2-tss reads it, such as `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
    pub tcti: String,
    /// Holds the owner hierarchy's authorisation value.
    pub owner_auth_file: Option<PathBuf>,
    /// Holds the endorsement hierarchy's authorisation value.
    pub endorsement_auth_file: Option<PathBuf>,
    /// What becomes the authorisation value of the keys made here.
    pub key_auth_file: Option<PathBuf>,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Where to; standard output when there is none.
    pub file: Option<PathBuf>,
    /// How loud.
    pub level: LogLevel,
    /// Text or JSON.
    pub format: LogFormat,
    /// Whether each line says where in the source it comes from.
    pub source_location: bool,
}

/// What the command line says; it wins over the file.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "each field is the option of the same name in the file")]
pub struct Overrides {
    pub data_dir: Option<String>,
    pub join_token: Option<Zeroizing<String>>,
    pub join_token_file: Option<String>,
    pub log_file: Option<String>,
    pub log_format: Option<String>,
    pub log_level: Option<String>,
    pub server_address: Option<String>,
    pub server_port: Option<u16>,
    pub socket_path: Option<String>,
    pub trust_domain: Option<String>,
    pub trust_bundle_path: Option<String>,
    pub trust_bundle_format: Option<String>,
    pub insecure_bootstrap: bool,
}

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads and decodes a configuration file.
///
/// # Errors
/// The file cannot be read, or has faults: all of them are in the error.
pub fn load(
    path: &Path,
    environment: Option<Environment<'_>>,
    overrides: &Overrides,
) -> Result<AgentConfig, LoadError> {
    let document = hardroot_config::load(path, environment)?;
    Ok(decode(&document, &path.display().to_string(), overrides)?)
}

/// What is wrong with a configuration text, fault by fault.
#[must_use]
pub fn judge_text(text: &str, name: &str, overrides: &Overrides) -> Vec<hardroot_config::Fault> {
    match Document::parse(text) {
        Err(faults) => faults,
        Ok(document) => match decode(&document, name, overrides) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(|(_, fault)| fault.clone()).collect(),
        },
    }
}

/// Decodes a parsed configuration; `file` is the name that faults are told with.
///
/// # Errors
/// Every fault that was found.
pub fn decode(document: &Document, file: &str, overrides: &Overrides) -> Result<AgentConfig, Faults> {
    let decoder = Decoder::new(document, file);
    let root = decoder.root();
    let telemetry = TelemetryConfig::decode(root);
    let health_checks = HealthConfig::decode(root);
    let agent = decoder.root().required_block("agent");
    let plugins = decoder.root().required_block("plugins");
    let decoded = agent_block::decode(&agent, overrides);
    let chosen = plugins::decode(&plugins, &decoded);
    agent.finish();
    plugins.finish();
    decoder.into_result()?;
    match (decoded.complete(), chosen) {
        (Some(config), Some(plugins)) => Ok(config(plugins, telemetry, health_checks)),
        // Whatever is missing has been noted as a fault, so this is not reached; it must not panic either.
        _ => Err(Faults::new(file, vec![hardroot_config::Fault::at(1, "the configuration is incomplete")])),
    }
}
