//! `GetAuthorizedEntries`: the whole set each time.

use hardroot_api::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;

use super::{Connection, EntrySync, Known, MASK, Pace};
use crate::error::CallError;
use crate::target::{MAX_MESSAGE, Target};

pub(super) struct GetAuthorizedEntries;

#[async_trait::async_trait]
impl EntrySync for GetAuthorizedEntries {
    fn pace(&self) -> Pace {
        Pace::Polled
    }

    async fn round(
        &mut self,
        target: &Target,
        connection: Connection,
        known: &mut Known,
    ) -> Result<(), CallError> {
        let request = target.request(GetAuthorizedEntriesRequest { output_mask: Some(MASK) });
        let mut client = EntryClient::new(connection.channel).max_decoding_message_size(MAX_MESSAGE);
        let answer = client
            .get_authorized_entries(request)
            .await
            .map_err(CallError::of("GetAuthorizedEntries"))?
            .into_inner();
        known.entries = answer
            .entries
            .into_iter()
            .map(|entry| (entry.id, (entry.revision_number, entry.created_at)))
            .collect();
        Ok(())
    }
}
