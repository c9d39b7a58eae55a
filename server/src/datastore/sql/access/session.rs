//! One connection for the time of a call: single statements, or a transaction.

use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Executor as _, MySql, Postgres, Sqlite};

use super::fault::{breaks_connection, store_error};
use super::gate::Gate;
use super::row::block;
use super::{Engine, Row, Statement, Value};
use crate::datastore::StoreError;

/// A connection out of a pool.
pub(super) enum Conn {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
    MySql(PoolConnection<MySql>),
}

/// How a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// It writes. On SQLite it holds the write lock from its first moment; elsewhere each statement sees what
    /// is committed, and locks what it changes.
    Write,
    /// It reads, and sees one moment to its end.
    Snapshot,
}

macro_rules! bound {
    ($database:ty, $sql:expr, $values:expr) => {{
        let mut query = sqlx::query::<$database>(AssertSqlSafe($sql));
        for value in $values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Int(number) => query.bind(number),
                Value::Blob(bytes) => query.bind(bytes),
            };
        }
        query
    }};
}

impl Conn {
    fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Postgres(_) => Engine::Postgres,
            Self::MySql(_) => Engine::MySql,
        }
    }

    /// Rows affected, and on MySQL and SQLite the id of an inserted row.
    async fn execute(&mut self, sql: String, values: Vec<Value>) -> Result<(u64, i64), sqlx::Error> {
        match self {
            Self::Sqlite(conn) => {
                let done = bound!(Sqlite, sql, values).execute(&mut **conn).await?;
                Ok((done.rows_affected(), done.last_insert_rowid()))
            }
            Self::Postgres(conn) => {
                let done = bound!(Postgres, sql, values).execute(&mut **conn).await?;
                Ok((done.rows_affected(), 0))
            }
            Self::MySql(conn) => {
                let done = bound!(MySql, sql, values).execute(&mut **conn).await?;
                Ok((done.rows_affected(), i64::try_from(done.last_insert_id()).unwrap_or_default()))
            }
        }
    }

    async fn fetch_all(&mut self, sql: String, values: Vec<Value>) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(conn) => {
                let rows = bound!(Sqlite, sql, values).fetch_all(&mut **conn).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(conn) => {
                let rows = bound!(Postgres, sql, values).fetch_all(&mut **conn).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
            Self::MySql(conn) => {
                let rows = bound!(MySql, sql, values).fetch_all(&mut **conn).await?;
                rows.into_iter().map(Row::MySql).collect()
            }
        })
    }

    /// Statements without values, several at once where the engine has them so.
    pub(super) async fn script(&mut self, sql: String) -> Result<(), sqlx::Error> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        match self {
            Self::Sqlite(conn) => (&mut **conn).execute(sql).await.map(drop),
            Self::Postgres(conn) => (&mut **conn).execute(sql).await.map(drop),
            Self::MySql(conn) => (&mut **conn).execute(sql).await.map(drop),
        }
    }

    /// It does not go back into the pool.
    fn close_on_drop(&mut self) {
        match self {
            Self::Sqlite(conn) => conn.close_on_drop(),
            Self::Postgres(conn) => conn.close_on_drop(),
            Self::MySql(conn) => conn.close_on_drop(),
        }
    }
}

/// A connection in use. Dropped in the middle of a transaction it undoes it; dropped in the middle of a
/// statement (the caller went away) it closes the connection, and the database undoes what was begun.
pub(crate) struct Session {
    conn: Option<Conn>,
    engine: Engine,
    gate: Arc<Gate>,
    limit: Option<Duration>,
    /// A statement is under way, or ended so that nobody knows what the connection will say next.
    busy: bool,
    in_transaction: bool,
}

async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let Some(limit) = limit else { return work.await };
    let late = |_elapsed| {
        sqlx::Error::Io(std::io::Error::new(ErrorKind::TimedOut, format!("no answer within {limit:?}")))
    };
    tokio::time::timeout(limit, work).await.map_err(late)?
}

impl Session {
    pub(super) fn new(conn: Conn, gate: Arc<Gate>, limit: Option<Duration>) -> Self {
        let engine = conn.engine();
        Self { conn: Some(conn), engine, gate, limit, busy: false, in_transaction: false }
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine
    }

    /// Statements may take as long as they need: for migrations, backups and the like.
    pub(crate) fn patient(&mut self) {
        self.limit = None;
    }

    /// Runs a statement; how many rows it matched.
    pub(crate) async fn execute(
        &mut self,
        op: &'static str,
        statement: Statement,
    ) -> Result<u64, StoreError> {
        let (sql, values) = statement.render(self.engine);
        let limit = self.limit;
        let conn = self.start(op)?;
        let done = within(limit, conn.execute(sql, values)).await;
        Ok(self.finish(op, done)?.0)
    }

    /// Runs an `INSERT` of one row into a table with an `id` that the database chooses; that id.
    pub(crate) async fn insert(&mut self, op: &'static str, statement: Statement) -> Result<i64, StoreError> {
        let (mut sql, values) = statement.render(self.engine);
        let (limit, engine) = (self.limit, self.engine);
        let conn = self.start(op)?;
        if engine == Engine::Postgres {
            sql.push_str(" RETURNING id");
            let done = within(limit, conn.fetch_all(sql, values)).await;
            let rows = self.finish(op, done)?;
            let id = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| row.int("id"));
            return id.map_err(|cause| store_error(op, cause));
        }
        let done = within(limit, conn.execute(sql, values)).await;
        Ok(self.finish(op, done)?.1)
    }

    /// Every row.
    pub(crate) async fn fetch_all(
        &mut self,
        op: &'static str,
        statement: Statement,
    ) -> Result<Vec<Row>, StoreError> {
        let (sql, values) = statement.render(self.engine);
        let limit = self.limit;
        let conn = self.start(op)?;
        let done = within(limit, conn.fetch_all(sql, values)).await;
        let done = self.finish(op, done);
        #[cfg(test)]
        self.gate.pause.reached(op).await;
        done
    }

    /// Many rows of a few columns that hold texts and numbers: `SELECT columns`, and `rest` from the `FROM` on.
    pub(crate) async fn fetch_block(
        &mut self,
        op: &'static str,
        columns: &'static [&'static str],
        rest: Statement,
    ) -> Result<Vec<Row>, StoreError> {
        let plain = rest.prefixed(&format!("SELECT {} ", columns.join(", ")));
        if self.engine != Engine::Sqlite {
            return self.fetch_all(op, plain).await;
        }
        let list = columns.join(", ");
        let mut packed = plain
            .clone()
            .prefixed(&format!("SELECT cast(json_group_array(json_array({list})) AS BLOB) AS block FROM ("));
        packed.push(")");
        let row = self.fetch_optional(op, packed).await?.ok_or(sqlx::Error::RowNotFound);
        let json = row.and_then(|row| row.blob("block")).map_err(|cause| store_error(op, cause))?;
        match block(columns, &json) {
            Ok(rows) => Ok(rows),
            // A text that is none: row by row, so that one of them fails and not all.
            Err(_) => self.fetch_all(op, plain).await,
        }
    }

    /// The first row, if there is one.
    pub(crate) async fn fetch_optional(
        &mut self,
        op: &'static str,
        statement: Statement,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch_all(op, statement).await?.into_iter().next())
    }

    /// The number in the column `n` of the only row.
    pub(crate) async fn number(&mut self, op: &'static str, statement: Statement) -> Result<i64, StoreError> {
        let row = self.fetch_optional(op, statement).await?;
        row.ok_or(sqlx::Error::RowNotFound)
            .and_then(|row| row.int("n"))
            .map_err(|cause| store_error(op, cause))
    }

    /// Runs statements without values.
    pub(crate) async fn script(&mut self, op: &'static str, text: &str) -> Result<(), StoreError> {
        let limit = self.limit;
        let conn = self.start(op)?;
        let done = within(limit, conn.script(text.to_owned())).await;
        self.finish(op, done)
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&mut self, op: &'static str, how: Begin) -> Result<(), StoreError> {
        let text = match (self.engine, how) {
            (Engine::Sqlite, Begin::Write) => "BEGIN IMMEDIATE",
            (Engine::Sqlite, Begin::Snapshot) => "BEGIN",
            (Engine::Postgres, Begin::Write) => "BEGIN ISOLATION LEVEL READ COMMITTED",
            (Engine::Postgres, Begin::Snapshot) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            // READ COMMITTED is the session's level; this one is for the next transaction alone.
            (Engine::MySql, Begin::Write) => "START TRANSACTION",
            (Engine::MySql, Begin::Snapshot) => {
                self.script(op, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
                "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
            }
        };
        self.script(op, text).await?;
        self.in_transaction = true;
        Ok(())
    }

    /// Commits.
    pub(crate) async fn commit(&mut self, op: &'static str) -> Result<(), StoreError> {
        self.script(op, "COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    fn start(&mut self, op: &'static str) -> Result<&mut Conn, StoreError> {
        let fault = StoreError::Database { op, cause: "the connection is in doubt after a failure".into() };
        if self.busy {
            return Err(fault);
        }
        self.busy = true;
        self.gate.asked();
        self.conn.as_mut().ok_or(fault)
    }

    fn finish<T>(&mut self, op: &'static str, done: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        match done {
            Ok(value) => {
                self.busy = false;
                self.gate.answered();
                Ok(value)
            }
            Err(error) => {
                self.busy = breaks_connection(&error);
                if self.busy {
                    self.gate.failed(&error);
                } else {
                    self.gate.answered();
                }
                Err(store_error(op, error))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        if !self.in_transaction && !self.busy {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !self.busy => {
                let limit = self.limit;
                runtime.spawn(async move {
                    if within(limit, conn.script("ROLLBACK".to_owned())).await.is_err() {
                        conn.close_on_drop();
                    }
                });
            }
            _ => conn.close_on_drop(),
        }
    }
}
