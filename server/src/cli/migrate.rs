//! `migrate-from-spire`: a SPIRE server's configuration and data.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use hardroot_config::Document;
use hardroot_migration::Daemon;
use hardroot_runtime::cli::Output;
use hardroot_runtime::state::write_atomic;
use serde_json::json;

use super::{CliError, Screen};
use crate::config::ServerConfig;
use crate::datastore::SqlStore;
use crate::migrate::{self, Converted, Count, Fault, Imported, Options};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How many faults are printed; JSON has them all.
const TELL_FAULTS: usize = 20;

/// `migrate-from-spire`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The configuration file of the SPIRE server
    #[arg(long, value_name = "FILE", default_value = "conf/server/server.conf")]
    config: PathBuf,
    /// The new configuration file: made if it is not there, used as it is if it is
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Connection string of the new database, of the kind that SPIRE's has
    #[arg(long, value_name = "CONNECTION")]
    database: Option<String>,
    /// Only say what would be done
    #[arg(long = "dryRun")]
    dry_run: bool,
    /// Turn the configuration and leave the data alone
    #[arg(long = "configOnly")]
    config_only: bool,
    /// Take SPIRE's version of what is here already and differs
    #[arg(long)]
    overwrite: bool,
    /// Replace $VAR and ${VAR} in the old file by environment variables
    #[arg(long = "expandEnv", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    expand_env: Option<bool>,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl Migrate {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let old = self.old()?;
        let converted = migrate::convert(&old, &self.config.display().to_string(), self.database.as_deref());
        let made = self.write(&converted)?;
        let undecided = made && converted.report.is_undecided();
        // The data comes when the configuration says where to.
        let imported = if self.config_only || undecided {
            None
        } else {
            Some(self.import(&old, &converted, made).await?)
        };
        match self.output {
            Output::Json => screen.json(json!({
                "config": { "path": self.out, "written": made && !self.dry_run, "undecided": undecided,
                    "report": if made { Some(&converted.report) } else { None } },
                "data": imported,
                "dry_run": self.dry_run,
            })),
            Output::Pretty => self.print(screen, &converted, made, imported.as_ref()),
        }
        if undecided {
            return Err(CliError::Outcome(format!(
                "something has to be decided: see the lines that begin with `decide`, correct {}, then run this command \
                 again to bring the data",
                self.out.display()
            )));
        }
        match imported {
            Some(imported) if !imported.faults.is_empty() => Err(CliError::Outcome(format!(
                "{} could not be taken",
                plural(imported.faults.len(), "thing")
            ))),
            _ => Ok(()),
        }
    }

    fn old(&self) -> Result<Document, CliError> {
        let environment = |name: &str| std::env::var(name).ok();
        let lookup: Option<&hardroot_config::Lookup<'_>> =
            if self.expand_env.unwrap_or(false) { Some(&environment) } else { None };
        let old = hardroot_config::load(&self.config, lookup)
            .map_err(|error| CliError::usage(error.to_string()))?;
        Daemon::Server.wrong_file(&old, &self.config).map_or(Ok(old), |why| Err(CliError::usage(why)))
    }

    /// Writes the new configuration, unless one is there; whether it is the one that was made now.
    fn write(&self, converted: &Converted) -> Result<bool, CliError> {
        if self.out.exists() {
            return Ok(false);
        }
        if !self.dry_run {
            write_atomic(&self.out, converted.text.as_bytes(), 0o600).map_err(|error| CliError::File {
                op: "writing",
                path: self.out.display().to_string(),
                reason: chain(&error),
            })?;
        }
        Ok(true)
    }

    async fn import(&self, old: &Document, converted: &Converted, made: bool) -> Result<Imported, CliError> {
        let outcome = |error: &dyn std::error::Error| CliError::Outcome(chain(error));
        let new = if made {
            ServerConfig::parse(&converted.text, &self.out.display().to_string())
        } else {
            ServerConfig::load(&self.out, self.expand_env.unwrap_or(false))
        };
        let new =
            new.map_err(|error| CliError::Outcome(format!("the new configuration is not right:\n{error}")))?;
        let from =
            migrate::database(old, &self.config).map_err(|faults| CliError::Outcome(faults.to_string()))?;
        let source = migrate::Source::read(&from).await.map_err(|error| outcome(&error))?;
        let options = Options {
            trust_domain: new.trust_domain.clone(),
            now: SystemTime::now(),
            overwrite: self.overwrite,
            dry_run: self.dry_run,
        };
        let mut progress = Progress::new();
        if self.dry_run {
            if let Some(store) = SqlStore::look(&new.database).await.map_err(|error| outcome(&error))? {
                let imported = migrate::import(&source, &store, options, &mut progress.teller()).await;
                store.close().await;
                return imported.map_err(|error| outcome(&error));
            }
            // Nothing is there yet, so everything would be new; nothing is made there for a dry run.
            let scratch = tempfile::tempdir().map_err(|cause| {
                CliError::Outcome(format!("cannot make a directory for the dry run: {cause}"))
            })?;
            let store =
                SqlStore::open_file(scratch.path().join("empty")).await.map_err(|error| outcome(&error))?;
            let imported = migrate::import(&source, &store, options, &mut progress.teller()).await;
            store.close().await;
            return imported.map_err(|error| outcome(&error));
        }
        if let Some(parent) = migrate::directory(&new.database) {
            hardroot_runtime::state::ensure_dir(parent, 0o700).map_err(|error| outcome(&error))?;
        }
        let store = SqlStore::open(&new.database).await.map_err(|error| outcome(&error))?;
        let imported = migrate::import(&source, &store, options, &mut progress.teller()).await;
        store.close().await;
        imported.map_err(|error| outcome(&error))
    }

    fn print(&self, screen: &mut Screen, converted: &Converted, made: bool, imported: Option<&Imported>) {
        if made {
            screen.text(&converted.report.table());
            let verb = if self.dry_run { "would be" } else { "is" };
            screen.line(format!("The new configuration {verb} {}.", self.out.display()));
        } else {
            screen.line(format!("{} is there already and is used as it is.", self.out.display()));
        }
        let Some(imported) = imported else { return };
        screen.line("");
        screen.line(format!(
            "{:<26}{:>8}{:>9}{:>9}{:>11}{:>9}{:>9}{:>8}",
            "", "found", "created", "updated", "unchanged", "differs", "expired", "failed"
        ));
        for (name, count) in imported.counts() {
            let Count { found, created, updated, unchanged, differs, skipped, failed } = count;
            screen.line(format!(
                "{name:<26}{found:>8}{created:>9}{updated:>9}{unchanged:>11}{differs:>9}{skipped:>9}{failed:>8}"
            ));
        }
        told(screen, "Not taken", &imported.faults);
        told(screen, "Different here", &imported.differences);
        told(screen, "Taken, but for what no verifier can match", &imported.trimmed);
        if self.dry_run {
            screen.line("Nothing was written (-dryRun).");
        }
    }
}

fn told(screen: &mut Screen, head: &str, faults: &[Fault]) {
    if faults.is_empty() {
        return;
    }
    screen.line("");
    screen.line(format!("{head}:"));
    for fault in faults.iter().take(TELL_FAULTS) {
        screen.line(format!("  {} {}: {}", fault.what, fault.key, fault.why));
    }
    if faults.len() > TELL_FAULTS {
        screen.line(format!("  and {} more (-output json lists them all)", faults.len() - TELL_FAULTS));
    }
}

/// Tells on standard error how far a long import is.
struct Progress {
    begun: Instant,
    told: Instant,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, told: now, terminal: std::io::stderr().is_terminal() }
    }

    fn teller(&mut self) -> impl FnMut(&'static str, usize, usize) + Send + '_ {
        move |what, done, all| {
            let now = Instant::now();
            if now.duration_since(self.told) < TELL_EVERY {
                return;
            }
            self.told = now;
            let seconds = now.duration_since(self.begun).as_secs();
            let (start, end) = if self.terminal { ("\r", "") } else { ("", "\n") };
            let mut out = std::io::stderr();
            // Progress that cannot be told is no reason to stop.
            drop(write!(out, "{start}{what} {done} of {all}, {seconds} s{end}"));
            drop(out.flush());
        }
    }
}

fn plural(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
