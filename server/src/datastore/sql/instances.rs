//! Server instances: their leases and the records of their keys.

use std::time::SystemTime;

use async_trait::async_trait;

use super::access::{Row, Statement, is_unique_violation, retrying, sql};
use super::{SqlStore, StoreError, broken, from_unix, unix};
use crate::datastore::{KeyRecord, KeyRecords, KeyState, Lease};

const TAKE: &str = "take lease";
const READ: &str = "read key records";
const RECORD: &str = "record key";

/// A number that the table holds as a signed one.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[async_trait]
impl KeyRecords for SqlStore {
    async fn take_lease(
        &self,
        lease: &Lease,
        replacing: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<Lease>, StoreError> {
        // Nearly always it is this process's already: then one statement renews it.
        let renew = || {
            sql("UPDATE server_leases SET token = $3, authority_id = $4, expires_at = $5
                 WHERE instance = $1 AND nonce = $2")
            .bind(&lease.instance)
            .bind(&lease.nonce)
            .bind(&lease.token)
            .bind(&lease.authority_id)
            .bind(unix(lease.expires_at))
        };
        if retrying!(self.writing(TAKE, renew()))? > 0 {
            return Ok(None);
        }
        match retrying!(self.take(lease, replacing, now)) {
            // There was no row to lock, and another process made it first: now there is one to look at.
            Err(error) if is_unique_violation(&error) => retrying!(self.take(lease, replacing, now)),
            done => done,
        }
    }

    async fn release_lease(&self, instance: &str, nonce: &str) -> Result<(), StoreError> {
        let delete =
            || sql("DELETE FROM server_leases WHERE instance = $1 AND nonce = $2").bind(instance).bind(nonce);
        retrying!(self.writing("release lease", delete())).map(drop)
    }

    async fn intend_key(&self, record: &KeyRecord) -> Result<i64, StoreError> {
        let insert =
            sql("INSERT INTO key_records (instance, key_id, kind, spki_sha256, custody, created_at, state)
             VALUES ($1, $2, $3, '', $4, $5, 'intent')")
            .bind(&record.instance)
            .bind(&record.key_id)
            .bind(&record.kind)
            .bind(&record.custody)
            .bind(unix(record.created_at));
        self.pools.writer(RECORD).await?.insert(RECORD, insert).await
    }

    async fn key_made(&self, row: i64, spki_sha256: &str) -> Result<(), StoreError> {
        retrying!(self.made(row, spki_sha256))
    }

    async fn key_retired(&self, instance: &str, key_id: &str) -> Result<(), StoreError> {
        let update = || {
            sql("UPDATE key_records SET state = 'retired'
                 WHERE instance = $1 AND key_id = $2 AND state <> 'retired'")
            .bind(instance)
            .bind(key_id)
        };
        retrying!(self.writing("retire key", update())).map(drop)
    }

    async fn key_records(&self, instance: &str) -> Result<Vec<KeyRecord>, StoreError> {
        let query = sql("SELECT id, instance, key_id, kind, spki_sha256, custody, created_at, state
             FROM key_records WHERE instance = $1 ORDER BY id")
        .bind(instance);
        self.reading(READ, false, query).await?.iter().map(read_record).collect()
    }

    async fn prune_key_records(&self, before: SystemTime) -> Result<(), StoreError> {
        for text in [
            "DELETE FROM key_records WHERE state = 'retired' AND created_at < $1",
            "DELETE FROM server_leases WHERE expires_at < $1",
        ] {
            retrying!(self.writing("prune key records", sql(text).bind(unix(before))))?;
        }
        Ok(())
    }
}

impl SqlStore {
    /// The lease of an instance as it stands, held or run out.
    ///
    /// # Errors
    /// The database fails, or the row is damaged.
    pub async fn lease(&self, instance: &str) -> Result<Option<Lease>, StoreError> {
        let query = lease_of(instance);
        self.reading("read lease", false, query).await?.first().map(read_lease).transpose()
    }

    async fn take(
        &self,
        lease: &Lease,
        replacing: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<Lease>, StoreError> {
        let mut session = self.pools.begin(TAKE).await?;
        // Locked: who else wants it waits here, and then sees what this transaction wrote.
        let found = session.fetch_optional(TAKE, lease_of(&lease.instance).for_update()).await?;
        let write = match found.map(|row| read_lease(&row)).transpose()? {
            Some(holder) => {
                let free = holder.nonce == lease.nonce
                    || holder.expires_at <= now
                    || replacing == Some(holder.nonce.as_str());
                if !free {
                    return Ok(Some(holder));
                }
                "UPDATE server_leases SET nonce = $2, machine = $3, pid = $4, started = $5, token = $6,
                     authority_id = $7, expires_at = $8 WHERE instance = $1"
            }
            None => {
                "INSERT INTO server_leases
                     (instance, nonce, machine, pid, started, token, authority_id, expires_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
            }
        };
        let write = sql(write)
            .bind(&lease.instance)
            .bind(&lease.nonce)
            .bind(&lease.machine)
            .bind(i64::from(lease.pid))
            .bind(signed(lease.started))
            .bind(&lease.token)
            .bind(&lease.authority_id)
            .bind(unix(lease.expires_at));
        session.execute(TAKE, write).await?;
        session.commit(TAKE).await?;
        Ok(None)
    }

    async fn made(&self, row: i64, spki_sha256: &str) -> Result<(), StoreError> {
        let fault = |cause| broken(RECORD, cause);
        let mut session = self.pools.begin(RECORD).await?;
        let query = sql("SELECT instance, key_id FROM key_records WHERE id = $1").bind(row).for_update();
        let Some(found) = session.fetch_optional(RECORD, query).await? else {
            return Err(StoreError::NotFound { what: "key record", key: row.to_string() });
        };
        let retire = sql("UPDATE key_records SET state = 'retired'
             WHERE instance = $1 AND key_id = $2 AND id <> $3 AND state <> 'retired'")
        .bind(found.text("instance").map_err(fault)?)
        .bind(found.text("key_id").map_err(fault)?)
        .bind(row);
        session.execute(RECORD, retire).await?;
        let made = sql("UPDATE key_records SET state = 'present', spki_sha256 = $2 WHERE id = $1");
        session.execute(RECORD, made.bind(row).bind(spki_sha256)).await?;
        session.commit(RECORD).await
    }
}

fn damaged(what: &'static str, key: &str, reason: &str) -> StoreError {
    StoreError::Damaged { what, key: key.to_owned(), reason: reason.to_owned() }
}

fn lease_of(instance: &str) -> Statement {
    sql("SELECT instance, nonce, machine, pid, started, token, authority_id, expires_at
         FROM server_leases WHERE instance = $1")
    .bind(instance)
}

fn read_lease(row: &Row) -> Result<Lease, StoreError> {
    let fault = |cause| broken(TAKE, cause);
    let instance = row.text("instance").map_err(fault)?;
    let text = |column| row.text(column).map_err(fault);
    let number = |column| row.int(column).map_err(fault);
    let wrong = || damaged("server lease", &instance, "a number is out of range");
    Ok(Lease {
        nonce: text("nonce")?,
        machine: text("machine")?,
        pid: u32::try_from(number("pid")?).ok().ok_or_else(wrong)?,
        started: u64::try_from(number("started")?).ok().ok_or_else(wrong)?,
        token: text("token")?,
        authority_id: text("authority_id")?,
        expires_at: from_unix(number("expires_at")?).ok_or_else(wrong)?,
        instance,
    })
}

fn read_record(row: &Row) -> Result<KeyRecord, StoreError> {
    let fault = |cause| broken(READ, cause);
    let text = |column| row.text(column).map_err(fault);
    let id = row.int("id").map_err(fault)?;
    let wrong = |reason| damaged("key record", &id.to_string(), reason);
    Ok(KeyRecord {
        row: id,
        instance: text("instance")?,
        key_id: text("key_id")?,
        kind: text("kind")?,
        spki_sha256: text("spki_sha256")?,
        custody: text("custody")?,
        created_at: from_unix(row.int("created_at").map_err(fault)?)
            .ok_or_else(|| wrong("a time is out of range"))?,
        state: KeyState::from_name(&text("state")?).ok_or_else(|| wrong("its state is unknown"))?,
    })
}
