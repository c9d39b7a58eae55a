//! Registration entries.

use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_identity::{Selector, TrustDomain};
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Executor, QueryBuilder, Row};
use tokio::sync::watch;

use super::{
    SqliteStore, StoreError, Tx, changes, database, execute, filters, is_unique_violation, rows, unix,
};
use crate::datastore::{Changes, Entries, Entry, EntryFilter, EntryMask, Match, Page, Snapshot, rules};

#[async_trait]
impl Entries for SqliteStore {
    async fn create_entry(&self, entry: Entry) -> Result<(Entry, bool), StoreError> {
        rules::check_new(&entry)?;
        let mut tx = self.begin("create entry").await?;
        let (entry, existed) = insert_unless_similar(&mut tx, entry).await?;
        if !existed {
            self.commit_changes(tx, "create entry").await?;
        }
        Ok((entry, existed))
    }

    async fn entry(&self, id: &str) -> Result<Option<Entry>, StoreError> {
        fetch(&self.readers, id).await?.map(|row| rows::entry(&row)).transpose()
    }

    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: &Page,
    ) -> Result<(Vec<Entry>, String), StoreError> {
        let mut query = QueryBuilder::new(rows::SELECT_ENTRY);
        filters::push_entry_filter(&mut query, filter)?;
        filters::push_page(&mut query, "e", page)?;
        let found =
            query.build().fetch_all(&self.readers).await.map_err(|cause| database("list entries", cause))?;
        decode_page(found, page, rows::entry)
    }

    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("SELECT count(*) FROM entries e");
        filters::push_entry_filter(&mut query, filter)?;
        count(query, &self.readers, "count entries").await
    }

    async fn update_entry(&self, entry: Entry, mask: &EntryMask) -> Result<Entry, StoreError> {
        let mut tx = self.begin("update entry").await?;
        let row = fetch(&mut *tx, &entry.id).await?.ok_or_else(|| missing(&entry.id))?;
        let row_id: i64 = row.try_get("id").map_err(|cause| database("update entry", cause))?;
        // With a mask of everything a damaged row is replaced as a whole, which repairs it.
        let old = match rows::entry(&row) {
            Err(StoreError::Damaged { .. }) if *mask == EntryMask::ALL => entry.clone(),
            old => old?,
        };
        let mut new = masked(old, entry, mask);
        rules::check_updated(&new, mask)?;
        normalise(&mut new);
        new.revision_number =
            row.try_get::<i64, _>("revision_number").map_err(|cause| database("update entry", cause))? + 1;
        new.created_at = row.try_get("created_at").map_err(|cause| database("update entry", cause))?;
        update(&mut tx, row_id, &new).await?;
        if mask.selectors {
            clear(&mut tx, "DELETE FROM entry_selectors WHERE entry = $1", row_id).await?;
            insert_selectors(&mut tx, row_id, &new.selectors).await?;
        }
        if mask.dns_names {
            clear(&mut tx, "DELETE FROM entry_dns_names WHERE entry = $1", row_id).await?;
            insert_dns_names(&mut tx, row_id, &new.dns_names).await?;
        }
        if mask.federates_with {
            clear(&mut tx, "DELETE FROM entry_federates WHERE entry = $1", row_id).await?;
            insert_federates(&mut tx, row_id, &new.federates_with).await?;
        }
        changes::entry_changed(&mut tx, &new.id).await?;
        self.commit_changes(tx, "update entry").await?;
        Ok(new)
    }

    async fn delete_entry(&self, id: &str) -> Result<(), StoreError> {
        let mut tx = self.begin("delete entry").await?;
        let query = sqlx::query("DELETE FROM entries WHERE entry_id = $1").bind(id.to_owned());
        if execute(&mut *tx, "delete entry", query).await? == 0 {
            return Err(missing(id));
        }
        changes::entry_changed(&mut tx, id).await?;
        self.commit_changes(tx, "delete entry").await
    }

    async fn prune_entries(&self, now: SystemTime) -> Result<Vec<String>, StoreError> {
        let fault = |cause| database("prune entries", cause);
        const EXPIRED: &str = "SELECT entry_id FROM entries WHERE expires_at <> 0 AND expires_at < $1";
        // Most runs find nothing: do not take the write lock for that.
        if sqlx::query(EXPIRED).bind(unix(now)).fetch_optional(&self.readers).await.map_err(fault)?.is_none()
        {
            return Ok(Vec::new());
        }
        let mut tx = self.begin("prune entries").await?;
        let expired = sqlx::query(EXPIRED).bind(unix(now)).fetch_all(&mut *tx).await.map_err(fault)?;
        let mut gone = Vec::with_capacity(expired.len());
        for row in expired {
            let id: String = row.try_get(0).map_err(fault)?;
            let query = sqlx::query("DELETE FROM entries WHERE entry_id = $1").bind(id.clone());
            execute(&mut *tx, "prune entries", query).await?;
            changes::entry_changed(&mut tx, &id).await?;
            gone.push(id);
        }
        self.commit_changes(tx, "prune entries").await?;
        Ok(gone)
    }

    async fn entries_version(&self) -> Result<i64, StoreError> {
        self.version().await
    }

    async fn changes_since(&self, seen: i64) -> Result<Changes, StoreError> {
        self.changes_after(seen).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let fault = |cause| database("read all entries", cause);
        // A deferred transaction sees one moment of the WAL from its first read to its end.
        let mut tx = self.readers.begin().await.map_err(fault)?;
        let mut snapshot = Snapshot { version: changes::version(&mut *tx).await?, ..Snapshot::default() };
        let found = QueryBuilder::<Sqlite>::new(rows::SELECT_ENTRY)
            .push(" ORDER BY e.id")
            .build()
            .fetch_all(&mut *tx)
            .await
            .map_err(fault)?;
        for row in &found {
            match rows::entry(row) {
                Ok(entry) => snapshot.entries.push(entry),
                Err(damage @ StoreError::Damaged { .. }) => snapshot.damaged.push(damage),
                Err(other) => return Err(other),
            }
        }
        let found = sqlx::query(rows::SELECT_NODE).fetch_all(&mut *tx).await.map_err(fault)?;
        for row in &found {
            match rows::node(row) {
                Ok(node) => snapshot.node_selectors.push((node.id, node.selectors)),
                Err(damage @ StoreError::Damaged { .. }) => snapshot.damaged.push(damage),
                Err(other) => return Err(other),
            }
        }
        Ok(snapshot)
    }

    fn subscribe(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }
}

fn missing(id: &str) -> StoreError {
    StoreError::NotFound { what: "entry", key: id.to_owned() }
}

/// Sets are sorted and without duplicates, so that equal sets compare equal.
fn normalise(entry: &mut Entry) {
    entry.selectors.sort();
    entry.selectors.dedup();
    entry.federates_with.sort();
    entry.federates_with.dedup();
}

fn masked(old: Entry, new: Entry, mask: &EntryMask) -> Entry {
    let pick = |flag: bool, new: bool, old: bool| if flag { new } else { old };
    Entry {
        id: old.id,
        spiffe_id: if mask.spiffe_id { new.spiffe_id } else { old.spiffe_id },
        parent_id: if mask.parent_id { new.parent_id } else { old.parent_id },
        selectors: if mask.selectors { new.selectors } else { old.selectors },
        x509_svid_ttl: if mask.x509_svid_ttl { new.x509_svid_ttl } else { old.x509_svid_ttl },
        jwt_svid_ttl: if mask.jwt_svid_ttl { new.jwt_svid_ttl } else { old.jwt_svid_ttl },
        federates_with: if mask.federates_with { new.federates_with } else { old.federates_with },
        admin: pick(mask.admin, new.admin, old.admin),
        downstream: pick(mask.downstream, new.downstream, old.downstream),
        expires_at: if mask.expires_at { new.expires_at } else { old.expires_at },
        dns_names: if mask.dns_names { new.dns_names } else { old.dns_names },
        revision_number: old.revision_number,
        store_svid: pick(mask.store_svid, new.store_svid, old.store_svid),
        hint: if mask.hint { new.hint } else { old.hint },
        created_at: old.created_at,
        disable_x509_svid_prefetch: pick(
            mask.additional_attributes,
            new.disable_x509_svid_prefetch,
            old.disable_x509_svid_prefetch,
        ),
        jwt_svid_include_jti: pick(
            mask.additional_attributes,
            new.jwt_svid_include_jti,
            old.jwt_svid_include_jti,
        ),
    }
}

async fn fetch<'e>(
    executor: impl Executor<'e, Database = Sqlite>,
    id: &str,
) -> Result<Option<SqliteRow>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(rows::SELECT_ENTRY);
    query.push(" WHERE e.entry_id = ").push_bind(id.to_owned());
    query.build().fetch_optional(executor).await.map_err(|cause| database("read entry", cause))
}

/// The entry with the same SPIFFE ID, parent and selector set. Runs under the write lock, so that two
/// writers cannot both find none.
async fn similar(tx: &mut Tx, entry: &Entry) -> Result<Option<Entry>, StoreError> {
    let filter = EntryFilter {
        spiffe_id: Some(entry.spiffe_id.clone()),
        parent_id: Some(entry.parent_id.clone()),
        selectors: Some((entry.selectors.clone(), Match::Exact)),
        ..EntryFilter::default()
    };
    let mut query = QueryBuilder::new(rows::SELECT_ENTRY);
    filters::push_entry_filter(&mut query, &filter)?;
    query.push(" ORDER BY e.id LIMIT 1");
    let row =
        query.build().fetch_optional(&mut **tx).await.map_err(|cause| database("create entry", cause))?;
    row.map(|row| rows::entry(&row)).transpose()
}

/// Inserts an entry that was judged by [`rules::check_new`], or finds the similar one and says `true`.
pub(super) async fn insert_unless_similar(
    tx: &mut Tx,
    mut entry: Entry,
) -> Result<(Entry, bool), StoreError> {
    normalise(&mut entry);
    entry.revision_number = 0;
    if entry.id.is_empty() {
        entry.id = uuid::Uuid::new_v4().to_string();
    }
    if let Some(similar) = similar(tx, &entry).await? {
        return Ok((similar, true));
    }
    let row = insert(tx, &entry).await?;
    insert_selectors(tx, row, &entry.selectors).await?;
    insert_dns_names(tx, row, &entry.dns_names).await?;
    insert_federates(tx, row, &entry.federates_with).await?;
    changes::entry_changed(tx, &entry.id).await?;
    Ok((entry, false))
}

async fn insert(tx: &mut Tx, entry: &Entry) -> Result<i64, StoreError> {
    let done = sqlx::query(
        "INSERT INTO entries (entry_id, spiffe_id, parent_id, x509_svid_ttl, jwt_svid_ttl, admin, downstream,
            expires_at, revision_number, store_svid, hint, created_at, disable_prefetch, include_jti)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(&entry.id)
    .bind(entry.spiffe_id.as_str())
    .bind(entry.parent_id.as_str())
    .bind(entry.x509_svid_ttl)
    .bind(entry.jwt_svid_ttl)
    .bind(i64::from(entry.admin))
    .bind(i64::from(entry.downstream))
    .bind(entry.expires_at)
    .bind(entry.revision_number)
    .bind(i64::from(entry.store_svid))
    .bind(&entry.hint)
    .bind(entry.created_at)
    .bind(i64::from(entry.disable_x509_svid_prefetch))
    .bind(i64::from(entry.jwt_svid_include_jti))
    .execute(&mut **tx)
    .await;
    match done {
        Ok(done) => Ok(done.last_insert_rowid()),
        Err(cause) if is_unique_violation(&cause) => {
            Err(StoreError::Exists { what: "entry", key: entry.id.clone() })
        }
        Err(cause) => Err(database("create entry", cause)),
    }
}

async fn update(tx: &mut Tx, row: i64, entry: &Entry) -> Result<(), StoreError> {
    let query = sqlx::query(
        "UPDATE entries SET spiffe_id = $2, parent_id = $3, x509_svid_ttl = $4, jwt_svid_ttl = $5, admin = $6,
            downstream = $7, expires_at = $8, revision_number = $9, store_svid = $10, hint = $11,
            disable_prefetch = $12, include_jti = $13 WHERE id = $1",
    )
    .bind(row)
    .bind(entry.spiffe_id.to_string())
    .bind(entry.parent_id.to_string())
    .bind(entry.x509_svid_ttl)
    .bind(entry.jwt_svid_ttl)
    .bind(i64::from(entry.admin))
    .bind(i64::from(entry.downstream))
    .bind(entry.expires_at)
    .bind(entry.revision_number)
    .bind(i64::from(entry.store_svid))
    .bind(entry.hint.clone())
    .bind(i64::from(entry.disable_x509_svid_prefetch))
    .bind(i64::from(entry.jwt_svid_include_jti));
    execute(&mut **tx, "update entry", query).await?;
    Ok(())
}

async fn clear(tx: &mut Tx, sql: &'static str, row: i64) -> Result<(), StoreError> {
    execute(&mut **tx, "update entry", sqlx::query(sql).bind(row)).await?;
    Ok(())
}

async fn insert_selectors(tx: &mut Tx, row: i64, selectors: &[Selector]) -> Result<(), StoreError> {
    for selector in selectors {
        let query = sqlx::query("INSERT INTO entry_selectors (entry, kind, value) VALUES ($1, $2, $3)")
            .bind(row)
            .bind(selector.kind().to_owned())
            .bind(selector.value().to_owned());
        execute(&mut **tx, "write selectors", query).await?;
    }
    Ok(())
}

async fn insert_dns_names(tx: &mut Tx, row: i64, names: &[String]) -> Result<(), StoreError> {
    for (position, name) in (0_i64..).zip(names) {
        let query = sqlx::query("INSERT INTO entry_dns_names (entry, position, name) VALUES ($1, $2, $3)")
            .bind(row)
            .bind(position)
            .bind(name.clone());
        execute(&mut **tx, "write DNS names", query).await?;
    }
    Ok(())
}

async fn insert_federates(tx: &mut Tx, row: i64, domains: &[TrustDomain]) -> Result<(), StoreError> {
    for domain in domains {
        // A name without a bundle inserts nothing.
        let query = sqlx::query(
            "INSERT INTO entry_federates (entry, trust_domain) SELECT $1, trust_domain FROM bundles
             WHERE trust_domain = $2",
        )
        .bind(row)
        .bind(domain.to_string());
        if execute(&mut **tx, "write federation", query).await? == 0 {
            return Err(StoreError::NoFederatedBundle { trust_domain: domain.clone() });
        }
    }
    Ok(())
}

/// Decodes a page that was read with one row more than asked for, and makes the token of the next one.
pub(super) fn decode_page<T>(
    mut found: Vec<SqliteRow>,
    page: &Page,
    decode: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<(Vec<T>, String), StoreError> {
    let size = usize::try_from(page.size).unwrap_or(usize::MAX);
    let more = size > 0 && found.len() > size;
    if more {
        found.truncate(size);
    }
    let next = match found.last() {
        Some(last) if more => {
            last.try_get::<i64, _>("id").map_err(|cause| database("list", cause))?.to_string()
        }
        _ => String::new(),
    };
    Ok((found.iter().map(decode).collect::<Result<_, _>>()?, next))
}

pub(super) async fn count<'e>(
    mut query: QueryBuilder<Sqlite>,
    executor: impl Executor<'e, Database = Sqlite>,
    op: &'static str,
) -> Result<u64, StoreError> {
    let row = query.build().fetch_one(executor).await.map_err(|cause| database(op, cause))?;
    let count: i64 = row.try_get(0).map_err(|cause| database(op, cause))?;
    Ok(u64::try_from(count).unwrap_or_default())
}
