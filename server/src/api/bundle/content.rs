//! Bundles as messages, as stored, and the changes that the API makes to them.

use hardroot_api::spire::api::types;
use hardroot_api::spire::common;
use hardroot_identity::{BadBundle, BadPublicKey, Bundle, TrustDomain, check_public_key};
use tonic::Status;

use crate::api::convert;
use crate::audit::{Details, sha256_hex};

/// Why an authority is refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::api) enum BadAuthority {
    #[error("{0}")]
    Certificate(#[from] BadBundle),
    #[error("{0}")]
    Key(#[from] BadPublicKey),
    #[error("missing key ID")]
    NoKeyId,
}

/// Two keys with one id.
#[derive(Debug, thiserror::Error)]
#[error("the bundle has another JWT authority with the key ID \"{key_id}\"")]
pub(super) struct KeyIdTaken {
    key_id: String,
}

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::api) enum BadContent {
    #[error("unable to parse X.509 authority: {0}")]
    X509(#[source] BadAuthority),
    #[error("unable to parse JWT authority: {0}")]
    Jwt(#[source] BadAuthority),
}

/// X.509 authorities to store; one message may hold several certificates, one after the other.
pub(super) fn x509_authorities(
    trust_domain: &TrustDomain,
    messages: &[types::X509Certificate],
) -> Result<Vec<common::Certificate>, BadAuthority> {
    let mut roots = Vec::with_capacity(messages.len());
    for message in messages {
        let parsed = Bundle::from_der_concat(trust_domain.clone(), &message.asn1)?;
        roots.extend(
            parsed
                .x509_authorities
                .into_iter()
                .map(|authority| common::Certificate { der_bytes: authority.der, tainted_key: false }),
        );
    }
    Ok(roots)
}

/// JWT authorities to store.
pub(super) fn jwt_authorities(messages: &[types::JwtKey]) -> Result<Vec<common::PublicKey>, BadAuthority> {
    messages
        .iter()
        .map(|message| {
            check_public_key(&message.public_key)?;
            if message.key_id.is_empty() {
                return Err(BadAuthority::NoKeyId);
            }
            Ok(common::PublicKey {
                pkix_bytes: message.public_key.clone(),
                kid: message.key_id.clone(),
                not_after: message.expires_at,
                tainted_key: false,
            })
        })
        .collect()
}

pub(super) fn jwt_messages(keys: &[common::PublicKey]) -> Vec<types::JwtKey> {
    keys.iter()
        .map(|key| types::JwtKey {
            public_key: key.pkix_bytes.clone(),
            key_id: key.kid.clone(),
            expires_at: key.not_after,
            tainted: key.tainted_key,
        })
        .collect()
}

/// A bundle to store. WIT authorities are left out, as in SPIRE.
pub(in crate::api) fn stored(
    trust_domain: &TrustDomain,
    message: &types::Bundle,
) -> Result<common::Bundle, BadContent> {
    Ok(common::Bundle {
        trust_domain_id: trust_domain.id().to_string(),
        root_cas: x509_authorities(trust_domain, &message.x509_authorities).map_err(BadContent::X509)?,
        jwt_signing_keys: jwt_authorities(&message.jwt_authorities).map_err(BadContent::Jwt)?,
        refresh_hint: message.refresh_hint,
        sequence_number: message.sequence_number,
        wit_signing_keys: Vec::new(),
    })
}

/// Replaces the fields of `mask`, all without one.
pub(super) fn replace(bundle: &mut common::Bundle, new: &common::Bundle, mask: Option<&types::BundleMask>) {
    let wanted = |flag: fn(&types::BundleMask) -> bool| mask.is_none_or(flag);
    if wanted(|mask| mask.x509_authorities) {
        bundle.root_cas.clone_from(&new.root_cas);
    }
    if wanted(|mask| mask.jwt_authorities) {
        bundle.jwt_signing_keys.clone_from(&new.jwt_signing_keys);
    }
    if wanted(|mask| mask.refresh_hint) {
        bundle.refresh_hint = new.refresh_hint;
    }
    if wanted(|mask| mask.sequence_number) {
        bundle.sequence_number = new.sequence_number;
    }
}

/// Appends what is not there yet: X.509 authorities compared as whole records, JWT authorities by their key id.
/// A key that is there already lives as long as the later of both ends, and a taint stays. Returns whether
/// anything changed.
///
/// # Errors
/// The id of a JWT authority that is there with another key: consumers look keys up by their id and could not
/// tell them apart.
pub(super) fn append(
    bundle: &mut common::Bundle,
    roots: &[common::Certificate],
    keys: &[common::PublicKey],
) -> Result<bool, KeyIdTaken> {
    let mut changed = false;
    for root in roots {
        if !bundle.root_cas.contains(root) {
            bundle.root_cas.push(root.clone());
            changed = true;
        }
    }
    for key in keys {
        match bundle.jwt_signing_keys.iter_mut().find(|known| known.kid == key.kid) {
            None => {
                bundle.jwt_signing_keys.push(key.clone());
                changed = true;
            }
            Some(known) if known.pkix_bytes != key.pkix_bytes => {
                return Err(KeyIdTaken { key_id: key.kid.clone() });
            }
            Some(known) => {
                // 0 says that the end is not known, which is later than any.
                let later = known.not_after != 0 && (key.not_after == 0 || key.not_after > known.not_after);
                if later {
                    known.not_after = key.not_after;
                    changed = true;
                }
            }
        }
    }
    Ok(changed)
}

/// A stored bundle as a message, with the fields of `mask` (all without one).
pub(in crate::api) fn message(
    bundle: &common::Bundle,
    mask: Option<&types::BundleMask>,
) -> Result<types::Bundle, Status> {
    let trust_domain = convert::trust_domain(&bundle.trust_domain_id).map_err(|fault| {
        Status::internal(format!("failed to convert bundle: invalid trust domain id: {fault}"))
    })?;
    let show = |flag: fn(&types::BundleMask) -> bool| mask.is_none_or(flag);
    let x509 = |root: &common::Certificate| types::X509Certificate {
        asn1: root.der_bytes.clone(),
        tainted: root.tainted_key,
    };
    let wit = |key: &common::PublicKey| types::WitKey {
        public_key: key.pkix_bytes.clone(),
        key_id: key.kid.clone(),
        expires_at: key.not_after,
        tainted: key.tainted_key,
    };
    Ok(types::Bundle {
        trust_domain: trust_domain.to_string(),
        x509_authorities: if show(|mask| mask.x509_authorities) {
            bundle.root_cas.iter().map(x509).collect()
        } else {
            Vec::new()
        },
        jwt_authorities: if show(|mask| mask.jwt_authorities) {
            jwt_messages(&bundle.jwt_signing_keys)
        } else {
            Vec::new()
        },
        refresh_hint: if show(|mask| mask.refresh_hint) { bundle.refresh_hint } else { 0 },
        sequence_number: if show(|mask| mask.sequence_number) { bundle.sequence_number } else { 0 },
        wit_authorities: if show(|mask| mask.wit_authorities) {
            bundle.wit_signing_keys.iter().map(wit).collect()
        } else {
            Vec::new()
        },
    })
}

/// What an audit line says of a bundle, with SPIRE's names behind `prefix`: the fields of `mask`, all without
/// one. Keys and certificates are named by their SHA-256.
pub(in crate::api) fn describe(
    details: &mut Details,
    prefix: &'static str,
    message: &types::Bundle,
    mask: Option<&types::BundleMask>,
) {
    let show = |flag: fn(&types::BundleMask) -> bool| mask.is_none_or(flag);
    details.add(format!("{prefix}trust_domain_id"), message.trust_domain.as_str());
    if show(|mask| mask.refresh_hint) {
        details.add(format!("{prefix}refresh_hint"), message.refresh_hint);
    }
    if show(|mask| mask.sequence_number) {
        details.add(format!("{prefix}sequence_number"), message.sequence_number);
    }
    if show(|mask| mask.jwt_authorities) {
        describe_jwt(details, prefix, &message.jwt_authorities);
    }
    if show(|mask| mask.x509_authorities) {
        describe_x509(details, prefix, &message.x509_authorities);
    }
}

/// Authorities that a line names; what is beyond is counted.
const DESCRIBED: usize = 32;

pub(super) fn describe_jwt(details: &mut Details, prefix: &str, keys: &[types::JwtKey]) {
    for (at, key) in keys.iter().enumerate().take(DESCRIBED) {
        details.add(format!("{prefix}jwt_authority_expires_at.{at}"), key.expires_at);
        details.add(format!("{prefix}jwt_authority_key_id.{at}"), key.key_id.as_str());
        details.add(format!("{prefix}jwt_authority_public_key_sha256.{at}"), hash(&key.public_key));
    }
    if keys.len() > DESCRIBED {
        details.add(format!("{prefix}jwt_authorities"), keys.len());
    }
}

pub(super) fn describe_x509(details: &mut Details, prefix: &str, certificates: &[types::X509Certificate]) {
    for (at, certificate) in certificates.iter().enumerate().take(DESCRIBED) {
        details.add(format!("{prefix}x509_authorities_asn1_sha256.{at}"), hash(&certificate.asn1));
    }
    if certificates.len() > DESCRIBED {
        details.add(format!("{prefix}x509_authorities"), certificates.len());
    }
}

/// As SPIRE names bytes; nothing for none.
fn hash(bytes: &[u8]) -> String {
    if bytes.is_empty() { String::new() } else { sha256_hex(bytes) }
}
