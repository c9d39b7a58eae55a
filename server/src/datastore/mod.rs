//! The datastore, split by noun. One implementation, [`SqlStore`], on SQLite (a file), PostgreSQL, MySQL and MariaDB.
//!
//! Every write that belongs together is one call and one transaction.

mod error;
mod model;
mod query;
mod rules;
mod sql;

/// Reading another program's database with the same layer.
pub(crate) mod raw {
    pub(crate) use super::sql::{Engine, Pools, Row, Session, sql};
}
#[cfg(test)]
pub(crate) use sql::tests as sql_tests;

use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_node_attestors::{Enrolment, NodeRecord};
use tokio::sync::watch;

pub use error::StoreError;
pub use hardroot_node_attestors::join_token::Redeemed;
pub use model::{
    BundleEndpointProfile, Entry, FederationRelationship, JoinToken, KeyRecord, KeyState, Lease, Node,
};
pub use query::{
    Change, Changes, DeleteMode, EntryFilter, EntryMask, Match, NodeFilter, Page, RelationshipMask,
    SnapshotReader,
};
pub use sql::{
    APPLICATION_ID, Administration, Archived, DatabaseConfig, Endpoint, Engine, Host, OUTAGE_STALENESS,
    Place, Pooling, Progress, SCHEMA_VERSION, ServerDatabase, SqlStore, Status, Tls,
};

/// Registration entries.
#[async_trait]
pub trait Entries: Send + Sync {
    /// Stores a new entry, or returns the similar one (same SPIFFE ID, parent and selector set) and `true`.
    /// An empty id is replaced by a new UUID; the revision begins at 0.
    async fn create_entry(&self, entry: Entry) -> Result<(Entry, bool), StoreError>;
    /// Stores new entries, each as [`Self::create_entry`] does, and tells of each in their order. Many of them share
    /// a transaction: when the server dies, some lots of them are there and the others are not.
    async fn create_entries(&self, entries: Vec<Entry>) -> Vec<Result<(Entry, bool), StoreError>>;
    /// One entry.
    async fn entry(&self, id: &str) -> Result<Option<Entry>, StoreError>;
    /// A page of entries in order of creation, and the token of the next page (empty at the end).
    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: &Page,
    ) -> Result<(Vec<Entry>, String), StoreError>;
    /// How many match.
    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError>;
    /// Replaces the masked fields; the revision grows by one.
    async fn update_entry(&self, entry: Entry, mask: &EntryMask) -> Result<Entry, StoreError>;
    /// Removes an entry, also one whose row is damaged.
    async fn delete_entry(&self, id: &str) -> Result<(), StoreError>;
    /// Removes what expired before `now`; returns the ids of what went.
    async fn prune_entries(&self, now: SystemTime) -> Result<Vec<String>, StoreError>;
    /// A number that grows whenever any entry, node or bundle changes: cheap to ask, so that caches know.
    async fn entries_version(&self) -> Result<i64, StoreError>;
    /// What changed after the version `seen`. One cheap query when that is nothing.
    async fn changes_since(&self, seen: i64) -> Result<Changes, StoreError>;
    /// Hands every entry and every node to `reader`, in no order, never holding more than some thousands. Up to
    /// `connections` of them read at once. With one, all is as of one moment, which is that of the version; with more,
    /// each row is as it was then or later, and what differs from then is in [`Self::changes_since`] the version.
    async fn snapshot(&self, reader: &mut dyn SnapshotReader, connections: usize) -> Result<(), StoreError>;
    /// Wakes whoever waits, after each commit of this process that changed the version.
    fn subscribe(&self) -> watch::Receiver<i64>;
}

/// Attested nodes.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Creates or replaces a node after attestation: serial, expiry, selectors and the attestor's record in
    /// one transaction. A pending new serial is cleared. [`StoreError::Banned`] for a banned node.
    async fn attested(&self, node: Node, record: Option<NodeRecord>) -> Result<(), StoreError>;
    /// One node.
    async fn node(&self, id: &SpiffeId) -> Result<Option<Node>, StoreError>;
    /// A page of nodes and the token of the next page.
    async fn list_nodes(&self, filter: &NodeFilter, page: &Page) -> Result<(Vec<Node>, String), StoreError>;
    /// How many match.
    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError>;
    /// Stores a renewed serial beside the current one, which must still be `current`; both are valid until the
    /// new one is used. [`StoreError::Banned`] when the agent is banned, [`StoreError::Conflict`] when another
    /// serial is the current one now.
    async fn node_renewed(
        &self,
        id: &SpiffeId,
        current: &str,
        serial: &str,
        expires: SystemTime,
    ) -> Result<(), StoreError>;
    /// The new serial was used: it becomes the current one. Nothing happens if it is not pending any more.
    async fn promote_serial(&self, id: &SpiffeId, serial: &str) -> Result<(), StoreError>;
    /// Blanks the serials.
    async fn ban_node(&self, id: &SpiffeId) -> Result<(), StoreError>;
    /// Removes the node, its selectors, its records, and for `join_token` the token (an evicted node cannot
    /// come back with it) and the entry that `CreateJoinToken` made beside it.
    async fn delete_node(&self, id: &SpiffeId) -> Result<(), StoreError>;
    /// Removes up to `batch` agents whose SVIDs all ended before `ended_before`, as [`Self::delete_node`] does;
    /// returns their IDs. Banned agents stay, or they could come back; agents that cannot attest again go only
    /// with `and_tofu`, for they are lost then.
    async fn prune_nodes(
        &self,
        ended_before: SystemTime,
        and_tofu: bool,
        batch: u32,
    ) -> Result<Vec<SpiffeId>, StoreError>;
    /// The version the agent reported.
    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError>;
    /// What an attestor recorded.
    async fn node_record(&self, attestor: &str, key: &str) -> Result<Option<NodeRecord>, StoreError>;
}

/// Join tokens.
#[async_trait]
pub trait JoinTokens: Send + Sync {
    /// Stores a token.
    async fn create_join_token(&self, token: &JoinToken) -> Result<(), StoreError>;
    /// Stores a token and the entry for its owner, or neither.
    async fn create_join_token_with_entry(&self, token: &JoinToken, entry: Entry) -> Result<(), StoreError>;
    /// Binds a token to the SHA-256 (hex) of the CSR's public key, in one transaction, and says how it went.
    async fn redeem_join_token(
        &self,
        token: &str,
        key: &str,
        now: SystemTime,
    ) -> Result<Redeemed, StoreError>;
    /// Removes tokens that ended before `now`.
    async fn prune_join_tokens(&self, now: SystemTime) -> Result<u64, StoreError>;
}

/// Bundles: our own and federated ones. The stored form is `spire.common.Bundle` (spire-map 2.5), kept
/// opaque here; `revision` guards against lost updates.
#[async_trait]
pub trait Bundles: Send + Sync {
    /// A bundle and its row revision.
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<(Vec<u8>, i64)>, StoreError>;
    /// Writes a bundle if its row is still at `expected` (`None`: must not exist yet); returns the new one.
    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        data: &[u8],
        expected: Option<i64>,
    ) -> Result<i64, StoreError>;
    /// Every bundle, by trust domain.
    async fn list_bundles(&self) -> Result<Vec<(TrustDomain, Vec<u8>)>, StoreError>;
    /// Removes a bundle; `mode` says what becomes of the entries that federate with it.
    async fn delete_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError>;
}

/// Where the bundles of foreign trust domains come from (spire-map 1.3, `TrustDomain`).
#[async_trait]
pub trait FederationRelationships: Send + Sync {
    /// Stores a relationship, and `bundle` (stored form, as in [`Bundles`]) over what is there for its trust
    /// domain, or neither. [`StoreError::Exists`] if there is one with that trust domain.
    async fn create_relationship(
        &self,
        relationship: &FederationRelationship,
        bundle: Option<&[u8]>,
    ) -> Result<(), StoreError>;
    /// One relationship, and the stored bundle of its trust domain.
    async fn relationship(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<(FederationRelationship, Option<Vec<u8>>)>, StoreError>;
    /// A page of relationships in order of creation, each with its bundle, and the token of the next page
    /// (empty at the end).
    async fn list_relationships(
        &self,
        page: &Page,
    ) -> Result<(Vec<(FederationRelationship, Option<Vec<u8>>)>, String), StoreError>;
    /// Replaces the masked fields, and `bundle` over what is there for its trust domain, in one transaction.
    /// Returns what is stored then. [`StoreError::NotFound`] changes nothing, not the bundle either.
    async fn update_relationship(
        &self,
        relationship: &FederationRelationship,
        mask: RelationshipMask,
        bundle: Option<&[u8]>,
    ) -> Result<(FederationRelationship, Option<Vec<u8>>), StoreError>;
    /// Removes a relationship. Its bundle stays.
    async fn delete_relationship(&self, trust_domain: &TrustDomain) -> Result<(), StoreError>;
}

/// An authority journal as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredJournal {
    /// Its row.
    pub row: i64,
    /// `spire.server.journal.Entries`.
    pub data: Vec<u8>,
}

/// Authority journals, one per server; found by the id of the active X.509 authority (its key).
#[async_trait]
pub trait Journals: Send + Sync {
    /// The journal whose active X.509 authority is one of `authority_ids`.
    async fn find_journal(&self, authority_ids: &[String]) -> Result<Option<StoredJournal>, StoreError>;
    /// Stores a journal over `before`, which is `None` for a new one; returns its row.
    ///
    /// [`StoreError::Conflict`] when the row is there and does not hold what `before` says: somebody else wrote.
    /// [`StoreError::NotFound`] when it is not there.
    async fn put_journal(
        &self,
        before: Option<&StoredJournal>,
        data: &[u8],
        active_x509_authority_id: &str,
    ) -> Result<i64, StoreError>;
}

/// A stored enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEnrolment {
    /// The enrolment.
    pub enrolment: Enrolment,
    /// When it was made.
    pub created_at: SystemTime,
}

/// TPM enrolments.
#[async_trait]
pub trait TpmEnrolments: Send + Sync {
    /// Stores an enrolment. EK hash and agent path are each unique.
    async fn enrol(&self, enrolment: &Enrolment, now: SystemTime) -> Result<StoredEnrolment, StoreError>;
    /// One enrolment.
    async fn enrolment(&self, ek_hash: &str) -> Result<Option<StoredEnrolment>, StoreError>;
    /// All enrolments, oldest first.
    async fn list_enrolments(&self) -> Result<Vec<StoredEnrolment>, StoreError>;
    /// Removes an enrolment.
    async fn remove_enrolment(&self, ek_hash: &str) -> Result<(), StoreError>;
}

/// Server instances: who is one now, and which keys each made.
#[async_trait]
pub trait KeyRecords: Send + Sync {
    /// Takes or renews the lease of an instance, in one transaction: when nobody holds it, when it ended by
    /// `now`, when this process (its nonce) holds it, or when the holder's nonce is `replacing`. Otherwise
    /// returns the lease that holds.
    async fn take_lease(
        &self,
        lease: &Lease,
        replacing: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<Lease>, StoreError>;
    /// Gives a lease back; nothing happens if another process holds it.
    async fn release_lease(&self, instance: &str, nonce: &str) -> Result<(), StoreError>;
    /// Writes down, before a key is made, that it will be; returns the record's row. State and hash of
    /// `record` are not looked at.
    async fn intend_key(&self, record: &KeyRecord) -> Result<i64, StoreError>;
    /// The key of that row was made: it is present, and every other record of its key id is retired.
    async fn key_made(&self, row: i64, spki_sha256: &str) -> Result<(), StoreError>;
    /// The key of that id was destroyed.
    async fn key_retired(&self, instance: &str, key_id: &str) -> Result<(), StoreError>;
    /// Every record of an instance, oldest first.
    async fn key_records(&self, instance: &str) -> Result<Vec<KeyRecord>, StoreError>;
    /// Forgets retired keys that were made, and leases that ended, before `before`.
    async fn prune_key_records(&self, before: SystemTime) -> Result<(), StoreError>;
}

/// The whole datastore.
pub trait Datastore:
    Entries + Nodes + JoinTokens + Bundles + FederationRelationships + Journals + TpmEnrolments + KeyRecords
{
}
impl<
    T: Entries + Nodes + JoinTokens + Bundles + FederationRelationships + Journals + TpmEnrolments + KeyRecords,
> Datastore for T
{
}
