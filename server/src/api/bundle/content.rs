//! Bundles as messages, as stored, and the changes that the API makes to them.

use hardroot_api::spire::api::types;
use hardroot_api::spire::common;
use hardroot_identity::{BadBundle, BadPublicKey, Bundle, TrustDomain, check_public_key};
use tonic::Status;

use crate::api::{convert, faults};

/// Why an authority is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAuthority {
    #[error("{0}")]
    Certificate(#[from] BadBundle),
    #[error("{0}")]
    Key(#[from] BadPublicKey),
    #[error("missing key ID")]
    NoKeyId,
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
pub(super) fn stored(trust_domain: &TrustDomain, message: &types::Bundle) -> Result<common::Bundle, Status> {
    let bad = |fault: BadAuthority, what: &str| {
        faults::invalid("failed to convert bundle", format!("unable to parse {what} authority: {fault}"))
    };
    Ok(common::Bundle {
        trust_domain_id: trust_domain.id().to_string(),
        root_cas: x509_authorities(trust_domain, &message.x509_authorities)
            .map_err(|fault| bad(fault, "X.509"))?,
        jwt_signing_keys: jwt_authorities(&message.jwt_authorities).map_err(|fault| bad(fault, "JWT"))?,
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

/// Appends what is not there yet, comparing whole records. Returns whether anything was new.
pub(super) fn append(
    bundle: &mut common::Bundle,
    roots: &[common::Certificate],
    keys: &[common::PublicKey],
) -> bool {
    let before = (bundle.root_cas.len(), bundle.jwt_signing_keys.len());
    for root in roots {
        if !bundle.root_cas.contains(root) {
            bundle.root_cas.push(root.clone());
        }
    }
    for key in keys {
        if !bundle.jwt_signing_keys.contains(key) {
            bundle.jwt_signing_keys.push(key.clone());
        }
    }
    before != (bundle.root_cas.len(), bundle.jwt_signing_keys.len())
}

/// A stored bundle as a message, with the fields of `mask` (all without one).
pub(super) fn message(
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
