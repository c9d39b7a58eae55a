//! The log of changed entries, nodes and bundles, which caches follow. Its last number is the version that
//! `entries_version` tells.
//!
//! Who writes to it holds the row that counts until the end of the transaction. So numbers appear in the order
//! of their commits, without gaps, and two servers never change entries at once: what one of them found (a
//! similar entry, a bundle that is there) is still so when it commits.

use std::collections::HashSet;

use hardroot_identity::TrustDomain;

use super::access::{Row, Session, sql};
use super::entries::insert_rows;
use super::{SqlStore, StoreError, broken, rows};
use crate::datastore::{Change, Changes};

/// How many changes are kept. A cache that is further behind reads everything again.
const KEPT: i64 = 10_000;
/// Rows are cut in lumps, so that not every write deletes.
const SLACK: i64 = 1_000;

const RECORD: &str = "record change";
const INTO: &str = "INSERT INTO changes (seq, kind, object)";
const ENTRY: i64 = 0;
const NODE: i64 = 1;
const BUNDLE: i64 = 2;

/// A transaction that changes what caches hold.
pub(super) struct Changing {
    pub(super) session: Session,
    version: i64,
}

impl Changing {
    pub(super) async fn entry(&mut self, entry_id: &str) -> Result<(), StoreError> {
        self.record(ENTRY, entry_id).await
    }

    /// Many entries, in their order.
    pub(super) async fn entries(&mut self, ids: &[&str]) -> Result<(), StoreError> {
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            self.version = self.version.saturating_add(1);
            rows.push(vec![self.version.into(), ENTRY.into(), (*id).into()]);
        }
        insert_rows(&mut self.session, RECORD, INTO, rows).await
    }

    pub(super) async fn node(&mut self, id: &str) -> Result<(), StoreError> {
        self.record(NODE, id).await
    }

    pub(super) async fn bundle(&mut self, trust_domain: &TrustDomain) -> Result<(), StoreError> {
        self.record(BUNDLE, trust_domain.as_str()).await
    }

    /// Of these ids those that an entry had which the log still knows of.
    pub(super) async fn known_entries(
        &mut self,
        op: &'static str,
        ids: &[&str],
    ) -> Result<HashSet<String>, StoreError> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let mut query =
            sql("SELECT DISTINCT object FROM changes WHERE kind = $1 AND object IN (").bind(ENTRY);
        for (n, id) in ids.iter().enumerate() {
            query.push(if n == 0 { "" } else { ", " }).push_bind(*id);
        }
        query.push(")");
        let rows = self.session.fetch_all(op, query).await?;
        rows.iter().map(|row| row.text("object").map_err(|cause| broken(op, cause))).collect()
    }

    /// A number that no change before this transaction has.
    pub(super) fn unused_number(&self) -> i64 {
        self.version.saturating_add(1)
    }

    async fn record(&mut self, kind: i64, object: &str) -> Result<(), StoreError> {
        self.version = self.version.saturating_add(1);
        let row = vec![self.version.into(), kind.into(), object.into()];
        insert_rows(&mut self.session, RECORD, INTO, vec![row]).await
    }

    async fn trim(&mut self) -> Result<(), StoreError> {
        let op = "trim changes";
        let oldest = self.session.number(op, sql("SELECT coalesce(min(seq), 0) AS n FROM changes")).await?;
        if oldest <= self.version.saturating_sub(KEPT + SLACK) {
            let old = sql("DELETE FROM changes WHERE seq <= $1").bind(self.version.saturating_sub(KEPT));
            self.session.execute(op, old).await?;
        }
        Ok(())
    }
}

const VERSION: &str = "SELECT value AS n FROM counters WHERE name = 'changes'";

pub(super) async fn version(session: &mut Session) -> Result<i64, StoreError> {
    session.number("read version", sql(VERSION)).await
}

impl SqlStore {
    /// Begins a transaction that changes entries or nodes.
    pub(super) async fn begin_changes(&self, op: &'static str) -> Result<Changing, StoreError> {
        let mut session = self.pools.begin(op).await?;
        let version = session.number(op, sql(VERSION).for_update()).await?;
        Ok(Changing { session, version })
    }

    /// Commits, and wakes those who follow changes.
    pub(super) async fn commit_changes(&self, mut tx: Changing, op: &'static str) -> Result<(), StoreError> {
        tx.trim().await?;
        let count = sql("UPDATE counters SET value = $1 WHERE name = 'changes'").bind(tx.version);
        tx.session.execute(op, count).await?;
        tx.session.commit(op).await?;
        let version = tx.version;
        self.changed.send_if_modified(|seen| {
            let newer = version > *seen;
            *seen = version.max(*seen);
            newer
        });
        Ok(())
    }

    pub(super) async fn version(&self) -> Result<i64, StoreError> {
        version(&mut self.pools.reader("read version").await?).await
    }

    pub(super) async fn changes_after(&self, seen: i64) -> Result<Changes, StoreError> {
        let op = "read changes";
        if self.version().await? == seen {
            return Ok(Changes { version: seen, changed: Some(Vec::new()), ..Changes::default() });
        }
        // As of one moment: the version, the log and the rows belong together.
        let mut session = self.pools.snapshot(op).await?;
        let mut changes = Changes { version: version(&mut session).await?, ..Changes::default() };
        let log = sql("SELECT seq, kind, object FROM changes WHERE seq > $1 ORDER BY seq").bind(seen);
        let log = session.fetch_all(op, log).await?;
        let fault = |cause| broken(op, cause);
        let first = log.first().map(|row| row.int("seq")).transpose().map_err(fault)?;
        if seen > changes.version || first != Some(seen.saturating_add(1)) {
            session.commit(op).await?;
            return Ok(changes);
        }
        let change = |row: &Row| {
            let object = row.text("object").map_err(fault)?;
            Ok(match row.int("kind").map_err(fault)? {
                ENTRY => Change::Entry(object),
                BUNDLE => Change::Bundle(object),
                _ => Change::Node(object),
            })
        };
        let changed = log.iter().map(change).collect::<Result<Vec<_>, StoreError>>()?;
        if changed.iter().any(|change| matches!(change, Change::Entry(_))) {
            let mut query = rows::select_entry(self.engine());
            query.push(" WHERE e.entry_id IN (SELECT object FROM changes WHERE kind = ").push_bind(ENTRY);
            query.push(" AND seq > ").push_bind(seen).push(")");
            for row in &session.fetch_all(op, query).await? {
                keep(rows::entry(row), &mut changes.entries, &mut changes.damaged)?;
            }
        }
        if changed.iter().any(|change| matches!(change, Change::Node(_))) {
            let mut query = rows::select_node(self.engine());
            query.push(" WHERE n.spiffe_id IN (SELECT object FROM changes WHERE kind = ").push_bind(NODE);
            query.push(" AND seq > ").push_bind(seen).push(")");
            for row in &session.fetch_all(op, query).await? {
                keep(rows::node(row), &mut changes.nodes, &mut changes.damaged)?;
            }
        }
        session.commit(op).await?;
        changes.changed = Some(changed);
        Ok(changes)
    }
}

/// Puts a row where it belongs; only one that cannot be read for another reason than damage is an error.
fn keep<T>(
    row: Result<T, StoreError>,
    good: &mut Vec<T>,
    damaged: &mut Vec<StoreError>,
) -> Result<(), StoreError> {
    match row {
        Ok(row) => good.push(row),
        Err(damage @ StoreError::Damaged { .. }) => damaged.push(damage),
        Err(other) => return Err(other),
    }
    Ok(())
}
