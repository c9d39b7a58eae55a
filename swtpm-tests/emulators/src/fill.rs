//! SQL that fills a database of ours with more entries and agents than one would make through the API.

/// Whose SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

/// Statements that fill an empty database of schema 4: agents `spiffe://DOMAIN/spire/agent/join_token/N` with N from 0, each
/// with a selector of its own, and entries spread evenly over them as parents, each with an identity and two
/// selectors of its own. Nothing of it is in the log of changes.
#[must_use]
pub fn statements(dialect: Dialect, trust_domain: &str, entries: u64, agents: u64) -> Vec<String> {
    let numbers = |to: u64| match dialect {
        Dialect::Sqlite => format!(
            "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {to}) SELECT n FROM c) AS c"
        ),
        Dialect::Postgres => format!("generate_series(1, {to}) AS c(n)"),
    };
    let uuid = match dialect {
        Dialect::Sqlite => "printf('%08x-0000-4000-8000-%012x', (n * 2654435761) % 4294967296, n)",
        Dialect::Postgres => {
            "lpad(to_hex((n::bigint * 2654435761) % 4294967296), 8, '0') || '-0000-4000-8000-' || lpad(to_hex(n), 12, '0')"
        }
    };
    let agent = format!("'spiffe://{trust_domain}/spire/agent/join_token/' || (n % {agents})");
    let (entries, agents) = (numbers(entries), numbers(agents));
    vec![
        format!(
            "INSERT INTO entries (id, entry_id, spiffe_id, parent_id, x509_svid_ttl, jwt_svid_ttl, admin, downstream,
               expires_at, revision_number, store_svid, hint, created_at, disable_prefetch, include_jti)
             SELECT n, {uuid}, 'spiffe://{trust_domain}/region/site/workload-' || n, {agent}, 3600, 0, 0, 0, 0, 0, 0, '',
               1700000000, 0, 0 FROM {entries}"
        ),
        format!("INSERT INTO entry_selectors SELECT n, 'unix', 'uid:' || n FROM {entries}"),
        format!("INSERT INTO entry_selectors SELECT n, 'unix', 'path:/opt/app/bin/' || n FROM {entries}"),
        format!(
            "INSERT INTO nodes (id, spiffe_id, attestation_type, serial_number, expires_at, new_serial_number,
               new_expires_at, can_reattest, agent_version)
             SELECT n, {agent}, 'join_token', '123456789012345678901234567890' || n, 1900000000, '', NULL, 0, '1.0'
               FROM {agents}"
        ),
        format!("INSERT INTO node_selectors SELECT n, 'site', 'rack:' || n FROM {agents}"),
    ]
}
