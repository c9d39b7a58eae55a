//! One entry in memory: the message that agents are sent, encoded once, and what the index looks at.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use hardroot_api::spire::api::types;
use hardroot_identity::{Selector, SpiffeId, TrustDomain};
use prost::Message as _;
use prost::encoding::message;
use triomphe::ThinArc;

use super::names::Number;
use crate::api::entry_message;
use crate::datastore::Entry;

/// The number of `Entries.entries`.
const ENTRIES: u32 = 1;

/// An entry; copies are the same one. What is looked at and what is sent lie side by side in memory: to walk the entries of
/// an agent goes once to each.
#[derive(Debug, Clone)]
pub struct Held(ThinArc<Head, u8>);

#[derive(Debug)]
struct Head {
    /// Of the whole entry: the same on every server.
    fingerprint: u64,
    revision: i64,
    created_at: i64,
    parent_id: Arc<str>,
    name: Number,
    parent: Number,
    rare: Option<Box<Rare>>,
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
    /// `parent_id` is the entry's, as a text that its siblings share.
    pub(super) fn new(
        entry: &Entry,
        name: Number,
        (parent, parent_id): (Number, Arc<str>),
        rare: Option<Box<Rare>>,
    ) -> Self {
        let listed = listed(entry);
        let head = Head {
            fingerprint: fingerprint(&listed, &parent_id),
            revision: entry.revision_number,
            created_at: entry.created_at,
            parent_id,
            name,
            parent,
            rare,
        };
        Self(ThinArc::from_header_and_slice(head, &listed))
    }

    /// An entry that no index knows.
    #[cfg(test)]
    pub(crate) fn of(entry: &Entry) -> Self {
        Self::new(entry, 0, (0, entry.parent_id.as_str().into()), None)
    }

    /// Whether this is the other one, and not just like it.
    pub(super) fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.head(), other.head())
    }

    /// The entry's id.
    #[must_use]
    pub fn id(&self) -> &str {
        // Field 1, a text of at most 255 bytes, is encoded first.
        let text = match self.brief() {
            [0x0a, len @ 0..=0x7f, rest @ ..] => rest.get(..usize::from(*len)),
            [0x0a, low, high, rest @ ..] => rest.get(..usize::from(*low & 0x7f) | (usize::from(*high) << 7)),
            _ => None,
        };
        text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// Its revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.head().revision
    }

    /// When it was made, seconds since 1970.
    #[must_use]
    pub fn created_at(&self) -> i64 {
        self.head().created_at
    }

    /// A number that differs when anything of the entry does, the same on every server.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.head().fingerprint
    }

    /// What an agent is pushed: an element of `hardroot.server.sync.v1.Entries.entries`, encoded with its number and length,
    /// without what the agent knows or does not look at: no parent's ID, no trust domain in its own.
    #[must_use]
    pub fn listed(&self) -> &[u8] {
        &self.0.slice
    }

    /// The message in [`Self::listed`].
    fn brief(&self) -> &[u8] {
        // A byte for the number, and as many for the length as have the highest bit, and one more.
        let long = self.listed().iter().skip(1).take_while(|byte| **byte >= 0x80).count();
        self.listed().get(long + 2..).unwrap_or_default()
    }

    /// The message with every field.
    #[must_use]
    pub fn message(&self) -> types::Entry {
        // What was encoded here is a message.
        let brief = types::Entry::decode(self.brief()).unwrap_or_default();
        let parent = self.head().parent_id.strip_prefix("spiffe://").unwrap_or_default();
        let (trust_domain, path) = parent.split_at(parent.find('/').unwrap_or(parent.len()));
        let id = |path| types::Spiffeid { trust_domain: trust_domain.to_owned(), path };
        types::Entry {
            spiffe_id: brief.spiffe_id.map(|own| id(own.path)),
            parent_id: Some(id(path.to_owned())),
            ..brief
        }
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

    /// The number of the identity that it gives.
    pub(super) fn name(&self) -> Number {
        self.head().name
    }

    /// The number of its parent's identity.
    pub(super) fn parent(&self) -> Number {
        self.head().parent
    }

    /// Of an alias alone: its selectors, sorted.
    pub(super) fn alias_selectors(&self) -> &[Number] {
        self.head().rare.as_ref().map_or(&[], |rare| &rare.selectors)
    }

    pub(super) fn federates_with(&self) -> &[TrustDomain] {
        self.head().rare.as_ref().map_or(&[], |rare| &rare.federates_with)
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }
}

/// See [`Held::listed`]. An entry's ID and its parent's are of the same trust domain, or no index has it.
fn listed(entry: &Entry) -> Vec<u8> {
    let mut message = entry_message(entry, None);
    message.parent_id = None;
    if let Some(id) = &mut message.spiffe_id {
        id.trust_domain.clear();
    }
    let mut listed = Vec::with_capacity(message::encoded_len(ENTRIES, &message));
    message::encode(ENTRIES, &message, &mut listed);
    listed
}

fn fingerprint(listed: &[u8], parent_id: &str) -> u64 {
    let mut hash = Context::new(&SHA256);
    // An ID has no byte 0: it ends where it ends.
    hash.update(parent_id.as_bytes());
    hash.update(&[0]);
    hash.update(listed);
    hash.finish().as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// What the index would make of an entry, without keeping it.
pub(super) fn fingerprint_of(entry: &Entry) -> u64 {
    fingerprint(&listed(entry), entry.parent_id.as_str())
}

/// An entry that is looked up by its id.
#[derive(Debug, Clone)]
pub(super) struct ById(pub(super) Held);

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

#[cfg(test)]
mod tests {
    use hardroot_api::hardroot::server::sync::v1::Entries;

    use super::*;
    use crate::datastore::sql_tests::entry as unnamed;

    fn full() -> Entry {
        Entry {
            id: "one".to_owned(),
            x509_svid_ttl: 60,
            jwt_svid_ttl: 30,
            federates_with: vec![TrustDomain::new("other.test").unwrap()],
            admin: true,
            downstream: true,
            expires_at: 9_999_999_999,
            dns_names: vec!["a.test".to_owned()],
            revision_number: 7,
            store_svid: true,
            hint: "inner".to_owned(),
            created_at: 12,
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: true,
            ..unnamed("/workload", "/agent/one", &["unix:uid:1", "unix:gid:2"])
        }
    }

    #[test]
    fn nothing_of_an_entry_is_lost() {
        for hint in [0, 1, 100, 200, 20_000] {
            keeps(Entry { hint: "x".repeat(hint), ..full() });
        }
    }

    fn keeps(entry: Entry) {
        let domains = entry.federates_with.clone().into();
        let rare = Box::new(Rare { selectors: Box::default(), federates_with: domains });
        let held = Held::new(&entry, 1, (2, entry.parent_id.as_str().into()), Some(rare));
        assert_eq!(held.message(), entry_message(&entry, None));
        assert_eq!(held.entry(), Some(entry));
        assert_eq!((held.id(), held.revision(), held.created_at()), ("one", 7, 12));
    }

    #[test]
    fn agents_are_not_told_what_they_know() {
        let entry = full();
        let told = Entries::decode(Held::of(&entry).listed()).unwrap().entries;
        let own = types::Spiffeid { trust_domain: String::new(), path: "/workload".to_owned() };
        let wanted = types::Entry { spiffe_id: Some(own), parent_id: None, ..entry_message(&entry, None) };
        assert_eq!(told, [wanted]);
    }

    #[test]
    fn every_difference_shows_in_the_fingerprint() {
        let (entry, like) = (full(), unnamed("/workload", "/agent/two", &["unix:uid:1", "unix:gid:2"]));
        let print = Held::of(&entry).fingerprint();
        assert_eq!(print, fingerprint_of(&entry));
        let moved = Entry { parent_id: like.parent_id, ..full() };
        let renamed = Entry { hint: "outer".to_owned(), ..full() };
        for other in [moved, renamed] {
            assert_ne!(print, Held::of(&other).fingerprint());
        }
    }
}
