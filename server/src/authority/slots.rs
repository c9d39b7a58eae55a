//! The two slots of a signing authority, and how they are found again after a restart.
//!
//! Three places know about an authority: the key manager holds its key, the journal says in which state it
//! is, the bundle tells the world to trust it. They are written one after the other, so a process that dies
//! in between leaves them apart; [`reconcile`] is the pure function that puts them together again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_api::spire::server::journal::{self, Status, X509caEntry};
use hardroot_hsm_keymanager::{KeyError, KeyId, PublicKey};
use x509_parser::prelude::{FromDer, X509Certificate};

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

/// An X.509 authority in its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Slot {
    /// Where it is.
    pub slot: SlotId,
    /// Its public key.
    pub public: PublicKey,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Lower-case hex of the subject key id.
    pub authority_id: String,
    /// When it was made, to the second.
    pub issued_at: SystemTime,
    /// When its certificate ends.
    pub not_after: SystemTime,
    /// Prepared, active or old.
    pub status: Status,
}

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

/// A root of the published bundle.
#[derive(Debug, Clone, Copy)]
pub struct PublishedRoot<'a> {
    /// Certificate, DER.
    pub der: &'a [u8],
    /// Whether its key must not sign any more.
    pub tainted: bool,
}

/// Puts key manager, journal and bundle together: what each slot holds now.
///
/// A slot is usable when its key is there and a certificate for that very key, still valid at `now`, is in
/// the journal (which also says its state) or, when the journal was lost or not yet written, in the bundle
/// (then it is prepared: published but not signing). At most one slot comes back active; a tainted one never.
#[must_use]
pub fn reconcile(
    now: SystemTime,
    keys: &[(SlotId, PublicKey)],
    entries: &[X509caEntry],
    roots: &[PublishedRoot<'_>],
) -> Vec<X509Slot> {
    let slots = keys
        .iter()
        .filter_map(|(slot, public)| {
            from_journal(now, *slot, public, entries).or_else(|| from_bundle(now, *slot, public, roots))
        })
        .map(|slot| retire_if_tainted(slot, roots))
        .collect();
    settle(slots)
}

/// At most one active slot, and it first. Two would mean that a change-over was written only in part: the
/// younger one won.
pub(super) fn settle(mut slots: Vec<X509Slot>) -> Vec<X509Slot> {
    slots.sort_by_key(|slot| (slot.status != Status::Active, std::cmp::Reverse(slot.issued_at)));
    for slot in slots.iter_mut().skip(1).filter(|slot| slot.status == Status::Active) {
        slot.status = Status::Old;
    }
    slots
}

fn from_journal(
    now: SystemTime,
    slot: SlotId,
    public: &PublicKey,
    entries: &[X509caEntry],
) -> Option<X509Slot> {
    entries
        .iter()
        .filter(|entry| entry.slot_id == slot.as_str() && entry.status() != Status::Unknown)
        .filter_map(|entry| {
            let facts = CaFacts::of(&entry.certificate)?;
            (facts.spki_der == public.spki_der && facts.not_after > now).then(|| X509Slot {
                slot,
                public: public.clone(),
                certificate: entry.certificate.clone(),
                authority_id: entry.authority_id.clone(),
                issued_at: from_unix_seconds(entry.issued_at),
                not_after: facts.not_after,
                status: entry.status(),
            })
        })
        .max_by_key(|slot| slot.issued_at)
}

fn from_bundle(
    now: SystemTime,
    slot: SlotId,
    public: &PublicKey,
    roots: &[PublishedRoot<'_>],
) -> Option<X509Slot> {
    roots
        .iter()
        .filter(|root| !root.tainted)
        .filter_map(|root| {
            let facts = CaFacts::of(root.der)?;
            (facts.spki_der == public.spki_der && facts.not_after > now).then(|| X509Slot {
                slot,
                public: public.clone(),
                certificate: root.der.to_vec(),
                authority_id: authority_id(&public.spki_der),
                issued_at: facts.not_before,
                not_after: facts.not_after,
                status: Status::Prepared,
            })
        })
        .max_by_key(|slot| slot.not_after)
}

fn retire_if_tainted(mut slot: X509Slot, roots: &[PublishedRoot<'_>]) -> X509Slot {
    if roots.iter().any(|root| root.tainted && root.der == slot.certificate) {
        slot.status = Status::Old;
    }
    slot
}

/// The name of an X.509 authority: lower-case hex of its key's subject key id.
#[must_use]
pub fn authority_id(spki_der: &[u8]) -> String {
    hex::encode(hardroot_identity::subject_key_id(spki_der))
}

/// The journal's entry of a slot.
#[must_use]
pub fn to_entry(slot: &X509Slot) -> X509caEntry {
    X509caEntry {
        slot_id: slot.slot.as_str().to_owned(),
        issued_at: unix_seconds(slot.issued_at),
        certificate: slot.certificate.clone(),
        upstream_chain: Vec::new(),
        status: slot.status.into(),
        authority_id: slot.authority_id.clone(),
        not_after: unix_seconds(slot.not_after),
        upstream_authority_id: String::new(),
    }
}

/// The journal never holds more entries of a kind than this.
pub const JOURNAL_CAP: usize = 10;

/// Writes a slot's state into the journal: replaces its entry, or appends one and drops the oldest.
pub fn record(entries: &mut journal::Entries, slot: &X509Slot) {
    let entry = to_entry(slot);
    match entries.x509_c_as.iter_mut().find(|known| known.certificate == slot.certificate) {
        Some(known) => *known = entry,
        None => entries.x509_c_as.push(entry),
    }
    let surplus = entries.x509_c_as.len().saturating_sub(JOURNAL_CAP);
    entries.x509_c_as.drain(..surplus);
}
