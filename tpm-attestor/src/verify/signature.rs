//! `TPMT_SIGNATURE` and its verification (TPM 2.0 part 2, 11.3.4).

use aws_lc_rs::signature::{self as alg, RsaPublicKeyComponents, UnparsedPublicKey};

use crate::der;
use crate::verify::{BadStructure, Curve, EvidenceError, HashAlg, PublicArea, PublicKey, Reason, Scheme};
use crate::wire::Reader;

/// Largest signature that is looked at: RSA-4096.
pub const MAX_SIGNATURE_BYTES: usize = 520;

/// A decoded signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature<'a> {
    scheme: Scheme,
    // ECDSA: r and s. RSA: the signature and nothing.
    parts: (&'a [u8], &'a [u8]),
}

impl<'a> Signature<'a> {
    /// Decodes an ECDSA or RSA signature, to the last byte.
    ///
    /// # Errors
    /// No such structure, or an algorithm that is not accepted.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadStructure> {
        let mut r = Reader::new("TPMT_SIGNATURE", bytes, MAX_SIGNATURE_BYTES)?;
        let make: fn(HashAlg) -> Scheme = match r.u16()? {
            0x0018 => Scheme::Ecdsa,
            0x0014 => Scheme::RsaSsa,
            0x0016 => Scheme::RsaPss,
            _ => return Err(r.fault("the algorithm is none of ECDSA, RSASSA, RSAPSS")),
        };
        let scheme = HashAlg::from_id(r.u16()?)
            .map(make)
            .ok_or_else(|| r.fault("the hash is none of SHA-256, SHA-384, SHA-512"))?;
        let parts = match scheme {
            Scheme::Ecdsa(_) => (r.sized(48)?, r.sized(48)?),
            Scheme::RsaSsa(_) | Scheme::RsaPss(_) => (r.sized(512)?, &[][..]),
        };
        if parts.0.is_empty() {
            return Err(r.fault("empty"));
        }
        r.end()?;
        Ok(Self { scheme, parts })
    }

    /// Algorithm and hash.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Verifies the signature over `message` by a key that is fixed to one scheme.
    ///
    /// # Errors
    /// The signature's scheme is not the key's, or it does not verify.
    pub fn verify(&self, key: &PublicArea, message: &[u8]) -> Result<(), EvidenceError> {
        // The key decides, never the signature's own header.
        if key.scheme() != Some(self.scheme) {
            let detail = format!("signed with {:?}, the key is fixed to {:?}", self.scheme, key.scheme());
            return Err(Reason::SignatureScheme.because(detail).into());
        }
        let verified = match (key.key(), self.scheme) {
            (PublicKey::Ecc { curve, .. }, Scheme::Ecdsa(hash)) => {
                let signature = der::ecdsa_signature(self.parts.0, self.parts.1);
                UnparsedPublicKey::new(ecdsa(*curve, hash), key.key().point()).verify(message, &signature)
            }
            (PublicKey::Rsa { modulus }, scheme) => {
                RsaPublicKeyComponents { n: modulus.as_slice(), e: &[1_u8, 0, 1][..] }.verify(
                    rsa(scheme),
                    message,
                    self.parts.0,
                )
            }
            _ => Err(aws_lc_rs::error::Unspecified),
        };
        verified.map_err(|_unspecified| {
            Reason::AttestSignature.because("the signature does not verify with the AK").into()
        })
    }
}

fn ecdsa(curve: Curve, hash: HashAlg) -> &'static alg::EcdsaVerificationAlgorithm {
    match (curve, hash) {
        (Curve::P256, HashAlg::Sha256) => &alg::ECDSA_P256_SHA256_ASN1,
        (Curve::P256, HashAlg::Sha384) => &alg::ECDSA_P256_SHA384_ASN1,
        (Curve::P256, HashAlg::Sha512) => &alg::ECDSA_P256_SHA512_ASN1,
        (Curve::P384, HashAlg::Sha256) => &alg::ECDSA_P384_SHA256_ASN1,
        (Curve::P384, HashAlg::Sha384) => &alg::ECDSA_P384_SHA384_ASN1,
        (Curve::P384, HashAlg::Sha512) => &alg::ECDSA_P384_SHA512_ASN1,
    }
}

fn rsa(scheme: Scheme) -> &'static alg::RsaParameters {
    match scheme {
        Scheme::RsaPss(HashAlg::Sha256) => &alg::RSA_PSS_2048_8192_SHA256,
        Scheme::RsaPss(HashAlg::Sha384) => &alg::RSA_PSS_2048_8192_SHA384,
        Scheme::RsaPss(HashAlg::Sha512) => &alg::RSA_PSS_2048_8192_SHA512,
        Scheme::RsaSsa(HashAlg::Sha384) => &alg::RSA_PKCS1_2048_8192_SHA384,
        Scheme::RsaSsa(HashAlg::Sha512) => &alg::RSA_PKCS1_2048_8192_SHA512,
        Scheme::RsaSsa(HashAlg::Sha256) | Scheme::Ecdsa(_) => &alg::RSA_PKCS1_2048_8192_SHA256,
    }
}
