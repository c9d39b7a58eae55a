//! The log of changed entries and nodes, which caches follow. Its last number is the version that
//! `entries_version` tells; there is one writer, so numbers appear in the order of their commits.

use sqlx::sqlite::Sqlite;
use sqlx::{Executor, Row};

use super::{SqliteStore, StoreError, Tx, database};
use crate::datastore::{Change, Changes};

/// How many changes are kept. A cache that is further behind reads everything again.
const KEPT: i64 = 10_000;
/// Rows are cut in lumps, so that not every write deletes.
const SLACK: i64 = 1_000;

const ENTRY: i64 = 0;
const NODE: i64 = 1;

pub(super) async fn entry_changed(tx: &mut Tx, entry_id: &str) -> Result<(), StoreError> {
    record(tx, ENTRY, entry_id).await
}

pub(super) async fn node_changed(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    record(tx, NODE, id).await
}

async fn record(tx: &mut Tx, kind: i64, key: &str) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO changes (kind, key) VALUES ($1, $2)")
        .bind(kind)
        .bind(key)
        .execute(&mut **tx)
        .await
        .map_err(|cause| database("record change", cause))?;
    Ok(())
}

pub(super) async fn version<'e>(executor: impl Executor<'e, Database = Sqlite>) -> Result<i64, StoreError> {
    let fault = |cause| database("read version", cause);
    sqlx::query("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0)")
        .fetch_one(executor)
        .await
        .map_err(fault)?
        .try_get(0)
        .map_err(fault)
}

pub(super) async fn trim(tx: &mut Tx, version: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM changes WHERE seq <= $1 AND (SELECT coalesce(min(seq), 0) FROM changes) <= $2")
        .bind(version.saturating_sub(KEPT))
        .bind(version.saturating_sub(KEPT + SLACK))
        .execute(&mut **tx)
        .await
        .map_err(|cause| database("trim changes", cause))?;
    Ok(())
}

impl SqliteStore {
    pub(super) async fn version(&self) -> Result<i64, StoreError> {
        version(&self.readers).await
    }

    pub(super) async fn changes_after(&self, seen: i64) -> Result<Changes, StoreError> {
        let fault = |cause| database("read changes", cause);
        // One transaction: the version and the rows belong together.
        let mut tx = self.readers.begin().await.map_err(fault)?;
        let version = version(&mut *tx).await?;
        if version == seen {
            return Ok(Changes { version, changed: Some(Vec::new()) });
        }
        let rows = sqlx::query("SELECT seq, kind, key FROM changes WHERE seq > $1 ORDER BY seq")
            .bind(seen)
            .fetch_all(&mut *tx)
            .await
            .map_err(fault)?;
        let complete = seen < version
            && rows.first().map(|row| row.try_get::<i64, _>(0)).transpose().map_err(fault)?
                == Some(seen.saturating_add(1));
        if !complete {
            return Ok(Changes { version, changed: None });
        }
        let mut changed = Vec::with_capacity(rows.len());
        for row in rows {
            let key: String = row.try_get(2).map_err(fault)?;
            changed.push(match row.try_get::<i64, _>(1).map_err(fault)? {
                ENTRY => Change::Entry(key),
                _ => Change::Node(key),
            });
        }
        Ok(Changes { version, changed: Some(changed) })
    }
}
