//! What every engine refuses to store (spire-map 1.7). The texts are SPIRE's, because scripts match them.

use super::{Entry, EntryMask, StoreError};

/// Longest entry id, in bytes.
const MAX_ENTRY_ID: usize = 255;

fn invalid(reason: &str) -> StoreError {
    StoreError::Invalid { reason: reason.to_owned() }
}

/// Judges a new entry.
pub(super) fn check_new(entry: &Entry) -> Result<(), StoreError> {
    check_selectors(entry)?;
    if entry.store_svid && entry.disable_x509_svid_prefetch {
        return Err(invalid("specifying cache behaviour is incompatible with storable SVIDs"));
    }
    check_store_svid(entry)?;
    if entry.id.len() > MAX_ENTRY_ID {
        return Err(invalid("invalid registration entry: entry ID too long"));
    }
    if !entry.id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        return Err(invalid("invalid registration entry: entry ID contains invalid characters"));
    }
    check_ttls(entry, &EntryMask::ALL)
}

/// Judges an entry as it would be after an update of the fields in `mask`.
pub(super) fn check_updated(entry: &Entry, mask: &EntryMask) -> Result<(), StoreError> {
    if mask.selectors {
        check_selectors(entry)?;
    }
    check_store_svid(entry)?;
    check_ttls(entry, mask)
}

fn check_selectors(entry: &Entry) -> Result<(), StoreError> {
    if entry.selectors.is_empty() {
        return Err(invalid("invalid registration entry: missing selector list"));
    }
    Ok(())
}

fn check_store_svid(entry: &Entry) -> Result<(), StoreError> {
    let mut kinds = entry.selectors.iter().map(hardroot_identity::Selector::kind);
    let first = kinds.next();
    if entry.store_svid && kinds.any(|kind| Some(kind) != first) {
        return Err(invalid(
            "invalid registration entry: selector types must be the same when store SVID is enabled",
        ));
    }
    Ok(())
}

fn check_ttls(entry: &Entry, mask: &EntryMask) -> Result<(), StoreError> {
    if mask.x509_svid_ttl && entry.x509_svid_ttl < 0 {
        return Err(invalid("invalid registration entry: X509SvidTtl is not set"));
    }
    if mask.jwt_svid_ttl && entry.jwt_svid_ttl < 0 {
        return Err(invalid("invalid registration entry: JwtSvidTtl is not set"));
    }
    Ok(())
}
