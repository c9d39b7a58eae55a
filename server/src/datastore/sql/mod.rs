//! The datastore on SQL: one way to say things on SQLite, PostgreSQL, MySQL and MariaDB.
//!
//! On SQLite one connection writes; its transactions begin with the write lock, so that a read followed by a
//! write cannot be overtaken, not even by another process on the same file. A small pool of connections reads.
//! On a database server, rows are locked before they are changed, and one row orders those who change what
//! agents see ([`changes`]). Everywhere a commit that was answered is on disk: a serial or an authority that
//! was answered for is never forgotten.

mod access;
mod admin;
mod archive;
mod bundles;
mod changes;
mod entries;
mod federation;
mod filters;
mod instances;
mod journals;
mod migrations;
mod nodes;
mod rows;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod tpm;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::StoreError;
pub use access::{
    DatabaseConfig, Endpoint, Engine, Host, OUTAGE_STALENESS, Place, Pooling, ServerDatabase, Tls,
};
pub(crate) use access::{Pools, Row, Session, sql};
pub use admin::{Administration, Progress, Status};
pub use archive::Archived;
pub use migrations::{APPLICATION_ID, SCHEMA_VERSION};

/// The datastore on a SQL database.
#[derive(Debug, Clone)]
pub struct SqlStore {
    pools: Pools,
    changed: watch::Sender<i64>,
}

impl SqlStore {
    /// Opens the database (a file is made if it is not there) and brings its schema up to date.
    ///
    /// Several processes may do so at once: migrations run under a lock.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] when a newer Hardroot made it, [`StoreError::OlderSchema`] when an older one
    /// did and it shall stay so, [`StoreError::Foreign`] when it is another program's, [`StoreError::Database`]
    /// or [`StoreError::Away`] when it cannot be opened.
    pub async fn open(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let pools = Pools::open(config).await?;
        migrations::run(&pools, !config.disable_migration).await?;
        let store = Self::over(pools);
        let version = store.version().await?;
        store.changed.send_replace(version);
        Ok(store)
    }

    /// Opens a database to look at it: nothing in it can be changed, nor its schema, nor the files of SQLite's.
    /// `None` when there is nothing in it yet.
    ///
    /// # Errors
    /// As [`Self::open`]; an older schema is a [`StoreError::NeedsMigration`].
    pub async fn look(config: &DatabaseConfig) -> Result<Option<Self>, StoreError> {
        if let Place::File(path) = &config.place
            && !path.exists()
        {
            return Ok(None);
        }
        let pools = Pools::read_only(config).await?;
        let found = migrations::version(&pools).await?;
        if found == 0 {
            pools.close().await;
            return Ok(None);
        }
        if found != SCHEMA_VERSION {
            return Err(StoreError::NeedsMigration { found, known: SCHEMA_VERSION });
        }
        Ok(Some(Self::over(pools)))
    }

    fn over(pools: Pools) -> Self {
        Self { pools, changed: watch::Sender::new(0) }
    }

    /// Opens a SQLite file, as [`Self::open`] does.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_file(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open(&DatabaseConfig::file(path)).await
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.pools.engine()
    }

    /// How many statements were sent to the database since it was opened, transactions' beginnings and ends included.
    #[must_use]
    pub fn statements(&self) -> u64 {
        self.pools.statements()
    }

    /// Waits for running statements and closes every connection; SQLite folds its WAL into the file.
    pub async fn close(&self) {
        self.pools.close().await;
    }
}

/// A column that cannot be read although it is no row of a noun's.
fn broken(op: &'static str, cause: sqlx::Error) -> StoreError {
    StoreError::Database { op, cause: Box::new(cause) }
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
