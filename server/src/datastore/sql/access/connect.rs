//! How a database is spoken to.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Executor as _, Pool as SqlxPool, Sqlite};
use tokio::time::Instant;

use super::fault::{is_busy, store_error};
use super::place::{Endpoint, Host, Tls};
use crate::datastore::StoreError;

/// How long a statement waits for another process's lock on a file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Creates the file with mode 0600, or takes group's and others' rights from one that is there. SQLite gives
/// its `-wal` and `-shm` companions the mode of the file itself.
///
/// A file that is there is not opened: closing it would take the locks that SQLite holds on it in this process.
pub(super) fn make_private(path: &Path) -> Result<(), StoreError> {
    let fault = |cause: std::io::Error| StoreError::Database {
        op: "open",
        cause: format!("{}: {cause}", path.display()).into(),
    };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(cause) => return Err(fault(cause)),
    }
    let mode = std::fs::metadata(path).map_err(fault)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fault)?;
    }
    Ok(())
}

/// The one connection that writes to a file; the first that is made brings the file into WAL mode.
///
/// Of several processes that do so with a new file at once SQLite refuses all but one without waiting, whatever
/// the busy timeout says, because each would wait for the other; they are to try again.
pub(super) async fn open_writer(options: &SqliteConnectOptions) -> Result<SqlxPool<Sqlite>, StoreError> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    let mut turn = 0;
    loop {
        let opened = PoolOptions::<Sqlite>::new()
            .max_connections(1)
            .acquire_timeout(super::pool::FILE_ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await;
        match opened {
            Err(cause) if is_busy(&cause) && Instant::now() < deadline => {
                turn = (turn + 1) % 7;
                // Process and turn spread those who lost the same race.
                let spread = u64::from(std::process::id() % 13);
                tokio::time::sleep(Duration::from_millis(5 + turn * spread)).await;
            }
            opened => return opened.map_err(|cause| store_error("open", cause)),
        }
    }
}

pub(super) fn file_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
}

/// What the sessions of a pool may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything.
    Write,
    /// The server refuses every change.
    Read,
}

/// A file of which nothing is changed, nor anything beside it.
pub(super) fn read_only_file_options(path: &Path) -> Result<SqliteConnectOptions, StoreError> {
    let fault = |cause: std::io::Error| StoreError::Database {
        op: "open",
        cause: format!("{}: {cause}", path.display()).into(),
    };
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(20).read_to_end(&mut head)).map_err(fault)?;
    // SQLite would make a write-ahead log for a reader too, and leave it there. Where there is none, nobody has the
    // file open, and it can be read as one that does not change.
    let write_ahead = head.get(18..20) == Some(&[2, 2]);
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Ok(SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .immutable(write_ahead && !Path::new(&log).exists())
        .busy_timeout(BUSY_TIMEOUT))
}

pub(super) fn postgres_options(endpoint: &Endpoint) -> Result<PgConnectOptions, StoreError> {
    let mut options = PgConnectOptions::new_without_pgpass()
        .database(&endpoint.database)
        .application_name("hardroot-server")
        .ssl_mode(match endpoint.tls {
            Tls::Disable => PgSslMode::Disable,
            Tls::Prefer => PgSslMode::Prefer,
            Tls::Require => PgSslMode::Require,
            Tls::Verify => PgSslMode::VerifyFull,
        });
    options = match &endpoint.host {
        Host::Tcp { name, port } => options.host(name).port(*port),
        Host::Socket(folder) => options.socket(folder),
    };
    if let Some(user) = &endpoint.user {
        options = options.username(user);
    }
    if let Some(password) = endpoint.secret()? {
        options = options.password(&password);
    }
    if let Some(path) = &endpoint.root_ca {
        options = options.ssl_root_cert(path);
    }
    if let Some((certificate, key)) = &endpoint.client {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    // Statements are not logged: the store says what failed.
    Ok(options.disable_statement_logging())
}

pub(super) fn mysql_options(endpoint: &Endpoint) -> Result<MySqlConnectOptions, StoreError> {
    let mut options = MySqlConnectOptions::new()
        .database(&endpoint.database)
        .charset("utf8mb4")
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .ssl_mode(match endpoint.tls {
            Tls::Disable => MySqlSslMode::Disabled,
            Tls::Prefer => MySqlSslMode::Preferred,
            Tls::Require => MySqlSslMode::Required,
            Tls::Verify => MySqlSslMode::VerifyIdentity,
        });
    options = match &endpoint.host {
        Host::Tcp { name, port } => options.host(name).port(*port),
        Host::Socket(path) => options.socket(path),
    };
    if let Some(user) = &endpoint.user {
        options = options.username(user);
    }
    if let Some(password) = endpoint.secret()? {
        options = options.password(&password);
    }
    if let Some(path) = &endpoint.root_ca {
        options = options.ssl_ca(path);
    }
    if let Some((certificate, key)) = &endpoint.client {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    // Statements are not logged: the store says what failed.
    Ok(options.disable_statement_logging())
}

/// What a session on PostgreSQL needs: commits that were answered are on disk, whatever the server's default
/// is; nobody waits for a lock for ever; a transaction whose owner vanished ends.
pub(super) async fn prepare_postgres(conn: &mut PgConnection, access: Access) -> Result<(), sqlx::Error> {
    if access == Access::Read {
        conn.execute("SET default_transaction_read_only TO on").await?;
    }
    conn.execute(
        "SELECT set_config('synchronous_commit', 'on', false)
            WHERE current_setting('synchronous_commit') IN ('off', 'local');
         SET lock_timeout TO '8s';
         SET idle_in_transaction_session_timeout TO '60s'",
    )
    .await
    .map(drop)
}

/// What a session on MySQL needs: a value that does not fit is refused and not cut; locks of rows that are
/// there, not of the gaps between them; sets are read whole. (Not ONLY_FULL_GROUP_BY: MariaDB takes a count over
/// a subquery with a group for a mixture of both.)
pub(super) async fn prepare_mysql(conn: &mut MySqlConnection, access: Access) -> Result<(), sqlx::Error> {
    if access == Access::Read {
        conn.execute("SET SESSION TRANSACTION READ ONLY").await?;
    }
    conn.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'").await?;
    conn.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    conn.execute("SET SESSION group_concat_max_len = 1073741824, SESSION innodb_lock_wait_timeout = 8")
        .await?;
    Ok(())
}
