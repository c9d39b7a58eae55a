//! Making JWT-SVIDs: the signing input first, the signature from elsewhere, then the token
//! (JWT-SVID 2 and 3, JWS compact serialisation of RFC 7515).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::SpiffeId;
use crate::asn1::Cursor;
use crate::key::{BadPublicKey, PublicKey, PublicKeyKind};

/// The signature algorithms of JWT-SVID 2.1; there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JwtAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
}

impl JwtAlgorithm {
    const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    /// The value of the header `alg`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// Reads a header's `alg`; case matters (RFC 7515 4.1.1).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// The algorithm a key signs tokens with: P-256 ES256, P-384 ES384, P-521 ES512, RSA RS256.
    ///
    /// # Errors
    /// Another kind of key.
    pub fn for_key(spki_der: &[u8]) -> Result<Self, BadPublicKey> {
        Ok(match PublicKey::parse(spki_der)?.kind {
            PublicKeyKind::EcP256 => Self::Es256,
            PublicKeyKind::EcP384 => Self::Es384,
            PublicKeyKind::EcP521 => Self::Es512,
            PublicKeyKind::Rsa { .. } => Self::Rs256,
        })
    }

    /// Whether a key of this kind may verify tokens of this algorithm.
    pub(crate) fn fits(self, kind: PublicKeyKind) -> bool {
        match self {
            Self::Es256 => kind == PublicKeyKind::EcP256,
            Self::Es384 => kind == PublicKeyKind::EcP384,
            Self::Es512 => kind == PublicKeyKind::EcP521,
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                matches!(kind, PublicKeyKind::Rsa { .. })
            }
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        }
    }

    /// Length of one ECDSA integer in a JWS signature (RFC 7518 3.4); none for RSA.
    fn coordinate_len(self) -> Option<usize> {
        match self {
            Self::Es256 => Some(32),
            Self::Es384 => Some(48),
            Self::Es512 => Some(66),
            _ => None,
        }
    }

    /// Whether `signature` (in its JWS form) is `key`'s over `message`.
    pub(crate) fn verifies(self, key: &PublicKey<'_>, message: &[u8], signature: &[u8]) -> bool {
        self.fits(key.kind)
            && UnparsedPublicKey::new(self.verification(), key.bits).verify(message, signature).is_ok()
    }
}

/// Why a JWT-SVID cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CannotSignJwt {
    /// No audience that is not empty (JWT-SVID 3.2).
    #[error("a JWT-SVID needs at least one audience")]
    NoAudience,
    /// The lifetime is empty: no time to live, or the signing key's life has ended.
    #[error("the JWT-SVID would have expired at birth: check ttl, clock and the signing key's end")]
    Lifetime,
    /// The signature is not what the algorithm makes.
    #[error("the {} signature is malformed: ECDSA needs DER with two integers that fit the curve", .algorithm.as_str())]
    Signature {
        /// The algorithm.
        algorithm: JwtAlgorithm,
    },
    /// The signature does not verify with the key that the bundle publishes.
    #[error("the signature does not verify with the published key: the key manager signed with another key")]
    WrongKey,
    /// The key is refused.
    #[error("the signing key is refused: {0}")]
    Key(#[from] BadPublicKey),
}

/// What a JWT-SVID says.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtClaims {
    claims: Map<String, Value>,
    expires_at: SystemTime,
}

impl JwtClaims {
    /// `sub`, `aud` (always an array, empty values dropped), `iat` and `exp`. `exp` is `now` plus `ttl` in
    /// whole seconds, but not later than `cap`, the end of the signing key's life.
    ///
    /// # Errors
    /// No audience, or no lifetime.
    pub fn new(
        subject: &SpiffeId,
        audience: &[String],
        now: SystemTime,
        ttl: Duration,
        cap: Option<SystemTime>,
    ) -> Result<Self, CannotSignJwt> {
        let audience: Vec<&String> = audience.iter().filter(|value| !value.is_empty()).collect();
        if audience.is_empty() {
            return Err(CannotSignJwt::NoAudience);
        }
        let end = now.checked_add(ttl).ok_or(CannotSignJwt::Lifetime)?;
        let (issued, expires) = (unix(now)?, unix(cap.map_or(end, |cap| end.min(cap)))?);
        if expires <= issued {
            return Err(CannotSignJwt::Lifetime);
        }
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(subject.as_str()));
        claims.insert("aud".to_owned(), json!(audience));
        claims.insert("iat".to_owned(), json!(issued));
        claims.insert("exp".to_owned(), json!(expires));
        Ok(Self { claims, expires_at: UNIX_EPOCH + Duration::from_secs(expires) })
    }

    /// Adds `iss`.
    #[must_use]
    pub fn with_issuer(mut self, issuer: &str) -> Self {
        self.claims.insert("iss".to_owned(), json!(issuer));
        self
    }

    /// Adds `jti`.
    #[must_use]
    pub fn with_token_id(mut self, id: &str) -> Self {
        self.claims.insert("jti".to_owned(), json!(id));
        self
    }

    /// When the token ends.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }
}

fn unix(at: SystemTime) -> Result<u64, CannotSignJwt> {
    at.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok().ok_or(CannotSignJwt::Lifetime)
}

/// The text a key signs: header (`alg`, `kid`, `typ` and no more) and claims, each base64url, joined by a dot.
#[must_use]
pub fn jwt_signing_input(claims: &JwtClaims, key_id: &str, algorithm: JwtAlgorithm) -> String {
    let header = json!({ "alg": algorithm.as_str(), "kid": key_id, "typ": "JWT" });
    let claims = Value::Object(claims.claims.clone());
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(&header), part(&claims))
}

/// Joins the signing input and its signature (ECDSA: DER `ECDSA-Sig-Value`; RSA: the raw bytes) to a token,
/// after verifying the signature with the key that the bundle publishes.
///
/// # Errors
/// A malformed signature, or one that does not verify.
pub fn jwt_assemble(
    signing_input: &str,
    algorithm: JwtAlgorithm,
    signature: &[u8],
    spki_der: &[u8],
) -> Result<String, CannotSignJwt> {
    let jws = jws_signature(algorithm, signature)?;
    if !algorithm.verifies(&PublicKey::parse(spki_der)?, signing_input.as_bytes(), &jws) {
        return Err(CannotSignJwt::WrongKey);
    }
    Ok(join(signing_input, &jws))
}

/// As [`jwt_assemble`] without verifying: for callers whose key manager has verified the signature already.
///
/// # Errors
/// A malformed signature.
pub fn jwt_assemble_unverified(
    signing_input: &str,
    algorithm: JwtAlgorithm,
    signature: &[u8],
) -> Result<String, CannotSignJwt> {
    Ok(join(signing_input, &jws_signature(algorithm, signature)?))
}

fn join(signing_input: &str, jws: &[u8]) -> String {
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(jws))
}

/// The JWS form of a signature: RSA as it is, ECDSA as two integers of fixed length.
fn jws_signature(algorithm: JwtAlgorithm, signature: &[u8]) -> Result<Vec<u8>, CannotSignJwt> {
    let Some(len) = algorithm.coordinate_len() else { return Ok(signature.to_vec()) };
    let wrong = || CannotSignJwt::Signature { algorithm };
    let integers = || -> der::Result<(&[u8], &[u8])> {
        let mut cursor = Cursor::only_sequence(signature)?;
        let pair = (cursor.unsigned()?, cursor.unsigned()?);
        cursor.finish()?;
        Ok(pair)
    };
    let (r, s) = integers().ok().ok_or_else(wrong)?;
    let mut fixed = Vec::with_capacity(len.saturating_mul(2));
    for integer in [r, s] {
        let padding = len.checked_sub(integer.len()).ok_or_else(wrong)?;
        fixed.extend(std::iter::repeat_n(0, padding));
        fixed.extend_from_slice(integer);
    }
    Ok(fixed)
}
