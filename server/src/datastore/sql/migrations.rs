//! The schema, forward only. Each step has a number on every engine, also where it has nothing to do; PostgreSQL and
//! MySQL begin with what SQLite has after its third.
//!
//! Where the number is: on SQLite in `PRAGMA user_version`, with `PRAGMA application_id` to say that the file is
//! ours; elsewhere in the table `hardroot_schema`. Whoever migrates has a lock on the whole database.

use super::access::{Begin, Engine, Pools, Session, sql};
use crate::datastore::StoreError;

const OP: &str = "migrate";
/// `Hard`, as big-endian bytes: marks the file as Hardroot's.
pub const APPLICATION_ID: i64 = 0x4861_7264;
/// `Hardroot`, as big-endian bytes: the number of PostgreSQL's advisory lock.
const ADVISORY_LOCK: i64 = 0x4861_7264_726f_6f74;
/// How many seconds MySQL's lock is waited for.
const LOCK_SECONDS: i64 = 120;

/// One step. A step that was released is never edited: a change is a new step.
struct Step {
    sqlite: &'static str,
    postgres: &'static str,
    mysql: &'static str,
}

const STEPS: &[Step] = &[
    Step { sqlite: include_str!("migrations/sqlite/0001_first.sql"), postgres: "", mysql: "" },
    Step { sqlite: include_str!("migrations/sqlite/0002_federation.sql"), postgres: "", mysql: "" },
    Step {
        sqlite: include_str!("migrations/sqlite/0003_servers.sql"),
        postgres: include_str!("migrations/postgres/0003_first.sql"),
        mysql: include_str!("migrations/mysql/0003_first.sql"),
    },
    Step {
        sqlite: include_str!("migrations/sqlite/0004_instances.sql"),
        postgres: include_str!("migrations/postgres/0004_instances.sql"),
        mysql: include_str!("migrations/mysql/0004_instances.sql"),
    },
    Step { sqlite: include_str!("migrations/sqlite/0005_similar_entries.sql"), postgres: "", mysql: "" },
];

/// The schema this server knows.
pub const SCHEMA_VERSION: i64 = STEPS.len() as i64;

impl Step {
    fn text(&self, engine: Engine) -> &'static str {
        match engine {
            Engine::Sqlite => self.sqlite,
            Engine::Postgres => self.postgres,
            Engine::MySql => self.mysql,
        }
    }
}

/// Brings the schema up to date. Whoever comes second finds the work done.
pub(super) async fn run(pools: &Pools, allowed: bool) -> Result<(), StoreError> {
    // Without the lock first: most starts find nothing to do, and a reader's rights suffice for that.
    let found = version(pools).await?;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    if !allowed && found != 0 {
        return Err(StoreError::OlderSchema { found, known: SCHEMA_VERSION });
    }
    let mut session = pools.writer(OP).await?;
    session.patient();
    match session.engine() {
        Engine::Sqlite | Engine::Postgres => {
            session.begin(OP, Begin::Write).await?;
            if session.engine() == Engine::Postgres {
                session.script(OP, "SET LOCAL lock_timeout TO 0").await?;
                let lock = sql("SELECT pg_advisory_xact_lock($1)").bind(ADVISORY_LOCK);
                session.execute(OP, lock).await?;
            }
            steps(&mut session).await?;
            session.commit(OP).await
        }
        Engine::MySql => {
            // DDL commits by itself there: the lock belongs to the connection, each statement of a step can be
            // run again, and the number grows after each step.
            let lock = sql("SELECT GET_LOCK(concat('hardroot:', left(sha2(database(), 256), 40)), $1) AS n")
                .bind(LOCK_SECONDS);
            let got = session.fetch_optional(OP, lock).await?.and_then(|row| row.optional_int("n").ok()?);
            if got != Some(1) {
                return Err(StoreError::Away {
                    op: OP,
                    cause: "another server migrates for too long".into(),
                });
            }
            let done = steps(&mut session).await;
            session
                .execute(OP, sql("DO RELEASE_LOCK(concat('hardroot:', left(sha2(database(), 256), 40)))"))
                .await?;
            done
        }
    }
}

/// The schema's number, 0 for an empty database.
pub(super) async fn version(pools: &Pools) -> Result<i64, StoreError> {
    let mut session = pools.writer(OP).await?;
    checked(&mut session).await
}

async fn steps(session: &mut Session) -> Result<(), StoreError> {
    let found = checked(session).await?;
    let engine = session.engine();
    if found == 0 && engine != Engine::Sqlite {
        let text = match engine {
            Engine::MySql => {
                "CREATE TABLE IF NOT EXISTS hardroot_schema (
                     id BIGINT NOT NULL PRIMARY KEY, version BIGINT NOT NULL) ENGINE = InnoDB"
            }
            _ => {
                "CREATE TABLE IF NOT EXISTS hardroot_schema (id BIGINT PRIMARY KEY, version BIGINT NOT NULL)"
            }
        };
        session.script(OP, text).await?;
        let none = session.number(OP, sql("SELECT count(*) AS n FROM hardroot_schema")).await? == 0;
        if none {
            session.execute(OP, sql("INSERT INTO hardroot_schema (id, version) VALUES (1, 0)")).await?;
        }
    }
    let done = usize::try_from(found).ok().ok_or(StoreError::Foreign)?;
    for (number, step) in (found + 1..).zip(STEPS.iter().skip(done)) {
        // One statement after the other: so an error names one, and not every server takes several at once.
        for statement in statements(step.text(engine)) {
            session.script(OP, &statement).await?;
        }
        if engine == Engine::Sqlite {
            // Pragmas take no parameters; both values are numbers of ours.
            let mark = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};");
            session.script(OP, &mark).await?;
        } else {
            let mark = sql("UPDATE hardroot_schema SET version = $1 WHERE id = 1").bind(number);
            session.execute(OP, mark).await?;
        }
    }
    Ok(())
}

/// The statements of a script, whose texts hold no semicolon but at their ends; comments go.
fn statements(script: &str) -> Vec<String> {
    let lines = script.lines().map(|line| line.split_once("--").map_or(line, |(code, _comment)| code));
    let code = lines.collect::<Vec<_>>().join("\n");
    code.split(';').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// The number found, if it is one of ours.
///
/// Without the lock another server may migrate meanwhile, and no engine reads all this at one moment: so what a
/// step makes first is read last. Tables of ours that were seen have their mark by the time that it is looked for.
async fn checked(session: &mut Session) -> Result<i64, StoreError> {
    let found = match session.engine() {
        Engine::Sqlite => {
            let pragma = |name: &str| sql(format!("SELECT {name} AS n FROM pragma_{name}"));
            let tables = session.number(OP, sql("SELECT count(*) AS n FROM sqlite_schema")).await?;
            let found = session.number(OP, pragma("user_version")).await?;
            let application = session.number(OP, pragma("application_id")).await?;
            if application != APPLICATION_ID && (tables != 0 || found != 0) {
                return Err(StoreError::Foreign);
            }
            found
        }
        engine => {
            let here = if engine == Engine::MySql { "database()" } else { "current_schema()" };
            let tables = |which: &str| {
                sql(format!(
                    "SELECT count(*) AS n FROM information_schema.tables WHERE table_schema = {here}{which}"
                ))
            };
            let any = session.number(OP, tables("")).await? != 0;
            if session.number(OP, tables(" AND table_name = 'hardroot_schema'")).await? == 0 {
                return if any { Err(StoreError::Foreign) } else { Ok(0) };
            }
            let row = session
                .fetch_optional(OP, sql("SELECT version AS n FROM hardroot_schema WHERE id = 1"))
                .await?;
            row.and_then(|row| row.int("n").ok()).unwrap_or(0)
        }
    };
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { found, known: SCHEMA_VERSION });
    }
    Ok(found)
}
