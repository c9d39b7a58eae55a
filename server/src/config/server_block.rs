//! The `server` block.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use hardroot_config::{Block, Decoder};
use hardroot_hsm_keymanager::KeyType;
use hardroot_identity::{DistinguishedName, SpiffeId, TrustDomain};
use hardroot_runtime::logs::{LogFormat, LogLevel};

use super::{JwtSettings, limits, unsupported};
use crate::endpoints::EndpointLimits;

const HOUR: Duration = Duration::from_secs(3600);

/// The block's values; what is required and missing has been noted as a fault.
pub(super) struct ServerBlock {
    pub(super) bind_address: String,
    pub(super) bind_port: u16,
    pub(super) socket_path: PathBuf,
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) data_dir: PathBuf,
    pub(super) ca_ttl: Duration,
    pub(super) ca_key_type: KeyType,
    pub(super) ca_subject: DistinguishedName,
    pub(super) default_x509_svid_ttl: Duration,
    pub(super) agent_ttl: Duration,
    pub(super) jwt: Option<JwtSettings>,
    pub(super) admin_ids: BTreeSet<SpiffeId>,
    pub(super) allow_software_keys: bool,
    pub(super) node_staleness: Duration,
    pub(super) prune_agents: Option<PruneAgents>,
    pub(super) audit_log_enabled: bool,
    pub(super) audit_log_required: bool,
    pub(super) limit_attestation: bool,
    pub(super) limit_signing: bool,
    pub(super) limits: EndpointLimits,
    pub(super) log_level: LogLevel,
    pub(super) log_format: LogFormat,
    pub(super) log_file: Option<PathBuf>,
    pub(super) log_source_location: bool,
}

pub(super) fn decode(decoder: &Decoder<'_>) -> ServerBlock {
    let block = decoder.root().required_block("server");
    let default_x509_svid_ttl = lifetime(&block, "default_x509_svid_ttl").unwrap_or(HOUR);
    let (limit_attestation, limit_signing) = rate_limits(&block);
    let ca_key_type = key_type(&block, "ca_key_type").unwrap_or(KeyType::EcP256);
    let server = ServerBlock {
        bind_address: block.string_or("bind_address", "0.0.0.0"),
        bind_port: block.int_in("bind_port", 0..=65535).and_then(|n| u16::try_from(n).ok()).unwrap_or(8081),
        socket_path: block
            .path("socket_path")
            .unwrap_or_else(|| PathBuf::from("/tmp/spire-server/private/api.sock")),
        trust_domain: trust_domain(&block),
        data_dir: block.required_path("data_dir"),
        ca_ttl: lifetime(&block, "ca_ttl").unwrap_or(24 * HOUR),
        ca_key_type,
        ca_subject: subject(&block),
        default_x509_svid_ttl,
        agent_ttl: lifetime(&block, "agent_ttl").unwrap_or(default_x509_svid_ttl),
        jwt: jwt(&block, ca_key_type),
        admin_ids: admin_ids(&block),
        allow_software_keys: block.bool_or("allow_software_keys", false),
        node_staleness: block.duration("max_attested_node_info_staleness").unwrap_or_default(),
        prune_agents: prune_agents(&block),
        audit_log_enabled: block.bool_or("audit_log_enabled", true),
        audit_log_required: block.bool_or("audit_log_required", true),
        limit_attestation,
        limit_signing,
        limits: limits::decode(&block),
        log_level: block.parsed("log_level").unwrap_or(LogLevel::Info),
        log_format: block.parsed("log_format").unwrap_or(LogFormat::Text),
        log_file: block.path("log_file"),
        log_source_location: block.bool_or("log_source_location", false),
    };
    unsupported::server(&block);
    block.finish();
    server
}

fn trust_domain(block: &Block<'_>) -> Option<TrustDomain> {
    let parsed = block.required_string("trust_domain");
    if parsed.is_empty() {
        return None;
    }
    match TrustDomain::from_name_or_id(&parsed) {
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            block.fault("trust_domain", format_args!("is no trust domain: {error}"));
            None
        }
    }
}

/// A duration of at least a second.
fn lifetime(block: &Block<'_>, key: &str) -> Option<Duration> {
    let duration = block.duration(key)?;
    if duration < Duration::from_secs(1) {
        block.fault(key, "must be at least one second");
    }
    Some(duration)
}

fn key_type(block: &Block<'_>, key: &str) -> Option<KeyType> {
    let words: Vec<(&str, KeyType)> = [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096]
        .into_iter()
        .map(|kind| (kind.as_str(), kind))
        .collect();
    block.one_of(key, &words)
}

/// The JWT keys are read also when `disable_jwt_svids` makes them idle: their faults are faults.
fn jwt(block: &Block<'_>, ca_key_type: KeyType) -> Option<JwtSettings> {
    let settings = JwtSettings {
        key_type: key_type(block, "jwt_key_type").unwrap_or(ca_key_type),
        issuer: block.string("jwt_issuer").filter(|issuer| !issuer.is_empty()),
        default_ttl: lifetime(block, "default_jwt_svid_ttl").unwrap_or(Duration::from_secs(300)),
    };
    (!block.bool_or("disable_jwt_svids", false)).then_some(settings)
}

fn subject(block: &Block<'_>) -> DistinguishedName {
    let Some(subject) = block.opt_block("ca_subject") else { return DistinguishedName::default_ca() };
    let name = DistinguishedName {
        country: subject.string_list("country").unwrap_or_default(),
        organization: subject.string_list("organization").unwrap_or_default(),
        common_name: subject.string("common_name").unwrap_or_default(),
        ..DistinguishedName::default()
    };
    subject.finish();
    if name.country.is_empty() && name.organization.is_empty() && name.common_name.is_empty() {
        return DistinguishedName::default_ca();
    }
    name
}

/// Which agents are removed when they are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneAgents {
    /// How long their SVIDs have been over.
    pub expired_for: Duration,
    /// How many are removed at once, 1 to 100,000.
    pub batch: u32,
    /// Also those that cannot attest again, which are lost then.
    pub and_tofu: bool,
}

fn prune_agents(block: &Block<'_>) -> Option<PruneAgents> {
    let expired_for = lifetime(block, "prune_attested_nodes_expired_for");
    let batch = block.int_in("prune_attested_nodes_batch_size", 1..=100_000);
    let and_tofu = block.bool("prune_tofu_nodes");
    if expired_for.is_none() && (batch.is_some() || and_tofu.is_some()) {
        block.fault("prune_attested_nodes_expired_for", "is needed: without it no agent is removed");
    }
    Some(PruneAgents {
        expired_for: expired_for?,
        batch: batch.and_then(|number| u32::try_from(number).ok()).unwrap_or(1_000),
        and_tofu: and_tofu.unwrap_or(false),
    })
}

fn admin_ids(block: &Block<'_>) -> BTreeSet<SpiffeId> {
    let mut ids = BTreeSet::new();
    for text in block.string_list("admin_ids").unwrap_or_default() {
        match text.parse::<SpiffeId>() {
            Ok(id) if !id.path().is_empty() => {
                ids.insert(id);
            }
            Ok(_) => block.fault("admin_ids", "an admin ID needs a path"),
            Err(error) => block.fault("admin_ids", format_args!("holds what is no SPIFFE ID: {error}")),
        }
    }
    ids
}

fn rate_limits(block: &Block<'_>) -> (bool, bool) {
    let limits = block.block("ratelimit");
    let both = (limits.bool_or("attestation", true), limits.bool_or("signing", true));
    limits.finish();
    both
}
