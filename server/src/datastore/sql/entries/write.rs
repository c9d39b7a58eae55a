//! Writing an entry's rows.

use std::collections::HashMap;

use hardroot_identity::{Selector, TrustDomain};

use super::super::access::{Row, Session, Value, is_unique_violation, sql};
use super::super::changes::Changing;
use super::super::{StoreError, broken, filters, rows};
use crate::datastore::Entry;

/// How many rows one `INSERT` writes.
const LUMP: usize = 200;

/// Sets are sorted and without duplicates, so that equal sets compare equal.
pub(super) fn normalise(entry: &mut Entry) {
    entry.selectors.sort();
    entry.selectors.dedup();
    entry.federates_with.sort();
    entry.federates_with.dedup();
}

pub(super) async fn fetch(session: &mut Session, id: &str) -> Result<Option<Row>, StoreError> {
    let mut query = rows::select_entry(session.engine());
    query.push(" WHERE e.entry_id = ").push_bind(id);
    session.fetch_optional("read entry", query).await
}

/// The entry with the same SPIFFE ID, parent and selector set. Whoever changes entries waits for the others,
/// so two writers cannot both find none.
pub(super) async fn similar(session: &mut Session, entry: &Entry) -> Result<Option<Entry>, StoreError> {
    let mut query = rows::select_entry(session.engine());
    filters::push_similar(&mut query, entry)?;
    query.push(" ORDER BY e.id LIMIT 1");
    let row = session.fetch_optional("create entry", query).await?;
    row.map(|row| rows::entry(&row)).transpose()
}

/// What every new entry gets. One whose id another entry had before begins with a revision that no entry had
/// ([`Changing::unused_number`]): made again within the second in which the old one was made, it would look unchanged to
/// agents, which compare revision and time of creation.
pub(super) fn begin_life(entry: &mut Entry) {
    normalise(entry);
    entry.revision_number = 0;
    if entry.id.is_empty() {
        entry.id = uuid::Uuid::new_v4().to_string();
    }
}

/// Inserts an entry that was judged by [`rules::check_new`], or finds the similar one and says `true`.
pub(in super::super) async fn insert_unless_similar(
    tx: &mut Changing,
    mut entry: Entry,
) -> Result<(Entry, bool), StoreError> {
    let own_id = entry.id.clone();
    begin_life(&mut entry);
    if !own_id.is_empty() && !tx.known_entries("create entry", &[&own_id]).await?.is_empty() {
        entry.revision_number = tx.unused_number();
    }
    if let Some(similar) = similar(&mut tx.session, &entry).await? {
        return Ok((similar, true));
    }
    let row = insert(&mut tx.session, &entry).await?;
    insert_selectors(&mut tx.session, row, &entry.selectors).await?;
    insert_dns_names(&mut tx.session, row, &entry.dns_names).await?;
    insert_federates(&mut tx.session, row, &entry.federates_with).await?;
    tx.entry(&entry.id).await?;
    Ok((entry, false))
}

const INTO_ENTRIES: &str =
    "INSERT INTO entries (entry_id, spiffe_id, parent_id, x509_svid_ttl, jwt_svid_ttl, admin,
    downstream, expires_at, revision_number, store_svid, hint, created_at, disable_prefetch, include_jti)";
const INTO_SELECTORS: &str = "INSERT INTO entry_selectors (entry, kind, value)";
const INTO_DNS_NAMES: &str = "INSERT INTO entry_dns_names (entry, position, name)";

/// The columns of [`INTO_ENTRIES`].
fn columns(entry: &Entry) -> Vec<Value> {
    vec![
        (&entry.id).into(),
        entry.spiffe_id.as_str().into(),
        entry.parent_id.as_str().into(),
        entry.x509_svid_ttl.into(),
        entry.jwt_svid_ttl.into(),
        entry.admin.into(),
        entry.downstream.into(),
        entry.expires_at.into(),
        entry.revision_number.into(),
        entry.store_svid.into(),
        (&entry.hint).into(),
        entry.created_at.into(),
        entry.disable_x509_svid_prefetch.into(),
        entry.jwt_svid_include_jti.into(),
    ]
}

fn selector_rows(row: i64, selectors: &[Selector]) -> Vec<Vec<Value>> {
    selectors.iter().map(|s| vec![row.into(), s.kind().into(), s.value().into()]).collect()
}

fn dns_name_rows(row: i64, names: &[String]) -> Vec<Vec<Value>> {
    (0_i64..).zip(names).map(|(position, name)| vec![row.into(), position.into(), name.into()]).collect()
}

async fn insert(session: &mut Session, entry: &Entry) -> Result<i64, StoreError> {
    let mut insert = sql(INTO_ENTRIES);
    insert.push_rows([columns(entry)]);
    match session.insert("create entry", insert).await {
        Err(error) if is_unique_violation(&error) => {
            Err(StoreError::Exists { what: "entry", key: entry.id.clone() })
        }
        done => done,
    }
}

/// Inserts entries that are like none that is there, nor like each other, and that federate with bundles that are
/// there.
pub(super) async fn insert_many(tx: &mut Changing, entries: &[Entry]) -> Result<(), StoreError> {
    let op = "create entries";
    let session = &mut tx.session;
    insert_rows(session, op, INTO_ENTRIES, entries.iter().map(columns).collect()).await?;
    let mut query = sql("SELECT id, entry_id FROM entries WHERE entry_id IN");
    for (n, entry) in entries.iter().enumerate() {
        query.push(if n == 0 { " (" } else { ", " }).push_bind(&entry.id);
    }
    query.push(")");
    let fault = |cause| broken(op, cause);
    let mut ids = HashMap::new();
    for row in session.fetch_all(op, query).await? {
        ids.insert(row.text("entry_id").map_err(fault)?, row.int("id").map_err(fault)?);
    }
    let (mut selectors, mut names, mut federates) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let row = *ids.get(&entry.id).ok_or_else(|| fault(sqlx::Error::RowNotFound))?;
        selectors.extend(selector_rows(row, &entry.selectors));
        names.extend(dns_name_rows(row, &entry.dns_names));
        federates.extend(entry.federates_with.iter().map(|domain| vec![row.into(), domain.as_str().into()]));
    }
    insert_rows(session, op, INTO_SELECTORS, selectors).await?;
    insert_rows(session, op, INTO_DNS_NAMES, names).await?;
    insert_rows(session, op, "INSERT INTO entry_federates (entry, trust_domain)", federates).await?;
    let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
    tx.entries(&ids).await
}

pub(super) async fn update(session: &mut Session, row: i64, entry: &Entry) -> Result<(), StoreError> {
    let update = sql(
        "UPDATE entries SET spiffe_id = $2, parent_id = $3, x509_svid_ttl = $4, jwt_svid_ttl = $5, admin = $6,
            downstream = $7, expires_at = $8, revision_number = $9, store_svid = $10, hint = $11,
            disable_prefetch = $12, include_jti = $13 WHERE id = $1",
    )
    .bind(row)
    .bind(entry.spiffe_id.as_str())
    .bind(entry.parent_id.as_str())
    .bind(entry.x509_svid_ttl)
    .bind(entry.jwt_svid_ttl)
    .bind(entry.admin)
    .bind(entry.downstream)
    .bind(entry.expires_at)
    .bind(entry.revision_number)
    .bind(entry.store_svid)
    .bind(&entry.hint)
    .bind(entry.disable_x509_svid_prefetch)
    .bind(entry.jwt_svid_include_jti);
    session.execute("update entry", update).await?;
    Ok(())
}

/// Inserts rows, many with each statement.
pub(in super::super) async fn insert_rows(
    session: &mut Session,
    op: &'static str,
    into: &'static str,
    rows: Vec<Vec<Value>>,
) -> Result<(), StoreError> {
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let mut insert = sql(into);
        insert.push_rows(rows.by_ref().take(LUMP));
        session.execute(op, insert).await?;
    }
    Ok(())
}

pub(super) async fn insert_selectors(
    session: &mut Session,
    row: i64,
    selectors: &[Selector],
) -> Result<(), StoreError> {
    insert_rows(session, "write selectors", INTO_SELECTORS, selector_rows(row, selectors)).await
}

pub(super) async fn insert_dns_names(
    session: &mut Session,
    row: i64,
    names: &[String],
) -> Result<(), StoreError> {
    insert_rows(session, "write DNS names", INTO_DNS_NAMES, dns_name_rows(row, names)).await
}

pub(super) async fn insert_federates(
    session: &mut Session,
    row: i64,
    domains: &[TrustDomain],
) -> Result<(), StoreError> {
    for domain in domains {
        // A name without a bundle inserts nothing.
        let insert =
            sql("INSERT INTO entry_federates (entry, trust_domain) SELECT $1, trust_domain FROM bundles
             WHERE trust_domain = $2")
            .bind(row)
            .bind(domain.as_str());
        if session.execute("write federation", insert).await? == 0 {
            return Err(StoreError::NoFederatedBundle { trust_domain: domain.clone() });
        }
    }
    Ok(())
}
