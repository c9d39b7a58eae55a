//! The bundle as it is stored, and publishing into it: read, change, write under the row's revision, read
//! back (promise 6: publish, read back, then sign).

use std::time::SystemTime;

use hardroot_api::expansion::{BadStored, decode_stored};
use hardroot_api::spire::common;
use hardroot_identity::{Bundle, JwtAuthority, TrustDomain, X509Authority};
use prost::Message;

use super::schedule::KEEP_AFTER_EXPIRY;
use super::slots::{CaFacts, from_unix_seconds};
use crate::datastore::{Bundles, StoreError};

/// How often a write is repeated when another writer was faster.
const ATTEMPTS: usize = 16;

/// Why the bundle could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The database failed.
    #[error("the bundle of {trust_domain} cannot be {op}")]
    Store {
        /// `read` or `written`.
        op: &'static str,
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// The cause.
        #[source]
        cause: StoreError,
    },
    /// The row does not parse: refused, never guessed.
    #[error("the stored bundle of {trust_domain} is damaged; restore the database from a backup")]
    Damaged {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// The cause.
        #[source]
        cause: BadStored,
    },
    /// Other writers kept winning.
    #[error("the bundle of {trust_domain} changed {ATTEMPTS} times while it was being written; try again")]
    Busy {
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
    /// What was written is not there when read again.
    #[error(
        "the authority was published, but the bundle of {trust_domain} read back does not hold it; \
         check that the database keeps what it accepts"
    )]
    NotReadBack {
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
}

/// Reads a bundle as stored; an absent one is empty.
///
/// # Errors
/// [`BundleError::Store`], [`BundleError::Damaged`].
pub async fn read(
    store: &dyn Bundles,
    trust_domain: &TrustDomain,
) -> Result<(common::Bundle, Option<i64>), BundleError> {
    let row = store.bundle(trust_domain).await.map_err(|cause| BundleError::Store {
        op: "read",
        trust_domain: trust_domain.clone(),
        cause,
    })?;
    match row {
        None => Ok((empty(trust_domain), None)),
        Some((data, revision)) => Ok((decode(trust_domain, &data)?, Some(revision))),
    }
}

/// Reads the bytes of a stored bundle.
///
/// # Errors
/// [`BundleError::Damaged`].
pub fn decode(trust_domain: &TrustDomain, data: &[u8]) -> Result<common::Bundle, BundleError> {
    decode_stored(data).map_err(|cause| BundleError::Damaged { trust_domain: trust_domain.clone(), cause })
}

fn empty(trust_domain: &TrustDomain) -> common::Bundle {
    common::Bundle { trust_domain_id: trust_domain.id().to_string(), ..common::Bundle::default() }
}

/// Changes a bundle. `change` says whether it changed anything; it may be called several times, each time on
/// the newest content. The sequence number grows by one with every write. Returns what is stored then.
///
/// # Errors
/// Any [`BundleError`] but [`BundleError::NotReadBack`].
pub async fn update(
    store: &dyn Bundles,
    trust_domain: &TrustDomain,
    mut change: impl FnMut(&mut common::Bundle) -> bool + Send,
) -> Result<common::Bundle, BundleError> {
    for _ in 0..ATTEMPTS {
        let (mut bundle, revision) = read(store, trust_domain).await?;
        if !change(&mut bundle) {
            return Ok(bundle);
        }
        bundle.sequence_number = bundle.sequence_number.saturating_add(1);
        match store.put_bundle(trust_domain, &bundle.encode_to_vec(), revision).await {
            Ok(_) => return Ok(bundle),
            Err(StoreError::Conflict { .. } | StoreError::Exists { .. }) => {}
            Err(cause) => {
                return Err(BundleError::Store { op: "written", trust_domain: trust_domain.clone(), cause });
            }
        }
    }
    Err(BundleError::Busy { trust_domain: trust_domain.clone() })
}

/// Publishes authorities and reads them back. `add` puts what is missing into a bundle and says whether
/// anything was; it is asked again after the write, and then nothing may be missing. Publishing what is there
/// already writes nothing.
///
/// # Errors
/// Any [`BundleError`]: then nothing may be signed with those authorities.
pub async fn publish(
    store: &dyn Bundles,
    trust_domain: &TrustDomain,
    mut add: impl FnMut(&mut common::Bundle) -> bool + Send,
) -> Result<(), BundleError> {
    update(store, trust_domain, &mut add).await?;
    let (mut bundle, _) = read(store, trust_domain).await?;
    if add(&mut bundle) {
        return Err(BundleError::NotReadBack { trust_domain: trust_domain.clone() });
    }
    Ok(())
}

/// Removes authorities that ended more than 24 hours before `now`; never the last of a kind. Returns whether
/// anything went. Unreadable certificates stay: pruning is no place to judge them.
pub fn prune(bundle: &mut common::Bundle, now: SystemTime) -> bool {
    let over = |end: SystemTime| end.checked_add(KEEP_AFTER_EXPIRY).is_some_and(|limit| limit < now);
    let roots: Vec<_> = bundle
        .root_cas
        .iter()
        .filter(|root| !CaFacts::of(&root.der_bytes).is_some_and(|facts| over(facts.not_after)))
        .cloned()
        .collect();
    let keep = |keys: &[common::PublicKey]| -> Vec<common::PublicKey> {
        keys.iter()
            .filter(|key| key.not_after == 0 || !over(from_unix_seconds(key.not_after)))
            .cloned()
            .collect()
    };
    let (jwt, wit) = (keep(&bundle.jwt_signing_keys), keep(&bundle.wit_signing_keys));
    let mut changed = false;
    changed |= shrink(&mut bundle.root_cas, roots);
    changed |= shrink(&mut bundle.jwt_signing_keys, jwt);
    changed |= shrink(&mut bundle.wit_signing_keys, wit);
    changed
}

fn shrink<T>(all: &mut Vec<T>, kept: Vec<T>) -> bool {
    if kept.is_empty() || kept.len() == all.len() {
        return false;
    }
    *all = kept;
    true
}

/// Adds the authorities of another bundle that are not here; returns whether there were any.
pub fn add_all(bundle: &mut common::Bundle, other: &common::Bundle) -> bool {
    fn add<T: Clone + PartialEq>(all: &mut Vec<T>, more: &[T]) -> bool {
        let before = all.len();
        for one in more {
            if !all.contains(one) {
                all.push(one.clone());
            }
        }
        all.len() > before
    }
    let roots = add(&mut bundle.root_cas, &other.root_cas);
    let jwt = add(&mut bundle.jwt_signing_keys, &other.jwt_signing_keys);
    let wit = add(&mut bundle.wit_signing_keys, &other.wit_signing_keys);
    roots || jwt || wit
}

/// The stored bundle as the identity library judges it.
#[must_use]
pub fn to_identity(trust_domain: &TrustDomain, stored: &common::Bundle) -> Bundle {
    let mut bundle = Bundle::new(trust_domain.clone());
    bundle.x509_authorities = stored
        .root_cas
        .iter()
        .map(|root| X509Authority { der: root.der_bytes.clone(), tainted: root.tainted_key })
        .collect();
    bundle.jwt_authorities = stored
        .jwt_signing_keys
        .iter()
        .map(|key| JwtAuthority {
            key_id: key.kid.clone(),
            spki_der: key.pkix_bytes.clone(),
            expires_at: key.not_after,
            tainted: key.tainted_key,
        })
        .collect();
    bundle.refresh_hint = stored.refresh_hint;
    bundle.sequence_number = stored.sequence_number;
    bundle
}
