//! The pools of connections of one database, and its replica's.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::pool::{PoolConnectionMetadata, PoolOptions};
use sqlx::{Connection, Database, MySql, Pool as SqlxPool, Postgres, Sqlite};

use super::connect::{self, Access};
use super::fault::store_error;
use super::gate::Gate;
use super::place::{DatabaseConfig, Endpoint, Place, Pooling};
use super::session::{Conn, Session};
use super::{Begin, Engine};
use crate::datastore::StoreError;

/// How long a call waits for a connection to a database server.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement may take on a database server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call waits for a connection to a file.
pub(super) const FILE_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to a file that only read.
const FILE_READERS: u32 = 4;
/// An idle connection is closed after this long, as SPIRE does.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that was idle for longer is asked whether it still lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum Pool {
    Sqlite(SqlxPool<Sqlite>),
    Postgres(
        SqlxPool<Postgres>,
        #[expect(dead_code, reason = "its hook finds the pool here")] PoolSlot<Postgres>,
    ),
    MySql(SqlxPool<MySql>, #[expect(dead_code, reason = "its hook finds the pool here")] PoolSlot<MySql>),
}

impl Pool {
    async fn acquire(&self) -> Result<Conn, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(pool) => Conn::Sqlite(pool.acquire().await?),
            Self::Postgres(pool, _) => Conn::Postgres(pool.acquire().await?),
            Self::MySql(pool, _) => Conn::MySql(pool.acquire().await?),
        })
    }

    async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool, _) => pool.close().await,
            Self::MySql(pool, _) => pool.close().await,
        }
    }

    /// Whether every connection is in use: then waiting in vain says nothing about the database.
    fn exhausted(&self) -> bool {
        fn of<D: Database>(pool: &SqlxPool<D>) -> bool {
            pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections()
        }
        match self {
            Self::Sqlite(pool) => of(pool),
            Self::Postgres(pool, _) => of(pool),
            Self::MySql(pool, _) => of(pool),
        }
    }

    /// The most connections it makes.
    fn most(&self) -> u32 {
        match self {
            Self::Sqlite(pool) => pool.options().get_max_connections(),
            Self::Postgres(pool, _) => pool.options().get_max_connections(),
            Self::MySql(pool, _) => pool.options().get_max_connections(),
        }
    }
}

/// One database: where to write, where to read, and perhaps a replica.
#[derive(Debug, Clone)]
pub(crate) struct Pools {
    engine: Engine,
    writer: Pool,
    readers: Pool,
    gate: Arc<Gate>,
    replica: Option<(Pool, Arc<Gate>)>,
}

impl Pools {
    /// Opens the writer of a file, or makes the pools of a server without connecting yet.
    pub(crate) async fn open(config: &DatabaseConfig) -> Result<Self, StoreError> {
        match &config.place {
            Place::File(path) => {
                connect::make_private(path)?;
                let options = connect::file_options(path);
                let pool = |size, options| {
                    PoolOptions::<Sqlite>::new()
                        .max_connections(size)
                        .acquire_timeout(FILE_ACQUIRE_TIMEOUT)
                        .connect_lazy_with(options)
                };
                let writer = connect::open_writer(&options).await?;
                Ok(Self {
                    engine: Engine::Sqlite,
                    writer: Pool::Sqlite(writer),
                    readers: Pool::Sqlite(pool(FILE_READERS, options.pragma("query_only", "ON"))),
                    gate: Arc::new(Gate::new(FILE_ACQUIRE_TIMEOUT)),
                    replica: None,
                })
            }
            Place::Server(server) => {
                let gate = || Arc::new(Gate::new(ACQUIRE_TIMEOUT));
                let primary = lazy(server.engine, &server.primary, &server.pooling, Access::Write)?;
                let replica = match &server.replica {
                    Some(endpoint) => {
                        Some((lazy(server.engine, endpoint, &server.pooling, Access::Write)?, gate()))
                    }
                    None => None,
                };
                Ok(Self {
                    engine: server.engine,
                    writer: primary.clone(),
                    readers: primary,
                    gate: gate(),
                    replica,
                })
            }
        }
    }

    /// Opens a database of ours or of another program, and can change nothing in it.
    pub(crate) async fn read_only(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let path = match &config.place {
            Place::File(path) => path,
            Place::Server(server) => {
                let primary = lazy(server.engine, &server.primary, &server.pooling, Access::Read)?;
                return Ok(Self {
                    engine: server.engine,
                    writer: primary.clone(),
                    readers: primary,
                    gate: Arc::new(Gate::new(ACQUIRE_TIMEOUT)),
                    replica: None,
                });
            }
        };
        let pool = PoolOptions::<Sqlite>::new()
            .max_connections(1)
            .acquire_timeout(FILE_ACQUIRE_TIMEOUT)
            .connect_with(connect::read_only_file_options(path)?)
            .await
            .map_err(|cause| store_error("open", cause))?;
        let pool = Pool::Sqlite(pool);
        Ok(Self {
            engine: Engine::Sqlite,
            writer: pool.clone(),
            readers: pool,
            gate: Arc::new(Gate::new(FILE_ACQUIRE_TIMEOUT)),
            replica: None,
        })
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine
    }

    /// Lets a test's next caller find out whether the database is back.
    #[cfg(test)]
    pub(crate) fn end_pause(&self) {
        self.gate.end_pause();
    }

    /// Where a test stops this server between a read and what follows from it.
    #[cfg(test)]
    pub(crate) fn pause(&self) -> &super::pause::Pause {
        &self.gate.pause
    }

    /// How many statements were sent, to the replica too.
    pub(crate) fn statements(&self) -> u64 {
        let replica = self.replica.as_ref().map_or(0, |(_, gate)| gate.statements());
        self.gate.statements().saturating_add(replica)
    }

    /// A connection that may write.
    pub(crate) async fn writer(&self, op: &'static str) -> Result<Session, StoreError> {
        self.session(op, &self.writer, &self.gate).await
    }

    /// A connection that reads what was committed last.
    pub(crate) async fn reader(&self, op: &'static str) -> Result<Session, StoreError> {
        self.session(op, &self.readers, &self.gate).await
    }

    /// A connection for a read that may see the past of some moments ago: the replica's, if there is one.
    pub(crate) async fn lagging_reader(&self, op: &'static str) -> Result<Session, StoreError> {
        match &self.replica {
            Some((pool, gate)) => self.session(op, pool, gate).await,
            None => self.reader(op).await,
        }
    }

    /// A transaction that writes.
    pub(crate) async fn begin(&self, op: &'static str) -> Result<Session, StoreError> {
        let mut session = self.writer(op).await?;
        session.begin(op, Begin::Write).await?;
        Ok(session)
    }

    /// A transaction that reads as of one moment.
    pub(crate) async fn snapshot(&self, op: &'static str) -> Result<Session, StoreError> {
        let mut session = self.reader(op).await?;
        session.begin(op, Begin::Snapshot).await?;
        Ok(session)
    }

    /// How many connections one call may have for reading, so that others still find one.
    pub(crate) fn at_once(&self) -> usize {
        usize::try_from(self.readers.most().saturating_sub(1)).unwrap_or(usize::MAX).max(1)
    }

    /// Waits for running statements and closes every connection.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        if let Some((pool, _)) = &self.replica {
            pool.close().await;
        }
    }

    async fn session(&self, op: &'static str, pool: &Pool, gate: &Arc<Gate>) -> Result<Session, StoreError> {
        if self.engine == Engine::Sqlite {
            let conn = pool.acquire().await.map_err(|cause| store_error(op, cause))?;
            return Ok(Session::new(conn, Arc::clone(gate), None));
        }
        let place = gate.enter(op)?;
        let conn = pool.acquire().await.map_err(|cause| {
            if !(matches!(cause, sqlx::Error::PoolTimedOut) && pool.exhausted()) {
                gate.failed(&cause);
            }
            store_error(op, cause)
        })?;
        drop(place);
        Ok(Session::new(conn, Arc::clone(gate), Some(STATEMENT_TIMEOUT)))
    }
}

fn lazy(engine: Engine, endpoint: &Endpoint, pooling: &Pooling, access: Access) -> Result<Pool, StoreError> {
    Ok(match engine {
        Engine::MySql => {
            let (options, idle) = pool_options::<MySql>(pooling);
            let pool = options
                .after_connect(move |conn, _| Box::pin(connect::prepare_mysql(conn, access)))
                .connect_lazy_with(connect::mysql_options(endpoint)?);
            drop(idle.set(pool.clone()));
            Pool::MySql(pool, idle)
        }
        _ => {
            let (options, idle) = pool_options::<Postgres>(pooling);
            let pool = options
                .after_connect(move |conn, _| Box::pin(connect::prepare_postgres(conn, access)))
                .connect_lazy_with(connect::postgres_options(endpoint)?);
            drop(idle.set(pool.clone()));
            Pool::Postgres(pool, idle)
        }
    })
}

/// Where the hook that counts idle connections finds the pool it belongs to.
type PoolSlot<D> = Arc<OnceLock<SqlxPool<D>>>;

/// The options both servers share, and where to put the pool once it is made: sqlx has no limit on idle
/// connections, so one that comes back while enough are idle is closed.
fn pool_options<D>(pooling: &Pooling) -> (PoolOptions<D>, PoolSlot<D>)
where
    D: Database,
    D::Connection: Connection<Database = D>,
{
    fn alive<D: Database>(
        conn: &mut D::Connection,
        meta: PoolConnectionMetadata,
    ) -> BoxFuture<'_, Result<bool, sqlx::Error>>
    where
        D::Connection: Connection<Database = D>,
    {
        Box::pin(async move {
            if meta.idle_for > TRUSTED_IDLE {
                conn.ping().await?;
            }
            Ok(true)
        })
    }
    let slot: PoolSlot<D> = Arc::default();
    let (of_release, max_idle) = (Arc::downgrade(&slot), pooling.max_idle_conns);
    let options = PoolOptions::<D>::new()
        .max_connections(pooling.max_open_conns)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(pooling.conn_max_lifetime)
        .test_before_acquire(false)
        .before_acquire(|conn, meta| alive::<D>(conn, meta))
        .after_release(move |_conn, _meta| {
            let idle = of_release.upgrade().and_then(|slot| Some(slot.get()?.num_idle()));
            let keep = idle.is_none_or(|idle| u32::try_from(idle).unwrap_or(u32::MAX) < max_idle);
            Box::pin(async move { Ok(keep) })
        });
    (options, slot)
}
