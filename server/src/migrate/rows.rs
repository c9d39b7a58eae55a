//! What SPIRE's tables hold (schema 25, spire-map 8), as it stands there.

use crate::datastore::StoreError;
use crate::datastore::raw::{Engine, Row, Session, sql};

/// A registration entry.
#[derive(Debug, Clone, Default)]
pub(super) struct EntryRow {
    pub(super) row: i64,
    pub(super) entry_id: String,
    pub(super) spiffe_id: String,
    pub(super) parent_id: String,
    pub(super) x509_svid_ttl: i64,
    pub(super) jwt_svid_ttl: i64,
    pub(super) admin: bool,
    pub(super) downstream: bool,
    pub(super) expiry: i64,
    pub(super) revision_number: i64,
    pub(super) store_svid: bool,
    pub(super) hint: String,
    pub(super) created_at: i64,
    pub(super) additional_attributes: Vec<u8>,
    pub(super) selectors: Vec<(String, String)>,
    pub(super) dns_names: Vec<String>,
    pub(super) federates_with: Vec<String>,
}

/// An attested node.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeRow {
    pub(super) spiffe_id: String,
    pub(super) data_type: String,
    pub(super) serial_number: String,
    pub(super) expires_at: i64,
    pub(super) new_serial_number: String,
    pub(super) new_expires_at: Option<i64>,
    pub(super) can_reattest: bool,
    pub(super) agent_version: String,
    pub(super) selectors: Vec<(String, String)>,
}

/// A federation relationship.
#[derive(Debug, Clone, Default)]
pub(super) struct RelationshipRow {
    pub(super) trust_domain: String,
    pub(super) url: String,
    pub(super) profile: String,
    pub(super) endpoint_spiffe_id: String,
}

/// A CA journal.
#[derive(Debug, Clone, Default)]
pub(super) struct JournalRow {
    pub(super) data: Vec<u8>,
    pub(super) active_x509_authority_id: String,
}

/// A join token; its value is a secret.
#[derive(Clone)]
pub(super) struct TokenRow {
    pub(super) token: zeroize::Zeroizing<String>,
    pub(super) expiry: i64,
}

/// How an engine writes what the tables' columns need to be read alike.
struct Columns(Engine);

impl Columns {
    /// A 64-bit number; an absent one is 0.
    fn int(&self, column: &str) -> String {
        let kind = if self.0 == Engine::MySql { "SIGNED" } else { "BIGINT" };
        format!("CAST(COALESCE({column}, 0) AS {kind})")
    }

    /// 1 or 0.
    fn flag(&self, column: &str) -> String {
        let kind = if self.0 == Engine::MySql { "SIGNED" } else { "BIGINT" };
        format!("CAST(CASE WHEN {column} THEN 1 ELSE 0 END AS {kind})")
    }

    /// A time as seconds since 1970; SPIRE writes them in UTC.
    fn seconds(&self, column: &str) -> String {
        match self.0 {
            Engine::Sqlite => format!("CAST(strftime('%s', {column}) AS INTEGER)"),
            Engine::Postgres => format!("CAST(floor(extract(epoch FROM {column})) AS BIGINT)"),
            Engine::MySql => {
                format!("CAST(TIMESTAMPDIFF(SECOND, '1970-01-01 00:00:00', {column}) AS SIGNED)")
            }
        }
    }
}

/// Reads a column, and says of which table and row when it cannot be read.
fn read<T>(table: &'static str, value: Result<T, sqlx::Error>) -> Result<T, StoreError> {
    value.map_err(|cause| StoreError::Damaged {
        what: "SPIRE's table",
        key: table.to_owned(),
        reason: cause.to_string(),
    })
}

/// Reads a whole table by a statement.
async fn table<T>(
    session: &mut Session,
    name: &'static str,
    text: String,
    row: impl Fn(&Row) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, StoreError> {
    let rows = session.fetch_all("read SPIRE's database", sql(text)).await?;
    rows.iter().map(|found| read(name, row(found))).collect()
}

/// The schema's version, or none when there is no such table.
pub(super) async fn schema(session: &mut Session) -> Result<Option<i64>, StoreError> {
    let version = Columns(session.engine()).int("version");
    let text = format!("SELECT {version} AS n FROM migrations ORDER BY id DESC LIMIT 1");
    let row = session.fetch_optional("read SPIRE's database", sql(text)).await?;
    row.map(|row| read("migrations", row.int("n"))).transpose()
}

/// Every bundle: trust domain (`spiffe://…`) and `spire.common.Bundle`.
pub(super) async fn bundles(session: &mut Session) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let text = "SELECT trust_domain, data FROM bundles ORDER BY id".to_owned();
    table(session, "bundles", text, |row| {
        Ok((row.text("trust_domain")?, row.optional_blob("data")?.unwrap_or_default()))
    })
    .await
}

/// Rows that belong to another table's row, in the order of both.
async fn children(
    session: &mut Session,
    name: &'static str,
    text: &'static str,
    columns: [&'static str; 2],
) -> Result<Vec<(i64, [String; 2])>, StoreError> {
    let owner = Columns(session.engine()).int("owner");
    let text = format!(
        "SELECT {owner} AS n, {}, {} FROM ({text}) AS c ORDER BY n, sequence",
        columns[0], columns[1]
    );
    table(session, name, text, |row| Ok((row.int("n")?, [row.text(columns[0])?, row.text(columns[1])?])))
        .await
}

/// Every registration entry with what belongs to it.
pub(super) async fn entries(session: &mut Session) -> Result<Vec<EntryRow>, StoreError> {
    let c = Columns(session.engine());
    let text = format!(
        "SELECT {} AS n, entry_id, spiffe_id, parent_id, {} AS x509_ttl, {} AS jwt_ttl, {} AS admin_, {} AS downstream_,
            {} AS expiry_, {} AS revision, {} AS store, hint, {} AS created, additional_attributes
         FROM registered_entries ORDER BY id",
        c.int("id"), c.int("ttl"), c.int("jwt_svid_ttl"), c.flag("admin"), c.flag("downstream"),
        c.int("expiry"), c.int("revision_number"), c.flag("store_svid"), c.seconds("created_at"),
    );
    let mut entries: Vec<EntryRow> = table(session, "registered_entries", text, |row| {
        Ok(EntryRow {
            row: row.int("n")?,
            entry_id: row.text("entry_id")?,
            spiffe_id: row.text("spiffe_id")?,
            parent_id: row.text("parent_id")?,
            x509_svid_ttl: row.int("x509_ttl")?,
            jwt_svid_ttl: row.int("jwt_ttl")?,
            admin: row.int("admin_")? != 0,
            downstream: row.int("downstream_")? != 0,
            expiry: row.int("expiry_")?,
            revision_number: row.int("revision")?,
            store_svid: row.int("store")? != 0,
            hint: row.optional_text("hint")?.unwrap_or_default(),
            created_at: row.optional_int("created")?.unwrap_or_default(),
            additional_attributes: row.optional_blob("additional_attributes")?.unwrap_or_default(),
            ..EntryRow::default()
        })
    })
    .await?;
    let selectors = children(
        session,
        "selectors",
        "SELECT registered_entry_id AS owner, id AS sequence, type AS kind, value AS word FROM selectors",
        ["kind", "word"],
    );
    let selectors = selectors.await?;
    attach(entries.as_mut_slice(), selectors, |entry, [kind, value]| entry.selectors.push((kind, value)));
    let names = children(
        session,
        "dns_names",
        "SELECT registered_entry_id AS owner, id AS sequence, value AS word, value AS again FROM dns_names",
        ["word", "again"],
    );
    let names = names.await?;
    attach(&mut entries, names, |entry, [name, _]| entry.dns_names.push(name));
    let federated = children(
        session,
        "federated_registration_entries",
        "SELECT f.registered_entry_id AS owner, b.id AS sequence, b.trust_domain AS word, b.trust_domain AS again
         FROM federated_registration_entries f JOIN bundles b ON b.id = f.bundle_id",
        ["word", "again"],
    );
    let federated = federated.await?;
    attach(&mut entries, federated, |entry, [name, _]| entry.federates_with.push(name));
    Ok(entries)
}

/// Hands each child to its owner; both are in the order of the owner's id.
fn attach(
    entries: &mut [EntryRow],
    children: Vec<(i64, [String; 2])>,
    put: impl Fn(&mut EntryRow, [String; 2]),
) {
    let mut owners = entries.iter_mut().peekable();
    for (owner, child) in children {
        while owners.peek().is_some_and(|entry| entry.row < owner) {
            owners.next();
        }
        // A child without an owner is what a half-deleted entry left behind: nobody's.
        if let Some(entry) = owners.peek_mut().filter(|entry| entry.row == owner) {
            put(entry, child);
        }
    }
}

/// Every attested node with its selectors.
pub(super) async fn nodes(session: &mut Session) -> Result<Vec<NodeRow>, StoreError> {
    let c = Columns(session.engine());
    let text = format!(
        "SELECT spiffe_id, data_type, serial_number, {} AS ends, new_serial_number, {} AS new_ends, {} AS again,
            agent_version
         FROM attested_node_entries ORDER BY id",
        c.seconds("expires_at"), c.seconds("new_expires_at"), c.flag("can_reattest"),
    );
    let mut nodes: Vec<NodeRow> = table(session, "attested_node_entries", text, |row| {
        Ok(NodeRow {
            spiffe_id: row.text("spiffe_id")?,
            data_type: row.optional_text("data_type")?.unwrap_or_default(),
            serial_number: row.optional_text("serial_number")?.unwrap_or_default(),
            expires_at: row.optional_int("ends")?.unwrap_or_default(),
            new_serial_number: row.optional_text("new_serial_number")?.unwrap_or_default(),
            new_expires_at: row.optional_int("new_ends")?,
            can_reattest: row.int("again")? != 0,
            agent_version: row.optional_text("agent_version")?.unwrap_or_default(),
            selectors: Vec::new(),
        })
    })
    .await?;
    let text =
        "SELECT spiffe_id, type AS kind, value AS word FROM node_resolver_map_entries ORDER BY spiffe_id, id"
            .to_owned();
    let selectors = table(session, "node_resolver_map_entries", text, |row| {
        Ok((row.text("spiffe_id")?, row.text("kind")?, row.text("word")?))
    });
    let mut by_node = std::collections::HashMap::<String, Vec<(String, String)>>::new();
    for (id, kind, value) in selectors.await? {
        by_node.entry(id).or_default().push((kind, value));
    }
    for node in &mut nodes {
        node.selectors = by_node.remove(&node.spiffe_id).unwrap_or_default();
    }
    Ok(nodes)
}

/// Every federation relationship.
pub(super) async fn relationships(session: &mut Session) -> Result<Vec<RelationshipRow>, StoreError> {
    // gorm writes the capitals of `EndpointSPIFFEID` so.
    let text = "SELECT trust_domain, bundle_endpoint_url AS url, bundle_endpoint_profile AS profile,
            endpoint_spiffe_id AS endpoint
         FROM federated_trust_domains ORDER BY id";
    table(session, "federated_trust_domains", text.to_owned(), |row| {
        Ok(RelationshipRow {
            trust_domain: row.text("trust_domain")?,
            url: row.optional_text("url")?.unwrap_or_default(),
            profile: row.optional_text("profile")?.unwrap_or_default(),
            endpoint_spiffe_id: row.optional_text("endpoint")?.unwrap_or_default(),
        })
    })
    .await
}

/// Every join token.
pub(super) async fn tokens(session: &mut Session) -> Result<Vec<TokenRow>, StoreError> {
    let expiry = Columns(session.engine()).int("expiry");
    let text = format!("SELECT token, {expiry} AS ends FROM join_tokens ORDER BY id");
    table(session, "join_tokens", text, |row| {
        Ok(TokenRow { token: row.text("token")?.into(), expiry: row.int("ends")? })
    })
    .await
}

/// Every CA journal.
pub(super) async fn journals(session: &mut Session) -> Result<Vec<JournalRow>, StoreError> {
    let text = "SELECT data, active_x509_authority_id AS active FROM ca_journals ORDER BY id".to_owned();
    table(session, "ca_journals", text, |row| {
        Ok(JournalRow {
            data: row.optional_blob("data")?.unwrap_or_default(),
            active_x509_authority_id: row.optional_text("active")?.unwrap_or_default(),
        })
    })
    .await
}
