//! Bundles: the keys a trust domain vouches with, as SPIFFE's JWK Set, as DER and as PEM
//! (SPIFFE Trust Domain and Bundle 4).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::TrustDomain;
use crate::asn1::Cursor;
use crate::certificate::{BadCertificate, Certificate};
use crate::json;
use crate::jwk::{self, BadJwk};
use crate::pem::{BadPem, pem_decode, pem_encode};

/// Largest bundle document that is read, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 16 * 1024 * 1024;

const X509_USE: &str = "x509-svid";
const JWT_USE: &str = "jwt-svid";

/// Why bytes are no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadBundle {
    /// Over [`MAX_BUNDLE_BYTES`].
    #[error("the bundle of {trust_domain} has {len} bytes, at most {MAX_BUNDLE_BYTES} are read")]
    TooLong {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Its length in bytes.
        len: usize,
    },
    /// No JSON, or JSON with a duplicate name.
    #[error("the bundle of {trust_domain} is no JSON document: {cause}")]
    Json {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What the reader found.
        #[source]
        cause: serde_json::Error,
    },
    /// JSON of another shape.
    #[error("the bundle of {trust_domain} is no JWK Set: {reason}")]
    Shape {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What is missing or wrong.
        reason: &'static str,
    },
    /// One key that claims a use we know and cannot be read.
    #[error("key {index} of the bundle of {trust_domain}: {cause}")]
    Key {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Its place in `keys`, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        cause: BadJwk,
    },
    /// Two different JWT keys with one key id.
    #[error("the bundle of {trust_domain} has two different JWT keys with the id {key_id:?}")]
    DuplicateKeyId {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// The id.
        key_id: String,
    },
    /// PEM that cannot be used.
    #[error("the bundle of {trust_domain}: {cause}")]
    Pem {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What is wrong.
        #[source]
        cause: BadPem,
    },
    /// A certificate that cannot be read.
    #[error("certificate {index} of the bundle of {trust_domain}: {cause}")]
    Certificate {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        cause: BadCertificate,
    },
    /// No certificate where at least one is needed.
    #[error("the bundle of {trust_domain} holds no certificate")]
    NoCertificate {
        /// Whose bundle.
        trust_domain: TrustDomain,
    },
}

/// A CA certificate that X.509-SVIDs may chain to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct X509Authority {
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// Whether it is suspected: still trusted, but nothing should hang on it any more.
    pub tainted: bool,
}

/// A key that JWT-SVIDs may be signed with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JwtAuthority {
    /// The key id that tokens name in `kid`.
    pub key_id: String,
    /// `SubjectPublicKeyInfo`, DER.
    pub spki_der: Vec<u8>,
    /// When the key's life ends, in Unix seconds; 0 when that is not known.
    pub expires_at: i64,
    /// Whether it is suspected.
    pub tainted: bool,
}

/// What one trust domain vouches with. An empty bundle means that nothing of the domain is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle this is.
    pub trust_domain: TrustDomain,
    /// Authorities for X.509-SVIDs.
    pub x509_authorities: Vec<X509Authority>,
    /// Authorities for JWT-SVIDs.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// How often a consumer should look for news, in seconds; 0 for no hint.
    pub refresh_hint: i64,
    /// Grows with every change; 0 for none.
    pub sequence_number: u64,
}

impl Bundle {
    /// An empty bundle.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            refresh_hint: 0,
            sequence_number: 0,
        }
    }

    /// Reads a SPIFFE bundle document. Keys of unknown type or use, and X.509 entries without `x5c`, are
    /// ignored as the standard demands; repeated authorities are kept once.
    ///
    /// # Errors
    /// Malformed or duplicate JSON names, no `keys`, a malformed key of a known use, two keys with one id.
    pub fn from_jwks(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, BadBundle> {
        let mut bundle = Self::new(trust_domain);
        let td = || bundle.trust_domain.clone();
        if document.len() > MAX_BUNDLE_BYTES {
            return Err(BadBundle::TooLong { trust_domain: td(), len: document.len() });
        }
        let shape = |reason| BadBundle::Shape { trust_domain: td(), reason };
        let value = json::parse(document).map_err(|cause| BadBundle::Json { trust_domain: td(), cause })?;
        let Value::Object(document) = value else { return Err(shape("it is not an object")) };
        let sequence_number = match document.get("spiffe_sequence") {
            None => 0,
            Some(number) => {
                number.as_u64().ok_or_else(|| shape("spiffe_sequence is not an integer from 0 to 2^64-1"))?
            }
        };
        let refresh_hint = match document.get("spiffe_refresh_hint") {
            None => 0,
            Some(hint) => hint
                .as_i64()
                .filter(|hint| *hint >= 0)
                .ok_or_else(|| shape("spiffe_refresh_hint is not a number of seconds"))?,
        };
        let Some(Value::Array(keys)) = document.get("keys") else {
            return Err(shape("it has no array \"keys\""));
        };
        let (mut x509_authorities, mut jwt_authorities) = (Vec::new(), Vec::new());
        for (index, key) in keys.iter().enumerate() {
            let wrong = |cause| BadBundle::Key { trust_domain: td(), index, cause };
            let Value::Object(key) = key else { return Err(wrong(BadJwk::NoObject)) };
            match key.get("use").and_then(Value::as_str) {
                Some(X509_USE) => {
                    if let Some(der) = jwk::certificate(key).map_err(wrong)? {
                        x509_authorities.push(X509Authority { der, tainted: false });
                    }
                }
                Some(JWT_USE) => {
                    if let Some((key_id, spki_der)) = jwk::jwt_key(key).map_err(wrong)? {
                        jwt_authorities.push(JwtAuthority {
                            key_id,
                            spki_der,
                            expires_at: 0,
                            tainted: false,
                        });
                    }
                }
                _ => {}
            }
        }
        bundle.sequence_number = sequence_number;
        bundle.refresh_hint = refresh_hint;
        bundle.x509_authorities = unique(x509_authorities);
        bundle.jwt_authorities = unique(jwt_authorities);
        bundle.check_key_ids()?;
        Ok(bundle)
    }

    /// Reads the certificates of a PEM text.
    ///
    /// # Errors
    /// Malformed PEM, other blocks than CERTIFICATE, no certificate, or one that cannot be read.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BadBundle> {
        match pem_decode(text) {
            Ok(certificates) => Self::from_certificates(trust_domain, certificates),
            Err(cause) => Err(BadBundle::Pem { trust_domain, cause }),
        }
    }

    /// Reads DER certificates one behind the other, as the Workload API delivers bundles.
    ///
    /// # Errors
    /// Nothing there, or bytes that are no certificate.
    pub fn from_der_concat(trust_domain: TrustDomain, der: &[u8]) -> Result<Self, BadBundle> {
        if der.len() > MAX_BUNDLE_BYTES {
            return Err(BadBundle::TooLong { trust_domain, len: der.len() });
        }
        match split(der) {
            Ok(certificates) => Self::from_certificates(trust_domain, certificates),
            Err((index, cause)) => {
                Err(BadBundle::Certificate { trust_domain, index, cause: BadCertificate::Malformed(cause) })
            }
        }
    }

    fn from_certificates(trust_domain: TrustDomain, certificates: Vec<Vec<u8>>) -> Result<Self, BadBundle> {
        if certificates.is_empty() {
            return Err(BadBundle::NoCertificate { trust_domain });
        }
        for (index, der) in certificates.iter().enumerate() {
            if let Err(cause) = Certificate::parse(der) {
                return Err(BadBundle::Certificate { trust_domain, index, cause });
            }
        }
        let authorities = certificates.into_iter().map(|der| X509Authority { der, tainted: false });
        Ok(Self { x509_authorities: unique(authorities.collect()), ..Self::new(trust_domain) })
    }

    /// The SPIFFE bundle document: a JWK Set with `use`, sequence and refresh hint. An authority whose key
    /// has no JWK form (neither EC nor RSA) is left out.
    #[must_use]
    pub fn to_jwks(&self) -> Vec<u8> {
        let mut keys: Vec<Value> = self
            .x509_authorities
            .iter()
            .filter_map(|authority| jwk::of_certificate(&authority.der))
            .collect();
        let jwt = self.unique_jwt_authorities();
        keys.extend(jwt.filter_map(|key| jwk::of_jwt_key(&key.key_id, &key.spki_der, Some(JWT_USE))));
        let mut document = Map::new();
        document.insert("keys".to_owned(), Value::Array(keys));
        if self.sequence_number > 0 {
            document.insert("spiffe_sequence".to_owned(), self.sequence_number.into());
        }
        if self.refresh_hint > 0 {
            document.insert("spiffe_refresh_hint".to_owned(), self.refresh_hint.into());
        }
        Value::Object(document).to_string().into_bytes()
    }

    /// A plain JWK Set of the JWT keys alone, without `use`, as the Workload API's JWT bundles and OIDC want.
    #[must_use]
    pub fn jwt_jwks(&self) -> Vec<u8> {
        let keys: Vec<Value> = self
            .unique_jwt_authorities()
            .filter_map(|key| jwk::of_jwt_key(&key.key_id, &key.spki_der, None))
            .collect();
        json!({ "keys": keys }).to_string().into_bytes()
    }

    /// The X.509 authorities as DER, one behind the other.
    #[must_use]
    pub fn x509_der_concat(&self) -> Vec<u8> {
        self.x509_authorities.iter().flat_map(|authority| authority.der.iter().copied()).collect()
    }

    /// The X.509 authorities as PEM.
    #[must_use]
    pub fn x509_pem(&self) -> String {
        pem_encode(self.x509_authorities.iter().map(|authority| &authority.der))
    }

    /// Whether a JWT key with this id is in the bundle.
    #[must_use]
    pub fn contains_jwt_key(&self, key_id: &str) -> bool {
        self.jwt_authority(key_id).is_some()
    }

    /// The JWT key with this id.
    #[must_use]
    pub fn jwt_authority(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.jwt_authorities.iter().find(|key| key.key_id == key_id)
    }

    /// Whether this CA certificate is in the bundle.
    #[must_use]
    pub fn contains_x509_authority(&self, der: &[u8]) -> bool {
        self.x509_authorities.iter().any(|authority| authority.der == der)
    }

    /// Whether there is nothing in it, so that every SVID of the domain is untrusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.x509_authorities.is_empty() && self.jwt_authorities.is_empty()
    }

    /// A stored bundle may hold one key twice, tainted and not; a document names it once.
    fn unique_jwt_authorities(&self) -> impl Iterator<Item = &JwtAuthority> {
        let mut seen = BTreeSet::new();
        self.jwt_authorities.iter().filter(move |key| seen.insert(key.key_id.as_str()))
    }

    fn check_key_ids(&self) -> Result<(), BadBundle> {
        let mut seen = BTreeSet::new();
        match self.jwt_authorities.iter().find(|key| !seen.insert(key.key_id.as_str())) {
            Some(key) => Err(BadBundle::DuplicateKeyId {
                trust_domain: self.trust_domain.clone(),
                key_id: key.key_id.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Cuts concatenated DER into its elements; the error names the element.
fn split(der: &[u8]) -> Result<Vec<Vec<u8>>, (usize, der::Error)> {
    let mut certificates = Vec::new();
    let mut cursor = Cursor::new(der).map_err(|cause| (0, cause))?;
    while !cursor.is_finished() {
        let element = cursor.expect(der::Tag::Sequence).map_err(|cause| (certificates.len(), cause))?;
        certificates.push(element.raw.to_vec());
    }
    Ok(certificates)
}

fn unique<T: Clone + Eq + std::hash::Hash>(items: Vec<T>) -> Vec<T> {
    let mut seen = std::collections::HashSet::new();
    items.into_iter().filter(|item| seen.insert(item.clone())).collect()
}
