//! The schema, forward only. `PRAGMA user_version` holds the number of migrations that ran, and
//! `PRAGMA application_id` says that the file is ours; both belong to the transaction that migrates.

use sqlx::Row;
use sqlx::sqlite::SqlitePool;

use super::{StoreError, database};

/// `Hard`, as big-endian bytes: marks the file as Hardroot's.
const APPLICATION_ID: i64 = 0x4861_7264;

/// Each step is one SQL script. A step that was released is never edited: a change is a new step.
const STEPS: &[&str] = &[include_str!("migrations/0001_first.sql")];

/// The schema this server knows.
const SCHEMA_VERSION: i64 = STEPS.len() as i64;

/// Brings the schema up to date under the write lock. Whoever comes second finds the work done.
pub(super) async fn run(pool: &SqlitePool) -> Result<(), StoreError> {
    let fault = |cause| database("migrate", cause);
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.map_err(fault)?;
    let found: i64 = sqlx::query("PRAGMA user_version")
        .fetch_one(&mut *tx)
        .await
        .map_err(fault)?
        .try_get(0)
        .map_err(fault)?;
    let application: i64 = sqlx::query("PRAGMA application_id")
        .fetch_one(&mut *tx)
        .await
        .map_err(fault)?
        .try_get(0)
        .map_err(fault)?;
    let tables: i64 = sqlx::query("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *tx)
        .await
        .map_err(fault)?
        .try_get(0)
        .map_err(fault)?;
    if application != APPLICATION_ID && (tables != 0 || found != 0) {
        return Err(StoreError::Foreign);
    }
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { found, known: SCHEMA_VERSION });
    }
    let done = usize::try_from(found).ok().ok_or(StoreError::Foreign)?;
    if done == STEPS.len() {
        return Ok(());
    }
    for step in STEPS.iter().skip(done) {
        sqlx::raw_sql(*step).execute(&mut *tx).await.map_err(fault)?;
    }
    // Pragmas take no parameters; both values are constants of this file.
    let mark = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};");
    sqlx::raw_sql(sqlx::AssertSqlSafe(mark)).execute(&mut *tx).await.map_err(fault)?;
    tx.commit().await.map_err(fault)
}
