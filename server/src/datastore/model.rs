//! The datastore's nouns.

use std::time::SystemTime;

use hardroot_identity::{Selector, SpiffeId, TrustDomain};

/// A registration entry (spire-api `types.Entry`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Entry id: a UUID unless the client chose one; at most 255 bytes.
    pub id: String,
    /// Identity given to what matches.
    pub spiffe_id: SpiffeId,
    /// Agent ID, server ID (node alias) or another entry's ID.
    pub parent_id: SpiffeId,
    /// At least one; sorted and without duplicates.
    pub selectors: Vec<Selector>,
    /// X509-SVID lifetime in seconds, 0 means the server's default.
    pub x509_svid_ttl: i32,
    /// JWT-SVID lifetime in seconds, 0 means the server's default.
    pub jwt_svid_ttl: i32,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: Vec<TrustDomain>,
    /// May use the admin API.
    pub admin: bool,
    /// May ask for an intermediate CA.
    pub downstream: bool,
    /// Unix seconds after which the entry is pruned, 0 means never.
    pub expires_at: i64,
    /// DNS names put into the SVID.
    pub dns_names: Vec<String>,
    /// Grows by one with every update; 0 when new.
    pub revision_number: i64,
    /// For SVID stores.
    pub store_svid: bool,
    /// Returned to the workload; at most 1024 bytes.
    pub hint: String,
    /// Unix seconds.
    pub created_at: i64,
    /// Do not fetch an SVID before a workload asks.
    pub disable_x509_svid_prefetch: bool,
    /// Put a `jti` into JWT-SVIDs.
    pub jwt_svid_include_jti: bool,
}

/// An attested node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Agent ID.
    pub id: SpiffeId,
    /// Name of the attestor.
    pub attestation_type: String,
    /// Serial of the current SVID, decimal; empty means banned.
    pub serial_number: String,
    /// When the current SVID expires.
    pub expires_at: SystemTime,
    /// Serial of a renewed SVID that was not used yet, decimal; empty when there is none.
    pub new_serial_number: String,
    /// When the renewed SVID expires.
    pub new_expires_at: Option<SystemTime>,
    /// Whether the node can attest again with the same means.
    pub can_reattest: bool,
    /// As the agent reports it; at most 255 bytes.
    pub agent_version: String,
    /// The node's selectors, sorted and without duplicates.
    pub selectors: Vec<Selector>,
}

impl Node {
    /// A banned node keeps its row, without a serial, so that later attempts are refused.
    #[must_use]
    pub fn is_banned(&self) -> bool {
        self.serial_number.is_empty()
    }
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The token itself: a secret.
    pub value: String,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// How a bundle endpoint proves itself (SPIFFE Federation, section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleEndpointProfile {
    /// With a certificate of the web PKI for its host name.
    HttpsWeb,
    /// With an X509-SVID.
    HttpsSpiffe {
        /// The exact ID that the SVID must have.
        endpoint_spiffe_id: SpiffeId,
    },
}

/// Where the bundle of a foreign trust domain comes from (spire-api `types.FederationRelationship`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederationRelationship {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// An https URL without user info.
    pub bundle_endpoint_url: String,
    /// How the endpoint proves itself.
    pub profile: BundleEndpointProfile,
}

/// Which process is a server instance now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The instance id: a UUID, of the data directory.
    pub instance: String,
    /// Of the process: no two ever have the same.
    pub nonce: String,
    /// Boot of the machine and process namespace; empty when the system does not tell.
    pub machine: String,
    /// Process id there.
    pub pid: u32,
    /// When the process started, in clock ticks since boot.
    pub started: u64,
    /// Where the instance's keys are, for people.
    pub token: String,
    /// The active X.509 authority; empty when there is none yet.
    pub authority_id: String,
    /// When the lease ends, in whole seconds, unless it is renewed.
    pub expires_at: SystemTime,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It was going to be made.
    Intent,
    /// It was made.
    Present,
    /// It was replaced or destroyed.
    Retired,
}

impl KeyState {
    /// Reads the stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "intent" => Some(Self::Intent),
            "present" => Some(Self::Present),
            "retired" => Some(Self::Retired),
            _ => None,
        }
    }
}

/// A key that a server instance made in its key manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Row id; what is to be stored has none yet.
    pub row: i64,
    /// The instance.
    pub instance: String,
    /// The key's id in the key manager, which says what it is for: `x509-CA-A`, `JWT-Signer-B`, `server-svid-A`.
    pub key_id: String,
    /// Its type, as in the configuration.
    pub kind: String,
    /// SHA-256 of its SubjectPublicKeyInfo, lower-case hex; empty while it is only intended.
    pub spki_sha256: String,
    /// Where it is, for people: token label and serial number.
    pub custody: String,
    /// When it was intended, to the second.
    pub created_at: SystemTime,
    /// What became of it.
    pub state: KeyState,
}
