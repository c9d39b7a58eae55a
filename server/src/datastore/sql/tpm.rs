//! Enrolled TPMs.

use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_node_attestors::Enrolment;

use super::access::{Row, is_unique_violation, retrying, sql};
use super::rows::Reader;
use super::{SqlStore, StoreError, from_unix, unix};
use crate::datastore::{StoredEnrolment, TpmEnrolments};

const WHAT: &str = "TPM enrolment";

#[async_trait]
impl TpmEnrolments for SqlStore {
    async fn enrol(&self, enrolment: &Enrolment, now: SystemTime) -> Result<StoredEnrolment, StoreError> {
        if enrolment.ek_hash.len() != 64
            || !enrolment.ek_hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(StoreError::Invalid {
                reason: "an EK hash is 64 lower-case hexadecimal digits".to_owned(),
            });
        }
        let op = "enrol TPM";
        let insert =
            sql("INSERT INTO tpm_enrolments (ek_hash, agent_path, note, created_at) VALUES ($1, $2, $3, $4)")
                .bind(&enrolment.ek_hash)
                .bind(enrolment.agent_path.as_deref())
                .bind(&enrolment.note)
                .bind(unix(now));
        let done = self.pools.writer(op).await?.insert(op, insert).await;
        match done {
            Ok(_) => Ok(StoredEnrolment {
                enrolment: enrolment.clone(),
                created_at: from_unix(unix(now)).unwrap_or(SystemTime::UNIX_EPOCH),
            }),
            Err(error) if is_unique_violation(&error) => {
                // Two rules may be broken: name the one that is.
                let key = match self.enrolment(&enrolment.ek_hash).await? {
                    Some(_) => enrolment.ek_hash.clone(),
                    None => {
                        format!("with agent path {}", enrolment.agent_path.as_deref().unwrap_or_default())
                    }
                };
                Err(StoreError::Exists { what: WHAT, key })
            }
            Err(other) => Err(other),
        }
    }

    async fn enrolment(&self, ek_hash: &str) -> Result<Option<StoredEnrolment>, StoreError> {
        let query =
            sql("SELECT ek_hash, agent_path, note, created_at FROM tpm_enrolments WHERE ek_hash = $1");
        let found = self.reading("read TPM enrolment", false, query.bind(ek_hash)).await?;
        found.first().map(decode).transpose()
    }

    async fn list_enrolments(&self) -> Result<Vec<StoredEnrolment>, StoreError> {
        let query = sql("SELECT ek_hash, agent_path, note, created_at FROM tpm_enrolments ORDER BY id");
        self.reading("list TPM enrolments", false, query).await?.iter().map(decode).collect()
    }

    async fn remove_enrolment(&self, ek_hash: &str) -> Result<(), StoreError> {
        let delete = || sql("DELETE FROM tpm_enrolments WHERE ek_hash = $1").bind(ek_hash);
        if retrying!(self.writing("remove TPM enrolment", delete()))? == 0 {
            return Err(StoreError::NotFound { what: WHAT, key: ek_hash.to_owned() });
        }
        Ok(())
    }
}

fn decode(row: &Row) -> Result<StoredEnrolment, StoreError> {
    let r = Reader::new(row, WHAT, "ek_hash")?;
    let agent_path = r.optional_text("agent_path")?;
    if agent_path.as_deref().is_some_and(|path| !path.starts_with('/')) {
        return Err(r.damaged("agent_path does not begin with a slash"));
    }
    Ok(StoredEnrolment {
        enrolment: Enrolment { ek_hash: r.text("ek_hash")?, agent_path, note: r.text("note")? },
        created_at: r.time("created_at")?,
    })
}
