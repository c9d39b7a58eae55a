//! One entry in memory: the message that agents get, encoded once, and what the index looks at.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use hardroot_api::spire::api::types;
use hardroot_identity::{Selector, SpiffeId, TrustDomain};
use prost::Message as _;
use prost::bytes::Bytes;

use super::names::Number;
use crate::api::entry_message;
use crate::datastore::Entry;

/// An entry. The bytes are shared by everybody it is sent to.
#[derive(Debug)]
pub struct Held {
    /// `spire.api.types.Entry`, every field.
    encoded: Bytes,
    /// Of the encoded bytes: the same on every server.
    fingerprint: u64,
    revision: i64,
    created_at: i64,
    pub(super) name: Number,
    pub(super) parent: Number,
    pub(super) rare: Option<Box<Rare>>,
}

/// What few entries have.
#[derive(Debug)]
pub(super) struct Rare {
    /// Of an alias alone: its selectors, sorted.
    pub(super) selectors: Box<[Number]>,
    /// Foreign trust domains.
    pub(super) federates_with: Box<[TrustDomain]>,
}

impl Held {
    pub(super) fn new(entry: &Entry, name: Number, parent: Number, rare: Option<Box<Rare>>) -> Self {
        let encoded = entry_message(entry, None).encode_to_vec();
        Self {
            fingerprint: fingerprint(&encoded),
            encoded: encoded.into(),
            revision: entry.revision_number,
            created_at: entry.created_at,
            name,
            parent,
            rare,
        }
    }

    /// An entry that no index knows.
    #[cfg(test)]
    pub(crate) fn of(entry: &Entry) -> Self {
        Self::new(entry, 0, 0, None)
    }

    /// The entry's id.
    #[must_use]
    pub fn id(&self) -> &str {
        // Field 1, a text of at most 255 bytes, is encoded first.
        let text = match self.encoded.as_ref() {
            [0x0a, len @ 0..=0x7f, rest @ ..] => rest.get(..usize::from(*len)),
            [0x0a, low, high, rest @ ..] => rest.get(..usize::from(*low & 0x7f) | (usize::from(*high) << 7)),
            _ => None,
        };
        text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// Its revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// When it was made, seconds since 1970.
    #[must_use]
    pub fn created_at(&self) -> i64 {
        self.created_at
    }

    /// A number that differs when anything of the entry does, the same on every server.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The message `spire.api.types.Entry` with every field, encoded; copies share the memory.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }

    /// As [`Self::encoded`], to be copied.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> types::Entry {
        // What was encoded here is a message.
        types::Entry::decode(self.encoded.clone()).unwrap_or_default()
    }

    /// The entry as the datastore has it.
    #[must_use]
    pub fn entry(&self) -> Option<Entry> {
        let message = self.message();
        let id = |id: Option<types::Spiffeid>| {
            let id = id?;
            SpiffeId::new(&TrustDomain::new(&id.trust_domain).ok()?, &id.path).ok()
        };
        let attributes = message.additional_attributes.unwrap_or_default();
        let selectors = message.selectors.into_iter().map(|s| Selector::new(s.r#type, s.value));
        Some(Entry {
            id: message.id,
            spiffe_id: id(message.spiffe_id)?,
            parent_id: id(message.parent_id)?,
            selectors: selectors.collect::<Result<_, _>>().ok()?,
            x509_svid_ttl: message.x509_svid_ttl,
            jwt_svid_ttl: message.jwt_svid_ttl,
            federates_with: self.federates_with().to_vec(),
            admin: message.admin,
            downstream: message.downstream,
            expires_at: message.expires_at,
            dns_names: message.dns_names,
            revision_number: message.revision_number,
            store_svid: message.store_svid,
            hint: message.hint,
            created_at: message.created_at,
            disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
            jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        })
    }

    pub(super) fn federates_with(&self) -> &[TrustDomain] {
        self.rare.as_ref().map_or(&[], |rare| &rare.federates_with)
    }
}

fn fingerprint(encoded: &[u8]) -> u64 {
    let hash = digest(&SHA256, encoded);
    hash.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// What the index would make of an entry, without keeping it.
pub(super) fn fingerprint_of(entry: &Entry) -> u64 {
    fingerprint(&entry_message(entry, None).encode_to_vec())
}

/// An entry that is looked up by its id.
#[derive(Debug, Clone)]
pub(super) struct ById(pub(super) Arc<Held>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.id()
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id().hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for ById {}
