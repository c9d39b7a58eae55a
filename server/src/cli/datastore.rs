//! `datastore`: the database itself, without a running server.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use hardroot_runtime::chain;
use hardroot_runtime::cli::table;
use serde_json::json;
use time::OffsetDateTime;

use super::flags::time_text;
use super::{CliError, Screen};
use crate::config::{DEFAULT_PATH, ServerConfig};
use crate::datastore::{Administration, Archived, DatabaseConfig, Place, SCHEMA_VERSION, Status, StoreError};

/// Rows between two lines of progress.
const STEP: u64 = 20_000;

/// The `datastore` commands. They read the server's configuration, and need no running server.
#[derive(Debug, Subcommand)]
pub enum DatastoreCommand {
    /// Tells engine, schema, rows and size
    Status(StatusArgs),
    /// Brings the schema up to date
    Migrate(MigrateArgs),
    /// Writes everything into one file, while servers go on
    Backup(BackupArgs),
    /// Fills an empty database from such a file: all of it or nothing
    Restore(RestoreArgs),
}

/// Which database, and how to answer.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// Path of the server's configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Replace $VAR and ${VAR} in the configuration file by environment variables
    #[arg(long = "expandEnv", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    expand_env: Option<bool>,
    /// pretty for people, json for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "pretty")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Pretty,
    Json,
}

/// `datastore status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    target: Target,
}

/// `datastore migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Tell what would be done, and do nothing
    #[arg(long = "dryRun", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    dry_run: Option<bool>,
    #[command(flatten)]
    target: Target,
}

/// `datastore backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to make (mode 0600); it must not be there
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// portable can be restored into any engine; sqlite is a copy of a SQLite database
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "portable")]
    format: Format,
    /// Tell on standard error how far it is; on a terminal it does
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    progress: Option<bool>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Portable,
    Sqlite,
}

/// `datastore restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A file made by `datastore backup`
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Replace everything that is there
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    force: Option<bool>,
    /// Tell on standard error how far it is; on a terminal it does
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    progress: Option<bool>,
    #[command(flatten)]
    target: Target,
}

impl Target {
    fn database(&self) -> Result<DatabaseConfig, CliError> {
        let config = ServerConfig::load(&self.config, self.expand_env.unwrap_or(false))
            .map_err(|error| CliError::Outcome(format!("the configuration cannot be used: {error}")))?;
        Ok(config.database)
    }

    /// To look at it and change nothing.
    async fn look(&self) -> Result<Administration, CliError> {
        Administration::look(&self.database()?).await.map_err(outcome)
    }

    async fn open(&self, make: bool) -> Result<Administration, CliError> {
        Administration::open(&self.database()?, make).await.map_err(outcome)
    }
}

fn outcome(error: StoreError) -> CliError {
    CliError::Outcome(chain(&error))
}

impl DatastoreCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::Status(args) => status(&args, screen).await,
            Self::Migrate(args) => migrate(&args, screen).await,
            Self::Backup(args) => backup(&args, screen).await,
            Self::Restore(args) => restore(&args, screen).await,
        }
    }
}

fn fields(screen: &mut Screen, fields: &[(&str, String)]) {
    for (name, value) in fields {
        screen.line(format!("{name:<15}: {value}"));
    }
}

fn bytes(count: i64) -> String {
    format!("{}.{} MiB", count >> 20, ((count & ((1 << 20) - 1)) * 10) >> 20)
}

async fn status(args: &StatusArgs, screen: &mut Screen) -> Result<(), CliError> {
    let database = args.target.look().await?;
    let status = database.status().await.map_err(outcome)?;
    database.close().await;
    show(&status, args.target.output, screen);
    Ok(())
}

fn show(status: &Status, output: Output, screen: &mut Screen) {
    if output == Output::Json {
        let rows: serde_json::Map<_, _> =
            status.rows.iter().map(|(table, rows)| ((*table).to_owned(), (*rows).into())).collect();
        screen.json(json!({
            "bytes": status.bytes,
            "changes": status.changes,
            "database": status.place,
            "engine": status.engine.name(),
            "known_schema": status.known_schema,
            "rows": rows,
            "schema": status.schema,
            "server_version": status.server_version,
        }));
        return;
    }
    let schema = match status.schema {
        0 => format!("none yet; this program makes {}", status.known_schema),
        schema if schema == status.known_schema => schema.to_string(),
        schema => format!("{schema}; this program needs {}", status.known_schema),
    };
    fields(
        screen,
        &[
            ("Database", status.place.clone()),
            ("Engine", format!("{} {}", status.engine.name(), status.server_version)),
            ("Schema", schema),
            ("Size", bytes(status.bytes)),
            ("Changes so far", status.changes.to_string()),
        ],
    );
    if !status.rows.is_empty() {
        let rows: Vec<_> =
            status.rows.iter().map(|(table, rows)| vec![(*table).to_owned(), rows.to_string()]).collect();
        screen.text("\n");
        screen.text(&table(&["Table", "Rows"], &rows));
    }
}

async fn migrate(args: &MigrateArgs, screen: &mut Screen) -> Result<(), CliError> {
    let dry_run = args.dry_run.unwrap_or(false);
    let (before, after) = if !dry_run {
        let database = args.target.open(true).await?;
        let done = database.migrate().await.map_err(outcome)?;
        database.close().await;
        done
    } else if is_absent(&args.target.database()?) {
        (0, SCHEMA_VERSION)
    } else {
        let database = args.target.look().await?;
        let status = database.status().await.map_err(outcome)?;
        database.close().await;
        (status.schema, status.known_schema)
    };
    if args.target.output == Output::Json {
        screen.json(json!({ "dry_run": dry_run, "schema": after, "schema_before": before }));
    } else if before == after {
        screen.line(format!("The schema is up to date ({after})."));
    } else if dry_run {
        screen.line(format!("The schema would be brought from {before} to {after}; nothing was done."));
    } else {
        screen.line(format!("The schema was brought from {before} to {after}."));
    }
    Ok(())
}

/// Whether it is a file that is not there.
fn is_absent(database: &DatabaseConfig) -> bool {
    matches!(&database.place, Place::File(path) if !path.exists())
}

/// Tells on standard error how far a long run is: on a terminal in a line that changes, elsewhere, if it was asked for,
/// in a line for each table and one for each [`STEP`] rows.
struct Telling<'a> {
    screen: &'a mut Screen,
    verb: &'static str,
    shown: bool,
    table: String,
    rows: u64,
    told: u64,
}

impl<'a> Telling<'a> {
    fn new(verb: &'static str, asked: Option<bool>, screen: &'a mut Screen) -> Self {
        let shown = asked.unwrap_or_else(|| screen.on_terminal());
        Self { screen, verb, shown, table: String::new(), rows: 0, told: 0 }
    }

    fn tell(&mut self) {
        self.told = self.rows;
        self.screen.status(Some(format!("{} {} rows of {}", self.verb, self.rows, self.table)));
        // Progress that cannot be told is no reason to stop.
        drop(self.screen.flush());
    }

    fn table_done(&mut self) {
        if self.rows > self.told {
            self.tell();
        }
    }

    fn progress(&mut self) -> impl FnMut(&str, u64) + Send {
        |name, rows| {
            if !self.shown {
                return;
            }
            if self.table != name {
                self.table_done();
                name.clone_into(&mut self.table);
                self.told = 0;
            }
            self.rows = rows;
            if self.screen.on_terminal() || rows >= self.told + STEP {
                self.tell();
            }
        }
    }

    fn end(mut self) {
        self.table_done();
        self.screen.status(None);
    }
}

async fn backup(args: &BackupArgs, screen: &mut Screen) -> Result<(), CliError> {
    let database = args.target.open(false).await?;
    let file = args.out.display();
    if args.format == Format::Sqlite {
        database.copy_file(&args.out).await.map_err(outcome)?;
        if args.target.output == Output::Json {
            screen.json(json!({ "file": file.to_string(), "format": "sqlite" }));
        } else {
            screen.line(format!("Copied to {file}."));
        }
    } else {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let mut telling = Telling::new("Wrote", args.progress, screen);
        let archived = database.backup(&args.out, now, &mut telling.progress()).await.map_err(outcome);
        telling.end();
        let archived = archived?;
        if args.target.output == Output::Json {
            screen.json(summary(&archived, &file.to_string()));
        } else {
            screen.line(format!("Wrote {} rows to {file}.", archived.rows));
        }
    }
    database.close().await;
    Ok(())
}

async fn restore(args: &RestoreArgs, screen: &mut Screen) -> Result<(), CliError> {
    let database = args.target.open(true).await?;
    let file = args.input.display();
    let mut telling = Telling::new("Restored", args.progress, screen);
    let force = args.force.unwrap_or(false);
    let archived = database.restore(&args.input, force, &mut telling.progress()).await.map_err(outcome);
    telling.end();
    let archived = archived?;
    database.close().await;
    if args.target.output == Output::Json {
        screen.json(summary(&archived, &file.to_string()));
    } else {
        screen.line(format!(
            "Restored {} rows from {file}, made from {} at {}.",
            archived.rows,
            archived.engine,
            time_text(archived.made_at)
        ));
    }
    Ok(())
}

fn summary(archived: &Archived, file: &str) -> serde_json::Value {
    json!({
        "changes": archived.changes,
        "engine": archived.engine,
        "file": file,
        "format": "portable",
        "made_at": archived.made_at,
        "rows": archived.rows,
        "schema": archived.schema,
    })
}
