//! What the kinds of signing authority have in common, and each for itself: X.509 and JWT.
//!
//! A kind says how its authorities stand in the journal and in the bundle, and how a key becomes one. The
//! life of an authority ([`super::line`]) is the same for all.

use std::future::Future;
use std::time::{Duration, SystemTime};

use hardroot_api::spire::common;
use hardroot_api::spire::server::journal::{self, JwtKeyEntry, Status, X509caEntry};
use hardroot_hsm_keymanager::{KeyId, KeyManager, KeyType, PublicKey};
use hardroot_identity::{
    CannotIssue, DistinguishedName, SignatureAlgorithm, Template, TrustDomain, certificate,
};

use super::AuthorityError;
use super::sign::sign_certificate;
use super::signer::{IssueError, random_serial};
use super::slots::{self, CaFacts, JwtSlot, Slot, SlotId, X509Slot, from_unix_seconds, unix_seconds};

/// Length of the id of a JWT key.
const KEY_ID_LENGTH: usize = 32;

/// A kind of signing authority.
pub(super) trait Kind: Send + Sync {
    /// What makes a key an authority, besides its id.
    type Credential: Clone + Send + Sync;

    /// For logs.
    const NAME: &'static str;

    /// Prefix of its keys in the key manager.
    const KEYS: &'static str;
    /// Metric of preparing one, as SPIRE calls it.
    const PREPARE: &'static str;
    /// Metric of activating one, as SPIRE calls it.
    const ACTIVATE: &'static str;

    /// The type of its keys.
    fn key_type(&self) -> KeyType;

    /// Makes a key that has no authority yet one, as prepared.
    fn vouch(
        &self,
        keys: &dyn KeyManager,
        key: &KeyId,
        slot: SlotId,
        public: PublicKey,
        now: SystemTime,
    ) -> impl Future<Output = Result<Slot<Self::Credential>, AuthorityError>> + Send;

    /// The authorities of a slot's key that the journal knows.
    fn in_journal(
        &self,
        journal: &journal::Entries,
        slot: SlotId,
        public: &PublicKey,
    ) -> Vec<Slot<Self::Credential>>;

    /// The authorities of a key that are in the bundle and not tainted, as prepared in `slot`.
    fn in_bundle(
        &self,
        bundle: &common::Bundle,
        slot: SlotId,
        public: &PublicKey,
    ) -> Vec<Slot<Self::Credential>>;

    /// Whether the journal has ever seen this key.
    fn is_in_journal(&self, journal: &journal::Entries, public: &PublicKey) -> bool;

    /// Whether the bundle holds this key, tainted or ended too.
    fn is_in_bundle(&self, bundle: &common::Bundle, public: &PublicKey) -> bool;

    /// Whether the bundle says that this authority must not sign any more.
    fn is_tainted(&self, bundle: &common::Bundle, slot: &Slot<Self::Credential>) -> bool;

    /// Writes a slot's state into the journal.
    fn record(&self, journal: &mut journal::Entries, slot: &Slot<Self::Credential>);

    /// Puts an authority into the bundle if it is not there; whether it was not.
    fn add(&self, bundle: &mut common::Bundle, slot: &Slot<Self::Credential>) -> bool;
}

/// X.509 authorities: self-signed CA certificates.
#[derive(Debug)]
pub(super) struct X509 {
    pub(super) trust_domain: TrustDomain,
    pub(super) ttl: Duration,
    pub(super) key_type: KeyType,
    pub(super) subject: DistinguishedName,
}

impl X509 {
    async fn self_sign(
        &self,
        keys: &dyn KeyManager,
        key: &KeyId,
        public: &PublicKey,
        now: SystemTime,
    ) -> Result<Vec<u8>, IssueError> {
        let algorithm = SignatureAlgorithm::for_key(&public.spki_der)
            .map_err(|cause| IssueError::Build(CannotIssue::SigningKey(cause)))?;
        let tbs = certificate(
            Template::SelfSignedCa { subject: &self.subject },
            &self.trust_domain.id(),
            &public.spki_der,
            random_serial()?,
            now,
            self.ttl,
            None,
            algorithm,
        )
        .map_err(IssueError::Build)?;
        Ok(sign_certificate(keys, key, public, tbs).await?)
    }
}

impl Kind for X509 {
    type Credential = Vec<u8>;

    const NAME: &'static str = "X.509";
    const KEYS: &'static str = super::X509_CA_KEYS;
    const PREPARE: &'static str = "ca.manager.x509_ca.prepare";
    const ACTIVATE: &'static str = "ca.manager.x509_ca.activate";

    fn key_type(&self) -> KeyType {
        self.key_type
    }

    async fn vouch(
        &self,
        keys: &dyn KeyManager,
        key: &KeyId,
        slot: SlotId,
        public: PublicKey,
        now: SystemTime,
    ) -> Result<X509Slot, AuthorityError> {
        let credential =
            self.self_sign(keys, key, &public, now).await.map_err(AuthorityError::Certificate)?;
        let not_after = CaFacts::of(&credential).map_or(now + self.ttl, |facts| facts.not_after);
        Ok(Slot {
            slot,
            authority_id: slots::authority_id(&public.spki_der),
            public,
            credential,
            issued_at: now,
            not_after,
            status: Status::Prepared,
        })
    }

    fn in_journal(&self, journal: &journal::Entries, slot: SlotId, public: &PublicKey) -> Vec<X509Slot> {
        let known = journal.x509_c_as.iter();
        known
            .filter(|entry| entry.slot_id == slot.as_str() && entry.status() != Status::Unknown)
            .filter_map(|entry| {
                let facts = of_key(&entry.certificate, public)?;
                Some(Slot {
                    slot,
                    public: public.clone(),
                    credential: entry.certificate.clone(),
                    authority_id: entry.authority_id.clone(),
                    issued_at: from_unix_seconds(entry.issued_at),
                    not_after: facts.not_after,
                    status: entry.status(),
                })
            })
            .collect()
    }

    fn in_bundle(&self, bundle: &common::Bundle, slot: SlotId, public: &PublicKey) -> Vec<X509Slot> {
        let roots = bundle.root_cas.iter().filter(|root| !root.tainted_key);
        roots
            .filter_map(|root| {
                let facts = of_key(&root.der_bytes, public)?;
                Some(Slot {
                    slot,
                    public: public.clone(),
                    credential: root.der_bytes.clone(),
                    authority_id: slots::authority_id(&public.spki_der),
                    issued_at: facts.not_before,
                    not_after: facts.not_after,
                    status: Status::Prepared,
                })
            })
            .collect()
    }

    fn is_in_journal(&self, journal: &journal::Entries, public: &PublicKey) -> bool {
        let id = slots::authority_id(&public.spki_der);
        journal.x509_c_as.iter().any(|entry| entry.authority_id == id)
    }

    fn is_in_bundle(&self, bundle: &common::Bundle, public: &PublicKey) -> bool {
        bundle.root_cas.iter().any(|root| of_key(&root.der_bytes, public).is_some())
    }

    fn is_tainted(&self, bundle: &common::Bundle, slot: &X509Slot) -> bool {
        bundle.root_cas.iter().any(|root| root.tainted_key && root.der_bytes == slot.credential)
    }

    fn record(&self, journal: &mut journal::Entries, slot: &X509Slot) {
        let entry = X509caEntry {
            slot_id: slot.slot.as_str().to_owned(),
            issued_at: unix_seconds(slot.issued_at),
            certificate: slot.credential.clone(),
            upstream_chain: Vec::new(),
            status: slot.status.into(),
            authority_id: slot.authority_id.clone(),
            not_after: unix_seconds(slot.not_after),
            upstream_authority_id: String::new(),
        };
        slots::record(&mut journal.x509_c_as, entry, |known| known.certificate == slot.credential);
    }

    fn add(&self, bundle: &mut common::Bundle, slot: &X509Slot) -> bool {
        if bundle.root_cas.iter().any(|root| root.der_bytes == slot.credential) {
            return false;
        }
        let der_bytes = slot.credential.clone();
        bundle.root_cas.push(common::Certificate { der_bytes, tainted_key: false });
        true
    }
}

/// What a certificate says, if it is one of this very key.
fn of_key(der: &[u8], public: &PublicKey) -> Option<CaFacts> {
    CaFacts::of(der).filter(|facts| facts.spki_der == public.spki_der)
}

/// JWT authorities: keys with an id and an end.
#[derive(Debug)]
pub(super) struct Jwt {
    pub(super) ttl: Duration,
    pub(super) key_type: KeyType,
}

impl Jwt {
    /// Whether journal or bundle know a key; also where JWT-SVIDs are disabled now.
    pub(super) fn knows(journal: &journal::Entries, bundle: &common::Bundle, public: &PublicKey) -> bool {
        journal.jwt_keys.iter().any(|entry| entry.public_key == public.spki_der)
            || bundle.jwt_signing_keys.iter().any(|key| key.pkix_bytes == public.spki_der)
    }
}

impl Kind for Jwt {
    type Credential = ();

    const NAME: &'static str = "JWT";
    const KEYS: &'static str = super::JWT_KEYS;
    const PREPARE: &'static str = "ca.manager.jwt_key.prepare";
    const ACTIVATE: &'static str = "manager.jwt_key.activate";

    fn key_type(&self) -> KeyType {
        self.key_type
    }

    async fn vouch(
        &self,
        _keys: &dyn KeyManager,
        _key: &KeyId,
        slot: SlotId,
        public: PublicKey,
        now: SystemTime,
    ) -> Result<JwtSlot, AuthorityError> {
        // Journal and bundle hold whole seconds: so do we, or a restart would find another time.
        let now = from_unix_seconds(unix_seconds(now));
        Ok(Slot {
            slot,
            public,
            credential: (),
            authority_id: random_key_id()?,
            issued_at: now,
            not_after: now + self.ttl,
            status: Status::Prepared,
        })
    }

    fn in_journal(&self, journal: &journal::Entries, slot: SlotId, public: &PublicKey) -> Vec<JwtSlot> {
        let known = journal.jwt_keys.iter();
        known
            .filter(|entry| entry.slot_id == slot.as_str() && entry.status() != Status::Unknown)
            .filter(|entry| entry.public_key == public.spki_der && !entry.kid.is_empty())
            .map(|entry| Slot {
                slot,
                public: public.clone(),
                credential: (),
                authority_id: entry.kid.clone(),
                issued_at: from_unix_seconds(entry.issued_at),
                not_after: from_unix_seconds(entry.not_after),
                status: entry.status(),
            })
            .collect()
    }

    fn in_bundle(&self, bundle: &common::Bundle, slot: SlotId, public: &PublicKey) -> Vec<JwtSlot> {
        // One without an end was not published by us.
        let keys = bundle.jwt_signing_keys.iter().filter(|key| !key.tainted_key && key.not_after > 0);
        keys.filter(|key| key.pkix_bytes == public.spki_der && !key.kid.is_empty())
            .map(|key| {
                let not_after = from_unix_seconds(key.not_after);
                Slot {
                    slot,
                    public: public.clone(),
                    credential: (),
                    authority_id: key.kid.clone(),
                    issued_at: not_after.checked_sub(self.ttl).unwrap_or(SystemTime::UNIX_EPOCH),
                    not_after,
                    status: Status::Prepared,
                }
            })
            .collect()
    }

    fn is_in_journal(&self, journal: &journal::Entries, public: &PublicKey) -> bool {
        journal.jwt_keys.iter().any(|entry| entry.public_key == public.spki_der)
    }

    fn is_in_bundle(&self, bundle: &common::Bundle, public: &PublicKey) -> bool {
        bundle.jwt_signing_keys.iter().any(|key| key.pkix_bytes == public.spki_der)
    }

    fn is_tainted(&self, bundle: &common::Bundle, slot: &JwtSlot) -> bool {
        bundle.jwt_signing_keys.iter().any(|key| key.tainted_key && key.kid == slot.authority_id)
    }

    fn record(&self, journal: &mut journal::Entries, slot: &JwtSlot) {
        let entry = JwtKeyEntry {
            slot_id: slot.slot.as_str().to_owned(),
            issued_at: unix_seconds(slot.issued_at),
            not_after: unix_seconds(slot.not_after),
            kid: slot.authority_id.clone(),
            public_key: slot.public.spki_der.clone(),
            status: slot.status.into(),
            authority_id: slot.authority_id.clone(),
        };
        slots::record(&mut journal.jwt_keys, entry, |known| known.kid == slot.authority_id);
    }

    fn add(&self, bundle: &mut common::Bundle, slot: &JwtSlot) -> bool {
        let ours =
            |key: &common::PublicKey| key.kid == slot.authority_id && key.pkix_bytes == slot.public.spki_der;
        if bundle.jwt_signing_keys.iter().any(ours) {
            return false;
        }
        bundle.jwt_signing_keys.push(common::PublicKey {
            pkix_bytes: slot.public.spki_der.clone(),
            kid: slot.authority_id.clone(),
            not_after: unix_seconds(slot.not_after),
            tainted_key: false,
        });
        true
    }
}

/// 32 random characters of `[A-Za-z0-9]`: some 190 bits, so that no two servers ever take the same.
fn random_key_id() -> Result<String, AuthorityError> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::with_capacity(KEY_ID_LENGTH);
    while id.len() < KEY_ID_LENGTH {
        let mut bytes = [0; KEY_ID_LENGTH];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| AuthorityError::Random)?;
        // Bytes past the last whole multiple of 62 would make some letters likelier than others: they are left out.
        let letters =
            bytes.iter().filter(|byte| **byte < 248).filter_map(|byte| LETTERS.get(usize::from(byte % 62)));
        id.extend(letters.map(|letter| char::from(*letter)).take(KEY_ID_LENGTH - id.len()));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_are_32_letters_and_digits_and_differ() {
        let ids: Vec<String> = (0..100).map(|_| random_key_id().unwrap()).collect();
        assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_alphanumeric())));
        let mut unique = ids.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ids.len());
    }
}
