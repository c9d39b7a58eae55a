//! The rules of attestation, one function each.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::verify::{
    Attest, AttestKind, Attributes, BankSelection, ClockInfo, EvidenceError, HashAlg, PublicArea, PublicKey,
    Reason, Rejection, Scheme, Signature,
};
use crate::wire::put_sized;

/// What an exchange is for; part of the qualifying data, so that evidence for one is none for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The full exchange.
    Attest,
    /// The short one, for a node that is on record.
    Renew,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Attest => "attest",
            Self::Renew => "renew",
        }
    }
}

/// What evidence is bound to: SHA-256 over protocol, purpose, nonce, trust domain, the CSR's key and the policy, each with its length.
#[must_use]
pub fn qualifying_data(
    purpose: Purpose,
    nonce: &[u8; 32],
    trust_domain: &str,
    csr_spki_der: &[u8],
    policy_id: &[u8],
) -> [u8; 32] {
    let mut bound = Vec::new();
    let key = HashAlg::Sha256.digest(&[csr_spki_der]);
    for part in [
        b"hardroot tpm_quote v1",
        purpose.as_str().as_bytes(),
        nonce,
        trust_domain.as_bytes(),
        &key,
        policy_id,
    ] {
        put_sized(&mut bound, part);
    }
    let mut data = [0; 32];
    data.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bound).as_ref());
    data
}

/// An EK is a storage key that the TPM made and keeps: RSA-2048 or larger, P-256 or P-384.
///
/// # Errors
/// It is something else.
pub fn check_endorsement_key(ek: &PublicArea) -> Result<(), Rejection> {
    let needed = Attributes::FIXED_TPM
        .with(Attributes::FIXED_PARENT)
        .with(Attributes::SENSITIVE_DATA_ORIGIN)
        .with(Attributes::RESTRICTED)
        .with(Attributes::DECRYPT);
    let attributes = ek.attributes();
    if !attributes.has(needed) || attributes.has(Attributes::SIGN) {
        return Err(Reason::EkAttributes.because(format!("attributes {:#x}", attributes.bits())));
    }
    if ek.symmetric_bits().is_none() {
        return Err(Reason::EkAttributes.because("it is no storage key"));
    }
    Ok(())
}

/// An AK signs only what the TPM itself made, never leaves it, and is fixed to one strong scheme.
///
/// # Errors
/// It is something else.
pub fn check_attestation_key(ak: &PublicArea) -> Result<(), Rejection> {
    let attributes = ak.attributes();
    let shown = || format!("attributes {:#x}", attributes.bits());
    if !attributes.has(Attributes::RESTRICTED) {
        return Err(Reason::AkNotRestricted.because(shown()));
    }
    let needed = Attributes::FIXED_TPM
        .with(Attributes::FIXED_PARENT)
        .with(Attributes::SENSITIVE_DATA_ORIGIN)
        .with(Attributes::SIGN);
    if !attributes.has(needed) || attributes.has(Attributes::DECRYPT) {
        return Err(Reason::AkAttributes.because(shown()));
    }
    match (ak.key(), ak.scheme()) {
        (PublicKey::Ecc { .. }, Some(Scheme::Ecdsa(_)))
        | (PublicKey::Rsa { .. }, Some(Scheme::RsaSsa(_) | Scheme::RsaPss(_))) => Ok(()),
        _ => Err(Reason::AkUnsupported.because("it is not fixed to ECDSA, RSASSA or RSAPSS")),
    }
}

/// The agent's key signs anything, decrypts nothing, was made in the TPM and never leaves it.
///
/// # Errors
/// It is something else.
pub fn check_certified_key(key: &PublicArea) -> Result<(), Rejection> {
    let attributes = key.attributes();
    let needed = Attributes::FIXED_TPM
        .with(Attributes::FIXED_PARENT)
        .with(Attributes::SENSITIVE_DATA_ORIGIN)
        .with(Attributes::SIGN);
    if !attributes.has(needed)
        || attributes.has(Attributes::RESTRICTED)
        || attributes.has(Attributes::DECRYPT)
    {
        return Err(Reason::CertifiedAttributes.because(format!("attributes {:#x}", attributes.bits())));
    }
    Ok(())
}

/// Verifies the AK's signature over the attestation's bytes and decodes the same bytes.
///
/// # Errors
/// The signature does not verify with the AK's own scheme, or the bytes are no attestation.
pub fn signed_attestation<'a>(
    ak: &PublicArea,
    attest: &'a [u8],
    signature: &[u8],
) -> Result<Attest<'a>, EvidenceError> {
    let decoded = Attest::parse(attest)?;
    Signature::parse(signature)?.verify(ak, attest)?;
    Ok(decoded)
}

fn check_binding(attest: &Attest<'_>, qualifying_data: &[u8; 32]) -> Result<(), Rejection> {
    verify_slices_are_equal(attest.extra_data(), qualifying_data).map_err(|_unspecified| {
        Reason::QualifyingData.because("it is bound to another nonce, trust domain, key, policy or purpose")
    })
}

/// Judges a certification: bound to this exchange, of exactly this key, which is the CSR's.
///
/// # Errors
/// Any of these does not hold.
pub fn check_certification(
    attest: &Attest<'_>,
    qualifying_data: &[u8; 32],
    key: &PublicArea,
    csr_spki_der: &[u8],
) -> Result<(), Rejection> {
    let AttestKind::Certify { name } = attest.kind() else {
        return Err(Reason::AttestType.because("a quote where a certification belongs"));
    };
    check_binding(attest, qualifying_data)?;
    if *name != key.name() {
        return Err(Reason::CertifiedName.because(format!("certified is {}", hex::encode(name))));
    }
    check_certified_key(key)?;
    if key.key().spki_der() != csr_spki_der {
        return Err(
            Reason::CsrKeyMismatch.because("the certified key is not that of the certificate request")
        );
    }
    Ok(())
}

/// The PCRs that a quote must be over: exactly these, of one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrPolicy {
    bank: HashAlg,
    pcrs: Vec<u8>,
}

impl PcrPolicy {
    /// PCRs 0 to 23 in ascending order, at least one.
    #[must_use]
    pub fn new(bank: HashAlg, pcrs: &[u8]) -> Option<Self> {
        let ascending = pcrs.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        let known = pcrs.last().is_some_and(|last| *last < 24);
        (ascending && known).then(|| Self { bank, pcrs: pcrs.to_vec() })
    }

    /// The bank.
    #[must_use]
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The PCRs, ascending.
    #[must_use]
    pub fn pcrs(&self) -> &[u8] {
        &self.pcrs
    }

    fn bits(&self) -> u32 {
        self.pcrs.iter().fold(0, |bits, pcr| bits | 1 << (pcr & 31))
    }
}

/// Judges a quote: bound to this exchange, over exactly the PCRs of the policy, and of these values.
///
/// # Errors
/// Any of these does not hold.
pub fn check_quote(
    attest: &Attest<'_>,
    qualifying_data: &[u8; 32],
    ak: &PublicArea,
    policy: &PcrPolicy,
    values: &[&[u8]],
) -> Result<(), Rejection> {
    let AttestKind::Quote { selection, digest } = attest.kind() else {
        return Err(Reason::AttestType.because("a certification where a quote belongs"));
    };
    check_binding(attest, qualifying_data)?;
    if *selection != [BankSelection { bank: policy.bank.id(), pcrs: policy.bits() }] {
        return Err(Reason::PcrSelection.because(format!("quoted are {selection:x?}")));
    }
    if values.len() != policy.pcrs.len() || values.iter().any(|value| value.len() != policy.bank.size()) {
        return Err(
            Reason::PcrDigest.because("the number or size of the values is not that of the selection")
        );
    }
    let hash = match ak.scheme() {
        Some(Scheme::Ecdsa(hash) | Scheme::RsaSsa(hash) | Scheme::RsaPss(hash)) => hash,
        None => return Err(Reason::AkUnsupported.because("it is not fixed to a scheme")),
    };
    if hash.digest(values) != *digest {
        return Err(Reason::PcrDigest.because("the values do not hash to the quoted digest"));
    }
    Ok(())
}

/// Compares the activated secret in constant time.
///
/// # Errors
/// It is another.
pub fn check_activation(expected: &[u8; 32], given: &[u8]) -> Result<(), Rejection> {
    verify_slices_are_equal(expected, given).map_err(|_unspecified| {
        Reason::ActivationMismatch.because("the secret sealed to this EK and AK was not given back")
    })
}

/// What the clock says about the time since the last attestation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uptime {
    /// The TPM has been running all the time.
    Continuous,
    /// It was reset, restarted or lost power: PCRs and clock begin anew, so a full attestation is due.
    Interrupted,
}

/// Compares clock and counters with those of the last attestation of the same EK.
///
/// # Errors
/// They went back, which happens only when a TPM is cleared or replaced by a copy.
pub fn check_clock(before: ClockInfo, now: ClockInfo) -> Result<Uptime, Rejection> {
    let back = Reason::ClockRollback.because(format!("before {before:?}, now {now:?}"));
    if now.reset_count < before.reset_count {
        return Err(back);
    }
    if now.reset_count > before.reset_count {
        return Ok(Uptime::Interrupted);
    }
    if now.restart_count < before.restart_count || now.clock < before.clock {
        return Err(back);
    }
    if now.restart_count > before.restart_count || !now.safe {
        return Ok(Uptime::Interrupted);
    }
    Ok(Uptime::Continuous)
}
