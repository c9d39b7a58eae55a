//! Public keys: what `SubjectPublicKeyInfo` holds, which keys are acceptable, and their key identifier.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use der::Tag;
use rustls_pki_types::SignatureVerificationAlgorithm;

use crate::asn1::{self, Cursor};
use crate::oid;

/// Largest RSA modulus that is accepted from a peer, in bits: verifying costs its square.
pub const MAX_RSA_BITS: usize = 4096;
/// Largest RSA modulus of an authority, in bits: what path validation can work with.
const MAX_AUTHORITY_RSA_BITS: usize = 8192;
/// Smallest RSA modulus that is accepted, in bits.
pub const MIN_RSA_BITS: usize = 2048;

/// Why a public key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPublicKey {
    /// The bytes are no `SubjectPublicKeyInfo` (RFC 5280 4.1.2.7).
    #[error("the public key is no DER SubjectPublicKeyInfo: {0}")]
    Malformed(#[source] der::Error),
    /// Neither RSA nor EC.
    #[error("public key algorithm {oid} is not supported: use EC (P-256, P-384, P-521) or RSA")]
    Algorithm {
        /// The algorithm, dotted.
        oid: String,
    },
    /// An EC key on another curve, or with explicit parameters.
    #[error("curve {oid} is not supported: use P-256, P-384 or P-521")]
    Curve {
        /// The curve, dotted, or what stands in its place.
        oid: String,
    },
    /// An RSA modulus out of bounds.
    #[error("the RSA modulus has {bits} bits, {MIN_RSA_BITS} to {max} are allowed")]
    RsaSize {
        /// Its length in bits.
        bits: usize,
        /// How many are allowed here.
        max: usize,
    },
    /// An RSA exponent that is even, below 3 or over 33 bits.
    #[error("the RSA public exponent must be odd, at least 3 and at most 33 bits long")]
    RsaExponent,
    /// Not a point of the curve, or an RSA key that cannot be one.
    #[error("the public key's value is not valid for its type")]
    Value,
}

impl From<der::Error> for BadPublicKey {
    fn from(cause: der::Error) -> Self {
        Self::Malformed(cause)
    }
}

/// The kinds of public key this crate works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublicKeyKind {
    /// NIST P-256.
    EcP256,
    /// NIST P-384.
    EcP384,
    /// NIST P-521.
    EcP521,
    /// RSA with a modulus of this many bits.
    Rsa {
        /// Modulus length in bits.
        bits: usize,
    },
}

/// A parsed `SubjectPublicKeyInfo`.
pub(crate) struct PublicKey<'a> {
    pub(crate) kind: PublicKeyKind,
    /// Content of the BIT STRING: an EC point, or a PKCS#1 `RSAPublicKey`.
    pub(crate) bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Reads and judges a key: known kind, bounded size, valid value. All sizes are checked before any
    /// arithmetic is done with them.
    pub(crate) fn parse(spki_der: &'a [u8]) -> Result<Self, BadPublicKey> {
        Self::parse_up_to(spki_der, MAX_RSA_BITS)
    }

    /// As [`PublicKey::parse`], for the key of an authority: those are configured by people, not sent by
    /// peers, and old roots have long keys.
    pub(crate) fn parse_authority(spki_der: &'a [u8]) -> Result<Self, BadPublicKey> {
        Self::parse_up_to(spki_der, MAX_AUTHORITY_RSA_BITS)
    }

    fn parse_up_to(spki_der: &'a [u8], max_rsa_bits: usize) -> Result<Self, BadPublicKey> {
        let spki = Spki::parse(spki_der)?;
        let (kind, algorithm): (_, &'static dyn VerificationAlgorithm) = match spki.algorithm {
            oid::EC_PUBLIC_KEY => match spki.curve()? {
                oid::P256 => (PublicKeyKind::EcP256, &ECDSA_P256_SHA256_ASN1),
                oid::P384 => (PublicKeyKind::EcP384, &ECDSA_P384_SHA384_ASN1),
                oid::P521 => (PublicKeyKind::EcP521, &ECDSA_P521_SHA512_ASN1),
                other => return Err(BadPublicKey::Curve { oid: oid::dotted(other) }),
            },
            oid::RSA_ENCRYPTION => {
                let rsa = RsaKey::parse(spki.bits)?;
                let bits = rsa.modulus_bits();
                if !(MIN_RSA_BITS..=max_rsa_bits).contains(&bits) {
                    return Err(BadPublicKey::RsaSize { bits, max: max_rsa_bits });
                }
                rsa.check_exponent()?;
                (PublicKeyKind::Rsa { bits }, &RSA_PKCS1_2048_8192_SHA256)
            }
            other => return Err(BadPublicKey::Algorithm { oid: oid::dotted(other) }),
        };
        // An EC key is an uncompressed point (RFC 5480 2.2; the compressed form is optional and refused).
        let is_ec = !matches!(kind, PublicKeyKind::Rsa { .. });
        if is_ec && spki.bits.first() != Some(&4) {
            return Err(BadPublicKey::Value);
        }
        if ParsedPublicKey::new(algorithm, spki.bits).is_err() {
            return Err(BadPublicKey::Value);
        }
        Ok(Self { kind, bits: spki.bits })
    }
}

/// The outer structure of a `SubjectPublicKeyInfo`, unjudged.
struct Spki<'a> {
    algorithm: &'a [u8],
    parameters: &'a [u8],
    bits: &'a [u8],
}

impl<'a> Spki<'a> {
    fn parse(der: &'a [u8]) -> der::Result<Self> {
        let mut spki = Cursor::only_sequence(der)?;
        let algorithm_id = spki.expect(Tag::Sequence)?;
        let bits = spki.whole_bits()?;
        spki.finish()?;
        let mut inner = Cursor::new(algorithm_id.value)?;
        let algorithm = inner.expect(Tag::ObjectIdentifier)?.value;
        let parameters = if inner.is_finished() { &[][..] } else { inner.next()?.raw };
        inner.finish()?;
        Ok(Self { algorithm, parameters, bits })
    }

    fn curve(&self) -> Result<&'a [u8], BadPublicKey> {
        match Cursor::only(self.parameters, Tag::ObjectIdentifier) {
            Ok(curve) => Ok(curve.value),
            Err(_) => Err(BadPublicKey::Curve { oid: "given by explicit parameters".to_owned() }),
        }
    }
}

/// PKCS#1 `RSAPublicKey`.
pub(crate) struct RsaKey<'a> {
    pub(crate) modulus: &'a [u8],
    pub(crate) exponent: &'a [u8],
}

impl<'a> RsaKey<'a> {
    pub(crate) fn parse(bits: &'a [u8]) -> der::Result<Self> {
        let mut key = Cursor::only_sequence(bits)?;
        let modulus = key.unsigned()?;
        let exponent = key.unsigned()?;
        key.finish()?;
        Ok(Self { modulus, exponent })
    }

    fn modulus_bits(&self) -> usize {
        bit_length(self.modulus)
    }

    fn check_exponent(&self) -> Result<(), BadPublicKey> {
        let odd = self.exponent.last().is_some_and(|b| b & 1 == 1);
        if !odd || self.exponent == [1] || bit_length(self.exponent) > 33 {
            return Err(BadPublicKey::RsaExponent);
        }
        Ok(())
    }
}

fn bit_length(magnitude: &[u8]) -> usize {
    let leading = magnitude.first().map_or(0, |b| b.leading_zeros());
    magnitude.len().saturating_mul(8).saturating_sub(usize::try_from(leading).unwrap_or(0))
}

/// Judges a `SubjectPublicKeyInfo`: EC on P-256, P-384 or P-521 with a point on the curve, or RSA of 2048
/// to 4096 bits.
///
/// # Errors
/// Any other key.
pub fn check_public_key(spki_der: &[u8]) -> Result<PublicKeyKind, BadPublicKey> {
    PublicKey::parse(spki_der).map(|key| key.kind)
}

/// The subject key identifier of RFC 5280 4.2.1.2 (1): SHA-1 over the key's bit string.
///
/// Bytes that are no `SubjectPublicKeyInfo` are hashed whole, so that the result is still a name for them.
#[must_use]
pub fn subject_key_id(spki_der: &[u8]) -> [u8; 20] {
    let bits = Spki::parse(spki_der).map_or(spki_der, |spki| spki.bits);
    let mut id = [0; 20];
    // SHA-1 is what key identifiers are made with; nothing here relies on its collision resistance.
    id.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bits).as_ref());
    id
}

/// How a certificate is signed: follows from the signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// ECDSA with SHA-256, for P-256 keys.
    EcdsaSha256,
    /// ECDSA with SHA-384, for P-384 keys.
    EcdsaSha384,
    /// RSASSA-PKCS1-v1_5 with SHA-256, for RSA keys.
    RsaSha256,
}

impl SignatureAlgorithm {
    /// The algorithm a key signs certificates with: P-256 with SHA-256, P-384 with SHA-384, RSA with
    /// PKCS#1 v1.5 and SHA-256.
    ///
    /// # Errors
    /// Another kind of key.
    pub fn for_key(spki_der: &[u8]) -> Result<Self, BadPublicKey> {
        match check_public_key(spki_der)? {
            PublicKeyKind::EcP256 => Ok(Self::EcdsaSha256),
            PublicKeyKind::EcP384 => Ok(Self::EcdsaSha384),
            PublicKeyKind::Rsa { .. } => Ok(Self::RsaSha256),
            PublicKeyKind::EcP521 => Err(BadPublicKey::Curve { oid: oid::dotted(oid::P521) }),
        }
    }

    /// `AlgorithmIdentifier`, DER.
    pub(crate) fn identifier(self) -> Vec<u8> {
        let (algorithm, parameters): (&[u8], &[u8]) = match self {
            Self::EcdsaSha256 => (oid::ECDSA_WITH_SHA256, &[]),
            Self::EcdsaSha384 => (oid::ECDSA_WITH_SHA384, &[]),
            Self::RsaSha256 => (oid::SHA256_WITH_RSA, &[0x05, 0x00]),
        };
        asn1::element(asn1::SEQUENCE, &[&asn1::element(asn1::OID, &[algorithm]), parameters])
    }
}

/// Verifies a signature made with `spki_der` over `message`; `algorithm_id` is the content of the
/// signature's `AlgorithmIdentifier`. False for algorithms that are not known, too.
pub(crate) fn verify_signature(
    algorithm_id: &[u8],
    spki_der: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let Ok(mut spki) = Cursor::only_sequence(spki_der) else { return false };
    let Ok(key_algorithm) = spki.expect(Tag::Sequence) else { return false };
    let Ok(bits) = spki.whole_bits() else { return false };
    webpki::ALL_VERIFICATION_ALGS
        .iter()
        .filter(|known: &&&dyn SignatureVerificationAlgorithm| {
            known.signature_alg_id().as_ref() == algorithm_id
                && known.public_key_alg_id().as_ref() == key_algorithm.value
        })
        .any(|known| known.verify_signature(bits, message, signature).is_ok())
}
