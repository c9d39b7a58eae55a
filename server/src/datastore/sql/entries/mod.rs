//! Registration entries.

mod bulk;
mod write;

use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::watch;

use super::access::{Row, Statement, retrying, sql};
use super::snapshot::LOT;
use super::{SqlStore, StoreError, broken, filters, rows, unix};
use crate::datastore::{Changes, Entries, Entry, EntryFilter, EntryMask, Page, SnapshotReader, rules};
use write::{fetch, insert_dns_names, insert_federates, insert_selectors, normalise, update};
pub(super) use write::{insert_rows, insert_unless_similar};

#[async_trait]
impl Entries for SqlStore {
    async fn create_entry(&self, entry: Entry) -> Result<(Entry, bool), StoreError> {
        rules::check_new(&entry)?;
        retrying!(self.create(entry.clone()))
    }

    async fn create_entries(&self, entries: Vec<Entry>) -> Vec<Result<(Entry, bool), StoreError>> {
        self.create_many(entries).await
    }

    async fn entry(&self, id: &str) -> Result<Option<Entry>, StoreError> {
        let mut session = self.pools.reader("read entry").await?;
        fetch(&mut session, id).await?.map(|row| rows::entry(&row)).transpose()
    }

    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: &Page,
    ) -> Result<(Vec<Entry>, String), StoreError> {
        let mut query = rows::select_entry(self.engine());
        filters::push_entry_filter(&mut query, filter)?;
        filters::push_page(&mut query, "e", page)?;
        let found = self.reading("list entries", filter.may_lag, query).await?;
        decode_page(found, page, rows::entry)
    }

    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        let mut query = sql("SELECT count(*) AS n FROM entries e");
        filters::push_entry_filter(&mut query, filter)?;
        count(self.reading("count entries", filter.may_lag, query).await?)
    }

    async fn update_entry(&self, entry: Entry, mask: &EntryMask) -> Result<Entry, StoreError> {
        retrying!(self.update(entry.clone(), mask))
    }

    async fn delete_entry(&self, id: &str) -> Result<(), StoreError> {
        retrying!(self.delete(id))
    }

    async fn prune_entries(&self, now: SystemTime) -> Result<Vec<String>, StoreError> {
        // Most runs find nothing: do not take the write lock for that.
        if self.reading("prune entries", false, expired(now)).await?.is_empty() {
            return Ok(Vec::new());
        }
        retrying!(self.prune(now))
    }

    async fn entries_version(&self) -> Result<i64, StoreError> {
        self.version().await
    }

    async fn changes_since(&self, seen: i64) -> Result<Changes, StoreError> {
        self.changes_after(seen).await
    }

    async fn snapshot(&self, reader: &mut dyn SnapshotReader, connections: usize) -> Result<(), StoreError> {
        self.read_in_lots(reader, connections, LOT).await
    }

    fn subscribe(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }
}

impl SqlStore {
    /// A list or a count: one statement.
    pub(super) async fn reading(
        &self,
        op: &'static str,
        may_lag: bool,
        query: Statement,
    ) -> Result<Vec<Row>, StoreError> {
        let mut session =
            if may_lag { self.pools.lagging_reader(op).await? } else { self.pools.reader(op).await? };
        session.fetch_all(op, query).await
    }

    async fn create(&self, entry: Entry) -> Result<(Entry, bool), StoreError> {
        let mut tx = self.begin_changes("create entry").await?;
        let (entry, existed) = insert_unless_similar(&mut tx, entry).await?;
        if !existed {
            self.commit_changes(tx, "create entry").await?;
        }
        Ok((entry, existed))
    }

    async fn update(&self, entry: Entry, mask: &EntryMask) -> Result<Entry, StoreError> {
        let op = "update entry";
        let mut tx = self.begin_changes(op).await?;
        let row = fetch(&mut tx.session, &entry.id).await?.ok_or_else(|| missing(&entry.id))?;
        let number = |column| row.int(column).map_err(|cause| broken(op, cause));
        let row_id = number("id")?;
        // With a mask of everything a damaged row is replaced as a whole, which repairs it.
        let old = match rows::entry(&row) {
            Err(StoreError::Damaged { .. }) if *mask == EntryMask::ALL => entry.clone(),
            old => old?,
        };
        let mut new = masked(old, entry, mask);
        rules::check_updated(&new, mask)?;
        normalise(&mut new);
        new.revision_number = number("revision_number")?.saturating_add(1);
        new.created_at = number("created_at")?;
        let session = &mut tx.session;
        update(session, row_id, &new).await?;
        if mask.selectors {
            session.execute(op, sql("DELETE FROM entry_selectors WHERE entry = $1").bind(row_id)).await?;
            insert_selectors(session, row_id, &new.selectors).await?;
        }
        if mask.dns_names {
            session.execute(op, sql("DELETE FROM entry_dns_names WHERE entry = $1").bind(row_id)).await?;
            insert_dns_names(session, row_id, &new.dns_names).await?;
        }
        if mask.federates_with {
            session.execute(op, sql("DELETE FROM entry_federates WHERE entry = $1").bind(row_id)).await?;
            insert_federates(session, row_id, &new.federates_with).await?;
        }
        tx.entry(&new.id).await?;
        self.commit_changes(tx, op).await?;
        Ok(new)
    }

    async fn delete(&self, id: &str) -> Result<(), StoreError> {
        let op = "delete entry";
        let mut tx = self.begin_changes(op).await?;
        if tx.session.execute(op, sql("DELETE FROM entries WHERE entry_id = $1").bind(id)).await? == 0 {
            return Err(missing(id));
        }
        tx.entry(id).await?;
        self.commit_changes(tx, op).await
    }

    async fn prune(&self, now: SystemTime) -> Result<Vec<String>, StoreError> {
        let op = "prune entries";
        let mut tx = self.begin_changes(op).await?;
        let mut gone = Vec::new();
        for row in tx.session.fetch_all(op, expired(now)).await? {
            let id = row.text("entry_id").map_err(|cause| broken(op, cause))?;
            tx.session.execute(op, sql("DELETE FROM entries WHERE entry_id = $1").bind(&id)).await?;
            tx.entry(&id).await?;
            gone.push(id);
        }
        self.commit_changes(tx, op).await?;
        Ok(gone)
    }
}

fn expired(now: SystemTime) -> Statement {
    sql("SELECT entry_id FROM entries WHERE expires_at <> 0 AND expires_at < $1").bind(unix(now))
}

fn missing(id: &str) -> StoreError {
    StoreError::NotFound { what: "entry", key: id.to_owned() }
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

/// Decodes a page that was read with one row more than asked for, and makes the token of the next one.
pub(super) fn decode_page<T>(
    mut found: Vec<Row>,
    page: &Page,
    decode: impl Fn(&Row) -> Result<T, StoreError>,
) -> Result<(Vec<T>, String), StoreError> {
    let size = usize::try_from(page.size).unwrap_or(usize::MAX);
    let more = size > 0 && found.len() > size;
    if more {
        found.truncate(size);
    }
    let next = match found.last() {
        Some(last) if more => last.int("id").map_err(|cause| broken("list", cause))?.to_string(),
        _ => String::new(),
    };
    Ok((found.iter().map(decode).collect::<Result<_, _>>()?, next))
}

/// The number of a `count(*) AS n`.
pub(super) fn count(rows: Vec<Row>) -> Result<u64, StoreError> {
    let row = rows.first().ok_or(sqlx::Error::RowNotFound);
    let count = row.and_then(|row| row.int("n")).map_err(|cause| broken("count", cause))?;
    Ok(u64::try_from(count).unwrap_or_default())
}
