//! What `create`, `update` and `delete` send, and how they tell what became of an item.

use hardroot_api::spire::api::server::entry::v1 as wire;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_api::spire::api::types;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::bulk::{Reason, Task};
use super::print::entry_lines;
use crate::cli::Screen;

/// What `create` and `update` have in common: they send entries, and an item of the answer holds one.
pub(super) trait OfEntries {
    /// The item's part of the answer.
    type Result: EntryResult;
    const VERB: &'static str;
    const DONE: &'static str;
    const RESULT: &'static str;
    const REPEATED: (Code, &'static str);

    async fn send(
        client: &mut EntryClient<Channel>,
        entries: Vec<types::Entry>,
    ) -> Result<Vec<Self::Result>, Status>;
}

/// The parts of an item of an answer.
pub(super) trait EntryResult: prost::Message {
    fn status(&self) -> Option<&types::Status>;
    fn entry(&self) -> Option<&types::Entry>;
    fn put(&mut self, entry: types::Entry);
}

macro_rules! entry_result {
    ($($result:ty),*) => {
        $(impl EntryResult for $result {
            fn status(&self) -> Option<&types::Status> {
                self.status.as_ref()
            }

            fn entry(&self) -> Option<&types::Entry> {
                self.entry.as_ref()
            }

            fn put(&mut self, entry: types::Entry) {
                self.entry = Some(entry);
            }
        })*
    };
}
entry_result!(wire::batch_create_entry_response::Result, wire::batch_update_entry_response::Result);

impl<T: OfEntries> Task for T {
    type Item = types::Entry;
    type Result = <T as OfEntries>::Result;
    const VERB: &'static str = <T as OfEntries>::VERB;
    const DONE: &'static str = <T as OfEntries>::DONE;
    const RESULT: &'static str = <T as OfEntries>::RESULT;
    const REPEATED: (Code, &'static str) = <T as OfEntries>::REPEATED;

    async fn send(
        client: &mut EntryClient<Channel>,
        entries: Vec<types::Entry>,
    ) -> Result<Vec<Self::Result>, Status> {
        <T as OfEntries>::send(client, entries).await
    }

    fn status(result: &Self::Result) -> Option<&types::Status> {
        result.status()
    }

    fn complete(result: &mut Self::Result, asked: Self::Item) {
        result.put(asked);
    }

    fn tell(result: &Self::Result, screen: &mut Screen) {
        entry_lines(result.entry().unwrap_or(&types::Entry::default()), |line| screen.line(line));
    }

    fn tell_failure(result: &Self::Result, reason: &Reason<'_>, number: Option<usize>, screen: &mut Screen) {
        screen.err_line(format!(
            "Failed to {} the following entry (code: {}, msg: {:?}):",
            <T as OfEntries>::VERB,
            reason.code,
            reason.text
        ));
        if let Some(number) = number {
            screen.err_line(format!("{:<24}: {number}", "Item"));
        }
        entry_lines(result.entry().unwrap_or(&types::Entry::default()), |line| screen.err_line(line));
    }
}

/// `entry create`.
pub(super) struct Creating;

impl OfEntries for Creating {
    type Result = wire::batch_create_entry_response::Result;
    const VERB: &'static str = "create";
    const DONE: &'static str = "created";
    const RESULT: &'static str = "spire.api.server.entry.v1.BatchCreateEntryResponse.Result";
    const REPEATED: (Code, &'static str) = (Code::AlreadyExists, "exist already");

    async fn send(
        client: &mut EntryClient<Channel>,
        entries: Vec<types::Entry>,
    ) -> Result<Vec<Self::Result>, Status> {
        let request = wire::BatchCreateEntryRequest { entries, output_mask: None };
        Ok(client.batch_create_entry(request).await?.into_inner().results)
    }
}

/// `entry update`.
pub(super) struct Updating;

impl OfEntries for Updating {
    type Result = wire::batch_update_entry_response::Result;
    const VERB: &'static str = "update";
    const DONE: &'static str = "updated";
    const RESULT: &'static str = "spire.api.server.entry.v1.BatchUpdateEntryResponse.Result";
    // An update that is repeated is done once more.
    const REPEATED: (Code, &'static str) = (Code::Ok, "");

    async fn send(
        client: &mut EntryClient<Channel>,
        entries: Vec<types::Entry>,
    ) -> Result<Vec<Self::Result>, Status> {
        let request = wire::BatchUpdateEntryRequest { entries, input_mask: None, output_mask: None };
        Ok(client.batch_update_entry(request).await?.into_inner().results)
    }
}

/// `entry delete`.
pub(super) struct Deleting;

impl Task for Deleting {
    type Item = String;
    type Result = wire::batch_delete_entry_response::Result;
    const VERB: &'static str = "delete";
    const DONE: &'static str = "deleted";
    const RESULT: &'static str = "spire.api.server.entry.v1.BatchDeleteEntryResponse.Result";
    const REPEATED: (Code, &'static str) = (Code::NotFound, "not found");

    async fn send(
        client: &mut EntryClient<Channel>,
        ids: Vec<Self::Item>,
    ) -> Result<Vec<Self::Result>, Status> {
        Ok(client.batch_delete_entry(wire::BatchDeleteEntryRequest { ids }).await?.into_inner().results)
    }

    fn status(result: &Self::Result) -> Option<&types::Status> {
        result.status.as_ref()
    }

    fn complete(result: &mut Self::Result, asked: Self::Item) {
        result.id = asked;
    }

    fn tell(result: &Self::Result, screen: &mut Screen) {
        screen.line(format!("Deleted entry with ID: {}", result.id));
    }

    fn tell_failure(result: &Self::Result, reason: &Reason<'_>, number: Option<usize>, screen: &mut Screen) {
        let item = number.map(|number| format!(", item {number}")).unwrap_or_default();
        screen.err_line(format!(
            "Failed to delete entry with ID {} (code: {}, msg: {:?}){item}",
            result.id, reason.code, reason.text
        ));
    }

    fn tell_end(done: usize, failed: usize, screen: &mut Screen) {
        if done > 0 {
            screen.text("\n\n");
        }
        if failed > 0 {
            screen.text("\n\n");
        }
        match failed {
            0 => screen.line(format!("Deleted {done} entries successfully")),
            failed if done == 0 => screen.line(format!("Failed to delete {failed} entries")),
            failed => screen
                .line(format!("Deleted {done} entries successfully, but failed to delete {failed} entries")),
        }
    }
}
