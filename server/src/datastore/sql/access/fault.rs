//! What a failure of the database means, and whether to try again.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::datastore::StoreError;

/// A transaction that lost a race is tried this often in all.
const ATTEMPTS: u32 = 12;

static TURN: AtomicU64 = AtomicU64::new(0);

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// MySQL's own numbers: its SQLSTATE is too coarse.
fn mysql_number(error: &sqlx::Error) -> Option<u16> {
    let error = error.as_database_error()?;
    Some(error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?.number())
}

fn is_sqlite(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some())
}

/// Whether the database could not be reached or could not work, so that the same may succeed later.
pub(super) fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(_) => {
            if let Some(number) = mysql_number(error) {
                // Too many connections, shutting down, read only (a replica after a failover), killed,
                // statement or lock took too long.
                return matches!(number, 1040 | 1053 | 1290 | 1836 | 1927 | 1969 | 3024 | 1205 | 1317);
            }
            let Some(code) = code(error) else { return false };
            if is_sqlite(error) {
                // Busy, locked, read only, input or output failed, cannot open; extended codes keep the
                // primary one in their low byte.
                let primary = code.parse::<u32>().unwrap_or_default() & 0xff;
                return matches!(primary, 5 | 6 | 8 | 10 | 14);
            }
            // Connection exceptions, insufficient resources, operator intervention, read only, lock timeout.
            ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class))
                || matches!(code.as_str(), "25006" | "55P03")
        }
        _ => false,
    }
}

/// Whether a disk has no room, or a file may not grow.
fn is_full(error: &sqlx::Error) -> bool {
    if let Some(number) = mysql_number(error) {
        return matches!(number, 1021 | 1114);
    }
    let Some(code) = code(error) else { return false };
    if !is_sqlite(error) {
        return code == "53100";
    }
    let code = code.parse::<u32>().unwrap_or_default();
    // SQLITE_FULL, and of SQLITE_IOERR those of writing, syncing, cutting and of the WAL's shared memory.
    code & 0xff == 13 || matches!(code, 778 | 1034 | 1546 | 4874)
}

/// Whether SQLite found a lock of another connection on its file.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    is_sqlite(error) && code(error).is_some_and(|code| code.parse::<u32>().unwrap_or_default() & 0xff == 5)
}

/// Whether the pool's connections failed, rather than what was asked of them.
pub(super) fn breaks_connection(error: &sqlx::Error) -> bool {
    !matches!(error, sqlx::Error::Database(_) | sqlx::Error::RowNotFound)
}

/// An error of sqlx as one of the store.
pub(super) fn store_error(op: &'static str, error: sqlx::Error) -> StoreError {
    if is_full(&error) {
        return StoreError::NoRoom { op, cause: Box::new(error) };
    }
    if is_outage(&error) {
        return StoreError::Away { op, cause: Box::new(error) };
    }
    let too_long = matches!(mysql_number(&error), Some(1406 | 1366 | 3854))
        || matches!(code(&error).as_deref(), Some("22021" | "22001" | "54000"));
    if too_long {
        return StoreError::Invalid {
            reason: format!("{op}: a value is longer than the database takes, or holds a NUL character"),
        };
    }
    StoreError::Database { op, cause: Box::new(error) }
}

fn sqlx_error(error: &StoreError) -> Option<&sqlx::Error> {
    match error {
        StoreError::Database { cause, .. }
        | StoreError::Away { cause, .. }
        | StoreError::NoRoom { cause, .. } => (&**cause as &(dyn Error + 'static)).downcast_ref(),
        _ => None,
    }
}

/// Whether a statement broke a UNIQUE or PRIMARY KEY rule.
pub(crate) fn is_unique_violation(error: &StoreError) -> bool {
    sqlx_error(error)
        .and_then(sqlx::Error::as_database_error)
        .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whether a transaction lost a race and was undone as a whole.
fn lost_race(error: &StoreError) -> bool {
    sqlx_error(error).is_some_and(|error| {
        matches!(mysql_number(error), Some(1213 | 1020))
            || matches!(code(error).as_deref(), Some("40001" | "40P01"))
    })
}

/// Counts the attempts of one call.
pub(crate) struct Retries(u32);

impl Retries {
    pub(crate) fn new() -> Self {
        Self(ATTEMPTS)
    }

    /// Whether to try again after `error`; waits a little before it says so, longer each time.
    pub(crate) async fn again(&mut self, error: &StoreError) -> bool {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 || !lost_race(error) {
            return false;
        }
        let round = u64::from(ATTEMPTS - self.0);
        // Process and turn spread those who lost the same race.
        let turn = TURN.fetch_add(1, Ordering::Relaxed).wrapping_add(u64::from(std::process::id()));
        tokio::time::sleep(Duration::from_millis(round * (1 + turn % 7))).await;
        true
    }
}

/// Runs a transaction anew while it loses races, at most [`ATTEMPTS`] times in all.
macro_rules! retrying {
    ($call:expr) => {{
        let mut retries = $crate::datastore::sql::access::Retries::new();
        loop {
            match $call.await {
                Err(error) if retries.again(&error).await => {}
                done => break done,
            }
        }
    }};
}
pub(crate) use retrying;
