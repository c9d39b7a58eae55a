//! Bundles. The data stays opaque here; the row's revision is what guards against lost updates.

use async_trait::async_trait;
use hardroot_identity::TrustDomain;

use super::access::{Row, Session, is_unique_violation, retrying, sql};
use super::{SqlStore, StoreError, broken};
use crate::datastore::{Bundles, DeleteMode};

fn missing(trust_domain: &TrustDomain) -> StoreError {
    StoreError::NotFound { what: "bundle", key: trust_domain.to_string() }
}

#[async_trait]
impl Bundles for SqlStore {
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<(Vec<u8>, i64)>, StoreError> {
        let op = "read bundle";
        let query =
            sql("SELECT data, revision FROM bundles WHERE trust_domain = $1").bind(trust_domain.as_str());
        let fault = |cause| broken(op, cause);
        let found = self.reading(op, false, query).await?;
        let read = |row: &Row| Ok((row.blob("data").map_err(fault)?, row.int("revision").map_err(fault)?));
        found.first().map(read).transpose()
    }

    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        data: &[u8],
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        retrying!(self.write_bundle(trust_domain, data, expected))
    }

    async fn list_bundles(&self) -> Result<Vec<(TrustDomain, Vec<u8>)>, StoreError> {
        let op = "list bundles";
        let decode = |row: &Row| {
            let name = row.text("trust_domain").map_err(|cause| broken(op, cause))?;
            let trust_domain = TrustDomain::new(&name).map_err(|cause| StoreError::Damaged {
                what: "bundle",
                key: name,
                reason: cause.to_string(),
            })?;
            Ok((trust_domain, row.blob("data").map_err(|cause| broken(op, cause))?))
        };
        let query = sql("SELECT trust_domain, data FROM bundles ORDER BY trust_domain");
        self.reading(op, false, query).await?.iter().map(decode).collect()
    }

    async fn delete_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError> {
        retrying!(self.remove_bundle(trust_domain, mode))
    }
}

impl SqlStore {
    /// A statement that is a transaction of its own; how many rows it matched.
    pub(super) async fn writing(
        &self,
        op: &'static str,
        statement: super::access::Statement,
    ) -> Result<u64, StoreError> {
        self.pools.writer(op).await?.execute(op, statement).await
    }

    async fn write_bundle(
        &self,
        trust_domain: &TrustDomain,
        data: &[u8],
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        let op = "write bundle";
        let key = || trust_domain.to_string();
        let mut tx = self.begin_changes(op).await?;
        let next = match expected {
            Some(expected) => expected.saturating_add(1),
            None => first_revision(&mut tx.session, op).await?,
        };
        if let Some(expected) = expected {
            let update =
                sql("UPDATE bundles SET data = $2, revision = $3 WHERE trust_domain = $1 AND revision = $4")
                    .bind(trust_domain.as_str())
                    .bind(data)
                    .bind(next)
                    .bind(expected);
            if tx.session.execute(op, update).await? == 0 {
                return Err(StoreError::Conflict { what: "bundle", key: key() });
            }
        } else {
            let insert = sql("INSERT INTO bundles (trust_domain, data, revision) VALUES ($1, $2, $3)")
                .bind(trust_domain.as_str())
                .bind(data)
                .bind(next);
            match tx.session.execute(op, insert).await {
                Ok(_) => {}
                Err(error) if is_unique_violation(&error) => {
                    return Err(StoreError::Exists { what: "bundle", key: key() });
                }
                Err(other) => return Err(other),
            }
        }
        tx.bundle(trust_domain).await?;
        self.commit_changes(tx, op).await?;
        Ok(next)
    }

    async fn remove_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError> {
        let op = "delete bundle";
        let mut tx = self.begin_changes(op).await?;
        let linked = linked_entries(&mut tx.session, trust_domain).await?;
        if !linked.is_empty() {
            match mode {
                DeleteMode::Restrict => {
                    return Err(StoreError::InUse {
                        entries: u64::try_from(linked.len()).unwrap_or(u64::MAX),
                    });
                }
                DeleteMode::Delete => {
                    for (row, _) in &linked {
                        tx.session.execute(op, sql("DELETE FROM entries WHERE id = $1").bind(*row)).await?;
                    }
                }
                DeleteMode::Dissociate => {
                    let unlink = sql("DELETE FROM entry_federates WHERE trust_domain = $1");
                    tx.session.execute(op, unlink.bind(trust_domain.as_str())).await?;
                    for (row, _) in &linked {
                        // Agents learn of a changed entry by its revision.
                        let count = "UPDATE entries SET revision_number = revision_number + 1 WHERE id = $1";
                        tx.session.execute(op, sql(count).bind(*row)).await?;
                    }
                }
            }
            for (_, id) in &linked {
                tx.entry(id).await?;
            }
        }
        let query = sql("SELECT revision FROM bundles WHERE trust_domain = $1").bind(trust_domain.as_str());
        let row = tx.session.fetch_optional(op, query.for_update()).await?;
        let row = row.ok_or_else(|| missing(trust_domain))?;
        let revision = row.int("revision").map_err(|cause| broken(op, cause))?;
        let delete = sql("DELETE FROM bundles WHERE trust_domain = $1").bind(trust_domain.as_str());
        tx.session.execute(op, delete).await?;
        if revision >= first_revision(&mut tx.session, op).await? {
            let mut count = sql("INSERT INTO counters (name, value) VALUES ('bundles', $1)").bind(revision);
            count.push(&tx.session.engine().upsert("name", &["value"], ""));
            tx.session.execute(op, count).await?;
        }
        tx.bundle(trust_domain).await?;
        self.commit_changes(tx, op).await
    }
}

/// The revision of a new row: higher than that of any row that was deleted, so that whoever read the old one
/// never takes the new one for it. Those who make and delete bundles wait for each other.
pub(super) async fn first_revision(session: &mut Session, op: &'static str) -> Result<i64, StoreError> {
    let query = sql("SELECT coalesce(max(value), 0) + 1 AS n FROM counters WHERE name = 'bundles'");
    session.number(op, query).await
}

async fn linked_entries(
    session: &mut Session,
    trust_domain: &TrustDomain,
) -> Result<Vec<(i64, String)>, StoreError> {
    let op = "delete bundle";
    let query = sql("SELECT e.id, e.entry_id FROM entries e JOIN entry_federates f ON f.entry = e.id
         WHERE f.trust_domain = $1 ORDER BY e.id");
    let found = session.fetch_all(op, query.bind(trust_domain.as_str())).await?;
    let fault = |cause| broken(op, cause);
    found
        .iter()
        .map(|row| Ok((row.int("id").map_err(fault)?, row.text("entry_id").map_err(fault)?)))
        .collect()
}
