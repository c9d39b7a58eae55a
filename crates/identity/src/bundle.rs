//! Bundles: the keys a trust domain vouches with, as SPIFFE's JWK Set, as DER and as PEM
//! (SPIFFE Trust Domain and Bundle 4).

use crate::TrustDomain;
use crate::asn1::Cursor;
use crate::certificate::{BadCertificate, Certificate};
use crate::jwk::BadJwk;
use crate::pem::{BadPem, pem_decode, pem_encode};

/// Largest bundle document that is read, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 16 * 1024 * 1024;

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
        let certificates = match split(der) {
            Ok(certificates) => certificates,
            Err((index, cause)) => return Err(BadBundle::Certificate { trust_domain, index, cause }),
        };
        if certificates.is_empty() {
            return Err(BadBundle::NoCertificate { trust_domain });
        }
        let authorities = certificates.into_iter().map(|der| X509Authority { der, tainted: false });
        Ok(Self { x509_authorities: unique(authorities.collect()), ..Self::new(trust_domain) })
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
}

/// Cuts concatenated DER into certificates; the error names the element. Each is read before the next is looked at: of
/// elements that are no certificates nothing is kept.
fn split(der: &[u8]) -> Result<Vec<Vec<u8>>, (usize, BadCertificate)> {
    let mut certificates = Vec::new();
    let mut cursor = Cursor::new(der).map_err(|cause| (0, BadCertificate::Malformed(cause)))?;
    while !cursor.is_finished() {
        let index = certificates.len();
        let element =
            cursor.expect(der::Tag::Sequence).map_err(|cause| (index, BadCertificate::Malformed(cause)))?;
        Certificate::parse(element.raw).map_err(|cause| (index, cause))?;
        certificates.push(element.raw.to_vec());
    }
    Ok(certificates)
}

pub(crate) fn unique<T: Eq + std::hash::Hash>(mut items: Vec<T>) -> Vec<T> {
    let mut seen = std::collections::HashSet::new();
    let firsts: Vec<bool> = items.iter().map(|item| seen.insert(item)).collect();
    let mut firsts = firsts.into_iter();
    items.retain(|_| firsts.next().unwrap_or(true));
    items
}
