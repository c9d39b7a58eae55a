//! `entry create|update|show|count|delete`.

mod data;
mod print;
mod select;
mod write;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::entry::v1 as wire;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_runtime::cli::Output;
use tonic::transport::Channel;

use super::connection::{Connection, MAX_ANSWER};
use super::error::item_failure;
use super::flags::{plural, read_data};
use super::{CliError, Screen};
use print::entry_lines;
use select::Filter;
use write::Fields;

/// Entries read in one call.
const PAGE: i32 = 500;

/// `entry ...`.
#[derive(Debug, Subcommand)]
pub enum EntryCommand {
    /// Creates registration entries
    Create(Create),
    /// Replaces registration entries, with all their fields
    Update(Update),
    /// Shows registration entries
    Show(Show),
    /// Counts registration entries
    Count(Count),
    /// Deletes registration entries
    Delete(Delete),
}

/// `entry create`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: a program run by uid 1000 from /usr/bin/app, on the agent with that ID:\n  \
    hardroot-server entry create -parentID spiffe://example.org/spire/agent/tpm_quote/HASH \\\n    \
    -spiffeID spiffe://example.org/app -selector unix:uid:1000 -selector unix:path:/usr/bin/app"
)]
pub struct Create {
    #[command(flatten)]
    fields: Fields,
    /// The entry is for nodes, not for programs: its parent is the server, its selectors are those of nodes
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    node: Option<bool>,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `entry update`.
#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `entry show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The entry with this id, and no other flag of this command
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `entry count`.
#[derive(Debug, Args)]
pub struct Count {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `entry delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The entry to delete
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    /// A JSON file with {"ids": ["...", ...]}; - reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl EntryCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::Create(command) => command.execute(screen).await,
            Self::Update(command) => command.execute(screen).await,
            Self::Show(command) => command.execute(screen).await,
            Self::Count(command) => command.execute(screen).await,
            Self::Delete(command) => command.execute(screen).await,
        }
    }
}

async fn client(connection: &Connection) -> Result<EntryClient<Channel>, CliError> {
    Ok(EntryClient::new(connection.open().await?).max_decoding_message_size(MAX_ANSWER))
}

/// One line of the outcome: what became of an entry.
struct Written {
    failure: Option<(&'static str, String)>,
    entry: hardroot_api::spire::api::types::Entry,
}

fn report(screen: &mut Screen, verb: &str, written: &[Written]) -> Result<(), CliError> {
    for done in written.iter().filter(|done| done.failure.is_none()) {
        entry_lines(&done.entry, |line| screen.line(line));
    }
    for done in written {
        if let Some((code, text)) = &done.failure {
            screen.err_line(format!("Failed to {verb} the following entry (code: {code}, msg: {text:?}):"));
            entry_lines(&done.entry, |line| screen.err_line(line));
        }
    }
    verdict(verb, written.iter().any(|done| done.failure.is_some()))
}

fn verdict(verb: &str, failed: bool) -> Result<(), CliError> {
    if failed { Err(CliError::Outcome(format!("failed to {verb} one or more entries"))) } else { Ok(()) }
}

impl Create {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let entries = self.fields.for_create(self.node.unwrap_or(false))?;
        let request = wire::BatchCreateEntryRequest { entries: entries.clone(), output_mask: None };
        let mut answer = client(&self.connection).await?.batch_create_entry(request).await?.into_inner();
        for (result, asked) in answer.results.iter_mut().zip(entries) {
            // The server gives no entry where it made none: show what was asked for.
            if item_failure(result.status.as_ref()).is_some() {
                result.entry = Some(asked);
            }
        }
        let written: Vec<_> = answer
            .results
            .iter()
            .map(|result| Written {
                failure: item_failure(result.status.as_ref()),
                entry: result.entry.clone().unwrap_or_default(),
            })
            .collect();
        match self.output {
            Output::Pretty => report(screen, "create", &written),
            Output::Json => {
                screen.message("spire.api.server.entry.v1.BatchCreateEntryResponse", &answer)?;
                verdict("create", written.iter().any(|done| done.failure.is_some()))
            }
        }
    }
}

impl Update {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let mut entries = self.fields.for_update()?;
        let mut client = client(&self.connection).await?;
        self.fields.keep_other_attributes(&mut client, &mut entries).await?;
        let request =
            wire::BatchUpdateEntryRequest { entries: entries.clone(), input_mask: None, output_mask: None };
        let mut answer = client.batch_update_entry(request).await?.into_inner();
        for (result, asked) in answer.results.iter_mut().zip(entries) {
            if item_failure(result.status.as_ref()).is_some() {
                result.entry = Some(asked);
            }
        }
        let written: Vec<_> = answer
            .results
            .iter()
            .map(|result| Written {
                failure: item_failure(result.status.as_ref()),
                entry: result.entry.clone().unwrap_or_default(),
            })
            .collect();
        match self.output {
            Output::Pretty => report(screen, "update", &written),
            Output::Json => {
                screen.message("spire.api.server.entry.v1.BatchUpdateEntryResponse", &answer)?;
                verdict("update", written.iter().any(|done| done.failure.is_some()))
            }
        }
    }
}

impl Show {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        if self.entry_id.is_some() && self.filter.is_given() {
            return Err(CliError::usage("the -entryID flag can't be combined with others"));
        }
        let filter = self.filter.for_list()?;
        let mut client = client(&self.connection).await?;
        let mut shown = wire::ListEntriesResponse::default();
        match self.entry_id {
            Some(id) => {
                let request = wire::GetEntryRequest { id: id.clone(), output_mask: None };
                let context = format!("error fetching entry ID {id}: ");
                shown
                    .entries
                    .push(client.get_entry(request).await.map_err(CliError::rpc(context))?.into_inner());
            }
            None => loop {
                let request = wire::ListEntriesRequest {
                    filter: Some(filter.clone()),
                    output_mask: None,
                    page_size: PAGE,
                    page_token: std::mem::take(&mut shown.next_page_token),
                };
                let page = client
                    .list_entries(request)
                    .await
                    .map_err(CliError::rpc("error fetching entries: "))?
                    .into_inner();
                shown.entries.extend(page.entries);
                shown.next_page_token = page.next_page_token;
                if shown.next_page_token.is_empty() {
                    break;
                }
            },
        }
        print::sort(&mut shown.entries);
        match self.output {
            Output::Json => screen.message("spire.api.server.entry.v1.ListEntriesResponse", &shown),
            Output::Pretty => {
                screen.line(format!("Found {}", plural(shown.entries.len(), "entry", "entries")));
                for entry in &shown.entries {
                    entry_lines(entry, |line| screen.line(line));
                }
                Ok(())
            }
        }
    }
}

impl Count {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let request = wire::CountEntriesRequest { filter: Some(self.filter.for_count()?) };
        let answer = client(&self.connection).await?.count_entries(request).await?.into_inner();
        match self.output {
            Output::Json => screen.message("spire.api.server.entry.v1.CountEntriesResponse", &answer),
            Output::Pretty => {
                let count = usize::try_from(answer.count).unwrap_or_default();
                screen.line(plural(count, "registration entry", "registration entries"));
                Ok(())
            }
        }
    }
}

impl Delete {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let ids = match (&self.file, self.entry_id) {
            (Some(file), _) => data::ids(&read_data(file)?, &file.display().to_string())?,
            (None, Some(id)) if !id.is_empty() => vec![id],
            _ => return Err(CliError::usage("an entry ID is required")),
        };
        let request = wire::BatchDeleteEntryRequest { ids };
        let answer = client(&self.connection).await?.batch_delete_entry(request).await?.into_inner();
        let failures: Vec<_> = answer
            .results
            .iter()
            .filter_map(|result| item_failure(result.status.as_ref()).map(|failure| (&result.id, failure)))
            .collect();
        let done = answer.results.len().saturating_sub(failures.len());
        let verdict = verdict("delete", !failures.is_empty());
        if self.output == Output::Json {
            screen.message("spire.api.server.entry.v1.BatchDeleteEntryResponse", &answer)?;
            return verdict;
        }
        for result in &answer.results {
            if item_failure(result.status.as_ref()).is_none() {
                screen.line(format!("Deleted entry with ID: {}", result.id));
            }
        }
        if done > 0 {
            screen.text("\n\n");
        }
        for (id, (code, text)) in &failures {
            screen.err_line(format!("Failed to delete entry with ID {id} (code: {code}, msg: {text:?})"));
        }
        match failures.len() {
            0 => screen.line(format!("Deleted {done} entries successfully")),
            failed if done == 0 => screen.line(format!("Failed to delete {failed} entries")),
            failed => screen
                .line(format!("Deleted {done} entries successfully, but failed to delete {failed} entries")),
        }
        verdict
    }
}
