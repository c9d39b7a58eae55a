//! What operators do with a database beside running a server on it: look at it, migrate it, back it up.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::access::{DatabaseConfig, Engine, Place, Pools, Session, sql};
use super::archive::{self, Archived, TABLES};
use super::{SqlStore, StoreError, broken, changes, migrations};

/// What a database is and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where it is, without a password.
    pub place: String,
    /// The engine.
    pub engine: Engine,
    /// The engine's version, as it says it.
    pub server_version: String,
    /// Its schema; 0 when it is empty.
    pub schema: i64,
    /// The schema that this program needs.
    pub known_schema: i64,
    /// Rows of each table.
    pub rows: Vec<(&'static str, i64)>,
    /// Bytes on disk, as the engine counts them.
    pub bytes: i64,
    /// How many changes of entries and agents there were in all.
    pub changes: i64,
}

/// Told while a backup or a restore goes on: table, rows done.
pub type Progress<'a> = dyn FnMut(&str, u64) + Send + 'a;

/// A database that no server of this process runs on.
pub struct Administration {
    pools: Pools,
    place: Place,
}

impl Administration {
    /// Opens a database and changes nothing; a SQLite file must be there, unless `make` says to make it.
    ///
    /// # Errors
    /// [`StoreError::Database`] or [`StoreError::Away`] when it cannot be opened.
    pub async fn open(config: &DatabaseConfig, make: bool) -> Result<Self, StoreError> {
        if let Place::File(path) = &config.place
            && !make
            && !path.exists()
        {
            let cause = format!("{} is not there", path.display()).into();
            return Err(StoreError::Database { op: "open", cause });
        }
        Ok(Self { pools: Pools::open(config).await?, place: config.place.clone() })
    }

    /// Opens a database to look at it: nothing can be changed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn look(config: &DatabaseConfig) -> Result<Self, StoreError> {
        Ok(Self { pools: Pools::read_only(config).await?, place: config.place.clone() })
    }

    /// What it is and holds.
    ///
    /// # Errors
    /// It cannot be read, or is no database of ours.
    pub async fn status(&self) -> Result<Status, StoreError> {
        let op = "read status";
        let schema = migrations::version(&self.pools).await?;
        let mut session = self.pools.writer(op).await?;
        session.patient();
        let engine = session.engine();
        let version = match engine {
            Engine::Sqlite => "SELECT sqlite_version() AS v",
            Engine::Postgres => "SELECT current_setting('server_version') AS v",
            Engine::MySql => "SELECT version() AS v",
        };
        let row = session.fetch_optional(op, sql(version)).await?;
        let server_version =
            row.and_then(|row| row.optional_text("v").ok()?).unwrap_or_else(|| "unknown".to_owned());
        let size = match engine {
            Engine::Sqlite => "SELECT page_count * page_size AS n FROM pragma_page_count, pragma_page_size",
            Engine::Postgres => "SELECT pg_database_size(current_database()) AS n",
            Engine::MySql => {
                "SELECT cast(coalesce(sum(data_length + index_length), 0) AS SIGNED) AS n
                 FROM information_schema.tables WHERE table_schema = database()"
            }
        };
        let bytes = session.number(op, sql(size)).await?;
        let (mut rows, mut changes) = (Vec::new(), 0);
        if schema == migrations::SCHEMA_VERSION {
            for table in TABLES {
                rows.push((table.name, table.count(&mut session).await?));
            }
            changes = changes::version(&mut session).await?;
        }
        Ok(Status {
            place: self.place.to_string(),
            engine,
            server_version,
            schema,
            known_schema: migrations::SCHEMA_VERSION,
            rows,
            bytes,
            changes,
        })
    }

    /// The clock of a database server; a file has none.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn clock(&self) -> Result<Option<SystemTime>, StoreError> {
        let op = "read clock";
        let query = match self.pools.engine() {
            Engine::Sqlite => return Ok(None),
            Engine::Postgres => "SELECT cast(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) AS n",
            Engine::MySql => "SELECT cast(unix_timestamp(sysdate(3)) * 1000 AS SIGNED) AS n",
        };
        let mut session = self.pools.writer(op).await?;
        let milliseconds = session.number(op, sql(query)).await?;
        Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))))
    }

    /// The nouns of a database that has the schema of this program.
    #[must_use]
    pub fn store(&self) -> SqlStore {
        SqlStore::over(self.pools.clone())
    }

    /// Brings the schema up to date; the schema before and after.
    ///
    /// # Errors
    /// As [`super::SqlStore::open`].
    pub async fn migrate(&self) -> Result<(i64, i64), StoreError> {
        let before = migrations::version(&self.pools).await?;
        migrations::run(&self.pools, true).await?;
        Ok((before, migrations::SCHEMA_VERSION))
    }

    /// Writes everything into a file of mode 0600 that any engine can be restored from, as of one moment, while
    /// servers go on. The file is there as a whole or not at all.
    ///
    /// # Errors
    /// The database cannot be read, has another schema, or the file cannot be written.
    pub async fn backup(
        &self,
        file: &Path,
        made_at: i64,
        progress: &mut Progress<'_>,
    ) -> Result<Archived, StoreError> {
        self.needs_our_schema().await?;
        let mut session = self.pools.snapshot(archive::BACKUP).await?;
        session.patient();
        let archived = archive::write(&mut session, file, made_at, progress).await?;
        session.commit(archive::BACKUP).await?;
        Ok(archived)
    }

    /// Copies a SQLite database into a new file of mode 0600, as of one moment, while servers go on.
    ///
    /// # Errors
    /// It is no SQLite database, the file is there already or cannot be written.
    pub async fn copy_file(&self, file: &Path) -> Result<(), StoreError> {
        if self.pools.engine() != Engine::Sqlite {
            return Err(StoreError::Invalid {
                reason: "only a SQLite database is a file to copy".to_owned(),
            });
        }
        let partial = archive::new_file(file)?;
        let mut session = self.pools.writer(archive::BACKUP).await?;
        session
            .execute(
                archive::BACKUP,
                sql("VACUUM INTO $1").bind(partial.path().to_string_lossy().into_owned()),
            )
            .await?;
        partial.keep(file)
    }

    /// Fills the database from a backup: all of it or nothing. Nothing is touched before the whole file proved
    /// to be in order. Rows that are there are a fault unless `force` says to replace them all.
    ///
    /// # Errors
    /// The file is damaged or of another schema, the database is not empty, or it fails.
    pub async fn restore(
        &self,
        file: &Path,
        force: bool,
        progress: &mut Progress<'_>,
    ) -> Result<Archived, StoreError> {
        let archived = archive::check(file)?;
        migrations::run(&self.pools, true).await?;
        let mut session = self.pools.begin(archive::RESTORE).await?;
        session.patient();
        let before = locked_version(&mut session).await?;
        if !force {
            for table in TABLES {
                let rows = table.count(&mut session).await?;
                if rows != 0 {
                    return Err(StoreError::Invalid {
                        reason: format!(
                            "the database is not empty: {} has {rows} rows; restore into an empty one, or replace \
                             everything with -force",
                            table.name
                        ),
                    });
                }
            }
        }
        archive::replace(&mut session, file, &archived, progress).await?;
        // Servers that run on it see a version that they cannot follow, and read everything again.
        let version = before.max(archived.changes).saturating_add(1);
        let count = sql("UPDATE counters SET value = $1 WHERE name = 'changes'").bind(version);
        session.execute(archive::RESTORE, count).await?;
        session.commit(archive::RESTORE).await?;
        Ok(archived)
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pools.close().await;
    }

    async fn needs_our_schema(&self) -> Result<(), StoreError> {
        let found = migrations::version(&self.pools).await?;
        if found == migrations::SCHEMA_VERSION {
            return Ok(());
        }
        Err(StoreError::OlderSchema { found, known: migrations::SCHEMA_VERSION })
    }
}

async fn locked_version(session: &mut Session) -> Result<i64, StoreError> {
    let op = archive::RESTORE;
    let query = sql("SELECT value AS n FROM counters WHERE name = 'changes'").for_update();
    let row = session.fetch_optional(op, query).await?;
    row.ok_or(sqlx::Error::RowNotFound).and_then(|row| row.int("n")).map_err(|cause| broken(op, cause))
}
