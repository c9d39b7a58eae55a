//! The signing authorities: made in the key manager, published, activated, followed and found again.
//!
//! Order of every step: key, certificate, bundle, read back, journal, signature. A process that dies between
//! two of them leaves what [`slots::reconcile`] finds and continues; it never makes a second key for the
//! same step (docs/decisions/0007-authority-lifecycle.md).

pub mod published;
pub mod schedule;
mod server_svid;
mod sign;
mod signer;
pub mod slots;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hardroot_api::spire::server::journal::{self, Status};
use hardroot_hsm_keymanager::{KeyError, KeyId, KeyManager, KeyType, PublicKey};
use hardroot_identity::{
    CannotIssue, DistinguishedName, SignatureAlgorithm, Template, TrustDomain, certificate,
};
use hardroot_runtime::clock::Clock;
use prost::Message;
use tokio::sync::Mutex;
use tracing::{info, warn};

pub use published::BundleError;
pub use server_svid::{ServerSvid, ServerSvidError};
pub use sign::SignError;
pub use signer::{IssueError, Issued, Signer};

use crate::datastore::{Bundles, Journals, StoreError};
use sign::sign_certificate;
use signer::{Active, random_serial};
use slots::{CaFacts, SlotId, X509Slot};

/// Prefix of the X.509 authority's keys: `x509-CA-A`, `x509-CA-B`.
pub const X509_CA_KEYS: &str = "x509-CA";

/// How often the manager looks whether something is due.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// What the authority manager needs to know.
#[derive(Debug, Clone)]
pub struct AuthorityConfig {
    /// The server's trust domain.
    pub trust_domain: TrustDomain,
    /// Lifetime of an authority.
    pub ca_ttl: Duration,
    /// Type of its key.
    pub ca_key_type: KeyType,
    /// Subject of its certificate; the serial number attribute is added.
    pub ca_subject: DistinguishedName,
}

/// Where authorities are recorded.
pub trait AuthorityStore: Bundles + Journals {}
impl<T: Bundles + Journals + ?Sized> AuthorityStore for T {}

/// Why an authority could not be prepared, published or activated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The key manager failed, or refused a key.
    #[error("the authority's key {key} cannot be {op}")]
    Key {
        /// `read` or `made`.
        op: &'static str,
        /// The key.
        key: String,
        /// The cause.
        #[source]
        cause: KeyError,
    },
    /// The certificate could not be made.
    #[error("the authority's certificate cannot be made")]
    Certificate(#[source] IssueError),
    /// The bundle could not be published.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The journal could not be read or written.
    #[error("the authority journal cannot be {op}")]
    Journal {
        /// `read` or `written`.
        op: &'static str,
        /// The cause.
        #[source]
        cause: StoreError,
    },
    /// The journal's row does not parse.
    #[error("the authority journal (row {row}) is damaged; restore the database from a backup")]
    DamagedJournal {
        /// Its row.
        row: i64,
        /// The cause.
        #[source]
        cause: prost::DecodeError,
    },
}

struct State {
    slots: Vec<X509Slot>,
    journal: journal::Entries,
    row: Option<i64>,
    unsaved: bool,
}

impl State {
    fn with(&self, status: Status) -> Option<&X509Slot> {
        self.slots.iter().find(|slot| slot.status == status)
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
    fn put(&mut self, slot: X509Slot) {
        slots::record(&mut self.journal, &slot);
        self.slots.retain(|known| known.slot != slot.slot);
        self.slots.push(slot);
        self.unsaved = true;
    }
}

/// The manager of the signing authorities.
pub struct Authority {
    config: AuthorityConfig,
    keys: Arc<dyn KeyManager>,
    store: Arc<dyn AuthorityStore>,
    clock: Arc<dyn Clock>,
    signer: Arc<Signer>,
    state: Mutex<State>,
}

impl Authority {
    /// Finds the authorities again or makes the first one; publishes, reads back, and opens the signer.
    ///
    /// # Errors
    /// [`AuthorityError`]: the server must not serve then.
    pub async fn start(
        config: AuthorityConfig,
        keys: Arc<dyn KeyManager>,
        store: Arc<dyn AuthorityStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        let signer = Arc::new(Signer::new(Arc::clone(&keys), Arc::clone(&clock)));
        let state = Mutex::new(load(&config, &*keys, &*store, clock.now()).await?);
        let authority = Self { config, keys, store, clock, signer, state };
        authority.prune().await?;
        authority.check().await?;
        Ok(authority)
    }

    /// The signer of this authority.
    #[must_use]
    pub fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.signer)
    }

    /// What the slots hold, the active one first.
    pub async fn slots(&self) -> Vec<X509Slot> {
        let mut all = self.state.lock().await.slots.clone();
        all.sort_by_key(|slot| slot.status != Status::Active);
        all
    }

    /// Does what is due: makes sure that the bundle holds our authorities, prepares and activates successors,
    /// writes the journal. Called at start and every [`CHECK_INTERVAL`]; on failure the active authority goes
    /// on signing and the next call tries again.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn check(&self) -> Result<(), AuthorityError> {
        let now = self.clock.now();
        let mut state = self.state.lock().await;
        let result = self.advance(&mut state, now).await;
        // Whatever was reached is written down, even when a later step failed.
        let saved = self.save(&mut state).await;
        result?;
        saved?;
        if let Some(active) = state.with(Status::Active)
            && self.signer.authority_id().as_ref() != Some(&active.authority_id)
        {
            self.open(active)?;
        }
        Ok(())
    }

    async fn advance(&self, state: &mut State, now: SystemTime) -> Result<(), AuthorityError> {
        state.slots.retain(|slot| slot.not_after > now);
        if state.with(Status::Active).is_none() {
            if state.with(Status::Prepared).is_none() {
                let slot = self.prepare(state, now).await?;
                state.put(slot);
            }
            self.activate(state);
        }
        for slot in state.slots.iter().filter(|slot| slot.status != Status::Old) {
            published::publish_root(&*self.store, &self.config.trust_domain, &slot.certificate).await?;
        }
        let Some(active) = state.with(Status::Active).cloned() else { return Ok(()) };
        if now >= schedule::prepare_at(active.issued_at, active.not_after)
            && state.with(Status::Prepared).is_none()
        {
            let slot = self.prepare(state, now).await?;
            published::publish_root(&*self.store, &self.config.trust_domain, &slot.certificate).await?;
            info!(
                authority_id = %slot.authority_id, slot = slot.slot.as_str(),
                expiration = slots::unix_seconds(slot.not_after), "X.509 authority prepared and published"
            );
            state.put(slot);
        }
        if now >= schedule::activate_at(active.issued_at, active.not_after) {
            self.activate(state);
        }
        Ok(())
    }

    /// The prepared slot becomes active, the active one old. The signer follows once the journal is written.
    fn activate(&self, state: &mut State) {
        let Some(next) = state.with(Status::Prepared).cloned() else { return };
        if let Some(former) = state.with(Status::Active).cloned() {
            state.put(X509Slot { status: Status::Old, ..former });
        }
        info!(authority_id = %next.authority_id, slot = next.slot.as_str(), "X.509 authority activated");
        state.put(X509Slot { status: Status::Active, ..next });
    }

    /// Makes the authority of the free slot: a key, unless one is there that nobody has used yet (the process
    /// died before its certificate was published, or the database was lost), and its certificate.
    async fn prepare(&self, state: &State, now: SystemTime) -> Result<X509Slot, AuthorityError> {
        let slot = state.free_slot();
        let key = key_id(slot)?;
        let (bundle, _) = published::read(&*self.store, &self.config.trust_domain).await?;
        let used = |public: &PublicKey| {
            let id = slots::authority_id(&public.spki_der);
            let of_key = |der: &[u8]| CaFacts::of(der).is_some_and(|facts| facts.spki_der == public.spki_der);
            state.journal.x509_c_as.iter().any(|entry| entry.authority_id == id)
                || bundle.root_cas.iter().any(|root| of_key(&root.der_bytes))
        };
        let public = match find(&*self.keys, &key).await? {
            Some(public) if public.kind == self.config.ca_key_type && !used(&public) => {
                warn!(%key, "a key without an authority was found; it is used instead of a new one");
                public
            }
            _ => self
                .keys
                .generate(&key, self.config.ca_key_type)
                .await
                .map_err(|cause| AuthorityError::Key { op: "made", key: key.to_string(), cause })?,
        };
        let certificate = self.self_sign(&key, &public, now).await.map_err(AuthorityError::Certificate)?;
        let not_after = CaFacts::of(&certificate).map_or(now + self.config.ca_ttl, |facts| facts.not_after);
        Ok(X509Slot {
            slot,
            authority_id: slots::authority_id(&public.spki_der),
            public,
            certificate,
            issued_at: now,
            not_after,
            status: Status::Prepared,
        })
    }

    async fn self_sign(
        &self,
        key: &KeyId,
        public: &PublicKey,
        now: SystemTime,
    ) -> Result<Vec<u8>, IssueError> {
        let algorithm = SignatureAlgorithm::for_key(&public.spki_der)
            .map_err(|cause| IssueError::Build(CannotIssue::SigningKey(cause)))?;
        let tbs = certificate(
            Template::SelfSignedCa { subject: &self.config.ca_subject },
            &self.config.trust_domain.id(),
            &public.spki_der,
            random_serial()?,
            now,
            self.config.ca_ttl,
            None,
            algorithm,
        )
        .map_err(IssueError::Build)?;
        Ok(sign_certificate(&*self.keys, key, public, tbs).await?)
    }

    async fn save(&self, state: &mut State) -> Result<(), AuthorityError> {
        let Some(active) = state.with(Status::Active).filter(|_| state.unsaved) else { return Ok(()) };
        let row = self
            .store
            .put_journal(state.row, &state.journal.encode_to_vec(), &active.authority_id)
            .await
            .map_err(|cause| AuthorityError::Journal { op: "written", cause })?;
        state.row = Some(row);
        state.unsaved = false;
        Ok(())
    }

    fn open(&self, active: &X509Slot) -> Result<(), AuthorityError> {
        let ready = Active::new(key_id(active.slot)?, active)
            .map_err(|cause| AuthorityError::Certificate(IssueError::Build(cause)))?;
        self.signer.activate(ready);
        Ok(())
    }

    /// Removes authorities from the bundle that ended more than 24 hours ago; never the last one.
    ///
    /// # Errors
    /// [`AuthorityError::Bundle`].
    pub async fn prune(&self) -> Result<(), AuthorityError> {
        let now = self.clock.now();
        published::update(&*self.store, &self.config.trust_domain, |bundle| published::prune(bundle, now))
            .await?;
        Ok(())
    }
}

fn key_id(slot: SlotId) -> Result<KeyId, AuthorityError> {
    slot.key_id(X509_CA_KEYS).map_err(|cause| AuthorityError::Key {
        op: "read",
        key: X509_CA_KEYS.to_owned(),
        cause,
    })
}

async fn find(keys: &dyn KeyManager, key: &KeyId) -> Result<Option<PublicKey>, AuthorityError> {
    keys.find(key).await.map_err(|cause| AuthorityError::Key { op: "read", key: key.to_string(), cause })
}

async fn load(
    config: &AuthorityConfig,
    keys: &dyn KeyManager,
    store: &dyn AuthorityStore,
    now: SystemTime,
) -> Result<State, AuthorityError> {
    let mut found = Vec::new();
    for slot in SlotId::BOTH {
        if let Some(public) = find(keys, &key_id(slot)?).await? {
            found.push((slot, public));
        }
    }
    let ids: Vec<String> = found.iter().map(|(_, public)| slots::authority_id(&public.spki_der)).collect();
    let row =
        store.find_journal(&ids).await.map_err(|cause| AuthorityError::Journal { op: "read", cause })?;
    let (row, journal) = match row {
        None => (None, journal::Entries::default()),
        Some((row, data)) => (
            Some(row),
            journal::Entries::decode(data.as_slice())
                .map_err(|cause| AuthorityError::DamagedJournal { row, cause })?,
        ),
    };
    let (bundle, _) = published::read(store, &config.trust_domain).await?;
    let slots = slots::reconcile(now, &found, &journal.x509_c_as, &published::roots(&bundle));
    for slot in &slots {
        info!(
            authority_id = %slot.authority_id, slot = slot.slot.as_str(), status = slot.status.as_str_name(),
            expiration = slots::unix_seconds(slot.not_after), "X.509 authority found again"
        );
    }
    Ok(State { slots, journal, row, unsaved: false })
}
