//! `entry create|update|show|count|delete`.

mod bulk;
mod data;
mod feed;
mod print;
mod progress;
mod select;
mod source;
mod tasks;
mod write;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::entry::v1 as wire;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_runtime::cli::Output;
use tonic::transport::Channel;

use super::connection::{Connection, MAX_ANSWER};
use super::flags::plural;
use super::{CliError, Screen};
use bulk::Telling;
use feed::Feed;
use print::entry_lines;
use prost::Message as _;
use select::Filter;
use source::Listed;
use tasks::{Creating, Deleting, Updating};
use write::Fields;

/// How many entries a file of `-data` holds, and how many ids one of `-file`: for tests of their reader.
///
/// # Errors
/// It is no such file.
#[doc(hidden)]
pub fn count_items(path: &std::path::Path) -> [Result<usize, CliError>; 2] {
    [
        source::Source::open(path)
            .and_then(|mut file| file.read::<<data::Entries as Listed>::Seen>(|_, _| true)),
        source::Source::open(path).and_then(|mut file| file.read::<<data::Ids as Listed>::Seen>(|_, _| true)),
    ]
}

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
    /// Entries that exist already are no failures: a run that was cut off can be repeated
    #[arg(long = "ignoreExisting", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    ignore_existing: Option<bool>,
    /// Print failures only, neither the entries nor how far the command is
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    quiet: Option<bool>,
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
    /// Print failures only, neither the entries nor how far the command is
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    quiet: Option<bool>,
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

/// `entry show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The entry with this id; not together with -parentID, -spiffeID or -selector
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
    /// Ids that are not found are no failures: a run that was cut off can be repeated
    #[arg(long = "ignoreMissing", num_args(0..=1), require_equals(true), default_missing_value("true"))]
    ignore_missing: Option<bool>,
    /// Print failures only, neither the ids nor how far the command is
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
    quiet: Option<bool>,
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

impl Create {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let feed = match self.fields.data() {
            Some(path) => Feed::file::<data::Entries>(path, |entry| entry.encoded_len()).await?,
            None => Feed::one(self.fields.for_create(self.node.unwrap_or(false))?),
        };
        let telling = Telling {
            output: self.output,
            quiet: self.quiet.unwrap_or(false),
            repeated_ok: self.ignore_existing.unwrap_or(false),
        };
        bulk::run::<Creating>(&mut client(&self.connection).await?, feed, &telling, screen).await
    }
}

impl Update {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let (mut client, feed);
        match self.fields.data() {
            Some(path) => {
                feed = Feed::file::<data::Entries>(path, |entry| entry.encoded_len()).await?;
                client = self::client(&self.connection).await?;
            }
            None => {
                let mut entry = self.fields.for_update()?;
                client = self::client(&self.connection).await?;
                self.fields.keep_other_attributes(&mut client, &mut entry).await?;
                feed = Feed::one(entry);
            }
        }
        let quiet = self.quiet.unwrap_or(false);
        let telling = Telling { output: self.output, quiet, repeated_ok: false };
        bulk::run::<Updating>(&mut client, feed, &telling, screen).await
    }
}

impl Show {
    async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let entry_id = self.entry_id.filter(|id| !id.is_empty());
        if entry_id.is_some() && self.filter.contradicts_id() {
            return Err(CliError::usage("the -entryID flag can't be combined with others"));
        }
        let filter = self.filter.for_list()?;
        let mut client = client(&self.connection).await?;
        let mut shown = wire::ListEntriesResponse::default();
        match entry_id {
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
        let feed = match (&self.file, self.entry_id) {
            (Some(file), _) => Feed::file::<data::Ids>(file, String::len).await?,
            (None, Some(id)) if !id.is_empty() => Feed::one(id),
            _ => return Err(CliError::usage("an entry ID is required")),
        };
        let telling = Telling {
            output: self.output,
            quiet: self.quiet.unwrap_or(false),
            repeated_ok: self.ignore_missing.unwrap_or(false),
        };
        bulk::run::<Deleting>(&mut client(&self.connection).await?, feed, &telling, screen).await
    }
}
