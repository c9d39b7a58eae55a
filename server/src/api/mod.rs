//! The gRPC services: reading requests, asking the datastore, answering with SPIRE's codes and texts.
//!
//! Handlers never judge who calls: authorisation is in front of them and tells it in the request's
//! extensions ([`crate::authz::Caller`]).

pub mod agent;
pub mod bundle;
mod convert;
pub mod debug;
pub mod entry;
mod faults;
pub mod logger;
pub mod svid;
pub mod sync;
#[cfg(test)]
pub(crate) mod testing;
pub mod tpm;
pub mod trustdomain;

use std::time::Duration;

use tonic::{Request, Status};

use crate::audit::Record;
use crate::endpoints::asked_timeout;

pub(crate) use bundle::bundle_message;
pub(crate) use convert::{entry_message, go_text, spiffe_id};
pub(crate) use faults::busy;

/// The call's audit record.
fn record<T>(request: &Request<T>) -> Option<Record> {
    request.extensions().get::<Record>().cloned()
}

/// How long the caller says that it waits (`grpc-timeout`).
fn patience<T>(request: &Request<T>) -> Option<Duration> {
    asked_timeout(request.metadata().as_ref().get("grpc-timeout"))
}

/// Items that a batch may have. A message of 4 MiB can name millions of empty ones, each with an answer.
const MAX_BATCH: usize = 100_000;
/// After so many items of a batch other calls get their turn on the thread.
const TURN: usize = 64;

/// Goes through a batch of a bounded size, without holding up other calls.
struct Batch {
    done: usize,
}

impl Batch {
    /// From here on the handler answers for the call's audit lines: one for each item.
    ///
    /// # Errors
    /// `ResourceExhausted` for more than 100,000 items.
    fn of(record: Option<&Record>, items: usize) -> Result<Self, Status> {
        if items > MAX_BATCH {
            return Err(Status::resource_exhausted(format!(
                "the batch has {items} items, at most {MAX_BATCH} are taken; send several"
            )));
        }
        if let Some(record) = record {
            record.by_handler();
        }
        Ok(Self { done: 0 })
    }

    /// One item is done.
    async fn step(&mut self) {
        self.done = self.done.saturating_add(1);
        if self.done.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

/// Adds a fact to the call's audit record.
fn note<T>(request: &Request<T>, name: &'static str, value: &str) {
    if let Some(record) = request.extensions().get::<Record>() {
        record.add(name, value);
    }
}
