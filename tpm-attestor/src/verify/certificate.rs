//! EK certificates: the manufacturer's word that a key belongs to a genuine TPM (TCG EK Credential Profile 2.5, 3).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as X509Key;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::verify::{Curve, EvidenceError, HashAlg, PublicArea, PublicKey, Reason, Rejection};

/// Largest certificate that is looked at.
pub const MAX_CERTIFICATE_BYTES: usize = 8192;
/// Most intermediates that a node may present.
pub const MAX_PRESENTED: usize = 4;
/// Largest RSA key in any certificate, bits.
const MAX_RSA_BITS: usize = 4096;

/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EKU_EK: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
const OID_MANUFACTURER: &str = "2.23.133.2.1";
const OID_MODEL: &str = "2.23.133.2.2";
const OID_VERSION: &str = "2.23.133.2.3";

/// The pinned certificates of manufacturers: self-signed ones are anchors, all others only help to build paths.
#[derive(Debug, Clone, Default)]
pub struct EkAnchors {
    roots: Vec<TrustAnchor<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
    fingerprint: Vec<u8>,
}

/// Why a text holds no usable manufacturer certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate {number} is unusable: {reason}")]
pub struct BadAnchors {
    /// Which, from 1; 0 when there is none.
    pub number: usize,
    /// What is wrong.
    pub reason: String,
}

impl EkAnchors {
    /// Reads one or more PEM texts.
    ///
    /// # Errors
    /// A certificate is unreadable, or there is no self-signed one.
    pub fn from_pem<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, BadAnchors> {
        let mut anchors = Self::default();
        let mut number = 0;
        for text in texts {
            for certificate in CertificateDer::pem_slice_iter(text) {
                number += 1;
                let bad = |reason: String| BadAnchors { number, reason };
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                let (_, parsed) =
                    X509Certificate::from_der(&certificate).map_err(|error| bad(error.to_string()))?;
                anchors.fingerprint = HashAlg::Sha256.digest(&[&anchors.fingerprint, &certificate]);
                if parsed.subject().as_raw() == parsed.issuer().as_raw() {
                    let anchor =
                        anchor_from_trusted_cert(&certificate).map_err(|error| bad(error.to_string()))?;
                    anchors.roots.push(anchor.to_owned());
                } else {
                    anchors.intermediates.push(certificate);
                }
            }
        }
        if anchors.roots.is_empty() {
            return Err(BadAnchors {
                number: 0,
                reason: "there is no self-signed root certificate".to_owned(),
            });
        }
        Ok(anchors)
    }

    /// Names the pinned certificates in their order; empty when nothing is pinned.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8] {
        &self.fingerprint
    }

    /// Whether nothing is pinned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }
}

/// What a verified EK certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EkCertificate {
    /// The issuer's common name.
    pub issuer_cn: Option<String>,
    /// The manufacturer's code, such as `IFX`.
    pub vendor: Option<String>,
    /// The manufacturer's name for the model.
    pub model: Option<String>,
    /// The version when the certificate was made; not the firmware that runs today.
    pub version: Option<String>,
    /// When it ends, Unix seconds.
    pub not_after: i64,
}

/// Verifies an EK certificate: limits, the key it is for, its usage, and the path to a pinned root.
///
/// # Errors
/// Any of these does not hold.
pub fn verify_ek_certificate(
    certificate: &[u8],
    presented: &[&[u8]],
    anchors: &EkAnchors,
    ek: &PublicArea,
    now: SystemTime,
) -> Result<EkCertificate, EvidenceError> {
    if presented.len() > MAX_PRESENTED {
        let detail = format!("{} intermediates, at most {MAX_PRESENTED} are looked at", presented.len());
        return Err(Reason::EkCertificateLimits.because(detail).into());
    }
    for intermediate in presented {
        key_within_limits(parse(intermediate)?.public_key())?;
    }
    let parsed = parse(certificate)?;
    key_within_limits(parsed.public_key())?;
    if key_of(parsed.public_key())? != *ek.key() {
        let detail = "the certificate is for another key than the endorsement key presented";
        return Err(Reason::EkCertificateKeyMismatch.because(detail).into());
    }
    check_usage(&parsed, ek.key())?;
    check_path(certificate, presented, anchors, now)?;
    let (mut vendor, mut model, mut version) = (None, None, None);
    let names = parsed.subject_alternative_name().map_err(|error| invalid(&error))?;
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        let GeneralName::DirectoryName(directory) = name else { continue };
        for attribute in directory.iter_attributes() {
            let text = attribute.as_str().map(clean).ok();
            match attribute.attr_type().to_id_string().as_str() {
                OID_MANUFACTURER => vendor = text.map(|text| manufacturer(&text)),
                OID_MODEL => model = text,
                OID_VERSION => version = text,
                _ => {}
            }
        }
    }
    let issuer_cn = parsed.issuer().iter_common_name().next().and_then(|cn| cn.as_str().ok()).map(clean);
    let not_after = parsed.validity().not_after.timestamp();
    Ok(EkCertificate { issuer_cn, vendor, model, version, not_after })
}

/// The key that a certificate is for, as a TPM would hold it.
///
/// # Errors
/// The certificate is unreadable, or its key is of no kind that TPMs hold.
pub fn certificate_key(certificate: &[u8]) -> Result<PublicKey, EvidenceError> {
    key_of(parse(certificate)?.public_key())
}

/// The key in a `SubjectPublicKeyInfo`, DER or within PEM `PUBLIC KEY`, as a TPM would hold it.
///
/// # Errors
/// The bytes are unreadable, or the key is of no kind that TPMs hold.
pub fn spki_key(spki_der: &[u8]) -> Result<PublicKey, EvidenceError> {
    match SubjectPublicKeyInfo::from_der(spki_der) {
        Ok(([], info)) => key_of(&info),
        _ => Err(Reason::EkUnsupported.because("it is no SubjectPublicKeyInfo").into()),
    }
}

/// A manufacturer's four bytes as text: `IFX`, or `id:00001014` where they are none.
#[must_use]
pub fn vendor_text(id: [u8; 4]) -> String {
    let text = String::from_utf8_lossy(&id);
    let text = text.trim_end_matches(['\0', ' ']);
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        text.to_owned()
    } else {
        format!("id:{}", hex::encode_upper(id))
    }
}

/// A firmware version as four decimal numbers, the way vendors print it: `7.85.4555.0`.
#[must_use]
pub fn firmware_text(version: u64) -> String {
    let [a, b, c, d, e, f, g, h] = version.to_be_bytes();
    let number = |high, low| u16::from_be_bytes([high, low]);
    format!("{}.{}.{}.{}", number(a, b), number(c, d), number(e, f), number(g, h))
}

fn invalid(error: &dyn std::fmt::Display) -> Rejection {
    Reason::EkCertificateInvalid.because(error.to_string())
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, EvidenceError> {
    if certificate.len() > MAX_CERTIFICATE_BYTES {
        let detail = format!("{} bytes, at most {MAX_CERTIFICATE_BYTES} are looked at", certificate.len());
        return Err(Reason::EkCertificateLimits.because(detail).into());
    }
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(invalid(&"bytes follow the certificate").into()),
        Err(error) => Err(invalid(&error).into()),
    }
}

fn key_within_limits(info: &SubjectPublicKeyInfo<'_>) -> Result<(), Rejection> {
    if let Ok(X509Key::RSA(rsa)) = info.parsed()
        && rsa.key_size() > MAX_RSA_BITS
    {
        let detail = format!("an RSA key of {} bits, at most {MAX_RSA_BITS} are looked at", rsa.key_size());
        return Err(Reason::EkCertificateLimits.because(detail));
    }
    Ok(())
}

fn key_of(info: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, EvidenceError> {
    let unsupported = |detail: &str| EvidenceError::from(Reason::EkUnsupported.because(detail));
    match info.parsed().map_err(|error| invalid(&error))? {
        X509Key::RSA(rsa) => {
            let strip = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
            if strip(rsa.exponent) != [1, 0, 1] {
                return Err(unsupported("the RSA exponent is not 65537"));
            }
            Ok(PublicKey::Rsa { modulus: strip(rsa.modulus) })
        }
        X509Key::EC(point) => {
            let curve = match point.data() {
                [4, rest @ ..] if rest.len() == 64 => Curve::P256,
                [4, rest @ ..] if rest.len() == 96 => Curve::P384,
                _ => return Err(unsupported("the point is no uncompressed point of P-256 or P-384")),
            };
            let named = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            let expected = match curve {
                Curve::P256 => "1.2.840.10045.3.1.7",
                Curve::P384 => "1.3.132.0.34",
            };
            if named.is_none_or(|oid| oid.to_id_string() != expected) {
                return Err(unsupported("the curve is neither P-256 nor P-384"));
            }
            let (x, y) =
                point.data().get(1..).and_then(|xy| xy.split_at_checked(curve.size())).unwrap_or_default();
            Ok(PublicKey::Ecc { curve, x: x.to_vec(), y: y.to_vec() })
        }
        _ => Err(unsupported("the key is neither RSA nor EC")),
    }
}

fn check_usage(certificate: &X509Certificate<'_>, key: &PublicKey) -> Result<(), EvidenceError> {
    if certificate.is_ca() {
        return Err(Reason::EkCertificateUsage.because("it is a CA certificate").into());
    }
    let Some(usage) = certificate.key_usage().map_err(|error| invalid(&error))? else { return Ok(()) };
    let (fits, wanted) = match key {
        PublicKey::Rsa { .. } => (usage.value.key_encipherment(), "keyEncipherment"),
        PublicKey::Ecc { .. } => (usage.value.key_agreement(), "keyAgreement"),
    };
    if !fits {
        return Err(Reason::EkCertificateUsage.because(format!("its key usage lacks {wanted}")).into());
    }
    Ok(())
}

fn check_path(
    certificate: &[u8],
    presented: &[&[u8]],
    anchors: &EkAnchors,
    now: SystemTime,
) -> Result<(), Rejection> {
    let untrusted = |error: webpki::Error| Reason::EkCertificateUntrusted.because(error.to_string());
    let der = CertificateDer::from(certificate);
    let leaf = EndEntityCert::try_from(&der).map_err(|error| invalid(&error))?;
    let mut intermediates = anchors.intermediates.clone();
    intermediates.extend(presented.iter().map(|der| CertificateDer::from(der.to_vec())));
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors.roots,
        &intermediates,
        UnixTime::since_unix_epoch(seconds),
        // Manufacturers' CA certificates carry no extended key usage; where one is given, it must allow EKs.
        KeyUsage::required_if_present(EKU_EK),
        None,
        None,
    )
    .map(|_path| ())
    .map_err(untrusted)
}

/// Printable ASCII only, cut to what a selector should hold.
fn clean(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~')).take(128).collect::<String>().trim().to_owned()
}

/// `id:49465800` as `IFX`.
fn manufacturer(text: &str) -> String {
    let id = text.strip_prefix("id:").and_then(|digits| hex::decode(digits).ok());
    id.and_then(|bytes| bytes.try_into().ok()).map_or_else(|| text.to_owned(), vendor_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_are_written_as_people_know_them() {
        assert_eq!(vendor_text(*b"IFX\0"), "IFX");
        assert_eq!(vendor_text(*b"INTC"), "INTC");
        assert_eq!(vendor_text([0, 0, 0x10, 0x14]), "id:00001014");
        assert_eq!(vendor_text([0; 4]), "id:00000000");
        assert_eq!(manufacturer("id:53544D20"), "STM");
        assert_eq!(manufacturer("id:zz"), "id:zz");
    }

    #[test]
    fn firmware_is_four_numbers() {
        assert_eq!(firmware_text(0x0007_0055_11cb_0000), "7.85.4555.0");
    }
}
