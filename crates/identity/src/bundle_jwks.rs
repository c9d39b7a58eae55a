//! Bundles as JSON: the SPIFFE bundle document and the bundle map
//! (SPIFFE Trust Domain and Bundle 4 and 5).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::bundle::{BadBundle, Bundle, JwtAuthority, MAX_BUNDLE_BYTES};
use crate::jwk;
use crate::{BadSpiffeId, TrustDomain, json};

mod read;

use read::{DocumentReader, MapReader};

pub(crate) const X509_USE: &str = "x509-svid";
pub(crate) const JWT_USE: &str = "jwt-svid";

/// Largest bundle map that is read, in bytes.
pub const MAX_BUNDLE_MAP_BYTES: usize = 64 * 1024 * 1024;

/// Why bytes are no bundle map.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadBundleMap {
    /// Over [`MAX_BUNDLE_MAP_BYTES`].
    #[error("the bundle map has {len} bytes, at most {MAX_BUNDLE_MAP_BYTES} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// No JSON, or JSON with a duplicate name, such as a trust domain that occurs twice.
    #[error("the bundle map is no JSON document: {0}")]
    Json(#[source] serde_json::Error),
    /// No object `trust_domains`.
    #[error("the bundle map has no object \"trust_domains\"")]
    Shape,
    /// A key that is no trust domain name.
    #[error("{name:?} in the bundle map is no trust domain name: {cause}")]
    TrustDomain {
        /// The key, escaped.
        name: String,
        /// What is wrong with it.
        #[source]
        cause: BadSpiffeId,
    },
    /// One of its bundles.
    #[error(transparent)]
    Bundle(#[from] BadBundle),
}

/// Reads a bundle map. Refresh hints inside are dropped, since they say nothing about the map
/// (SPIFFE Trust Domain and Bundle 5.1.1).
///
/// # Errors
/// Duplicate names, a malformed map, or one malformed bundle: a map is taken as a whole or not at all.
pub fn bundles_from_map(document: &[u8]) -> Result<BTreeMap<TrustDomain, Bundle>, BadBundleMap> {
    if document.len() > MAX_BUNDLE_MAP_BYTES {
        return Err(BadBundleMap::TooLong { len: document.len() });
    }
    json::check(document).map_err(BadBundleMap::Json)?;
    // Looked through first: of a map that is refused, one bundle is held at a time.
    each_of_map(document, |_, _| ())?;
    let mut bundles = BTreeMap::new();
    each_of_map(document, |trust_domain, mut bundle| {
        bundle.refresh_hint = 0;
        bundles.insert(trust_domain, bundle);
    })?;
    Ok(bundles)
}

/// Reads one bundle of the map after the other.
fn each_of_map(document: &[u8], each: impl FnMut(TrustDomain, Bundle)) -> Result<(), BadBundleMap> {
    let mut reader = MapReader { each, fault: None, found: false };
    let read = json::read(document, &mut reader);
    match (reader.fault, read) {
        (Some(fault), _) => Err(fault),
        (None, Err(cause)) => Err(BadBundleMap::Json(cause)),
        (None, Ok(())) if !reader.found => Err(BadBundleMap::Shape),
        (None, Ok(())) => Ok(()),
    }
}

/// Writes a bundle map, without refresh hints.
#[must_use]
pub fn bundles_to_map(bundles: &BTreeMap<TrustDomain, Bundle>) -> Vec<u8> {
    let members: Map<String, Value> = bundles
        .iter()
        .map(|(trust_domain, bundle)| {
            let mut members = bundle.to_members();
            members.remove("spiffe_refresh_hint");
            (trust_domain.to_string(), Value::Object(members))
        })
        .collect();
    json!({ "trust_domains": members }).to_string().into_bytes()
}

impl Bundle {
    /// Reads a SPIFFE bundle document. Keys of unknown type or use, and X.509 entries without `x5c`, are
    /// ignored as the standard demands; repeated authorities are kept once.
    ///
    /// # Errors
    /// Malformed or duplicate JSON names, no `keys`, a malformed key of a known use, two keys with one id.
    pub fn from_jwks(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, BadBundle> {
        if document.len() > MAX_BUNDLE_BYTES {
            return Err(BadBundle::TooLong { trust_domain, len: document.len() });
        }
        if let Err(cause) = json::check(document) {
            return Err(BadBundle::Json { trust_domain, cause });
        }
        let mut reader = DocumentReader::new(trust_domain.clone());
        let read = json::read(document, &mut reader);
        reader.finish(read.map_err(|cause| BadBundle::Json { trust_domain, cause }))
    }

    /// The SPIFFE bundle document: a JWK Set with `use`, sequence and refresh hint. An authority whose key
    /// has no JWK form (neither EC nor RSA) is left out.
    #[must_use]
    pub fn to_jwks(&self) -> Vec<u8> {
        Value::Object(self.to_members()).to_string().into_bytes()
    }

    fn to_members(&self) -> Map<String, Value> {
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
        document
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

    /// A stored bundle may hold one key twice, tainted and not; a document names it once.
    fn unique_jwt_authorities(&self) -> impl Iterator<Item = &JwtAuthority> {
        let mut seen = BTreeSet::new();
        self.jwt_authorities.iter().filter(move |key| seen.insert(key.key_id.as_str()))
    }

    pub(crate) fn check_key_ids(&self) -> Result<(), BadBundle> {
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
