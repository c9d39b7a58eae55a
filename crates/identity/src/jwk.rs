//! JSON Web Keys (RFC 7517, RFC 7518 6) as SPIFFE bundles use them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::asn1;
use crate::certificate::{BadCertificate, Certificate};
use crate::json::{Fields, Member};
use crate::key::{BadPublicKey, PublicKey, PublicKeyKind, RsaKey};
use crate::oid;

/// Longest key id that is read, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 1024;
/// Longest number of a key that is decoded, in characters of base64.
const MAX_MEMBER_BYTES: usize = 4096;

/// Why an entry of a bundle cannot be used although its use is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadJwk {
    /// Not a JSON object.
    #[error("it is not a JSON object")]
    NoObject,
    /// A member that is missing, of the wrong type, or not base64.
    #[error("member {member:?} is missing or malformed")]
    Member {
        /// Which member.
        member: &'static str,
    },
    /// A JWT key without key id (JWT-SVID 6.1), or with one over [`MAX_KEY_ID_BYTES`].
    #[error("a jwt-svid key needs a \"kid\" of 1 to {MAX_KEY_ID_BYTES} bytes")]
    KeyId,
    /// The first value of `x5c` is no certificate.
    #[error("the certificate in \"x5c\" cannot be read: {0}")]
    Certificate(#[from] BadCertificate),
    /// The key is refused.
    #[error(transparent)]
    Key(#[from] BadPublicKey),
    /// The certificate has another key than the members beside it say (RFC 7517 4.7).
    #[error("the certificate in \"x5c\" has another key than the entry")]
    KeyMismatch,
}

/// The members of an entry that are looked at, as text or not; all others are read over.
pub(crate) struct Entry<'de> {
    members: [Option<Member<'de>>; MEMBERS.len()],
}

const MEMBERS: [&str; 9] = ["use", "kty", "kid", "x5c", "crv", "x", "y", "n", "e"];

impl<'de> Entry<'de> {
    /// How an entry is read; none when it is no object.
    pub(crate) const FIELDS: Fields<{ MEMBERS.len() }> = Fields(MEMBERS);

    pub(crate) fn new(members: [Option<Member<'de>>; MEMBERS.len()]) -> Self {
        Self { members }
    }

    fn member(&self, name: &str) -> Option<&Member<'de>> {
        MEMBERS
            .iter()
            .zip(&self.members)
            .find(|(known, _)| **known == name)
            .and_then(|(_, member)| member.as_ref())
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.member(name).and_then(Member::as_str)
    }
}

/// Key types the standards know; entries of other types are skipped.
fn is_known_type(key: &Entry<'_>) -> bool {
    matches!(key.text("kty"), Some("EC" | "RSA"))
}

/// The CA certificate of an `x509-svid` entry; none when the entry must be ignored (X509-SVID 6.2).
pub(crate) fn certificate(key: &Entry<'_>) -> Result<Option<Vec<u8>>, BadJwk> {
    if !is_known_type(key) {
        return Ok(None);
    }
    let first = match key.member("x5c") {
        None | Some(Member::List { len: 0, .. }) => return Ok(None),
        Some(Member::List { first, .. }) => first.as_deref(),
        Some(_) => None,
    };
    let text = first.ok_or(BadJwk::Member { member: "x5c" })?;
    let Ok(der) = STANDARD.decode(text) else { return Err(BadJwk::Member { member: "x5c" }) };
    let certificate = Certificate::parse(&der)?;
    // The members beside x5c may be left out, but must not contradict it.
    if ["crv", "x", "y", "n", "e"].iter().any(|member| key.member(member).is_some())
        && spki(key)? != certificate.spki_der
    {
        return Err(BadJwk::KeyMismatch);
    }
    Ok(Some(der))
}

/// Key id and `SubjectPublicKeyInfo` of a `jwt-svid` entry; none when the key's type is not known.
pub(crate) fn jwt_key(key: &Entry<'_>) -> Result<Option<(String, Vec<u8>)>, BadJwk> {
    if !is_known_type(key) {
        return Ok(None);
    }
    let key_id = key.text("kid").unwrap_or_default();
    if key_id.is_empty() || key_id.len() > MAX_KEY_ID_BYTES {
        return Err(BadJwk::KeyId);
    }
    let spki_der = spki(key)?;
    PublicKey::parse(&spki_der)?;
    Ok(Some((key_id.to_owned(), spki_der)))
}

/// `SubjectPublicKeyInfo` of an EC or RSA key's members.
fn spki(key: &Entry<'_>) -> Result<Vec<u8>, BadJwk> {
    let bytes = |member: &'static str| {
        key.text(member)
            // No key that is accepted comes near this; what is longer need not be decoded to be refused.
            .filter(|text| text.len() <= MAX_MEMBER_BYTES)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .ok_or(BadJwk::Member { member })
    };
    if key.text("kty") == Some("RSA") {
        let (n, e) = (asn1::integer(&bytes("n")?), asn1::integer(&bytes("e")?));
        let rsa = asn1::element(asn1::SEQUENCE, &[&n, &e]);
        return Ok(key_info(oid::RSA_ENCRYPTION, &[0x05, 0x00], &rsa));
    }
    let (curve, len) = match key.text("crv") {
        Some("P-256") => (oid::P256, 32),
        Some("P-384") => (oid::P384, 48),
        Some("P-521") => (oid::P521, 66),
        _ => return Err(BadJwk::Member { member: "crv" }),
    };
    // RFC 7518 6.2.1.2: coordinates have the curve's full length.
    let coordinate = |member| match bytes(member)? {
        value if value.len() == len => Ok(value),
        _ => Err(BadJwk::Member { member }),
    };
    let point = [&[4][..], &coordinate("x")?, &coordinate("y")?].concat();
    Ok(key_info(oid::EC_PUBLIC_KEY, &asn1::element(asn1::OID, &[curve]), &point))
}

fn key_info(algorithm: &[u8], parameters: &[u8], bits: &[u8]) -> Vec<u8> {
    let algorithm = asn1::element(asn1::SEQUENCE, &[&asn1::element(asn1::OID, &[algorithm]), parameters]);
    asn1::element(asn1::SEQUENCE, &[&algorithm, &asn1::element(asn1::BIT_STRING, &[&[0], bits])])
}

/// The members of a public key; none when it is neither EC nor RSA as this crate knows them.
fn members(spki_der: &[u8]) -> Option<Map<String, Value>> {
    let key = PublicKey::parse_authority(spki_der).ok()?;
    let base64 = |bytes: &[u8]| Value::String(URL_SAFE_NO_PAD.encode(bytes));
    let mut members = Map::new();
    let curve = match key.kind {
        PublicKeyKind::EcP256 => "P-256",
        PublicKeyKind::EcP384 => "P-384",
        PublicKeyKind::EcP521 => "P-521",
        PublicKeyKind::Rsa { .. } => {
            let rsa = RsaKey::parse(key.bits).ok()?;
            members.insert("kty".to_owned(), json!("RSA"));
            members.insert("n".to_owned(), base64(rsa.modulus));
            members.insert("e".to_owned(), base64(rsa.exponent));
            return Some(members);
        }
    };
    // Behind the marker of an uncompressed point lie both coordinates at full length.
    let coordinates = key.bits.get(1..)?;
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
    members.insert("kty".to_owned(), json!("EC"));
    members.insert("crv".to_owned(), json!(curve));
    members.insert("x".to_owned(), base64(x));
    members.insert("y".to_owned(), base64(y));
    Some(members)
}

/// The entry of a CA certificate (X509-SVID 6.1): `use`, the key, `x5c`, no `kid`.
pub(crate) fn of_certificate(der: &[u8]) -> Option<Value> {
    let certificate = Certificate::parse(der).ok()?;
    let mut entry = members(&certificate.spki_der)?;
    entry.insert("use".to_owned(), json!("x509-svid"));
    entry.insert("x5c".to_owned(), json!([STANDARD.encode(der)]));
    Some(Value::Object(entry))
}

/// The entry of a JWT key (JWT-SVID 6.1).
pub(crate) fn of_jwt_key(key_id: &str, spki_der: &[u8], key_use: Option<&str>) -> Option<Value> {
    let mut entry = members(spki_der)?;
    entry.insert("kid".to_owned(), json!(key_id));
    if let Some(key_use) = key_use {
        entry.insert("use".to_owned(), json!(key_use));
    }
    Some(Value::Object(entry))
}
