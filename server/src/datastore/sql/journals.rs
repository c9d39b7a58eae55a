//! Authority journals.

use async_trait::async_trait;

use super::access::{Row, retrying, sql};
use super::{SqlStore, StoreError, broken};
use crate::datastore::{Journals, StoredJournal};

#[async_trait]
impl Journals for SqlStore {
    async fn find_journal(&self, authority_ids: &[String]) -> Result<Option<StoredJournal>, StoreError> {
        let op = "find journal";
        if authority_ids.is_empty() {
            return Ok(None);
        }
        let mut query = sql("SELECT id, data FROM journals WHERE active_x509_authority_id IN");
        for (n, id) in authority_ids.iter().enumerate() {
            query.push(if n == 0 { " (" } else { ", " }).push_bind(id);
        }
        query.push(") ORDER BY id DESC LIMIT 1");
        let fault = |cause| broken(op, cause);
        let read = |row: &Row| {
            Ok(StoredJournal { row: row.int("id").map_err(fault)?, data: row.blob("data").map_err(fault)? })
        };
        self.reading(op, false, query).await?.first().map(read).transpose()
    }

    async fn put_journal(
        &self,
        before: Option<&StoredJournal>,
        data: &[u8],
        active_x509_authority_id: &str,
    ) -> Result<i64, StoreError> {
        let op = "write journal";
        let Some(before) = before else {
            let insert = sql("INSERT INTO journals (data, active_x509_authority_id) VALUES ($1, $2)");
            let insert = insert.bind(data).bind(active_x509_authority_id);
            return self.pools.writer(op).await?.insert(op, insert).await;
        };
        let row = before.row;
        // What the row holds is its version: an older state that a failover brought back is noticed too.
        let update = || {
            sql("UPDATE journals SET data = $2, active_x509_authority_id = $3 WHERE id = $1 AND data = $4")
                .bind(row)
                .bind(data)
                .bind(active_x509_authority_id)
                .bind(before.data.as_slice())
        };
        if retrying!(self.writing(op, update()))? == 1 {
            return Ok(row);
        }
        let there = sql("SELECT id FROM journals WHERE id = $1").bind(row);
        let (what, key) = ("journal", row.to_string());
        Err(match self.reading(op, false, there).await?.is_empty() {
            true => StoreError::NotFound { what, key },
            false => StoreError::Conflict { what, key },
        })
    }
}
