//! The datastore on SQLite: one file, mode 0600, in WAL mode.
//!
//! One connection writes; its transactions begin with the write lock, so that a read followed by a write
//! cannot be overtaken, not even by another process on the same file. A small pool of connections reads.
//! Every commit is synced to disk: a serial or an authority that was answered for is never forgotten.

mod bundles;
mod changes;
mod entries;
mod filters;
mod journals;
mod migrations;
mod nodes;
mod rows;
#[cfg(test)]
mod tests;
mod tokens;
mod tpm;

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Executor, Transaction};
use tokio::sync::watch;

use super::StoreError;

/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call waits for a free connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that only read.
const READERS: u32 = 4;

/// A write transaction; it holds SQLite's write lock from its first moment.
type Tx = Transaction<'static, Sqlite>;

/// The datastore on one SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    changed: watch::Sender<i64>,
}

impl SqliteStore {
    /// Opens the file, makes it if it is not there, and brings its schema up to date.
    ///
    /// Several processes may do so at once: migrations run under the write lock.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] when a newer Hardroot made the file, [`StoreError::Foreign`] when it is
    /// another program's database, [`StoreError::Database`] when it cannot be opened.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await
            .map_err(|cause| database("open", cause))?;
        migrations::run(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(Duration::from_secs(60))
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(|cause| database("open", cause))?;
        let store = Self { path: path.to_owned(), writer, readers, changed: watch::Sender::new(0) };
        let version = store.version().await?;
        store.changed.send_replace(version);
        Ok(store)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for running statements and closes every connection; the WAL is folded into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn begin(&self, op: &'static str) -> Result<Tx, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(|cause| database(op, cause))
    }

    /// Commits, then tells those who follow changes.
    async fn commit(&self, tx: Tx, op: &'static str) -> Result<(), StoreError> {
        tx.commit().await.map_err(|cause| database(op, cause))
    }

    /// Commits a transaction that recorded changes, and wakes those who follow them.
    async fn commit_changes(&self, mut tx: Tx, op: &'static str) -> Result<(), StoreError> {
        let version = changes::version(&mut *tx).await?;
        changes::trim(&mut tx, version).await?;
        self.commit(tx, op).await?;
        self.changed.send_if_modified(|seen| {
            let newer = version > *seen;
            *seen = version.max(*seen);
            newer
        });
        Ok(())
    }
}

/// Creates the file with mode 0600, or takes group's and others' rights from one that is there. SQLite gives
/// its `-wal` and `-shm` companions the mode of the file itself.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let fault = |cause: std::io::Error| StoreError::Database {
        op: "open",
        cause: format!("{}: {cause}", path.display()).into(),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(fault)?;
    let mode = file.metadata().map_err(fault)?.permissions().mode();
    if mode & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(fault)?;
    }
    Ok(())
}

fn database(op: &'static str, cause: sqlx::Error) -> StoreError {
    StoreError::Database { op, cause: Box::new(cause) }
}

/// Whether a statement broke a UNIQUE or PRIMARY KEY rule.
fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whole seconds since 1970; times before that count as 0.
fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}

fn from_unix(seconds: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Runs a statement that returns nothing.
async fn execute<'e>(
    executor: impl Executor<'e, Database = Sqlite>,
    op: &'static str,
    query: sqlx::query::Query<'e, Sqlite, sqlx::sqlite::SqliteArguments>,
) -> Result<u64, StoreError> {
    Ok(query.execute(executor).await.map_err(|cause| database(op, cause))?.rows_affected())
}
