//! Bundles. The data stays opaque here; the row's revision is what guards against lost updates.

use async_trait::async_trait;
use hardroot_identity::TrustDomain;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{SqliteStore, StoreError, Tx, changes, database, execute, is_unique_violation};
use crate::datastore::{Bundles, DeleteMode};

fn conflict(trust_domain: &TrustDomain) -> StoreError {
    StoreError::Conflict { what: "bundle", key: trust_domain.to_string() }
}

fn missing(trust_domain: &TrustDomain) -> StoreError {
    StoreError::NotFound { what: "bundle", key: trust_domain.to_string() }
}

#[async_trait]
impl Bundles for SqliteStore {
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<(Vec<u8>, i64)>, StoreError> {
        let fault = |cause| database("read bundle", cause);
        let row = sqlx::query("SELECT data, revision FROM bundles WHERE trust_domain = $1")
            .bind(trust_domain.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(fault)?;
        row.map(|row| Ok((row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?))).transpose()
    }

    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        data: &[u8],
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        let Some(expected) = expected else {
            let done = sqlx::query("INSERT INTO bundles (trust_domain, data, revision) VALUES ($1, $2, 1)")
                .bind(trust_domain.to_string())
                .bind(data.to_owned())
                .execute(&self.writer)
                .await;
            return match done {
                Ok(_) => Ok(1),
                Err(cause) if is_unique_violation(&cause) => {
                    Err(StoreError::Exists { what: "bundle", key: trust_domain.to_string() })
                }
                Err(cause) => Err(database("write bundle", cause)),
            };
        };
        let next = expected.saturating_add(1);
        let query = sqlx::query(
            "UPDATE bundles SET data = $2, revision = $3 WHERE trust_domain = $1 AND revision = $4",
        )
        .bind(trust_domain.to_string())
        .bind(data.to_owned())
        .bind(next)
        .bind(expected);
        if execute(&self.writer, "write bundle", query).await? == 1 {
            Ok(next)
        } else {
            Err(conflict(trust_domain))
        }
    }

    async fn list_bundles(&self) -> Result<Vec<(TrustDomain, Vec<u8>)>, StoreError> {
        let fault = |cause| database("list bundles", cause);
        let decode = |row: &SqliteRow| {
            let name: String = row.try_get(0).map_err(fault)?;
            let trust_domain = TrustDomain::new(&name).map_err(|cause| StoreError::Damaged {
                what: "bundle",
                key: name,
                reason: cause.to_string(),
            })?;
            Ok((trust_domain, row.try_get(1).map_err(fault)?))
        };
        let found = sqlx::query("SELECT trust_domain, data FROM bundles ORDER BY trust_domain")
            .fetch_all(&self.readers)
            .await
            .map_err(fault)?;
        found.iter().map(decode).collect()
    }

    async fn delete_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError> {
        let mut tx = self.begin("delete bundle").await?;
        let linked = linked_entries(&mut tx, trust_domain).await?;
        if !linked.is_empty() {
            match mode {
                DeleteMode::Restrict => {
                    return Err(StoreError::InUse {
                        entries: u64::try_from(linked.len()).unwrap_or(u64::MAX),
                    });
                }
                DeleteMode::Delete => {
                    for (row, _) in &linked {
                        let query = sqlx::query("DELETE FROM entries WHERE id = $1").bind(*row);
                        execute(&mut *tx, "delete bundle", query).await?;
                    }
                }
                DeleteMode::Dissociate => {
                    let query = sqlx::query("DELETE FROM entry_federates WHERE trust_domain = $1")
                        .bind(trust_domain.to_string());
                    execute(&mut *tx, "delete bundle", query).await?;
                    for (row, _) in &linked {
                        // Agents learn of a changed entry by its revision.
                        let query = sqlx::query(
                            "UPDATE entries SET revision_number = revision_number + 1 WHERE id = $1",
                        )
                        .bind(*row);
                        execute(&mut *tx, "delete bundle", query).await?;
                    }
                }
            }
            for (_, id) in &linked {
                changes::entry_changed(&mut tx, id).await?;
            }
        }
        let query = sqlx::query("DELETE FROM bundles WHERE trust_domain = $1").bind(trust_domain.to_string());
        if execute(&mut *tx, "delete bundle", query).await? == 0 {
            return Err(missing(trust_domain));
        }
        self.commit_changes(tx, "delete bundle").await
    }
}

async fn linked_entries(tx: &mut Tx, trust_domain: &TrustDomain) -> Result<Vec<(i64, String)>, StoreError> {
    let fault = |cause| database("delete bundle", cause);
    let found = sqlx::query(
        "SELECT e.id, e.entry_id FROM entries e JOIN entry_federates f ON f.entry = e.id
         WHERE f.trust_domain = $1 ORDER BY e.id",
    )
    .bind(trust_domain.to_string())
    .fetch_all(&mut **tx)
    .await
    .map_err(fault)?;
    found.iter().map(|row| Ok((row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?))).collect()
}
