//! What to read or to change: filters, pages, masks, and what changed.

use std::time::SystemTime;

use hardroot_identity::{Selector, SpiffeId, TrustDomain};

use super::{Entry, Node, StoreError};

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
    /// Whether a replica that is some moments behind may answer; never for what decides something.
    pub may_lag: bool,
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
    /// Whether a replica that is some moments behind may answer; never for what decides something.
    pub may_lag: bool,
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

/// Something that caches must look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The entry with this id was made, changed or removed.
    Entry(String),
    /// The node with this SPIFFE ID was attested, renewed, banned or removed.
    Node(String),
    /// The bundle of this trust domain was written or removed.
    Bundle(String),
}

/// What changed after a version, and what it is now, as of one moment.
#[derive(Debug, Default)]
pub struct Changes {
    /// The version now.
    pub version: i64,
    /// Every change in between, in order and without gaps: the n-th made the version `seen + n`. `None` when they are not
    /// known any more: read everything again.
    pub changed: Option<Vec<Change>>,
    /// The changed entries that are there and can be read.
    pub entries: Vec<Entry>,
    /// The changed nodes that are there and can be read.
    pub nodes: Vec<Node>,
    /// Changed rows that cannot be read, each a [`StoreError::Damaged`]: they authorise nobody.
    pub damaged: Vec<StoreError>,
}

/// Takes everything that a cache of authorised entries needs, row by row.
pub trait SnapshotReader: Send {
    /// Comes first: the version that all rows show, or later ones.
    fn version(&mut self, version: i64);
    /// An entry.
    fn entry(&mut self, entry: Entry);
    /// A node.
    fn node(&mut self, node: Node);
    /// A row that cannot be read, a [`StoreError::Damaged`]: it authorises nobody.
    fn damaged(&mut self, damage: StoreError);
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

/// Which fields of a federation relationship an update replaces. A bundle is replaced when one is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationshipMask {
    /// The URL.
    pub bundle_endpoint_url: bool,
    /// The profile, with its endpoint SPIFFE ID.
    pub bundle_endpoint_profile: bool,
}

impl RelationshipMask {
    /// Every field.
    pub const ALL: Self = Self { bundle_endpoint_url: true, bundle_endpoint_profile: true };
}
