//! Authority journals.

use async_trait::async_trait;
use sqlx::Row;

use super::{SqliteStore, StoreError, database, execute};
use crate::datastore::Journals;

#[async_trait]
impl Journals for SqliteStore {
    async fn find_journal(&self, authority_ids: &[String]) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        let fault = |cause| database("find journal", cause);
        let row = sqlx::query(
            "SELECT id, data FROM journals
             WHERE active_x509_authority_id IN (SELECT value FROM json_each($1)) ORDER BY id DESC LIMIT 1",
        )
        .bind(serde_json::Value::from(authority_ids.to_vec()).to_string())
        .fetch_optional(&self.readers)
        .await
        .map_err(fault)?;
        row.map(|row| Ok((row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?))).transpose()
    }

    async fn put_journal(
        &self,
        row: Option<i64>,
        data: &[u8],
        active_x509_authority_id: &str,
    ) -> Result<i64, StoreError> {
        let Some(row) = row else {
            let done = sqlx::query("INSERT INTO journals (data, active_x509_authority_id) VALUES ($1, $2)")
                .bind(data.to_owned())
                .bind(active_x509_authority_id.to_owned())
                .execute(&self.writer)
                .await
                .map_err(|cause| database("write journal", cause))?;
            return Ok(done.last_insert_rowid());
        };
        let query = sqlx::query("UPDATE journals SET data = $2, active_x509_authority_id = $3 WHERE id = $1")
            .bind(row)
            .bind(data.to_owned())
            .bind(active_x509_authority_id.to_owned());
        if execute(&self.writer, "write journal", query).await? == 0 {
            return Err(StoreError::NotFound { what: "journal", key: row.to_string() });
        }
        Ok(row)
    }
}
