//! Judging JWT-SVIDs (JWT-SVID 2 to 5).

use std::borrow::Borrow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::bundle::Bundle;
use crate::json::{Fields, Member};
use crate::jwt::JwtAlgorithm;
use crate::key::PublicKey;
use crate::{BadSpiffeId, SpiffeId, TrustDomain, json};

/// Largest token that is read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// Most keys that are tried for a token without `kid`.
const MAX_TRIED_KEYS: usize = 32;
/// Latest time that is read from a claim: the end of the year 9999, in Unix seconds.
const MAX_NUMERIC_DATE: f64 = 253_402_300_799.0;

/// Why a token is no valid JWT-SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadJwtSvid {
    /// Over [`MAX_TOKEN_BYTES`].
    #[error("the token has {len} bytes, at most {MAX_TOKEN_BYTES} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not three parts joined by dots: only the compact serialisation is allowed.
    #[error("the token is no JWS in compact serialisation")]
    NotCompact,
    /// A part that is not base64url without padding.
    #[error("the token's {part} is not base64url without padding")]
    Base64 {
        /// Which part.
        part: &'static str,
    },
    /// A part that is no JSON object without duplicate names.
    #[error("the token's {part} is no JSON object: {cause}")]
    Json {
        /// Which part.
        part: &'static str,
        /// What the reader found.
        #[source]
        cause: serde_json::Error,
    },
    /// A part that is JSON but no object.
    #[error("the token's {part} is no JSON object")]
    NoObject {
        /// Which part.
        part: &'static str,
    },
    /// `alg` is missing or not one of RS, ES, PS with 256, 384, 512.
    #[error("the token's algorithm is missing or not allowed (RS, ES or PS with 256, 384 or 512)")]
    Algorithm,
    /// `typ` is there and neither JWT nor JOSE.
    #[error("the token's type is neither JWT nor JOSE")]
    Type,
    /// `kid` is there and not a text that names a key.
    #[error("the token's key id is not a text or empty")]
    KeyId,
    /// `crit`: extensions that must be understood, and none is (RFC 7515 4.1.11).
    #[error("the token demands header extensions that are not supported")]
    Critical,
    /// `sub` is missing or not a text.
    #[error("the token has no subject")]
    NoSubject,
    /// `sub` is no SPIFFE ID.
    #[error("the token's subject is no SPIFFE ID: {0}")]
    Subject(#[from] BadSpiffeId),
    /// No bundle of the subject's trust domain.
    #[error("there is no bundle of trust domain {trust_domain} to judge the token of {id}")]
    NoBundle {
        /// The subject.
        id: SpiffeId,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// The bundle has no such key.
    #[error("the bundle of {id}'s trust domain has no key {} that fits {}", named(key_id.as_deref()), .algorithm.as_str())]
    UnknownKey {
        /// The subject.
        id: SpiffeId,
        /// The key id, or nothing when the token names none.
        key_id: Option<String>,
        /// The token's algorithm.
        algorithm: JwtAlgorithm,
    },
    /// The signature does not verify.
    #[error("the signature of the token of {id} does not verify")]
    Signature {
        /// The subject.
        id: SpiffeId,
    },
    /// A time claim that is missing where it must be there, or is no time.
    #[error("the token of {id} has no usable claim {claim:?}")]
    Time {
        /// The subject.
        id: SpiffeId,
        /// Which claim.
        claim: &'static str,
    },
    /// `exp` is past.
    #[error("the token of {id} has expired")]
    Expired {
        /// The subject.
        id: SpiffeId,
    },
    /// `nbf` is still to come.
    #[error("the token of {id} is not valid yet")]
    NotYetValid {
        /// The subject.
        id: SpiffeId,
    },
    /// `aud` is missing, empty or malformed.
    #[error("the token of {id} has no audience")]
    NoAudience {
        /// The subject.
        id: SpiffeId,
    },
    /// None of the token's audiences is ours.
    #[error("the token of {id} is for another audience")]
    Audience {
        /// The subject.
        id: SpiffeId,
    },
}

/// A JWT-SVID that has been judged and found valid.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct JwtSvid {
    /// Whom it names.
    pub id: SpiffeId,
    /// For whom it is.
    pub audience: Vec<String>,
    /// When it ends.
    pub expires_at: SystemTime,
    /// When it was made, if it says so.
    pub issued_at: Option<SystemTime>,
    /// The id of the key that signed it.
    pub key_id: String,
    /// All claims.
    pub claims: Map<String, Value>,
}

/// Validates a token: compact form, allowed algorithm (before anything else is looked at), type, subject,
/// signature by a key of the bundle of the subject's trust domain, expiry with `leeway` for clocks that
/// differ, and that one of `audiences` is among the token's.
///
/// # Errors
/// See [`BadJwtSvid`]. With no audience given, every token is for another audience.
pub fn verify_jwt_svid<A: AsRef<str>, B: Borrow<Bundle>>(
    token: &str,
    audiences: &[A],
    bundles: impl FnOnce(&TrustDomain) -> Option<B>,
    now: SystemTime,
    leeway: Duration,
) -> Result<JwtSvid, BadJwtSvid> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(BadJwtSvid::TooLong { len: token.len() });
    }
    let (signing_input, signature) = token.rsplit_once('.').ok_or(BadJwtSvid::NotCompact)?;
    let (header, claims) = signing_input.split_once('.').ok_or(BadJwtSvid::NotCompact)?;
    if header.is_empty() || claims.is_empty() || claims.contains('.') || signature.is_empty() {
        return Err(BadJwtSvid::NotCompact);
    }
    let (algorithm, key_id) = read_header(&decode("header", header)?)?;
    // Until the signature is verified only the subject is read: a tree of all claims is for those we trust.
    let claims = decode("claims", claims)?;
    let [subject] = fields("claims", &claims, Fields(["sub"]))?;
    let subject = subject.as_ref().and_then(Member::as_str).ok_or(BadJwtSvid::NoSubject)?;
    let id: SpiffeId = subject.parse()?;
    let signature = decode("signature", signature)?;

    let trust_domain = id.trust_domain();
    let bundle = bundles(&trust_domain).filter(|bundle| bundle.borrow().trust_domain == trust_domain);
    let Some(bundle) = bundle else { return Err(BadJwtSvid::NoBundle { id, trust_domain }) };
    let message = signing_input.as_bytes();
    let key_id = signed_by(bundle.borrow(), &id, key_id, algorithm, message, &signature)?;
    let claims = object("claims", &claims)?;

    let expires_at = match time(&claims, "exp") {
        Ok(Some(at)) => at,
        _ => return Err(BadJwtSvid::Time { id, claim: "exp" }),
    };
    if expires_at.checked_add(leeway).is_none_or(|end| end <= now) {
        return Err(BadJwtSvid::Expired { id });
    }
    match time(&claims, "nbf") {
        Ok(begin) if begin.is_none_or(|begin| now.checked_add(leeway).is_some_and(|now| begin <= now)) => {}
        Ok(_) => return Err(BadJwtSvid::NotYetValid { id }),
        Err(NoTime) => return Err(BadJwtSvid::Time { id, claim: "nbf" }),
    }
    let Ok(issued_at) = time(&claims, "iat") else { return Err(BadJwtSvid::Time { id, claim: "iat" }) };
    let Some(audience) = audience(&claims) else { return Err(BadJwtSvid::NoAudience { id }) };
    if !audience.iter().any(|value| audiences.iter().any(|ours| ours.as_ref() == value)) {
        return Err(BadJwtSvid::Audience { id });
    }
    Ok(JwtSvid { id, audience, expires_at, issued_at, key_id, claims })
}

/// A key id as it is named in a message.
fn named(key_id: Option<&str>) -> String {
    key_id.map_or_else(|| "(none named)".to_owned(), |id| format!("{id:?}"))
}

fn decode(part: &'static str, text: &str) -> Result<Vec<u8>, BadJwtSvid> {
    URL_SAFE_NO_PAD.decode(text).ok().ok_or(BadJwtSvid::Base64 { part })
}

/// The known members of a part that is an object without duplicate names.
fn fields<'de, const N: usize>(
    part: &'static str,
    text: &'de [u8],
    fields: Fields<N>,
) -> Result<[Option<Member<'de>>; N], BadJwtSvid> {
    let read = json::check(text).and_then(|()| json::read(text, fields));
    read.map_err(|cause| BadJwtSvid::Json { part, cause })?.ok_or(BadJwtSvid::NoObject { part })
}

fn object(part: &'static str, text: &[u8]) -> Result<Map<String, Value>, BadJwtSvid> {
    match json::parse(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(BadJwtSvid::NoObject { part }),
        Err(cause) => Err(BadJwtSvid::Json { part, cause }),
    }
}

/// Algorithm and key id. Keys and key addresses in the header (`jwk`, `jku`, `x5c`) are never looked at.
fn read_header(header: &[u8]) -> Result<(JwtAlgorithm, Option<String>), BadJwtSvid> {
    let [alg, typ, crit, kid] = fields("header", header, Fields(["alg", "typ", "crit", "kid"]))?;
    let algorithm = alg.as_ref().and_then(Member::as_str).and_then(JwtAlgorithm::from_name);
    let algorithm = algorithm.ok_or(BadJwtSvid::Algorithm)?;
    match typ.as_ref().map(Member::as_str) {
        None | Some(Some("JWT" | "JOSE")) => {}
        Some(_) => return Err(BadJwtSvid::Type),
    }
    if crit.is_some() {
        return Err(BadJwtSvid::Critical);
    }
    match kid.as_ref().map(Member::as_str) {
        None => Ok((algorithm, None)),
        Some(Some(key_id)) if !key_id.is_empty() => Ok((algorithm, Some(key_id.to_owned()))),
        Some(_) => Err(BadJwtSvid::KeyId),
    }
}

/// The id of the bundle's key that made the signature. `kid` is optional (JWT-SVID 2.2): without it, every
/// key that fits the algorithm is tried, up to a limit.
fn signed_by(
    bundle: &Bundle,
    id: &SpiffeId,
    key_id: Option<String>,
    algorithm: JwtAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> Result<String, BadJwtSvid> {
    let mut tried = false;
    let candidates = bundle
        .jwt_authorities
        .iter()
        .filter(|key| key_id.as_ref().is_none_or(|wanted| *wanted == key.key_id))
        .filter_map(|key| PublicKey::parse(&key.spki_der).ok().map(|parsed| (key, parsed)))
        .filter(|(_, parsed)| algorithm.fits(parsed.kind));
    for (key, parsed) in candidates.take(MAX_TRIED_KEYS) {
        tried = true;
        if algorithm.verifies(&parsed, message, signature) {
            return Ok(key.key_id.clone());
        }
    }
    let id = id.clone();
    Err(if tried { BadJwtSvid::Signature { id } } else { BadJwtSvid::UnknownKey { id, key_id, algorithm } })
}

struct NoTime;

/// A NumericDate (RFC 7519 2), which may have a fraction; none when the claim is absent.
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<SystemTime>, NoTime> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|at| (0.0..=MAX_NUMERIC_DATE).contains(at)).ok_or(NoTime)?;
    let since_epoch = Duration::try_from_secs_f64(seconds).ok().ok_or(NoTime)?;
    UNIX_EPOCH.checked_add(since_epoch).map(Some).ok_or(NoTime)
}

/// `aud`: a text or a list of texts, of which at least one is not empty.
fn audience(claims: &Map<String, Value>) -> Option<Vec<String>> {
    let mut values = match claims.get("aud")? {
        Value::String(one) => vec![one.clone()],
        Value::Array(list) => {
            list.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?
        }
        _ => return None,
    };
    values.retain(|value| !value.is_empty());
    (!values.is_empty()).then_some(values)
}
