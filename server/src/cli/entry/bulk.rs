//! Sending many entries or ids, and telling what became of each. Memory is bounded: a batch is read, sent,
//! told and forgotten.

use hardroot_api::json::to_json;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_api::spire::api::types;
use hardroot_runtime::cli::Output;
use prost::Message;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::feed::{Batch, Feed};
use super::progress::Progress;
use crate::cli::error::code_name;
use crate::cli::{CliError, Screen};

/// What is done with the items.
pub(super) trait Task {
    type Item: Clone + Send + 'static;
    /// The item's part of the answer.
    type Result: Message;
    /// `create`, `update`, `delete`.
    const VERB: &'static str;
    /// `created`, `updated`, `deleted`.
    const DONE: &'static str;
    /// The full name of the result's message.
    const RESULT: &'static str;
    /// The outcome of an earlier run of the same command, and what it means.
    const REPEATED: (Code, &'static str);

    /// Sends a batch.
    async fn send(
        client: &mut EntryClient<Channel>,
        items: Vec<Self::Item>,
    ) -> Result<Vec<Self::Result>, Status>;
    /// The status of an item.
    fn status(result: &Self::Result) -> Option<&types::Status>;
    /// Puts what was asked for into the result of an item that failed.
    fn complete(result: &mut Self::Result, asked: Self::Item);
    /// Tells an item that was done.
    fn tell(result: &Self::Result, screen: &mut Screen);
    /// Tells an item that was not; `number` is its place in the file.
    fn tell_failure(result: &Self::Result, reason: &Reason<'_>, number: Option<usize>, screen: &mut Screen);
    /// Tells how many were done and failed, where SPIRE does.
    fn tell_end(_done: usize, _failed: usize, _screen: &mut Screen) {}
}

/// Why an item failed.
pub(super) struct Reason<'r> {
    pub(super) code: &'static str,
    pub(super) text: &'r str,
}

/// How to tell it.
pub(super) struct Telling {
    pub(super) output: Output,
    /// Tell failures only.
    pub(super) quiet: bool,
    /// Items that an earlier run of the command has done are no failures.
    pub(super) repeated_ok: bool,
}

#[derive(Default)]
struct Counts {
    done: usize,
    repeated: usize,
    failed: usize,
}

impl Counts {
    fn all(&self) -> usize {
        self.done.saturating_add(self.repeated).saturating_add(self.failed)
    }
}

/// Sends everything that `feed` has.
pub(super) async fn run<T: Task>(
    client: &mut EntryClient<Channel>,
    mut feed: Feed<T::Item>,
    telling: &Telling,
    screen: &mut Screen,
) -> Result<(), CliError> {
    let mut counts = Counts::default();
    let mut progress = Progress::new(feed.total, screen.on_terminal() && !telling.quiet, Instant::now());
    let json = telling.output == Output::Json;
    let outcome = send_all::<T>(client, &mut feed, telling, &mut counts, &mut progress, screen).await;
    screen.status(None);
    let total = counts.all();
    let failed = if telling.repeated_ok { counts.failed } else { total.saturating_sub(counts.done) };
    match (json, &outcome) {
        (true, _) if total > 0 => screen.text("]}\n"),
        (true, Ok(())) => screen.text("{\"results\":[]}\n"),
        // A call that failed at once answers nothing.
        (true, Err(_)) | (false, Err(_)) => {}
        (false, Ok(())) if telling.quiet => {}
        (false, Ok(())) => T::tell_end(counts.done, failed, screen),
    }
    if feed.total.is_some()
        && !telling.quiet
        && (progress.is_shown() || (outcome.is_ok() && total > 1 && total > counts.done))
    {
        let repeated = match counts.repeated {
            0 => String::new(),
            some => format!(", {some} {}", T::REPEATED.1),
        };
        screen.err_line(format!(
            "{total} items: {} {}{repeated}, {} failed",
            counts.done,
            T::DONE,
            counts.failed
        ));
    }
    outcome?;
    if failed > 0 {
        Err(CliError::Outcome(format!("failed to {} one or more entries", T::VERB)))
    } else {
        Ok(())
    }
}

async fn send_all<T: Task>(
    client: &mut EntryClient<Channel>,
    feed: &mut Feed<T::Item>,
    telling: &Telling,
    counts: &mut Counts,
    progress: &mut Progress,
    screen: &mut Screen,
) -> Result<(), CliError> {
    while let Some(Batch { first, items }) = feed.next().await? {
        let asked = items.len();
        let results = match T::send(client, items.clone()).await {
            Ok(results) => results,
            Err(status) if feed.total.is_none() => return Err(status.into()),
            Err(status) => {
                return Err(CliError::Interrupted {
                    verb: T::VERB,
                    first,
                    last: first.saturating_add(asked.saturating_sub(1)),
                    repeated: T::REPEATED.1,
                    status: Box::new(status),
                });
            }
        };
        for (at, (mut result, item)) in results.into_iter().zip(items).enumerate() {
            let number = feed.total.map(|_| first.saturating_add(at));
            let before = counts.all();
            let status = T::status(&result).filter(|status| status.code != 0).cloned();
            match &status {
                None => counts.done = counts.done.saturating_add(1),
                Some(status) if Code::from(status.code) == T::REPEATED.0 => {
                    counts.repeated = counts.repeated.saturating_add(1);
                }
                Some(_) => counts.failed = counts.failed.saturating_add(1),
            }
            if status.is_some() {
                T::complete(&mut result, item);
            }
            if telling.output == Output::Json {
                screen.text(if before == 0 { "{\"results\":[" } else { "," });
                let value =
                    to_json(T::RESULT, &result).map_err(|fault| CliError::Outcome(fault.to_string()))?;
                screen.json_part(value);
            }
            let repeated_ok = telling.repeated_ok
                && status.as_ref().is_some_and(|status| Code::from(status.code) == T::REPEATED.0);
            match &status {
                None if telling.quiet || telling.output == Output::Json => {}
                None => T::tell(&result, screen),
                Some(_) if repeated_ok => {}
                // One line's worth of JSON has the failures; of many, people want to see them apart.
                Some(_) if telling.output == Output::Json && feed.total.is_none() => {}
                Some(status) => {
                    let reason = Reason { code: code_name(Code::from(status.code)), text: &status.message };
                    T::tell_failure(&result, &reason, number, screen);
                }
            }
        }
        let sent = first.saturating_add(asked.saturating_sub(1));
        if !telling.quiet
            && let Some(line) = progress.tick(sent, counts.failed, Instant::now())
        {
            screen.status(Some(line));
        }
        screen.flush().map_err(|cause| CliError::File {
            op: "writing",
            path: "standard output".to_owned(),
            reason: cause.to_string(),
        })?;
    }
    Ok(())
}
