//! The life of the authorities of one kind: found again, prepared, published, activated.
//!
//! Order of every step: key, credential, bundle, read back, journal, signature.

use std::time::SystemTime;

use hardroot_api::spire::common;
use hardroot_api::spire::server::journal::{self, Status};
use hardroot_hsm_keymanager::{KeyId, KeyManager, PublicKey};
use hardroot_identity::TrustDomain;
use hardroot_telemetry::{Call, count};
use tracing::{info, warn};

use super::kind::Kind;
use super::slots::{self, Slot, SlotId, unix_seconds};
use super::{AuthorityError, AuthorityStore, published, schedule};
use crate::datastore::StoredJournal;

/// What a line works with.
pub(super) struct World<'a> {
    pub(super) keys: &'a dyn KeyManager,
    pub(super) store: &'a dyn AuthorityStore,
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) now: SystemTime,
}

/// The journal in memory, as it was stored last, and whether it has to be stored again.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) journal: journal::Entries,
    pub(super) stored: Option<StoredJournal>,
    pub(super) unsaved: bool,
}

impl Ledger {
    /// Whether a stored journal is this server's own, of some earlier moment: what it names is in this one too, or
    /// is so old that it fell out of it.
    pub(super) fn covers(&self, other: &journal::Entries) -> bool {
        fn all_known<'a>(
            ours: impl Iterator<Item = (&'a str, i64)>,
            mut theirs: impl Iterator<Item = (&'a str, i64)>,
        ) -> bool {
            let ours: Vec<_> = ours.collect();
            let oldest = ours.iter().map(|(_, issued)| *issued).min().unwrap_or(i64::MIN);
            theirs.all(|(id, issued)| issued < oldest || ours.iter().any(|(known, _)| *known == id))
        }
        fn x509(journal: &journal::Entries) -> impl Iterator<Item = (&str, i64)> {
            journal.x509_c_as.iter().map(|entry| (entry.authority_id.as_str(), entry.issued_at))
        }
        fn jwt(journal: &journal::Entries) -> impl Iterator<Item = (&str, i64)> {
            journal.jwt_keys.iter().map(|entry| (entry.kid.as_str(), entry.issued_at))
        }
        all_known(x509(&self.journal), x509(other)) && all_known(jwt(&self.journal), jwt(other))
    }
}

/// The authorities of one kind, in their two slots.
pub(super) struct Line<K: Kind> {
    kind: K,
    slots: Vec<Slot<K::Credential>>,
    /// The active authority was seen in the bundle by the last round.
    published: bool,
    /// When this server last put an authority of this kind into the bundle.
    published_at: Option<SystemTime>,
}

impl<K: Kind> Line<K> {
    /// What keys, journal and bundle together say.
    pub(super) fn find_again(
        kind: K,
        now: SystemTime,
        keys: &[(SlotId, PublicKey)],
        journal: &journal::Entries,
        bundle: &common::Bundle,
    ) -> Self {
        let slots = slots::reconcile(&kind, now, keys, journal, bundle);
        for slot in &slots {
            info!(
                authority_id = %slot.authority_id, slot = slot.slot.as_str(), status = slot.status.as_str_name(),
                expiration = unix_seconds(slot.not_after), "{} authority found again", K::NAME
            );
        }
        // An authority is published in the moment that it is made.
        let published_at = slots.iter().map(|slot| slot.issued_at).max();
        Self { kind, slots, published: false, published_at }
    }

    fn with(&self, status: Status) -> Option<&Slot<K::Credential>> {
        self.slots.iter().find(|slot| slot.status == status)
    }

    /// The active authority, once it is known to be published.
    pub(super) fn ready(&self) -> Option<&Slot<K::Credential>> {
        self.with(Status::Active).filter(|_| self.published)
    }

    /// When this server last put an authority into the bundle; `None` before its first.
    pub(super) fn published_at(&self) -> Option<SystemTime> {
        self.published_at
    }

    /// The id of the active authority.
    pub(super) fn active_id(&self) -> Option<&str> {
        self.with(Status::Active).map(|slot| slot.authority_id.as_str())
    }

    /// Whether journal or bundle know a key.
    pub(super) fn knows(
        &self,
        journal: &journal::Entries,
        bundle: &common::Bundle,
        public: &PublicKey,
    ) -> bool {
        self.kind.is_in_journal(journal, public) || self.kind.is_in_bundle(bundle, public)
    }

    /// What the slots hold, the active one first.
    pub(super) fn slots(&self) -> Vec<Slot<K::Credential>> {
        let mut all = self.slots.clone();
        all.sort_by_key(|slot| slot.status != Status::Active);
        all
    }

    /// Where the next authority goes: never over the active one, over an old one only when it must.
    fn free_slot(&self) -> SlotId {
        if let Some(active) = self.with(Status::Active) {
            return active.slot.other();
        }
        let free = |id: &SlotId| self.slots.iter().all(|slot| slot.slot != *id);
        SlotId::BOTH.into_iter().find(free).unwrap_or(SlotId::A)
    }

    /// Puts a slot in its place and into the journal.
    fn put(&mut self, ledger: &mut Ledger, slot: Slot<K::Credential>) {
        self.kind.record(&mut ledger.journal, &slot);
        ledger.unsaved = true;
        self.slots.retain(|known| known.slot != slot.slot);
        self.slots.push(slot);
    }

    /// Does what is due. `bundle` is the published one; it is read again only where it matters.
    ///
    /// # Errors
    /// [`AuthorityError`]; what was reached before stays, and [`Line::ready`] says whether it may sign.
    pub(super) async fn advance(
        &mut self,
        world: &World<'_>,
        bundle: &common::Bundle,
        ledger: &mut Ledger,
    ) -> Result<(), AuthorityError> {
        self.published = false;
        self.slots.retain(|slot| slot.not_after > world.now);
        if self.publish_missing(world, bundle).await? {
            // The database is of an earlier moment, and so may be the journal in it.
            ledger.unsaved = true;
            self.published_at = Some(world.now);
        }
        if self.with(Status::Active).is_none() {
            if self.with(Status::Prepared).is_none() {
                self.succeed(world, ledger).await?;
            }
            self.activate(ledger);
        }
        self.published = true;
        let Some(active) = self.with(Status::Active) else { return Ok(()) };
        let (issued_at, not_after) = (active.issued_at, active.not_after);
        if world.now >= schedule::prepare_at(issued_at, not_after) && self.with(Status::Prepared).is_none() {
            self.succeed(world, ledger).await?;
        }
        if world.now >= schedule::activate_at(issued_at, not_after) {
            self.activate(ledger);
        }
        Ok(())
    }

    /// Prepares the next authority.
    async fn succeed(&mut self, world: &World<'_>, ledger: &mut Ledger) -> Result<(), AuthorityError> {
        let slot = Call::start(K::PREPARE).finish(self.prepare(world, ledger).await)?;
        self.published_at = self.published_at.max(Some(slot.issued_at));
        self.put(ledger, slot);
        Ok(())
    }

    /// The bundle must hold what signs and what will sign: whatever it lost is published again. Whether
    /// anything was lost.
    async fn publish_missing(
        &self,
        world: &World<'_>,
        bundle: &common::Bundle,
    ) -> Result<bool, AuthorityError> {
        let wanted: Vec<_> = self.slots.iter().filter(|slot| slot.status != Status::Old).collect();
        let add = |bundle: &mut common::Bundle| {
            // Each of them, also after one that was not there.
            let added = wanted.iter().filter(|slot| self.kind.add(bundle, slot)).count();
            added > 0
        };
        if !add(&mut bundle.clone()) {
            return Ok(false);
        }
        warn!("{} authorities are missing in the bundle and are published again", K::NAME);
        published::publish(world.store, world.trust_domain, add).await?;
        Ok(true)
    }

    /// The prepared slot becomes active, the active one old. The signer follows once the journal is written.
    fn activate(&mut self, ledger: &mut Ledger) {
        let Some(next) = self.with(Status::Prepared).cloned() else { return };
        if let Some(former) = self.with(Status::Active).cloned() {
            self.put(ledger, Slot { status: Status::Old, ..former });
        }
        info!(
            authority_id = %next.authority_id, slot = next.slot.as_str(), "{} authority activated", K::NAME
        );
        count(K::ACTIVATE, &[]);
        self.put(ledger, Slot { status: Status::Active, ..next });
    }

    /// Makes the authority of the free slot, publishes it and reads it back. A key that is there and that
    /// nobody has used is taken (the process died before its authority was published, or the database was
    /// lost); so is one whose authority was published but not journaled.
    async fn prepare(
        &self,
        world: &World<'_>,
        ledger: &Ledger,
    ) -> Result<Slot<K::Credential>, AuthorityError> {
        let slot = self.free_slot();
        let key = key_id::<K>(slot)?;
        let kind = &self.kind;
        let (bundle, _) = published::read(world.store, world.trust_domain).await?;
        let unused = find(world.keys, &key)
            .await?
            .filter(|public| public.kind == kind.key_type())
            .filter(|public| !kind.is_in_journal(&ledger.journal, public));
        if let Some(public) = &unused
            && let Some(found) = slots::newest(world.now, kind.in_bundle(&bundle, slot, public))
        {
            return Ok(found);
        }
        let public = match unused.filter(|public| !kind.is_in_bundle(&bundle, public)) {
            Some(public) => {
                warn!(%key, "a key without an authority was found; it is used instead of a new one");
                public
            }
            None => world
                .keys
                .generate(&key, kind.key_type())
                .await
                .map_err(|cause| AuthorityError::Key { op: "made", key: key.to_string(), cause })?,
        };
        let made = kind.vouch(world.keys, &key, slot, public, world.now).await?;
        published::publish(world.store, world.trust_domain, |bundle| kind.add(bundle, &made)).await?;
        info!(
            authority_id = %made.authority_id, slot = slot.as_str(),
            expiration = unix_seconds(made.not_after), "{} authority prepared and published", K::NAME
        );
        Ok(made)
    }
}

/// The key of a slot.
pub(super) fn key_id<K: Kind>(slot: SlotId) -> Result<KeyId, AuthorityError> {
    slot.key_id(K::KEYS).map_err(|cause| AuthorityError::Key { op: "read", key: K::KEYS.to_owned(), cause })
}

async fn find(keys: &dyn KeyManager, key: &KeyId) -> Result<Option<PublicKey>, AuthorityError> {
    keys.find(key).await.map_err(|cause| AuthorityError::Key { op: "read", key: key.to_string(), cause })
}

/// The keys of a kind that the key manager holds.
pub(super) async fn keys_of<K: Kind>(
    keys: &dyn KeyManager,
) -> Result<Vec<(SlotId, PublicKey)>, AuthorityError> {
    let mut found = Vec::new();
    for slot in SlotId::BOTH {
        if let Some(public) = find(keys, &key_id::<K>(slot)?).await? {
            found.push((slot, public));
        }
    }
    Ok(found)
}
