//! The two slots of a signing authority, and how they are found again after a restart.
//!
//! Three places know about an authority: the key manager holds its key, the journal says in which state it
//! is, the bundle tells the world to trust it. They are written one after the other, so a process that dies
//! in between leaves them apart; `reconcile` is the pure function that puts them together again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_api::spire::common;
use hardroot_api::spire::server::journal::{self, Status};
use hardroot_hsm_keymanager::{KeyError, KeyId, KeyType, PublicKey};
use hardroot_identity::{DistinguishedName, TrustDomain};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::kind::{Jwt, Kind, X509};

/// One of the two places that take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlotId {
    /// The first.
    A,
    /// The second.
    B,
}

impl SlotId {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The name in the journal: `A` or `B`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// The one that follows.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The key of this slot: `<prefix>-A` or `<prefix>-B`, such as `x509-CA-A`.
    ///
    /// # Errors
    /// The prefix is not fit for a key id.
    pub fn key_id(self, prefix: &str) -> Result<KeyId, KeyError> {
        KeyId::new(&format!("{prefix}-{}", self.as_str()))
    }
}

/// An authority in its slot. `C` is what makes its key an authority: the certificate of an X.509 one; a JWT
/// key needs none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot<C> {
    /// Where it is.
    pub slot: SlotId,
    /// Its public key.
    pub public: PublicKey,
    /// What others know it by, besides its id.
    pub credential: C,
    /// X.509: lower-case hex of the subject key id. JWT: the key id (`kid`).
    pub authority_id: String,
    /// When it was made, to the second.
    pub issued_at: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
    /// Prepared, active or old.
    pub status: Status,
}

/// An X.509 authority; its credential is the certificate, DER.
pub type X509Slot = Slot<Vec<u8>>;

/// A JWT authority.
pub type JwtSlot = Slot<()>;

/// Whole seconds since 1970, as the journal stores times.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// The time of a number of seconds since 1970; what lies before is 1970.
#[must_use]
pub fn from_unix_seconds(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// What the slots need to know of a CA certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFacts {
    /// `SubjectPublicKeyInfo`, DER.
    pub spki_der: Vec<u8>,
    /// Begin of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

impl CaFacts {
    /// Reads a certificate; `None` when it does not parse.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        Some(Self {
            spki_der: certificate.public_key().raw.to_vec(),
            not_before: from_unix_seconds(certificate.validity().not_before.timestamp()),
            not_after: from_unix_seconds(certificate.validity().not_after.timestamp()),
        })
    }
}

/// Puts key manager, journal and bundle together: what each slot holds now.
///
/// A slot is usable when its key is there and an authority of that very key, still valid at `now`, is in the
/// journal (which also says its state) or, when the journal was lost or not yet written, in the bundle (then
/// it is prepared: published but not signing). At most one slot comes back active; a tainted one never.
#[must_use]
pub(super) fn reconcile<K: Kind>(
    kind: &K,
    now: SystemTime,
    keys: &[(SlotId, PublicKey)],
    journal: &journal::Entries,
    bundle: &common::Bundle,
) -> Vec<Slot<K::Credential>> {
    let found = keys.iter().filter_map(|(slot, public)| {
        let known = newest(now, kind.in_journal(journal, *slot, public));
        known.or_else(|| newest(now, kind.in_bundle(bundle, *slot, public)))
    });
    let judged = found.map(|slot| {
        let status = if kind.is_tainted(bundle, &slot) { Status::Old } else { slot.status };
        Slot { status, ..slot }
    });
    settle(judged.collect())
}

/// How many of these keys would sign, as X.509 and as JWT authorities, by what is stored: for the fuzzer, as the
/// kinds of authority are private.
#[doc(hidden)]
#[must_use]
pub fn active_by(
    now: SystemTime,
    keys: &[(SlotId, PublicKey)],
    journal: &journal::Entries,
    bundle: &common::Bundle,
    trust_domain: &TrustDomain,
) -> [usize; 2] {
    fn active<C>(slots: &[Slot<C>]) -> usize {
        slots.iter().filter(|slot| slot.status == Status::Active).count()
    }
    let (ttl, key_type) = (Duration::from_secs(3600), KeyType::EcP256);
    let subject = DistinguishedName::default();
    let x509 = X509 { trust_domain: trust_domain.clone(), ttl, key_type, subject };
    let jwt = Jwt { ttl, key_type };
    [
        active(&reconcile(&x509, now, keys, journal, bundle)),
        active(&reconcile(&jwt, now, keys, journal, bundle)),
    ]
}

/// The one that lives longest, of those that still live.
pub(super) fn newest<C>(now: SystemTime, candidates: Vec<Slot<C>>) -> Option<Slot<C>> {
    candidates.into_iter().filter(|slot| slot.not_after > now).max_by_key(|slot| slot.not_after)
}

/// At most one active slot, and it first. Two would mean that a change-over was written only in part: the
/// younger one won.
pub(super) fn settle<C>(mut slots: Vec<Slot<C>>) -> Vec<Slot<C>> {
    slots.sort_by_key(|slot| (slot.status != Status::Active, std::cmp::Reverse(slot.issued_at)));
    for slot in slots.iter_mut().skip(1).filter(|slot| slot.status == Status::Active) {
        slot.status = Status::Old;
    }
    slots
}

/// The name of an X.509 authority: lower-case hex of its key's subject key id.
#[must_use]
pub fn authority_id(spki_der: &[u8]) -> String {
    hex::encode(hardroot_identity::subject_key_id(spki_der))
}

/// The journal never holds more entries of a kind than this.
pub const JOURNAL_CAP: usize = 10;

/// Writes an entry into its list of the journal: replaces the one that is `same`, or appends it and drops the
/// oldest.
pub(super) fn record<E>(entries: &mut Vec<E>, entry: E, same: impl Fn(&E) -> bool) {
    match entries.iter_mut().find(|known| same(known)) {
        Some(known) => *known = entry,
        None => entries.push(entry),
    }
    let surplus = entries.len().saturating_sub(JOURNAL_CAP);
    entries.drain(..surplus);
}
