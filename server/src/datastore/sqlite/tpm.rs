//! Enrolled TPMs.

use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_node_attestors::Enrolment;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::rows::Reader;
use super::{SqliteStore, StoreError, database, execute, is_unique_violation, unix};
use crate::datastore::{StoredEnrolment, TpmEnrolments};

const WHAT: &str = "TPM enrolment";

#[async_trait]
impl TpmEnrolments for SqliteStore {
    async fn enrol(&self, enrolment: &Enrolment, now: SystemTime) -> Result<StoredEnrolment, StoreError> {
        if enrolment.ek_hash.len() != 64
            || !enrolment.ek_hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(StoreError::Invalid {
                reason: "an EK hash is 64 lower-case hexadecimal digits".to_owned(),
            });
        }
        let done = sqlx::query(
            "INSERT INTO tpm_enrolments (ek_hash, agent_path, note, created_at) VALUES ($1, $2, $3, $4)
             RETURNING ek_hash, agent_path, note, created_at",
        )
        .bind(enrolment.ek_hash.clone())
        .bind(enrolment.agent_path.clone())
        .bind(enrolment.note.clone())
        .bind(unix(now))
        .fetch_one(&self.writer)
        .await;
        match done {
            Ok(row) => decode(&row),
            Err(cause) if is_unique_violation(&cause) => {
                // Two rules may be broken: name the one that is.
                let key = match self.enrolment(&enrolment.ek_hash).await? {
                    Some(_) => enrolment.ek_hash.clone(),
                    None => {
                        format!("with agent path {}", enrolment.agent_path.as_deref().unwrap_or_default())
                    }
                };
                Err(StoreError::Exists { what: WHAT, key })
            }
            Err(cause) => Err(database("enrol TPM", cause)),
        }
    }

    async fn enrolment(&self, ek_hash: &str) -> Result<Option<StoredEnrolment>, StoreError> {
        let row = sqlx::query(
            "SELECT ek_hash, agent_path, note, created_at FROM tpm_enrolments WHERE ek_hash = $1",
        )
        .bind(ek_hash.to_owned())
        .fetch_optional(&self.readers)
        .await
        .map_err(|cause| database("read TPM enrolment", cause))?;
        row.map(|row| decode(&row)).transpose()
    }

    async fn list_enrolments(&self) -> Result<Vec<StoredEnrolment>, StoreError> {
        sqlx::query("SELECT ek_hash, agent_path, note, created_at FROM tpm_enrolments ORDER BY id")
            .fetch_all(&self.readers)
            .await
            .map_err(|cause| database("list TPM enrolments", cause))?
            .iter()
            .map(decode)
            .collect()
    }

    async fn remove_enrolment(&self, ek_hash: &str) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM tpm_enrolments WHERE ek_hash = $1").bind(ek_hash.to_owned());
        if execute(&self.writer, "remove TPM enrolment", query).await? == 0 {
            return Err(StoreError::NotFound { what: WHAT, key: ek_hash.to_owned() });
        }
        Ok(())
    }
}

fn decode(row: &SqliteRow) -> Result<StoredEnrolment, StoreError> {
    let r = Reader::new(row, WHAT, "ek_hash")?;
    let agent_path: Option<String> = row.try_get("agent_path").map_err(|cause| r.damaged(cause))?;
    if agent_path.as_deref().is_some_and(|path| !path.starts_with('/')) {
        return Err(r.damaged("agent_path does not begin with a slash"));
    }
    Ok(StoredEnrolment {
        enrolment: Enrolment { ek_hash: r.text("ek_hash")?, agent_path, note: r.text("note")? },
        created_at: r.time("created_at")?,
    })
}
