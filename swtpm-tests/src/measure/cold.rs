//! A cold start (row P6): how long until a server answers that has a database full of entries and agents, and what they
//! cost in memory, at three sizes, on SQLite and PostgreSQL.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hardroot_bench::process::usage;
use hardroot_emulators::Postgres;
use hardroot_emulators::fill::{self, Dialect};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio_stream::StreamExt as _;

use super::report::Row;
use crate::daemon::Daemon;
use crate::site::{Site, TRUST_DOMAIN};
use crate::wait;

/// The largest database, unless `HARDROOT_COLD_ENTRIES` says otherwise; the others have a tenth and a hundredth of it.
const ENTRIES: u64 = 1_000_000;
/// Entries for each agent.
const PER_AGENT: u64 = 10;
/// The target for [`ENTRIES`], in seconds.
const READY: f64 = 10.0;
/// The target for an entry, in bytes.
const RESIDENT: f64 = 1024.0;
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// What a start reads.
const TABLES: [&str; 6] =
    ["entries", "entry_selectors", "entry_dns_names", "entry_federates", "nodes", "node_selectors"];

/// A start as seen from outside.
struct Start {
    seconds: f64,
    /// Processor time of the server until it was ready, seconds.
    cpu: f64,
    /// Bytes.
    resident: f64,
    /// The most it ever had, bytes.
    peak: f64,
}

/// A database, and how to speak to it without the server.
enum Database {
    Sqlite(Box<SqliteConnectOptions>),
    Postgres(Box<(Postgres, String)>),
}

/// Both engines, each at a hundredth, a tenth and all of the entries; `tell` hears what begins.
///
/// # Errors
/// A server did not come up.
pub fn measure(runtime: &tokio::runtime::Runtime, tell: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let most = match std::env::var("HARDROOT_COLD_ENTRIES") {
        Ok(text) => text.parse().context("HARDROOT_COLD_ENTRIES is no number")?,
        Err(_) => ENTRIES,
    };
    ensure!(most >= 100 * PER_AGENT, "HARDROOT_COLD_ENTRIES is less than {}", 100 * PER_AGENT);
    let mut rows = Vec::new();
    for dialect in [Dialect::Sqlite, Dialect::Postgres] {
        for entries in [most / 100, most / 10, most] {
            tell(&format!("  {}: {entries} entries", name(dialect)));
            rows.extend(runtime.block_on(one(dialect, entries))?);
        }
    }
    Ok(rows)
}

fn name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "SQLite",
        Dialect::Postgres => "PostgreSQL",
    }
}

async fn one(dialect: Dialect, entries: u64) -> Result<Vec<Row>> {
    let mut site = Site::new()?;
    let database = match dialect {
        Dialect::Sqlite => {
            let file = site.folder().join("server/datastore.sqlite3");
            Database::Sqlite(Box::new(SqliteConnectOptions::new().filename(file)))
        }
        Dialect::Postgres => {
            let server = Postgres::start()?;
            let made = server.create_database()?;
            site.place_on("postgres", server.address(), &made, "")?;
            Database::Postgres(Box::new((server, made)))
        }
    };
    // The first start makes schema and keys; what the second one takes is what any server takes.
    site.start_server()?;
    site.stop_server()?;
    let empty = start(&mut site)?;
    let agents = entries / PER_AGENT;
    database.fill(dialect, entries, agents).await?;
    let raw = database.read().await?;
    let full = start(&mut site)?;
    #[expect(clippy::cast_precision_loss, reason = "a million")]
    let (count, whole) = (entries as f64, ENTRIES as f64);
    let row = |what: String, measured: f64, limit: f64, limit_is: &str, unit: &'static str| Row {
        what,
        measured,
        limit,
        limit_is: limit_is.to_owned(),
        unit,
    };
    let mib = |bytes: f64| bytes / 1_048_576.0;
    let more = full.seconds - empty.seconds;
    Ok(vec![
        row(
            format!("{}: {entries} entries, {agents} agents: ready", name(dialect)),
            full.seconds,
            READY,
            "target at 1,000,000, from exec on",
            "s",
        ),
        row(
            "  more than an empty server, of an entry".to_owned(),
            1e6 * more / count,
            1e6 * READY / whole,
            "target by 1,000,000",
            "us",
        ),
        row("  the same beside the reading alone".to_owned(), more, raw, "plain driver, rows dropped", "s"),
        row(
            "  processor time of the server, of an entry".to_owned(),
            1e6 * (full.cpu - empty.cpu) / count,
            0.0,
            "",
            "us",
        ),
        row(
            "  resident, of an entry".to_owned(),
            (full.resident - empty.resident) / count,
            RESIDENT,
            "target, beyond an empty server",
            "B",
        ),
        row(
            "  most memory so far".to_owned(),
            mib(full.peak),
            mib(full.resident),
            "resident when ready",
            "MiB",
        ),
    ])
}

/// Starts the site's server, which was stopped, looks at it when its health check succeeds, and stops it.
fn start(site: &mut Site) -> Result<Start> {
    site.write_server_config()?;
    let config = site.server_config().display().to_string();
    let socket = site.server_socket();
    let log = site.folder().join("server.log");
    // One that was left would look like a server.
    drop(fs::remove_file(&socket));
    let begun = Instant::now();
    let arguments = ["run", "-config", &config];
    let mut server = Daemon::start("hardroot-server", &arguments, &site.environment(), &log)?;
    // A health check is a process of its own, which would take processor time from the start until there is a socket.
    wait::until("the server's socket", PATIENCE, || Ok(UnixStream::connect(&socket).is_ok().then_some(())))?;
    server.wait_ready(|| site.server_command(&["healthcheck"]).is_ok_and(|ran| ran.ok()))?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = usage(server.pid()).context("the server is gone")?;
    let peak = fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let peak: f64 = peak.trim().trim_end_matches("kB").trim().parse()?;
    site.server = Some(server);
    site.stop_server()?;
    #[expect(clippy::cast_precision_loss, reason = "less than 2^53 bytes")]
    let resident = used.resident as f64;
    Ok(Start { seconds, cpu: used.cpu.as_secs_f64(), resident, peak: peak * 1024.0 })
}

impl Database {
    async fn fill(&self, dialect: Dialect, entries: u64, agents: u64) -> Result<()> {
        let statements = fill::statements(dialect, TRUST_DOMAIN, entries, agents);
        match self {
            Self::Sqlite(options) => {
                let mut connection = options.connect().await?;
                for text in statements {
                    connection.execute(sqlx::raw_sql(AssertSqlSafe(text))).await?;
                }
                connection.close().await?;
            }
            Self::Postgres(made) => {
                let (server, name) = &**made;
                for text in statements {
                    server.sql(name, &text)?;
                }
                // As autovacuum leaves a database that was filled long ago.
                server.sql(name, "VACUUM ANALYZE")?;
            }
        }
        Ok(())
    }

    /// Seconds that one connection takes for all rows, which nobody looks at.
    async fn read(&self) -> Result<f64> {
        match self {
            Self::Sqlite(options) => read(options.connect().await?).await,
            Self::Postgres(made) => {
                let (server, name) = &**made;
                let options = PgConnectOptions::new_without_pgpass()
                    .host(&server.address().ip().to_string())
                    .port(server.address().port())
                    .username(Postgres::USER)
                    .password(Postgres::PASSWORD)
                    .database(name)
                    .ssl_mode(PgSslMode::Disable);
                read(options.connect().await?).await
            }
        }
    }
}

async fn read<C>(mut connection: C) -> Result<f64>
where
    C: Connection,
    for<'c> &'c mut C: Executor<'c, Database = C::Database>,
{
    let begun = Instant::now();
    for table in TABLES {
        let mut rows =
            (&mut connection).fetch(sqlx::raw_sql(AssertSqlSafe(format!("SELECT * FROM {table}"))));
        while let Some(row) = rows.next().await {
            drop(row?);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    connection.close().await?;
    Ok(seconds)
}
