//! Checking the signature over the nonces.

use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P521_SHA256_ASN1, EcdsaVerificationAlgorithm,
    RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPssSaltLength, UnparsedPublicKey,
};

/// SPIRE's agents salt as long as the modulus allows, tokens and TPMs as long as the hash; the others are what
/// other tools are known to use. Go would accept any length, at one try each we accept these.
static SALTS: [RsaParameters; 6] = [
    RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max),
    RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Custom(20)),
    RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Custom(48)),
    RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Custom(64)),
    RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Custom(0)),
];

/// The curves in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn algorithm(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::P384 => &ECDSA_P384_SHA256_ASN1,
            Self::P521 => &ECDSA_P521_SHA256_ASN1,
        }
    }

    fn coordinate(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// Whether `signature` is RSASSA-PSS (SHA-256, MGF1 with SHA-256) over `digest` by the key in `spki_der`.
pub(super) fn rsa_holds(spki_der: &[u8], digest: &Digest, signature: &[u8]) -> bool {
    SALTS.iter().any(|parameters| {
        UnparsedPublicKey::new(parameters, spki_der).verify_digest(digest, signature).is_ok()
    })
}

/// Whether `r` and `s` are ECDSA over `digest` by the key in `spki_der`.
pub(super) fn ecdsa_holds(curve: Curve, spki_der: &[u8], digest: &Digest, r: &[u8], s: &[u8]) -> bool {
    let (r, s) = (without_zeros(r), without_zeros(s));
    let fits = |number: &[u8]| !number.is_empty() && number.len() <= curve.coordinate();
    if !fits(r) || !fits(s) {
        return false;
    }
    let signature = sequence(&[integer(r), integer(s)].concat());
    UnparsedPublicKey::new(curve.algorithm(), spki_der).verify_digest(digest, &signature).is_ok()
}

pub(super) fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// DER of an unsigned number without leading zeros, shorter than 128 bytes.
fn integer(number: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if number.first().is_some_and(|first| first & 0x80 != 0) { &[0] } else { &[] };
    tag(0x02, &[sign, number].concat())
}

fn sequence(content: &[u8]) -> Vec<u8> {
    tag(0x30, content)
}

/// Tag, length (below 256, which two P-521 numbers are) and content.
fn tag(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    let long: &[u8] = if length >= 0x80 { &[0x81] } else { &[] };
    [&[tag], long, &[length], content].concat()
}
