//! The datastore, split by noun. One implementation, [`sqlite`], one file on disk.
//!
//! Every write that belongs together is one call and one transaction.

mod model;
mod rules;
pub mod sqlite;

use std::time::SystemTime;

use async_trait::async_trait;
use hardroot_identity::{Selector, SpiffeId, TrustDomain};
use hardroot_node_attestors::{Enrolment, NodeRecord};
use tokio::sync::watch;

pub use hardroot_node_attestors::join_token::Redeemed;
pub use model::{Entry, JoinToken, Node};
pub use sqlite::SqliteStore;

/// Why the datastore refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing under that key.
    #[error("{what} {key} not found")]
    NotFound {
        /// The noun: `entry`, `agent`, `bundle`, `join token`, `TPM enrolment`.
        what: &'static str,
        /// The key asked for.
        key: String,
    },
    /// Something is there already.
    #[error("{what} {key} already exists")]
    Exists {
        /// The noun.
        what: &'static str,
        /// The key.
        key: String,
    },
    /// Another writer was faster; read again and retry.
    #[error("{what} {key} was changed by somebody else meanwhile")]
    Conflict {
        /// The noun.
        what: &'static str,
        /// The key.
        key: String,
    },
    /// The request breaks a rule of the store (for example a federated bundle that does not exist).
    #[error("{reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// A row that cannot be read: refused, never guessed.
    #[error("{what} {key} is damaged in the database: {reason}; restore it from a backup or delete it")]
    Damaged {
        /// The noun.
        what: &'static str,
        /// The key.
        key: String,
        /// What does not parse.
        reason: String,
    },
    /// An entry names a foreign trust domain whose bundle is not stored.
    #[error("unable to find federated bundle \"{}\"", .trust_domain.id())]
    NoFederatedBundle {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// The bundle is named by entries.
    #[error("cannot delete bundle; federated with {entries} registration entries")]
    InUse {
        /// How many entries.
        entries: u64,
    },
    /// The file is a database, but not one of ours.
    #[error("the database was not made by Hardroot; name another file in connection_string")]
    Foreign,
    /// The database was made by a newer Hardroot.
    #[error("the database has schema {found}, this server knows {known}; run the newer hardroot-server")]
    NewerSchema {
        /// Schema version found.
        found: i64,
        /// Highest version known here.
        known: i64,
    },
    /// The database failed.
    #[error("database: {op} failed")]
    Database {
        /// The operation.
        op: &'static str,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How a set filter matches (spire-api `SelectorMatch.MatchBehavior`, `FederatesWithMatch.MatchBehavior`).
/// A row with an empty set matches nothing, as in SPIRE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The same set.
    Exact,
    /// The entry's set is within the given one.
    Subset,
    /// The entry's set contains the given one.
    Superset,
    /// The sets intersect.
    Any,
}

/// Which entries to list or count; `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct EntryFilter {
    /// This identity.
    pub spiffe_id: Option<SpiffeId>,
    /// This parent.
    pub parent_id: Option<SpiffeId>,
    /// Selectors.
    pub selectors: Option<(Vec<Selector>, Match)>,
    /// Foreign trust domains.
    pub federates_with: Option<(Vec<TrustDomain>, Match)>,
    /// This hint.
    pub hint: Option<String>,
    /// Downstream or not.
    pub downstream: Option<bool>,
}

/// Which agents to list or count; `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct NodeFilter {
    /// This attestor.
    pub attestation_type: Option<String>,
    /// Selectors.
    pub selectors: Option<(Vec<Selector>, Match)>,
    /// Banned or not.
    pub banned: Option<bool>,
    /// Able to attest again or not.
    pub can_reattest: Option<bool>,
    /// SVID ends before.
    pub expires_before: Option<SystemTime>,
}

/// A page: at most `size` rows after `token`; `size` 0 means everything.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Rows at most; 0 means no paging.
    pub size: u32,
    /// Where the last page ended; empty at first.
    pub token: String,
}

/// Which fields of an entry an update replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a field mask is one flag per field")]
#[allow(missing_docs, reason = "each flag is the field of the same name")]
pub struct EntryMask {
    pub spiffe_id: bool,
    pub parent_id: bool,
    pub selectors: bool,
    pub x509_svid_ttl: bool,
    pub jwt_svid_ttl: bool,
    pub federates_with: bool,
    pub admin: bool,
    pub downstream: bool,
    pub expires_at: bool,
    pub dns_names: bool,
    pub store_svid: bool,
    pub hint: bool,
    pub additional_attributes: bool,
}

impl EntryMask {
    /// Every field.
    pub const ALL: Self = Self {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        jwt_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
    };
}

/// Something that caches of entries must look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The entry with this id was made, changed or removed.
    Entry(String),
    /// The node with this SPIFFE ID was attested, banned or removed.
    Node(String),
}

/// What changed after a version.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The version now.
    pub version: i64,
    /// Every change in between, or `None` when they are not known any more: read everything again.
    pub changed: Option<Vec<Change>>,
}

/// Everything a cache of authorised entries needs, as of one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The version it shows.
    pub version: i64,
    /// Every entry that can be read.
    pub entries: Vec<Entry>,
    /// The selectors of every node that can be read.
    pub node_selectors: Vec<(SpiffeId, Vec<Selector>)>,
    /// Rows that cannot be read, each a [`StoreError::Damaged`]: they authorise nobody.
    pub damaged: Vec<StoreError>,
}

/// Registration entries.
#[async_trait]
pub trait Entries: Send + Sync {
    /// Stores a new entry, or returns the similar one (same SPIFFE ID, parent and selector set) and `true`.
    /// An empty id is replaced by a new UUID; the revision begins at 0.
    async fn create_entry(&self, entry: Entry) -> Result<(Entry, bool), StoreError>;
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
    /// A number that changes whenever any entry or node selector changes: cheap to ask, so that caches know.
    async fn entries_version(&self) -> Result<i64, StoreError>;
    /// What changed after the version `seen`.
    async fn changes_since(&self, seen: i64) -> Result<Changes, StoreError>;
    /// Every entry and every node's selectors, as of one moment.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;
    /// Wakes whoever waits, after each commit of this process that changed the version.
    fn subscribe(&self) -> watch::Receiver<i64>;
}

/// Attested nodes.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Creates or replaces a node after attestation: serial, expiry, selectors and the attestor's record in
    /// one transaction. A pending new serial is cleared. A banned node is a [`StoreError::Conflict`].
    async fn attested(&self, node: Node, record: Option<NodeRecord>) -> Result<(), StoreError>;
    /// One node.
    async fn node(&self, id: &SpiffeId) -> Result<Option<Node>, StoreError>;
    /// A page of nodes and the token of the next page.
    async fn list_nodes(&self, filter: &NodeFilter, page: &Page) -> Result<(Vec<Node>, String), StoreError>;
    /// How many match.
    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError>;
    /// Stores a renewed serial beside the current one; both are valid until the new one is used.
    async fn node_renewed(&self, id: &SpiffeId, serial: &str, expires: SystemTime) -> Result<(), StoreError>;
    /// The new serial was used: it becomes the current one. Nothing happens if it is not pending any more.
    async fn promote_serial(&self, id: &SpiffeId, serial: &str) -> Result<(), StoreError>;
    /// Blanks the serials.
    async fn ban_node(&self, id: &SpiffeId) -> Result<(), StoreError>;
    /// Removes the node, its selectors, its records, and for `join_token` the token (an evicted node cannot
    /// come back with it) and the entry that `CreateJoinToken` made beside it.
    async fn delete_node(&self, id: &SpiffeId) -> Result<(), StoreError>;
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

/// What becomes of the entries that federate with a bundle which is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteMode {
    /// The bundle stays, with [`StoreError::InUse`].
    Restrict,
    /// They are deleted too.
    Delete,
    /// They stay, and federate with it no more.
    Dissociate,
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

/// Authority journals, one per server; found by the id of the active X.509 authority (its key).
#[async_trait]
pub trait Journals: Send + Sync {
    /// The journal whose active X.509 authority is one of `authority_ids`: row id and data.
    async fn find_journal(&self, authority_ids: &[String]) -> Result<Option<(i64, Vec<u8>)>, StoreError>;
    /// Stores a journal; `row` is `None` for a new one. Returns its row id.
    async fn put_journal(
        &self,
        row: Option<i64>,
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

/// The whole datastore.
pub trait Datastore: Entries + Nodes + JoinTokens + Bundles + Journals + TpmEnrolments {}
impl<T: Entries + Nodes + JoinTokens + Bundles + Journals + TpmEnrolments> Datastore for T {}
