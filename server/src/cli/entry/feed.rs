//! What `create`, `update` and `delete` send: one item from flags, or batches from a file of any size.

use std::path::Path;

use tokio::sync::mpsc;
use tokio::task;

use super::source::{Listed, Source};
use crate::cli::CliError;

/// Most items of a batch.
pub(super) const BATCH: usize = 500;
/// Most bytes of a batch, so that it stays well under the 4 MiB that a server takes in one message.
const BATCH_BYTES: usize = 1 << 20;
/// Batches read ahead.
const AHEAD: usize = 2;

/// Items that are sent in one call.
pub(super) struct Batch<T> {
    /// Number of the first item, counted from 1.
    pub(super) first: usize,
    pub(super) items: Vec<T>,
}

/// Where batches come from.
pub(super) struct Feed<T> {
    batches: mpsc::Receiver<Batch<T>>,
    reader: Option<task::JoinHandle<Result<usize, CliError>>>,
    /// How many items there are, when they come from a file.
    pub(super) total: Option<usize>,
}

impl<T: Send + 'static> Feed<T> {
    /// One item.
    pub(super) fn one(item: T) -> Self {
        let (sender, batches) = mpsc::channel(1);
        // The channel has room for it.
        drop(sender.try_send(Batch { first: 1, items: vec![item] }));
        Self { batches, reader: None, total: None }
    }

    /// The items of a file. The whole file is judged before the first batch comes: a file with a mistake
    /// changes nothing. `weight` is an item's size in bytes.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub(super) async fn file<L: Listed<Item = T>>(
        path: &Path,
        weight: fn(&T) -> usize,
    ) -> Result<Self, CliError> {
        let path = path.to_owned();
        let (source, total) = blocking(move || {
            let mut source = Source::open(&path)?;
            let total = source.read::<L::Seen>(|_, _| true)?;
            Ok((source, total))
        })
        .await?;
        let (sender, batches) = mpsc::channel(AHEAD);
        let reader = task::spawn_blocking(move || send::<L>(source, weight, &sender));
        Ok(Self { batches, reader: Some(reader), total: Some(total) })
    }

    /// The next batch.
    ///
    /// # Errors
    /// The file changed while it was read.
    pub(super) async fn next(&mut self) -> Result<Option<Batch<T>>, CliError> {
        if let Some(batch) = self.batches.recv().await {
            return Ok(Some(batch));
        }
        match self.reader.take() {
            Some(reader) => reader.await.map_err(|cause| CliError::Outcome(cause.to_string()))?.map(|_| None),
            None => Ok(None),
        }
    }
}

/// Runs what reads files off the thread that talks to the server.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    task::spawn_blocking(work).await.map_err(|cause| CliError::Outcome(cause.to_string()))?
}

/// Reads the file and hands it on in batches, as fast as they are taken.
fn send<L: Listed>(
    mut source: Source,
    weight: fn(&L::Item) -> usize,
    batches: &mpsc::Sender<Batch<L::Item>>,
) -> Result<usize, CliError> {
    let mut batch = Batch { first: 1, items: Vec::new() };
    let mut bytes = 0_usize;
    let read = source.read::<L>(|number, item| {
        let size = weight(&item);
        let full = batch.items.len() >= BATCH || bytes.saturating_add(size) > BATCH_BYTES;
        let mut wanted = true;
        if full && !batch.items.is_empty() {
            let next = Batch { first: number, items: Vec::new() };
            wanted = batches.blocking_send(std::mem::replace(&mut batch, next)).is_ok();
            bytes = 0;
        }
        bytes = bytes.saturating_add(size);
        batch.items.push(item);
        wanted
    })?;
    if !batch.items.is_empty() {
        // A receiver that is gone has its reasons.
        drop(batches.blocking_send(batch));
    }
    Ok(read)
}
