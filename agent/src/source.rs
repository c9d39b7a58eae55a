//! What the Workload API asks of the cache: which identities belong to a set of selectors, now and whenever
//! that changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use hardroot_identity::{Bundle, Selector, SpiffeId, TrustDomain};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::locked::LockedPages;
use crate::workload_api::Encoded;

/// One identity of a workload: an entry and the SVID issued for it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The registration entry it comes from.
    pub entry_id: String,
    /// The identity itself.
    pub spiffe_id: SpiffeId,
    /// The operator's hint, or nothing; unique within one update.
    pub hint: String,
    /// When the entry was created, seconds since 1970.
    pub created_at: i64,
    /// Certificate chain and key.
    pub svid: Arc<WorkloadSvid>,
    /// Foreign trust domains whose bundles belong to this identity.
    pub federates_with: Vec<TrustDomain>,
}

/// An X509-SVID together with its private key, the one kind of key that leaves this process.
pub struct WorkloadSvid {
    /// DER certificates, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The key as unencrypted PKCS#8 (Workload API 5.1): wiped on drop, its pages locked against swapping.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// When the leaf expires.
    pub not_after: SystemTime,
    // Dropped after the key, so that the bytes are wiped before their pages may be swapped.
    locked: LockedPages,
}

impl WorkloadSvid {
    /// Takes a chain and its key, and locks the memory that holds the key.
    ///
    /// Locking is best effort: where the limit on locked memory (`RLIMIT_MEMLOCK`) is used up, the key still
    /// works and [`WorkloadSvid::is_locked`] says `false`.
    #[must_use]
    pub fn new(chain: Vec<Vec<u8>>, key_pkcs8: Zeroizing<Vec<u8>>, not_after: SystemTime) -> Self {
        let locked = LockedPages::of(&key_pkcs8);
        Self { chain, key_pkcs8, not_after, locked }
    }

    /// Whether the key's memory could be locked.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked.is_complete()
    }
}

impl fmt::Debug for WorkloadSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadSvid")
            .field("certificates", &self.chain.len())
            .field("key_bytes", &self.key_pkcs8.len())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Everything a workload gets in one message.
#[derive(Debug)]
pub struct WorkloadUpdate {
    /// Its identities, sorted by entry id (the first is the default); hints are unique.
    pub identities: Vec<Identity>,
    /// The own trust domain's bundle and those the identities federate with.
    pub bundles: Arc<BTreeMap<TrustDomain, Arc<Bundle>>>,
    /// The agent's own trust domain.
    pub trust_domain: TrustDomain,
    /// What it looks like on the wire; begins empty.
    pub encoded: Encoded,
}

/// What is known for a set of selectors.
#[derive(Debug, Clone)]
pub enum Availability {
    /// The agent has not yet synchronised with its server: answer Unavailable.
    Starting,
    /// Entries match, their SVIDs are not here yet: wait.
    Pending,
    /// No entry matches: answer PermissionDenied.
    None,
    /// Identities to serve.
    Ready(Arc<WorkloadUpdate>),
}

/// An identity that JWT-SVIDs can be had for. It needs no X509-SVID to be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSubject {
    /// The registration entry it comes from.
    pub entry_id: String,
    /// The identity itself.
    pub spiffe_id: SpiffeId,
    /// The operator's hint, or nothing; unique within one answer.
    pub hint: String,
    /// Whether each token has an id of its own (`jti`), so that none may be handed out twice.
    pub include_jti: bool,
}

/// Where identities come from.
pub trait IdentitySource: Send + Sync {
    /// What belongs to a workload with these selectors, now (the receiver's first value) and at each change.
    /// The subscription lasts as long as the receiver.
    fn subscribe(&self, selectors: Vec<Selector>) -> watch::Receiver<Availability>;

    /// Whom a workload with these selectors may have JWT-SVIDs for, sorted by entry id: nobody when it is empty,
    /// not known yet when it is `None`.
    fn jwt_subjects(&self, selectors: &[Selector]) -> Option<Vec<JwtSubject>>;

    /// The own trust domain's bundle, now and at each change: what verifiers without an identity may have.
    fn own_bundle(&self) -> watch::Receiver<Option<Arc<Bundle>>>;

    /// The agent's own trust domain.
    fn trust_domain(&self) -> &TrustDomain;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let svid = WorkloadSvid::new(vec![], Zeroizing::new(vec![0xab, 0xcd]), SystemTime::UNIX_EPOCH);
        let shown = format!("{svid:?}");
        assert!(shown.contains("key_bytes: 2"), "{shown}");
        assert!(!shown.contains("171"), "{shown}");
    }
}
