//! The `agent` block.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hardroot_config::Block;
use hardroot_hsm_keymanager::KeyType;
use hardroot_identity::TrustDomain;
use hardroot_telemetry::TelemetryConfig;
use hardroot_telemetry::health::HealthConfig;
use hardroot_transport::TlsPolicy;
use zeroize::Zeroizing;

use super::plugins::Plugins;
use super::{
    AgentConfig, Bootstrap, BundleFormat, DEFAULT_CACHE_SIZE, DEFAULT_SOCKET_PATH, DEFAULT_SYNC_INTERVAL,
    JoinToken, LogConfig, Overrides, TpmConfig,
};

const FORMATS: &[(&str, BundleFormat)] = &[("pem", BundleFormat::Pem), ("spiffe", BundleFormat::Spiffe)];
const WORKLOAD_KEYS: &[(&str, KeyType)] =
    &[("ec-p256", KeyType::EcP256), ("ec-p384", KeyType::EcP384), ("rsa-2048", KeyType::Rsa2048)];
/// Shortest `experimental.sync_interval`: shorter ones load the server and gain nothing.
const MIN_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Longest `experimental.sync_interval`: withdrawn identities must go within a bounded time.
const MAX_SYNC_INTERVAL: Duration = Duration::from_secs(3600);

/// How long a workload waits for a new JWT-SVID while there is one that is still valid.
const DEFAULT_JWT_HIT_TIMEOUT: Duration = Duration::from_secs(5);
/// What may be configured for it, as in SPIRE.
const JWT_HIT_TIMEOUTS: Range<Duration> = Duration::from_secs(5)..Duration::from_secs(30);

// SPIRE's options that this agent does not have, each with what to do.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("authorized_delegates", "this agent has no Delegated Identity API; remove it"),
    (
        "availability_target",
        "SVIDs are renewed at half of their lifetime; set the lifetime at the server (agent_ttl)",
    ),
    ("log_selectors", "selectors are logged at level debug"),
    ("profiling_enabled", "profile with the system's tools"),
    ("profiling_port", "profile with the system's tools"),
    ("profiling_freq", "profile with the system's tools"),
    ("profiling_names", "profile with the system's tools"),
    ("sds", "this agent has no Envoy SDS API; remove the block"),
    ("trust_bundle_url", "put the bundle into a file and set trust_bundle_path"),
    ("trust_bundle_unix_socket", "put the bundle into a file and set trust_bundle_path"),
    ("trust_bundle_spiffe_workload_api", "put the bundle into a file and set trust_bundle_path"),
];
const UNSUPPORTED_EXPERIMENTAL: &[(&str, &str)] = &[
    ("admin_named_pipe_name", "named pipes are Windows'"),
    ("broker", "this agent has no Broker API; remove the block"),
    ("feature_flags", "there are no feature flags"),
    ("named_pipe_name", "named pipes are Windows'"),
    ("ratelimit", "connections and calls are bounded by fixed limits per user"),
];

/// The `agent` block with what could be read; what is missing was noted as a fault.
pub(super) struct Decoded {
    trust_domain: Option<TrustDomain>,
    server_address: String,
    server_port: Option<u16>,
    data_dir: PathBuf,
    socket_path: PathBuf,
    bootstrap: Option<Bootstrap>,
    join_token: Option<JoinToken>,
    admin_socket_path: Option<PathBuf>,
    workload_key_type: KeyType,
    cache_size: usize,
    jwt_cache_size: usize,
    jwt_cache_hit_timeout: Duration,
    sync_interval: Duration,
    tls: TlsPolicy,
    allowed_foreign_jwt_claims: Vec<String>,
    allow_unauthenticated_verifiers: bool,
    pub(super) allow_software_keys: bool,
    pub(super) tpm: Option<TpmConfig>,
    log: LogConfig,
}

impl Decoded {
    pub(super) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    /// A function from the plugins to the whole configuration, if everything required is here.
    pub(super) fn complete(
        self,
    ) -> Option<impl FnOnce(Plugins, TelemetryConfig, HealthConfig) -> AgentConfig> {
        let trust_domain = self.trust_domain?;
        let server_port = self.server_port?;
        let bootstrap = self.bootstrap?;
        Some(move |plugins: Plugins, telemetry: TelemetryConfig, health_checks: HealthConfig| AgentConfig {
            trust_domain,
            server_address: self.server_address,
            server_port,
            data_dir: self.data_dir,
            socket_path: self.socket_path,
            bootstrap,
            join_token: self.join_token,
            admin_socket_path: self.admin_socket_path,
            workload_key_type: self.workload_key_type,
            cache_size: self.cache_size,
            jwt_cache_size: self.jwt_cache_size,
            jwt_cache_hit_timeout: self.jwt_cache_hit_timeout,
            sync_interval: self.sync_interval,
            tls: self.tls,
            allowed_foreign_jwt_claims: self.allowed_foreign_jwt_claims,
            allow_unauthenticated_verifiers: self.allow_unauthenticated_verifiers,
            tpm: self.tpm,
            key_manager: plugins.key_manager,
            node_attestor: plugins.node_attestor,
            unix: plugins.unix,
            log: self.log,
            telemetry,
            health_checks,
        })
    }
}

pub(super) fn decode(agent: &Block<'_>, given: &Overrides) -> Decoded {
    for (key, why) in UNSUPPORTED {
        agent.unsupported(key, why);
    }
    refuse_where_it_matters(agent);
    let experimental = agent.block("experimental");
    let socket_path = socket_path(agent, given);
    let decoded = Decoded {
        trust_domain: trust_domain(agent, given),
        server_address: text(agent, "server_address", given.server_address.as_deref()),
        server_port: port(agent, given),
        data_dir: text(agent, "data_dir", given.data_dir.as_deref()).into(),
        admin_socket_path: admin_socket_path(agent, &socket_path),
        socket_path,
        bootstrap: bootstrap(agent, given),
        join_token: join_token(agent, given),
        workload_key_type: agent
            .one_of("workload_x509_svid_key_type", WORKLOAD_KEYS)
            .unwrap_or(KeyType::EcP256),
        cache_size: cache_size(agent, "x509_svid_cache_max_size"),
        jwt_cache_size: cache_size(agent, "jwt_svid_cache_max_size"),
        jwt_cache_hit_timeout: jwt_cache_hit_timeout(&experimental),
        sync_interval: sync_interval(&experimental),
        tls: tls(&experimental),
        allowed_foreign_jwt_claims: agent.string_list("allowed_foreign_jwt_claims").unwrap_or_default(),
        allow_unauthenticated_verifiers: agent.bool_or("allow_unauthenticated_verifiers", false),
        allow_software_keys: agent.bool_or("allow_software_keys", false),
        tpm: tpm(agent),
        log: log(agent, given),
    };
    experimental.finish();
    decoded
}

/// Options of SPIRE whose harmless settings are taken, so that a file need not be changed for them.
fn refuse_where_it_matters(agent: &Block<'_>) {
    if agent.bool_or("disable_workload_api", false) {
        agent.fault(
            "disable_workload_api",
            "an agent without the Workload API serves nobody; remove the option",
        );
    }
    if !agent.bool_or("disable_sds_api", true) {
        agent
            .fault("disable_sds_api", "this agent has no Envoy SDS API; remove the option or set it to true");
    }
    if let Some(mode) = agent.string("rebootstrap_mode")
        && mode != "never"
    {
        agent.fault(
            "rebootstrap_mode",
            "only \"never\" is available: this agent keeps trying with the bundle it has; to begin anew, replace \
             trust_bundle_path and remove bundle.json from the data directory",
        );
    }
    agent.ignore("rebootstrap_delay");
}

fn tls(experimental: &Block<'_>) -> TlsPolicy {
    if experimental.bool_or("require_pq_kem", false) { TlsPolicy::RequirePqKem } else { TlsPolicy::Usual }
}

// A required string that the command line may replace.
fn text(agent: &Block<'_>, key: &str, given: Option<&str>) -> String {
    match given {
        Some(value) => {
            agent.ignore(key);
            value.to_owned()
        }
        None => agent.required_string(key),
    }
}

fn trust_domain(agent: &Block<'_>, given: &Overrides) -> Option<TrustDomain> {
    match &given.trust_domain {
        Some(name) => {
            agent.ignore("trust_domain");
            TrustDomain::from_name_or_id(name)
                .map_err(|cause| agent.fault_here(format_args!("-trustDomain: {cause}")))
                .ok()
        }
        None => {
            if !agent.has("trust_domain") {
                let _empty = agent.required_string("trust_domain");
            }
            agent.parsed_by("trust_domain", TrustDomain::from_name_or_id)
        }
    }
}

fn port(agent: &Block<'_>, given: &Overrides) -> Option<u16> {
    if let Some(port) = given.server_port {
        agent.ignore("server_port");
        return Some(port);
    }
    if !agent.has("server_port") {
        let _empty = agent.required_string("server_port");
        return None;
    }
    agent.port("server_port")
}

fn socket_path(agent: &Block<'_>, given: &Overrides) -> PathBuf {
    let path = match &given.socket_path {
        Some(path) => {
            agent.ignore("socket_path");
            PathBuf::from(path)
        }
        None => agent.path("socket_path").unwrap_or_else(|| DEFAULT_SOCKET_PATH.into()),
    };
    short_enough(agent, "socket_path", &path);
    path
}

// sockaddr_un holds 108 bytes, the last of which is a zero.
fn short_enough(agent: &Block<'_>, key: &str, path: &Path) {
    if path.as_os_str().len() > 107 {
        agent.fault(key, "a socket's path has at most 107 bytes");
    }
}

fn admin_socket_path(agent: &Block<'_>, public: &Path) -> Option<PathBuf> {
    let path = agent.path("admin_socket_path")?;
    short_enough(agent, "admin_socket_path", &path);
    // The public socket's directory is often shared with containers, and everything in it with it.
    if public.parent().is_some_and(|directory| path.starts_with(directory)) {
        agent.fault("admin_socket_path", "must not be in the directory of socket_path or below it");
    }
    Some(path)
}

fn bootstrap(agent: &Block<'_>, given: &Overrides) -> Option<Bootstrap> {
    let format = match &given.trust_bundle_format {
        Some(name) => {
            agent.ignore("trust_bundle_format");
            let found = FORMATS.iter().find(|(word, _)| word == name).map(|(_, format)| *format);
            if found.is_none() {
                agent.fault_here("-trustBundleFormat must be one of `pem`, `spiffe`");
            }
            found
        }
        None => agent.one_of("trust_bundle_format", FORMATS),
    };
    let from_file = agent.path("trust_bundle_path");
    let path = given.trust_bundle_path.clone().map(PathBuf::from).or(from_file);
    let insecure = agent.bool_or("insecure_bootstrap", false) || given.insecure_bootstrap;
    match (path, insecure) {
        (Some(path), false) => Some(Bootstrap::Bundle { path, format: format.unwrap_or(BundleFormat::Pem) }),
        (None, true) => Some(Bootstrap::Insecure),
        (Some(_), true) => {
            agent.fault(
                "insecure_bootstrap",
                "cannot be set together with trust_bundle_path: it would make it void",
            );
            None
        }
        (None, false) => {
            if !agent.has("trust_bundle_path") {
                agent.fault_here(
                    "agent.trust_bundle_path is required: the file with the server's trust bundle, from \
                     `hardroot-server bundle show` (insecure_bootstrap = true does without, and believes whoever \
                     answers first)",
                );
            }
            None
        }
    }
}

fn join_token(agent: &Block<'_>, given: &Overrides) -> Option<JoinToken> {
    let value =
        given.join_token.clone().or_else(|| agent.secret("join_token")).filter(|token| !token.is_empty());
    agent.ignore("join_token");
    let in_file = agent.path("join_token_file");
    let file = given.join_token_file.clone().map(PathBuf::from).or(in_file);
    match (value, file) {
        (Some(_), Some(_)) => {
            agent.fault("join_token_file", "only one of join_token and join_token_file can be set");
            None
        }
        (Some(value), None) => {
            let trimmed: Zeroizing<String> = Zeroizing::new(value.trim().to_owned());
            Some(JoinToken::Value(trimmed))
        }
        (None, file) => file.map(JoinToken::File),
    }
}

fn cache_size(agent: &Block<'_>, key: &str) -> usize {
    match agent.int_in(key, 0..=1_000_000) {
        // SPIRE reads 0 as "the default" as well.
        None | Some(0) => DEFAULT_CACHE_SIZE,
        Some(size) => usize::try_from(size).unwrap_or(DEFAULT_CACHE_SIZE),
    }
}

fn sync_interval(experimental: &Block<'_>) -> Duration {
    for (key, why) in UNSUPPORTED_EXPERIMENTAL {
        experimental.unsupported(key, why);
    }
    if !experimental.bool_or("use_sync_authorized_entries", true) {
        experimental
            .fault("use_sync_authorized_entries", "this agent always uses SyncAuthorizedEntries; remove it");
    }
    let interval = experimental.duration("sync_interval").unwrap_or(DEFAULT_SYNC_INTERVAL);
    if !(MIN_SYNC_INTERVAL..=MAX_SYNC_INTERVAL).contains(&interval) {
        experimental.fault("sync_interval", "must be between 1s and 1h");
    }
    interval
}

fn jwt_cache_hit_timeout(experimental: &Block<'_>) -> Duration {
    let timeout = experimental.duration("jwt_svid_cache_hit_timeout").unwrap_or(DEFAULT_JWT_HIT_TIMEOUT);
    if !JWT_HIT_TIMEOUTS.contains(&timeout) {
        experimental.fault("jwt_svid_cache_hit_timeout", "must be at least 5s and less than 30s");
    }
    timeout
}

fn tpm(agent: &Block<'_>) -> Option<TpmConfig> {
    let block = agent.opt_block("tpm")?;
    let device = block.path("device");
    let tcti = block.string("tcti").filter(|tcti| !tcti.is_empty());
    let tcti = match (device, tcti) {
        (Some(_), Some(_)) => {
            block.fault("tcti", "only one of device and tcti can be set");
            None
        }
        (None, Some(tcti)) => Some(tcti),
        (Some(device), None) => Some(format!("device:{}", device.display())),
        (None, None) => {
            block.fault_here("device (such as \"/dev/tpmrm0\") or tcti is required");
            None
        }
    };
    let config = TpmConfig {
        tcti: tcti.unwrap_or_default(),
        owner_auth_file: block.path("owner_auth_file"),
        endorsement_auth_file: block.path("endorsement_auth_file"),
        key_auth_file: block.path("key_auth_file"),
    };
    block.finish();
    Some(config)
}

fn log(agent: &Block<'_>, given: &Overrides) -> LogConfig {
    let level = match &given.log_level {
        Some(name) => {
            agent.ignore("log_level");
            name.parse().map_err(|why: String| agent.fault_here(format_args!("-logLevel: {why}"))).ok()
        }
        None => agent.parsed("log_level"),
    };
    let format = match &given.log_format {
        Some(name) => {
            agent.ignore("log_format");
            name.parse().map_err(|why: String| agent.fault_here(format_args!("-logFormat: {why}"))).ok()
        }
        None => agent.parsed("log_format"),
    };
    let in_file = agent.path("log_file");
    LogConfig {
        file: given.log_file.clone().map(PathBuf::from).or(in_file),
        level: level.unwrap_or_default(),
        format: format.unwrap_or_default(),
        source_location: agent.bool_or("log_source_location", false),
    }
}
