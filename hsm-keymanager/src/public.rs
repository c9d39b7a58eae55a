//! Public keys and signatures as bytes: what tokens and chips hand out, turned into what X.509 wants.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm};

use crate::types::{Digest, HashAlgorithm, KeyError, KeyType, PublicKey, SignatureScheme};

/// `SubjectPublicKeyInfo` up to the point, for id-ecPublicKey on P-256 (RFC 5480 2.1.1).
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same for P-384.
const P384_PREFIX: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
    0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
/// `AlgorithmIdentifier` of rsaEncryption with NULL parameters (RFC 3279 2.3.1).
const RSA_ALGORITHM: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// Why bytes are no public key that this crate uses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPublicKey {
    /// An elliptic-curve point of a length that fits neither form.
    #[error(
        "an EC point of {got} bytes is neither the {raw} bytes of an uncompressed {kind} point nor the {wrapped} of one in an OCTET STRING"
    )]
    PointLength {
        /// The curve expected.
        kind: KeyType,
        /// Bytes of the uncompressed point.
        raw: usize,
        /// Bytes of the point in a DER OCTET STRING.
        wrapped: usize,
        /// Bytes given.
        got: usize,
    },
    /// The DER header in front of a point is not that of an OCTET STRING of the right length.
    #[error("the EC point's header is not that of an OCTET STRING of the right length")]
    PointHeader,
    /// The point is compressed, or not on its curve.
    #[error("the EC point is not an uncompressed point on {kind}")]
    NotOnCurve {
        /// The curve expected.
        kind: KeyType,
    },
    /// An RSA modulus or exponent that is not used here.
    #[error("an RSA modulus of {bits} bits with an exponent of {exponent_bytes} bytes is no {kind} key")]
    Rsa {
        /// The type expected.
        kind: KeyType,
        /// Bits of the modulus.
        bits: usize,
        /// Bytes of the exponent.
        exponent_bytes: usize,
    },
    /// The modulus and exponent make no RSA public key.
    #[error("the modulus and exponent make no RSA public key")]
    RsaRejected,
}

/// Bytes of one coordinate, and so of `r` or `s`.
pub(crate) fn coordinate_len(kind: KeyType) -> usize {
    if kind == KeyType::EcP384 { 48 } else { 32 }
}

/// Makes a public key from a `CKA_EC_POINT`: a DER OCTET STRING as PKCS#11 2.40 has it, or the bare point
/// that older modules give. The length decides which, never a trial parse: a bare point may happen to look
/// like DER.
///
/// # Errors
/// Another length, a wrong header, a compressed point or one that is not on the curve.
pub fn ec_public_key(kind: KeyType, ec_point: &[u8]) -> Result<PublicKey, BadPublicKey> {
    let raw = 1 + 2 * coordinate_len(kind);
    let wrapped = raw + 2;
    let point = match ec_point.len() {
        n if n == raw => ec_point,
        n if n == wrapped => match ec_point.split_at_checked(2) {
            Some((&[0x04, len], point)) if usize::from(len) == raw => point,
            _ => return Err(BadPublicKey::PointHeader),
        },
        got => return Err(BadPublicKey::PointLength { kind, raw, wrapped, got }),
    };
    let (prefix, algorithm): (&[u8], &'static dyn VerificationAlgorithm) = match kind {
        KeyType::EcP384 => (P384_PREFIX, &signature::ECDSA_P384_SHA384_ASN1),
        _ => (P256_PREFIX, &signature::ECDSA_P256_SHA256_ASN1),
    };
    if point.first() != Some(&0x04) || ParsedPublicKey::new(algorithm, point).is_err() {
        return Err(BadPublicKey::NotOnCurve { kind });
    }
    Ok(PublicKey { kind, spki_der: [prefix, point].concat() })
}

/// Makes a public key from an RSA modulus and exponent, big-endian, with or without leading zeros.
///
/// # Errors
/// The modulus does not have the bits of `kind`, or the numbers make no key.
pub fn rsa_public_key(kind: KeyType, modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, BadPublicKey> {
    let (n, e) = (trim(modulus), trim(exponent));
    let bits = n.first().map_or(0, |top| 8 * n.len() - top.leading_zeros() as usize);
    let expected = if kind == KeyType::Rsa4096 { 4096 } else { 2048 };
    if bits != expected || e.is_empty() || e.len() > 4 {
        return Err(BadPublicKey::Rsa { kind, bits, exponent_bytes: e.len() });
    }
    let pkcs1 = tlv(0x30, &[integer(n), integer(e)].concat());
    let spki_der = tlv(0x30, &[RSA_ALGORITHM, &tlv(0x03, &[&[0], pkcs1.as_slice()].concat())].concat());
    if ParsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, &spki_der).is_err() {
        return Err(BadPublicKey::RsaRejected);
    }
    Ok(PublicKey { kind, spki_der })
}

/// The uncompressed point of an EC key (65 or 97 bytes), `None` for RSA.
#[must_use]
pub fn ec_point(public: &PublicKey) -> Option<&[u8]> {
    match public.kind {
        KeyType::EcP256 => public.spki_der.strip_prefix(P256_PREFIX),
        KeyType::EcP384 => public.spki_der.strip_prefix(P384_PREFIX),
        KeyType::Rsa2048 | KeyType::Rsa4096 => None,
    }
}

/// Turns `r || s`, as PKCS#11 and TPMs give it, into the DER of RFC 3279 2.2.3. Shorter halves than the
/// curve's are accepted, since some modules leave leading zeros out of both.
///
/// `None` when the bytes cannot be a signature of that curve.
#[cfg(any(feature = "pkcs11", feature = "tpm", test))]
pub(crate) fn ecdsa_der(kind: KeyType, raw: &[u8]) -> Option<Vec<u8>> {
    let half = raw.len() / 2;
    if half == 0 || !raw.len().is_multiple_of(2) || half > coordinate_len(kind) {
        return None;
    }
    let (r, s) = raw.split_at_checked(half)?;
    Some(tlv(0x30, &[integer(trim(r)), integer(trim(s))].concat()))
}

/// Fits a digest to what ECDSA signs (FIPS 186-5 6.4.1): the leftmost bytes when it is longer than the order
/// of the curve, so that tokens and chips that accept no other length sign it all the same.
#[cfg(any(feature = "pkcs11", feature = "memory", feature = "disk", feature = "tpm"))]
pub(crate) fn ecdsa_input(kind: KeyType, digest: &Digest) -> &[u8] {
    let bytes = digest.as_bytes();
    bytes.get(..coordinate_len(kind)).unwrap_or(bytes)
}

/// As [`ecdsa_input`], with zeros in front when the digest is shorter: the same number, and always as long as
/// the curve's own hash.
#[cfg(any(feature = "memory", feature = "disk", feature = "tpm"))]
pub(crate) fn ecdsa_input_padded(kind: KeyType, digest: &Digest) -> Vec<u8> {
    let input = ecdsa_input(kind, digest);
    let mut padded = vec![0; coordinate_len(kind).saturating_sub(input.len())];
    padded.extend_from_slice(input);
    padded
}

/// Checks that a key and a scheme belong together.
pub(crate) fn fits(kind: KeyType, scheme: SignatureScheme) -> bool {
    kind.is_ec() == matches!(scheme, SignatureScheme::Ecdsa)
}

/// Whether `signature` over `digest` verifies with `public`, in software.
#[must_use]
pub fn verify(public: &PublicKey, scheme: SignatureScheme, digest: &Digest, signature: &[u8]) -> bool {
    use HashAlgorithm::{Sha256, Sha384, Sha512};
    if !fits(public.kind, scheme) {
        return false;
    }
    let algorithm: &'static dyn VerificationAlgorithm = match (public.kind, scheme, digest.algorithm()) {
        (KeyType::EcP256, _, Sha256) => &signature::ECDSA_P256_SHA256_ASN1,
        (KeyType::EcP256, _, Sha384) => &signature::ECDSA_P256_SHA384_ASN1,
        (KeyType::EcP256, _, Sha512) => &signature::ECDSA_P256_SHA512_ASN1,
        (KeyType::EcP384, _, Sha256) => &signature::ECDSA_P384_SHA256_ASN1,
        (KeyType::EcP384, _, Sha384) => &signature::ECDSA_P384_SHA384_ASN1,
        (KeyType::EcP384, _, Sha512) => &signature::ECDSA_P384_SHA512_ASN1,
        (_, SignatureScheme::RsaPss, Sha256) => &signature::RSA_PSS_2048_8192_SHA256,
        (_, SignatureScheme::RsaPss, Sha384) => &signature::RSA_PSS_2048_8192_SHA384,
        (_, SignatureScheme::RsaPss, Sha512) => &signature::RSA_PSS_2048_8192_SHA512,
        (_, _, Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (_, _, Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (_, _, Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
    };
    imported(digest).is_ok_and(|digest| {
        UnparsedPublicKey::new(algorithm, &public.spki_der).verify_digest(&digest, signature).is_ok()
    })
}

/// The digest as aws-lc-rs has it.
pub(crate) fn imported(digest: &Digest) -> Result<digest::Digest, KeyError> {
    import(digest.algorithm(), digest.as_bytes())
}

/// Bytes as a digest of `algorithm`.
pub(crate) fn import(algorithm: HashAlgorithm, bytes: &[u8]) -> Result<digest::Digest, KeyError> {
    digest::Digest::import_less_safe(bytes, algorithm.algorithm())
        .map_err(|_unspecified| KeyError::DigestLength { expected: algorithm.len(), got: bytes.len() })
}

fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A DER INTEGER of an unsigned number without leading zeros.
fn integer(number: &[u8]) -> Vec<u8> {
    match number.first() {
        None => tlv(0x02, &[0]),
        Some(top) if top & 0x80 != 0 => tlv(0x02, &[&[0], number].concat()),
        Some(_) => tlv(0x02, number),
    }
}

/// A DER element; the content is at most 65,535 bytes, which holds for every key and signature here.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut out = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
#[path = "public_tests.rs"]
mod tests;
