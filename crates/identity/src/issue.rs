//! Building certificates: the signed part first, the signature from elsewhere, then the whole.
//!
//! The private key lives in a token and signs asynchronously, so nothing here can sign. Templates follow
//! SPIRE's certificates field by field.

use std::time::{Duration, SystemTime};

use crate::asn1;
use crate::certificate::{BadCertificate, Certificate};
use crate::dns_name::{self, BadDnsName};
use crate::key::{BadPublicKey, SignatureAlgorithm, check_public_key, subject_key_id, verify_signature};
use crate::name::{self, DistinguishedName};
use crate::{SpiffeId, oid};

/// How far notBefore lies before the time of issue, against clocks that lag.
pub const NOT_BEFORE_CUSHION: Duration = Duration::from_secs(10);

/// Why a certificate cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CannotIssue {
    /// The CA certificate cannot be read.
    #[error("the CA certificate cannot be used: {0}")]
    BadIssuer(#[from] BadCertificate),
    /// The certificate is not a CA's.
    #[error("the issuer's certificate is no CA: it needs cA=true and the key usage keyCertSign")]
    IssuerIsNoCa,
    /// The CA certificate has an empty subject, which no issuer may have (RFC 5280 4.1.2.4).
    #[error("the CA certificate has an empty subject and so cannot be named as issuer")]
    IssuerWithoutName,
    /// The CA certificate is past its end.
    #[error("the CA certificate expired before the time of issue")]
    IssuerExpired,
    /// The clock stands before the CA certificate's beginning.
    #[error("the CA certificate is not valid yet at the time of issue: check the clock")]
    IssuerNotYetValid,
    /// A leaf or intermediate without issuer, or a self-signed CA with one.
    #[error("a self-signed CA has no issuer, everything else needs one")]
    IssuerMismatch,
    /// The algorithm is not the one of the signing key.
    #[error("signature algorithm {asked:?} does not fit the signing key, which uses {key:?}")]
    AlgorithmMismatch {
        /// What was asked for.
        asked: SignatureAlgorithm,
        /// What the key uses.
        key: SignatureAlgorithm,
    },
    /// The subject's public key is refused.
    #[error("the subject's public key is refused: {0}")]
    SubjectKey(#[source] BadPublicKey),
    /// The signing key is refused.
    #[error("the signing key is refused: {0}")]
    SigningKey(#[source] BadPublicKey),
    /// The SPIFFE ID does not fit: a leaf needs a path, a CA has none.
    #[error("{id} does not fit the certificate: a leaf's ID has a path, a CA's has none")]
    Id {
        /// The ID.
        id: String,
    },
    /// A DNS name that must not be certified.
    #[error("DNS name: {0}")]
    DnsName(#[from] BadDnsName),
    /// The serial number is zero.
    #[error("the serial number must not be zero")]
    ZeroSerial,
    /// The lifetime is empty or out of the range of X.509 times.
    #[error("the lifetime is empty or beyond the year 9999")]
    Lifetime,
    /// A subject name that is no DER `Name`.
    #[error("the subject name is malformed: {0}")]
    Subject(#[source] der::Error),
    /// A signature that the signing key did not make over these bytes.
    #[error("the signature does not verify with the issuer's key: the key manager signed with another key")]
    Signature,
}

/// What kind of certificate to make.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Template<'a> {
    /// The server's own root: subject `ca_subject` with the serial number as `serialNumber` attribute
    /// unless one is set, cA, keyCertSign and cRLSign, no authority key identifier.
    SelfSignedCa {
        /// The configured subject.
        subject: &'a DistinguishedName,
    },
    /// A CA below another: the parent's subject with `OU=DOWNSTREAM-<n>` in place of its OUs.
    IntermediateCa {
        /// How many certificates the parent's chain has, itself included.
        parent_chain_len: usize,
    },
    /// The server's SVID.
    Server,
    /// An agent's SVID.
    Agent,
    /// A workload's SVID; the first DNS name also becomes the CN.
    Workload {
        /// DNS names from the entry.
        dns_names: &'a [String],
    },
    /// A workload's SVID with a subject of its own (MintX509SVID takes it from the CSR); an empty `Name`
    /// means the default. The first DNS name replaces its CN.
    WorkloadWithSubject {
        /// `Name`, DER.
        subject_der: &'a [u8],
        /// DNS names.
        dns_names: &'a [String],
    },
}

impl Template<'_> {
    fn is_ca(&self) -> bool {
        matches!(self, Self::SelfSignedCa { .. } | Self::IntermediateCa { .. })
    }

    fn dns_names(&self) -> &[String] {
        match self {
            Self::Workload { dns_names } | Self::WorkloadWithSubject { dns_names, .. } => dns_names,
            _ => &[],
        }
    }
}

/// A CA as others see it: what its certificates must repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    subject_der: Vec<u8>,
    subject_key_id: Vec<u8>,
    spki_der: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
    algorithm: SignatureAlgorithm,
}

impl Issuer {
    /// Takes a CA certificate. Its subject is kept byte for byte and its subject key identifier copied.
    ///
    /// # Errors
    /// The certificate is malformed, no CA, nameless, or has a key that certificates are not signed with.
    pub fn from_certificate(der: &[u8]) -> Result<Self, CannotIssue> {
        let ca = Certificate::parse(der)?;
        if !ca.is_authority() {
            return Err(CannotIssue::IssuerIsNoCa);
        }
        if name::is_empty(&ca.subject_der) {
            return Err(CannotIssue::IssuerWithoutName);
        }
        let algorithm = SignatureAlgorithm::for_key(&ca.spki_der).map_err(CannotIssue::SigningKey)?;
        let subject_key_id =
            ca.extensions.subject_key_id.unwrap_or_else(|| subject_key_id(&ca.spki_der).to_vec());
        Ok(Self {
            subject_der: ca.subject_der,
            subject_key_id,
            spki_der: ca.spki_der,
            not_before: ca.not_before,
            not_after: ca.not_after,
            algorithm,
        })
    }

    /// The subject, DER, as it stands in the CA certificate.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    /// The subject key identifier that issued certificates repeat.
    #[must_use]
    pub fn subject_key_id(&self) -> &[u8] {
        &self.subject_key_id
    }

    /// The CA's `SubjectPublicKeyInfo`, DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The last moment of the CA's validity, which caps what it issues.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The algorithm this CA signs with.
    #[must_use]
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

/// The signed part of a certificate, waiting for its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TbsCertificate {
    der: Vec<u8>,
    algorithm: SignatureAlgorithm,
    signer_spki: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl TbsCertificate {
    /// The bytes to sign with [`TbsCertificate::algorithm`].
    #[must_use]
    pub fn to_be_signed(&self) -> &[u8] {
        &self.der
    }

    /// The signature algorithm: hash the bytes with its hash, then sign.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// notBefore, in whole seconds.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// notAfter, in whole seconds.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether `signature` was made over these bytes by the issuer's key. Costs a signature verification.
    #[must_use]
    pub fn is_signed_by_issuer(&self, signature: &[u8]) -> bool {
        let identifier = self.algorithm.identifier();
        asn1::Cursor::only(&identifier, der::Tag::Sequence)
            .is_ok_and(|id| verify_signature(id.value, &self.signer_spki, &self.der, signature))
    }

    /// Joins the signature (ECDSA: DER `ECDSA-Sig-Value`; RSA: the raw bytes) and gives the certificate.
    ///
    /// The signature is verified first, so a token that signs with a wrong key or garbles an answer cannot
    /// get a certificate out of the door.
    ///
    /// # Errors
    /// The signature is not the issuer's over these bytes.
    pub fn assemble(self, signature: &[u8]) -> Result<Vec<u8>, CannotIssue> {
        if !self.is_signed_by_issuer(signature) {
            return Err(CannotIssue::Signature);
        }
        Ok(self.assemble_unverified(signature))
    }

    /// As [`TbsCertificate::assemble`] without verifying: for callers whose key manager has verified the
    /// signature already, since doing it twice halves what a server can issue.
    #[must_use]
    pub fn assemble_unverified(self, signature: &[u8]) -> Vec<u8> {
        asn1::element(
            asn1::SEQUENCE,
            &[&self.der, &self.algorithm.identifier(), &asn1::element(asn1::BIT_STRING, &[&[0], signature])],
        )
    }
}

/// Builds a certificate's signed part.
///
/// `serial` is big endian and not zero; `now` gives notBefore (ten seconds earlier) and, with `ttl`,
/// notAfter, which the issuer's own caps. `issuer` is the CA, or `None` for [`Template::SelfSignedCa`].
/// `alg` must be the signing key's.
///
/// # Errors
/// See [`CannotIssue`].
#[expect(clippy::too_many_arguments, reason = "a certificate has this many inputs, each of its own type")]
pub fn certificate<'i>(
    template: Template<'_>,
    id: &SpiffeId,
    spki_der: &[u8],
    serial: [u8; 16],
    now: SystemTime,
    ttl: Duration,
    issuer: impl Into<Option<&'i Issuer>>,
    alg: SignatureAlgorithm,
) -> Result<TbsCertificate, CannotIssue> {
    let issuer = issuer.into();
    if matches!(template, Template::SelfSignedCa { .. }) == issuer.is_some() {
        return Err(CannotIssue::IssuerMismatch);
    }
    if template.is_ca() != id.path().is_empty() {
        return Err(CannotIssue::Id { id: id.to_string() });
    }
    if serial == [0; 16] {
        return Err(CannotIssue::ZeroSerial);
    }
    for dns_name in template.dns_names() {
        dns_name::check_dns_name(dns_name)?;
    }
    check_public_key(spki_der).map_err(CannotIssue::SubjectKey)?;
    let signer_spki = issuer.map_or(spki_der, |issuer| &issuer.spki_der);
    let key = match issuer {
        Some(issuer) => issuer.algorithm,
        None => SignatureAlgorithm::for_key(spki_der).map_err(CannotIssue::SigningKey)?,
    };
    if key != alg {
        return Err(CannotIssue::AlgorithmMismatch { asked: alg, key });
    }

    let (not_before, not_after) = lifetime(now, ttl, issuer)?;
    let subject = subject(&template, serial, issuer)?;
    let issuer_name = issuer.map_or(subject.as_slice(), |issuer| issuer.subject_der.as_slice());
    let time = |at| asn1::time(at).ok().ok_or(CannotIssue::Lifetime);
    let der = asn1::element(
        asn1::SEQUENCE,
        &[
            // Version 3.
            &[0xa0, 0x03, asn1::INTEGER, 0x01, 0x02],
            &asn1::integer(&serial),
            &alg.identifier(),
            issuer_name,
            &asn1::element(asn1::SEQUENCE, &[&time(not_before)?, &time(not_after)?]),
            &subject,
            spki_der,
            &asn1::element(0xa3, &[&extensions(&template, id, spki_der, issuer)]),
        ],
    );
    Ok(TbsCertificate { der, algorithm: alg, signer_spki: signer_spki.to_vec(), not_before, not_after })
}

fn lifetime(
    now: SystemTime,
    ttl: Duration,
    issuer: Option<&Issuer>,
) -> Result<(SystemTime, SystemTime), CannotIssue> {
    let not_before = now.checked_sub(NOT_BEFORE_CUSHION).ok_or(CannotIssue::Lifetime)?;
    let mut not_after = now.checked_add(ttl).ok_or(CannotIssue::Lifetime)?;
    if let Some(issuer) = issuer {
        if issuer.not_after <= now {
            return Err(CannotIssue::IssuerExpired);
        }
        if now < issuer.not_before {
            return Err(CannotIssue::IssuerNotYetValid);
        }
        not_after = not_after.min(issuer.not_after);
    }
    let (not_before, not_after) = (whole_seconds(not_before)?, whole_seconds(not_after)?);
    if not_after <= whole_seconds(now)? {
        return Err(CannotIssue::Lifetime);
    }
    Ok((not_before, not_after))
}

fn whole_seconds(at: SystemTime) -> Result<SystemTime, CannotIssue> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok().ok_or(CannotIssue::Lifetime)?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()))
}

fn subject(
    template: &Template<'_>,
    serial: [u8; 16],
    issuer: Option<&Issuer>,
) -> Result<Vec<u8>, CannotIssue> {
    let default = || DistinguishedName::default_svid().to_der();
    let base = match template {
        Template::SelfSignedCa { subject } => {
            let mut subject = (*subject).clone();
            if subject.serial_number.is_empty() {
                subject.serial_number = u128::from_be_bytes(serial).to_string();
            }
            return Ok(subject.to_der());
        }
        Template::IntermediateCa { parent_chain_len } => {
            let parent = issuer.ok_or(CannotIssue::IssuerMismatch)?;
            let unit = format!("DOWNSTREAM-{parent_chain_len}");
            return name::with_attribute(&parent.subject_der, oid::ORGANIZATIONAL_UNIT, &unit)
                .map_err(CannotIssue::Subject);
        }
        Template::WorkloadWithSubject { subject_der, .. } => {
            name::check(subject_der).map_err(CannotIssue::Subject)?;
            if name::is_empty(subject_der) { default() } else { subject_der.to_vec() }
        }
        _ => default(),
    };
    match template.dns_names().first() {
        Some(first) => name::with_attribute(&base, oid::COMMON_NAME, first).map_err(CannotIssue::Subject),
        None => Ok(base),
    }
}

fn extensions(template: &Template<'_>, id: &SpiffeId, spki_der: &[u8], issuer: Option<&Issuer>) -> Vec<u8> {
    let mut list = Vec::new();
    if template.is_ca() {
        // keyCertSign and cRLSign; one unused bit.
        list.push(extension(oid::KEY_USAGE, true, &[asn1::BIT_STRING, 2, 1, 0x06]));
        let ca = asn1::element(asn1::SEQUENCE, &[&[asn1::BOOLEAN, 1, 0xff]]);
        list.push(extension(oid::BASIC_CONSTRAINTS, true, &ca));
    } else {
        // digitalSignature, keyEncipherment and keyAgreement; three unused bits.
        list.push(extension(oid::KEY_USAGE, true, &[asn1::BIT_STRING, 2, 3, 0xa8]));
        let usages = asn1::element(
            asn1::SEQUENCE,
            &[&asn1::element(asn1::OID, &[oid::SERVER_AUTH]), &asn1::element(asn1::OID, &[oid::CLIENT_AUTH])],
        );
        list.push(extension(oid::EXT_KEY_USAGE, false, &usages));
        // cA FALSE is the default, so the sequence is empty.
        list.push(extension(oid::BASIC_CONSTRAINTS, true, &asn1::element(asn1::SEQUENCE, &[])));
    }
    let key_id = asn1::element(asn1::OCTET_STRING, &[&subject_key_id(spki_der)]);
    list.push(extension(oid::SUBJECT_KEY_ID, false, &key_id));
    if let Some(issuer) = issuer {
        let key_id = asn1::element(0x80, &[&issuer.subject_key_id]);
        list.push(extension(oid::AUTHORITY_KEY_ID, false, &asn1::element(asn1::SEQUENCE, &[&key_id])));
    }
    let mut names: Vec<Vec<u8>> =
        template.dns_names().iter().map(|dns| asn1::element(0x82, &[dns.as_bytes()])).collect();
    names.push(asn1::element(0x86, &[id.as_str().as_bytes()]));
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let names = asn1::element(asn1::SEQUENCE, &names);
    // RFC 5280 4.2.1.6: critical exactly when the subject says nothing, which no template's subject does.
    list.push(extension(oid::SUBJECT_ALT_NAME, false, &names));
    let list: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
    asn1::element(asn1::SEQUENCE, &list)
}

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[asn1::BOOLEAN, 1, 0xff] } else { &[] };
    asn1::element(
        asn1::SEQUENCE,
        &[&asn1::element(asn1::OID, &[id]), critical, &asn1::element(asn1::OCTET_STRING, &[value])],
    )
}
