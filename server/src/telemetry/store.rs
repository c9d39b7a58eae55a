//! `datastore.<object>.<verb>`: every call of the datastore, under SPIRE's names. Calls that SPIRE's datastore does not have
//! (versions, attestors' records, enrolments) are passed on uncounted.

use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_node_attestors::{Enrolment, NodeRecord};
use hardroot_telemetry::Call;
use tokio::sync::watch;

use crate::datastore::*;

/// A datastore whose calls are counted and timed.
#[derive(Debug, Clone)]
pub struct Metered<S>(pub S);

/// The status that SPIRE's datastore would give such an error.
fn status(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound { .. } | StoreError::NoFederatedBundle { .. } => "NotFound",
        StoreError::Exists { .. } => "AlreadyExists",
        StoreError::Conflict { .. } => "Aborted",
        StoreError::Banned { .. } => "PermissionDenied",
        StoreError::Invalid { .. } | StoreError::PageToken { .. } => "InvalidArgument",
        StoreError::InUse { .. } => "FailedPrecondition",
        StoreError::Away { .. } | StoreError::NoRoom { .. } => "Unavailable",
        _ => "Unknown",
    }
}

fn end<T>(call: Call, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    call.done(outcome.as_ref().err().map_or("OK", status));
    outcome
}

#[async_trait]
impl<S: Entries> Entries for Metered<S> {
    async fn create_entry(&self, entry: Entry) -> Result<(Entry, bool), StoreError> {
        end(Call::start("datastore.registration_entry.create"), Entries::create_entry(&self.0, entry).await)
    }

    async fn create_entries(&self, entries: Vec<Entry>) -> Vec<Result<(Entry, bool), StoreError>> {
        let create = |_: &Entry| Call::start("datastore.registration_entry.create");
        let calls: Vec<Call> = entries.iter().map(create).collect();
        let outcomes = Entries::create_entries(&self.0, entries).await;
        calls.into_iter().zip(outcomes).map(|(call, outcome)| end(call, outcome)).collect()
    }

    async fn entry(&self, id: &str) -> Result<Option<Entry>, StoreError> {
        end(Call::start("datastore.registration_entry.fetch"), Entries::entry(&self.0, id).await)
    }

    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: &Page,
    ) -> Result<(Vec<Entry>, String), StoreError> {
        end(
            Call::start("datastore.registration_entry.list"),
            Entries::list_entries(&self.0, filter, page).await,
        )
    }

    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        end(Call::start("datastore.registration_entry.count"), Entries::count_entries(&self.0, filter).await)
    }

    async fn update_entry(&self, entry: Entry, mask: &EntryMask) -> Result<Entry, StoreError> {
        end(
            Call::start("datastore.registration_entry.update"),
            Entries::update_entry(&self.0, entry, mask).await,
        )
    }

    async fn delete_entry(&self, id: &str) -> Result<(), StoreError> {
        end(Call::start("datastore.registration_entry.delete"), Entries::delete_entry(&self.0, id).await)
    }

    async fn prune_entries(&self, now: SystemTime) -> Result<Vec<String>, StoreError> {
        end(Call::start("datastore.registration_entry.prune"), Entries::prune_entries(&self.0, now).await)
    }

    async fn entries_version(&self) -> Result<i64, StoreError> {
        Entries::entries_version(&self.0).await
    }

    async fn changes_since(&self, seen: i64) -> Result<Changes, StoreError> {
        end(
            Call::start("datastore.registration_entry_event.list"),
            Entries::changes_since(&self.0, seen).await,
        )
    }

    async fn snapshot(&self, reader: &mut dyn SnapshotReader, connections: usize) -> Result<(), StoreError> {
        let call = Call::start("datastore.registration_entry.list");
        end(call, Entries::snapshot(&self.0, reader, connections).await)
    }

    fn subscribe(&self) -> watch::Receiver<i64> {
        Entries::subscribe(&self.0)
    }
}

#[async_trait]
impl<S: Nodes> Nodes for Metered<S> {
    async fn attested(&self, node: Node, record: Option<NodeRecord>) -> Result<(), StoreError> {
        end(Call::start("datastore.node.create"), Nodes::attested(&self.0, node, record).await)
    }

    async fn node(&self, id: &SpiffeId) -> Result<Option<Node>, StoreError> {
        end(Call::start("datastore.node.fetch"), Nodes::node(&self.0, id).await)
    }

    async fn list_nodes(&self, filter: &NodeFilter, page: &Page) -> Result<(Vec<Node>, String), StoreError> {
        end(Call::start("datastore.node.list"), Nodes::list_nodes(&self.0, filter, page).await)
    }

    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        end(Call::start("datastore.node.count"), Nodes::count_nodes(&self.0, filter).await)
    }

    async fn node_renewed(
        &self,
        id: &SpiffeId,
        current: &str,
        serial: &str,
        expires: SystemTime,
    ) -> Result<(), StoreError> {
        end(
            Call::start("datastore.node.update"),
            Nodes::node_renewed(&self.0, id, current, serial, expires).await,
        )
    }

    async fn promote_serial(&self, id: &SpiffeId, serial: &str) -> Result<(), StoreError> {
        end(Call::start("datastore.node.update"), Nodes::promote_serial(&self.0, id, serial).await)
    }

    async fn ban_node(&self, id: &SpiffeId) -> Result<(), StoreError> {
        end(Call::start("datastore.node.update"), Nodes::ban_node(&self.0, id).await)
    }

    async fn delete_node(&self, id: &SpiffeId) -> Result<(), StoreError> {
        end(Call::start("datastore.node.delete"), Nodes::delete_node(&self.0, id).await)
    }

    async fn prune_nodes(
        &self,
        ended_before: SystemTime,
        and_tofu: bool,
        batch: u32,
    ) -> Result<Vec<SpiffeId>, StoreError> {
        let call = Call::start("datastore.node.delete");
        end(call, Nodes::prune_nodes(&self.0, ended_before, and_tofu, batch).await)
    }

    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        end(Call::start("datastore.node.update"), Nodes::set_agent_version(&self.0, id, version).await)
    }

    async fn node_record(&self, attestor: &str, key: &str) -> Result<Option<NodeRecord>, StoreError> {
        Nodes::node_record(&self.0, attestor, key).await
    }
}

#[async_trait]
impl<S: JoinTokens> JoinTokens for Metered<S> {
    async fn create_join_token(&self, token: &JoinToken) -> Result<(), StoreError> {
        end(Call::start("datastore.join_token.create"), JoinTokens::create_join_token(&self.0, token).await)
    }

    async fn create_join_token_with_entry(&self, token: &JoinToken, entry: Entry) -> Result<(), StoreError> {
        end(
            Call::start("datastore.join_token.create"),
            JoinTokens::create_join_token_with_entry(&self.0, token, entry).await,
        )
    }

    async fn redeem_join_token(
        &self,
        token: &str,
        key: &str,
        now: SystemTime,
    ) -> Result<Redeemed, StoreError> {
        end(
            Call::start("datastore.join_token.delete"),
            JoinTokens::redeem_join_token(&self.0, token, key, now).await,
        )
    }

    async fn prune_join_tokens(&self, now: SystemTime) -> Result<u64, StoreError> {
        end(Call::start("datastore.join_token.prune"), JoinTokens::prune_join_tokens(&self.0, now).await)
    }
}

#[async_trait]
impl<S: Bundles> Bundles for Metered<S> {
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<(Vec<u8>, i64)>, StoreError> {
        end(Call::start("datastore.bundle.fetch"), Bundles::bundle(&self.0, trust_domain).await)
    }

    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        data: &[u8],
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        end(
            Call::start("datastore.bundle.set"),
            Bundles::put_bundle(&self.0, trust_domain, data, expected).await,
        )
    }

    async fn list_bundles(&self) -> Result<Vec<(TrustDomain, Vec<u8>)>, StoreError> {
        end(Call::start("datastore.bundle.list"), Bundles::list_bundles(&self.0).await)
    }

    async fn delete_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError> {
        end(Call::start("datastore.bundle.delete"), Bundles::delete_bundle(&self.0, trust_domain, mode).await)
    }
}

#[async_trait]
impl<S: FederationRelationships> FederationRelationships for Metered<S> {
    async fn create_relationship(
        &self,
        relationship: &FederationRelationship,
        bundle: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        end(
            Call::start("datastore.federation_relationship.create"),
            FederationRelationships::create_relationship(&self.0, relationship, bundle).await,
        )
    }

    async fn relationship(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<(FederationRelationship, Option<Vec<u8>>)>, StoreError> {
        end(
            Call::start("datastore.federation_relationship.fetch"),
            FederationRelationships::relationship(&self.0, trust_domain).await,
        )
    }

    async fn list_relationships(
        &self,
        page: &Page,
    ) -> Result<(Vec<(FederationRelationship, Option<Vec<u8>>)>, String), StoreError> {
        end(
            Call::start("datastore.federation_relationship.list"),
            FederationRelationships::list_relationships(&self.0, page).await,
        )
    }

    async fn update_relationship(
        &self,
        relationship: &FederationRelationship,
        mask: RelationshipMask,
        bundle: Option<&[u8]>,
    ) -> Result<(FederationRelationship, Option<Vec<u8>>), StoreError> {
        end(
            Call::start("datastore.federation_relationship.update"),
            FederationRelationships::update_relationship(&self.0, relationship, mask, bundle).await,
        )
    }

    async fn delete_relationship(&self, trust_domain: &TrustDomain) -> Result<(), StoreError> {
        end(
            Call::start("datastore.federation_relationship.delete"),
            FederationRelationships::delete_relationship(&self.0, trust_domain).await,
        )
    }
}

#[async_trait]
impl<S: Journals> Journals for Metered<S> {
    async fn find_journal(&self, authority_ids: &[String]) -> Result<Option<StoredJournal>, StoreError> {
        end(Call::start("datastore.ca_journal.fetch"), Journals::find_journal(&self.0, authority_ids).await)
    }

    async fn put_journal(
        &self,
        before: Option<&StoredJournal>,
        data: &[u8],
        active_x509_authority_id: &str,
    ) -> Result<i64, StoreError> {
        end(
            Call::start("datastore.ca_journal.set"),
            Journals::put_journal(&self.0, before, data, active_x509_authority_id).await,
        )
    }
}

#[async_trait]
impl<S: KeyRecords> KeyRecords for Metered<S> {
    async fn take_lease(
        &self,
        lease: &Lease,
        replacing: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<Lease>, StoreError> {
        KeyRecords::take_lease(&self.0, lease, replacing, now).await
    }

    async fn release_lease(&self, instance: &str, nonce: &str) -> Result<(), StoreError> {
        KeyRecords::release_lease(&self.0, instance, nonce).await
    }

    async fn intend_key(&self, record: &KeyRecord) -> Result<i64, StoreError> {
        KeyRecords::intend_key(&self.0, record).await
    }

    async fn key_made(&self, row: i64, spki_sha256: &str) -> Result<(), StoreError> {
        KeyRecords::key_made(&self.0, row, spki_sha256).await
    }

    async fn key_retired(&self, instance: &str, key_id: &str) -> Result<(), StoreError> {
        KeyRecords::key_retired(&self.0, instance, key_id).await
    }

    async fn key_records(&self, instance: &str) -> Result<Vec<KeyRecord>, StoreError> {
        KeyRecords::key_records(&self.0, instance).await
    }

    async fn prune_key_records(&self, before: SystemTime) -> Result<(), StoreError> {
        KeyRecords::prune_key_records(&self.0, before).await
    }
}

#[async_trait]
impl<S: TpmEnrolments> TpmEnrolments for Metered<S> {
    async fn enrol(&self, enrolment: &Enrolment, now: SystemTime) -> Result<StoredEnrolment, StoreError> {
        TpmEnrolments::enrol(&self.0, enrolment, now).await
    }

    async fn enrolment(&self, ek_hash: &str) -> Result<Option<StoredEnrolment>, StoreError> {
        TpmEnrolments::enrolment(&self.0, ek_hash).await
    }

    async fn list_enrolments(&self) -> Result<Vec<StoredEnrolment>, StoreError> {
        TpmEnrolments::list_enrolments(&self.0).await
    }

    async fn remove_enrolment(&self, ek_hash: &str) -> Result<(), StoreError> {
        TpmEnrolments::remove_enrolment(&self.0, ek_hash).await
    }
}

#[cfg(test)]
mod tests {
    use hardroot_telemetry::testing::Local;

    use super::*;

    #[tokio::test]
    async fn calls_are_counted_by_object_verb_and_status() {
        let local = Local::new();
        let folder = tempfile::tempdir().unwrap();
        let store = Metered(SqlStore::open_file(folder.path().join("db")).await.unwrap());
        assert!(Entries::entry(&store, "nobody").await.unwrap().is_none());
        Entries::delete_entry(&store, "nobody").await.unwrap_err();
        Entries::entries_version(&store).await.unwrap();
        let id: SpiffeId = "spiffe://example.org/agent".parse().unwrap();
        Nodes::ban_node(&store, &id).await.unwrap_err();
        for (name, value) in [
            ("spire_server_datastore_registration_entry_fetch{status=\"OK\"}", 1.0),
            ("spire_server_datastore_registration_entry_delete{status=\"NotFound\"}", 1.0),
            ("spire_server_datastore_registration_entry_delete_elapsed_time_count{status=\"NotFound\"}", 1.0),
            ("spire_server_datastore_node_update{status=\"NotFound\"}", 1.0),
        ] {
            assert_eq!(local.value(name), Some(value), "{name} in\n{}", local.render());
        }
    }
}
