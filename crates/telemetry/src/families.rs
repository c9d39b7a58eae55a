//! Every metric that the daemons make: one table for the help lines, and for the test that holds
//! docs/guide/telemetry.md to it.

/// Kinds of family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A counter with label `status` and a summary `….elapsed_time` in milliseconds.
    Call,
    /// A counter.
    Counter,
    /// A gauge.
    Gauge,
    /// A summary.
    Sample,
}

/// One family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// SPIRE's parts joined by dots.
    pub key: &'static str,
    /// What it is.
    pub shape: Shape,
    /// One sentence, with the unit.
    pub help: &'static str,
}

const fn call(key: &'static str, help: &'static str) -> Family {
    Family { key, shape: Shape::Call, help }
}
const fn counter(key: &'static str, help: &'static str) -> Family {
    Family { key, shape: Shape::Counter, help }
}
const fn gauge(key: &'static str, help: &'static str) -> Family {
    Family { key, shape: Shape::Gauge, help }
}
const fn sample(key: &'static str, help: &'static str) -> Family {
    Family { key, shape: Shape::Sample, help }
}

/// Those of both daemons.
pub const BOTH: &[Family] = &[
    gauge("started", "1 since the start; the labels tell what runs"),
    gauge("uptime_in_ms", "milliseconds since the start"),
    counter("hardroot.telemetry.dropped", "emissions and StatsD lines that found no place and were dropped"),
    counter("hardroot.token.operations", "operations on keys, by operation and result"),
    sample(
        "hardroot.token.operation_ms",
        "milliseconds an operation on a key took, by operation, waiting included",
    ),
    gauge("hardroot.token.waiting", "operations on keys that are under way or wait for their turn"),
    gauge("hardroot.token.reachable", "1 when the last operation on a key reached the token or chip, else 0"),
];

/// Those of the server.
pub const SERVER: &[Family] = &[
    call("svid.rotate", "renewals of the server's own SVID"),
    call("ca.manager.bundle.prune", "rounds that remove ended authorities from the bundle"),
    call("ca.manager.x509_ca.prepare", "X.509 authorities being prepared"),
    call("ca.manager.jwt_key.prepare", "JWT keys being prepared"),
    counter("manager.jwt_key.activate", "JWT keys activated"),
    counter("server_ca.sign.jwt_svid", "JWT-SVIDs signed"),
    counter("server_ca.sign.x509_ca_svid", "CA certificates signed for downstream servers"),
    counter("ca.manager.x509_ca.activate", "X.509 authorities activated"),
    gauge("manager.x509_ca.rotate.expiration", "end of the active X.509 authority, seconds since 1970"),
    gauge("manager.x509_ca.rotate.ttl", "seconds until the active X.509 authority ends"),
    counter("server_ca.sign.x509_svid", "X.509-SVIDs signed"),
    call("registration_entry.manager.prune", "rounds that remove expired entries"),
    gauge("entry.entries_by_entryid_cache.count", "registration entries in memory"),
    gauge("hardroot.sync.streams", "agents that are told of changes over an open stream"),
    gauge(
        "hardroot.entries.drift",
        "entries and agents in memory that differed from the database when the whole was last compared",
    ),
    gauge("node.agents_by_id_cache.count", "agents that are in memory"),
    gauge(
        "hardroot.authority.remaining_seconds",
        "seconds until the active X.509 authority ends; negative once it has",
    ),
    gauge("hardroot.server_svid.remaining_seconds", "seconds until the server's own SVID ends"),
    gauge("hardroot.bundle.last_read_seconds", "seconds since the bundle was last read from the database"),
    gauge(
        "hardroot.bundle.last_publication_seconds",
        "seconds since this server last put an authority into the bundle and read it back",
    ),
    gauge("hardroot.signature.age_seconds", "seconds since the key manager last made a signature"),
    gauge("hardroot.signing.queue", "signatures that are promised and not made yet, by class"),
    gauge(
        "hardroot.signing.interval_ms",
        "estimated milliseconds between two signatures of a busy key manager",
    ),
    sample("hardroot.signing.wait_ms", "milliseconds a request waited for its turn to be signed, by class"),
    counter("hardroot.signing.refused", "requests told to come back later, by class and reason"),
    gauge("hardroot.ready", "1 when the server is ready, else 0"),
    counter("hardroot.tls.handshakes", "TLS handshakes on the agents' port, by result"),
    counter("hardroot.connections.accepted", "connections taken, by listener"),
    counter(
        "hardroot.connections.refused",
        "connections closed at once because a limit was reached, by listener",
    ),
    counter("hardroot.accept.errors", "errors of accept(2), by listener"),
    counter("hardroot.reload", "reloads of the configuration, by result"),
];

/// Those of the agent.
pub const AGENT: &[Family] = &[
    call("node.attestor.new_svid", "attestations of the node"),
    call("agent_svid.rotate", "renewals of the agent's SVID"),
    call("manager.sync.fetch_entries_updates", "fetches of the entries this agent may serve"),
    call("manager.sync.fetch_svids_updates", "fetches of workload SVIDs"),
    gauge("lru_cache_record_map_size", "entries in the cache"),
    gauge("lru_cache_svid_map_size", "SVIDs in the cache"),
    call("workload_api.workload_attestation", "attestations of workloads"),
    call("workload_api.workload_attestor", "calls of one workload attestor"),
    sample("workload_api.discovered_selectors", "selectors found by an attestation"),
    counter("workload_api.connection", "connections to the Workload API"),
    gauge("workload_api.connections", "connections to the Workload API that are open"),
    gauge("hardroot.agent_svid.remaining_seconds", "seconds until the agent's SVID ends"),
    gauge("hardroot.sync.age_seconds", "seconds since the agent was last in step with the server"),
    gauge("hardroot.signing.queue", "signatures that are promised and not made yet, by class"),
    gauge(
        "hardroot.signing.interval_ms",
        "estimated milliseconds between two signatures of a busy key manager",
    ),
    sample("hardroot.signing.wait_ms", "milliseconds a request waited for its turn to be signed, by class"),
    counter("hardroot.signing.refused", "requests told to come back later, by class and reason"),
    gauge("hardroot.ready", "1 when the agent is ready, else 0"),
];

/// `datastore.<object>.<verb>`: every pair that the server uses.
pub const DATASTORE: &[(&str, &[&str])] = &[
    ("bundle", &["delete", "fetch", "list", "set"]),
    ("ca_journal", &["fetch", "set"]),
    ("federation_relationship", &["create", "delete", "fetch", "list", "update"]),
    ("join_token", &["create", "delete", "prune"]),
    ("node", &["count", "create", "delete", "fetch", "list", "update"]),
    ("registration_entry", &["count", "create", "delete", "fetch", "list", "prune", "update"]),
    ("registration_entry_event", &["list"]),
];

/// What a metric is, by its key; `None` for one that no table names.
#[must_use]
pub fn help(key: &str) -> Option<String> {
    if let Some(call) = key.strip_suffix(".elapsed_time") {
        return Some(format!("milliseconds that a call took: {}", help(call)?));
    }
    if let Some(family) = all().find(|family| family.key == key) {
        return Some(family.help.to_owned());
    }
    match key.split_once('.')? {
        ("rpc", method) => Some(format!("calls of the method {method}, by gRPC status")),
        ("datastore", operation) => Some(format!("calls of the datastore: {operation}, by status")),
        _ => None,
    }
}

/// Every family of the tables.
pub fn all() -> impl Iterator<Item = &'static Family> {
    BOTH.iter().chain(SERVER).chain(AGENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/guide/telemetry.md");

    #[test]
    fn the_page_tells_every_family() {
        for family in all() {
            assert!(PAGE.contains(&format!("`{}`", family.key)), "{} is not on the page", family.key);
        }
        for (object, verbs) in DATASTORE {
            let row =
                PAGE.lines().find(|line| line.starts_with(&format!("| `{object}`"))).unwrap_or_default();
            for verb in *verbs {
                assert!(row.contains(&format!("`{verb}`")), "datastore.{object}.{verb} is not on the page");
            }
        }
    }

    #[test]
    fn every_metric_has_a_help() {
        assert!(help("svid.rotate.elapsed_time").is_some_and(|text| text.contains("milliseconds")));
        assert!(help("rpc.agent.v1.agent.attest_agent").is_some_and(|text| text.contains("attest_agent")));
        assert_eq!(help("unheard.of"), None);
    }
}
