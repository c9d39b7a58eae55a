//! Every path from a node's leaf to a trusted root.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath,
    anchor_from_trusted_cert,
};
use x509_parser::parse_x509_certificate;

/// Go's `ExtKeyUsageAny`: node certificates are made for all kinds of use.
struct AnyUse;

impl ExtendedKeyUsageValidator for AnyUse {
    fn validate(&self, _usages: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        Ok(())
    }
}

/// Finds every path that verifies at `now` and returns the certificates behind the leaf, each once, in the
/// order found.
///
/// # Errors
/// There is no such path.
pub(super) fn issuers_of(
    leaf: &[u8],
    intermediates: &[Vec<u8>],
    roots: &[Vec<u8>],
    now: SystemTime,
) -> Result<Vec<Vec<u8>>, String> {
    let roots = current_roots(roots, now);
    let anchors: Vec<TrustAnchor<'_>> =
        roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    if anchors.is_empty() {
        return Err("no root certificate is valid now".to_owned());
    }
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|error| error.to_string())?;
    let intermediates: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let found: RefCell<Vec<Vec<u8>>> = RefCell::default();
    // Refusing each path makes webpki look for the next one.
    let note = |path: &VerifiedPath<'_>| {
        let mut found = found.borrow_mut();
        let mut add = |der: &[u8]| {
            if !found.iter().any(|known| known == der) {
                found.push(der.to_vec());
            }
        };
        path.intermediate_certificates().for_each(|cert| add(&cert.der()));
        let anchor = path.anchor();
        for (root, candidate) in roots.iter().zip(&anchors) {
            if candidate.subject == anchor.subject
                && candidate.subject_public_key_info == anchor.subject_public_key_info
            {
                add(root);
            }
        }
        Err(Error::UnknownIssuer)
    };
    let outcome = leaf.verify_for_usage(
        ALL_VERIFICATION_ALGS,
        &anchors,
        &intermediates,
        UnixTime::since_unix_epoch(seconds),
        AnyUse,
        None,
        Some(&note),
    );
    let reason = outcome.err().map_or_else(String::new, |error| error.to_string());
    let found = found.into_inner();
    if found.is_empty() { Err(reason) } else { Ok(found) }
}

/// Go asks of roots too that they are valid now; webpki does not. Unreadable roots were refused when the
/// configuration was read, so leaving them out here cannot hide a mistake.
fn current_roots(roots: &[Vec<u8>], now: SystemTime) -> Vec<CertificateDer<'_>> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(seconds).unwrap_or(i64::MAX);
    let is_current = |der: &&Vec<u8>| {
        parse_x509_certificate(der).is_ok_and(|(_, cert)| {
            let validity = cert.validity();
            validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp()
        })
    };
    let readable = |der: &CertificateDer<'_>| anchor_from_trusted_cert(der).is_ok();
    roots.iter().filter(is_current).map(|der| CertificateDer::from(der.as_slice())).filter(readable).collect()
}
