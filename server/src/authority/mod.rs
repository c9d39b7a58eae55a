//! The signing authorities: made in the key manager, published, activated, followed and found again.
//!
//! Order of every step: key, certificate, bundle, read back, journal, signature. A process that dies between
//! two of them leaves what [`slots`] finds and continues; it never makes a second key for the same step
//! (docs/decisions/0007-authority-lifecycle.md). X.509 and JWT authorities live the same life ([`line`]).

mod kind;
mod line;
pub mod published;
pub mod queue;
pub mod schedule;
mod server_svid;
mod sign;
mod sign_jwt;
mod signer;
pub mod slots;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod tests_journal;
#[cfg(test)]
mod tests_jwt;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hardroot_api::expansion::{BadStored, decode_stored};
use hardroot_api::spire::server::journal;
use hardroot_hsm_keymanager::{KeyError, KeyId, KeyManager, KeyType, PublicKey};
use hardroot_identity::{BadPublicKey, DistinguishedName, TrustDomain};
use hardroot_runtime::clock::Clock;
use prost::Message;
use tokio::sync::{Mutex, watch};
use tracing::warn;

pub use published::BundleError;
pub use server_svid::{ServerSvid, ServerSvidError};
pub use sign::SignError;
pub use sign_jwt::{IssuedJwt, JwtIssueError, JwtRequest};
pub use signer::{IssueError, Issued, Signer};

use crate::datastore::{Bundles, Journals, StoreError, StoredJournal};
use kind::{Jwt, X509};
use line::{Ledger, Line, World, key_id, keys_of};
use sign_jwt::ActiveJwt;
use signer::ActiveX509;
use slots::{JwtSlot, SlotId, X509Slot};

/// Prefix of the X.509 authority's keys: `x509-CA-A`, `x509-CA-B`.
pub const X509_CA_KEYS: &str = "x509-CA";

/// Prefix of the JWT authority's keys: `JWT-Signer-A`, `JWT-Signer-B`.
pub const JWT_KEYS: &str = "JWT-Signer";

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
    /// How JWT-SVIDs are signed; `None` when they are disabled, and then no key is made for them.
    pub jwt: Option<JwtConfig>,
}

/// What the JWT authority needs to know; it lives as long as the X.509 one.
#[derive(Debug, Clone)]
pub struct JwtConfig {
    /// Type of its key.
    pub key_type: KeyType,
    /// Claim `iss` of its tokens, if any.
    pub issuer: Option<String>,
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
    /// A JWT key that tokens cannot be signed with.
    #[error("the JWT key {key} cannot sign tokens")]
    JwtKey {
        /// The key.
        key: String,
        /// The cause.
        #[source]
        cause: BadPublicKey,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes for the id of a JWT key")]
    Random,
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
    /// Another process wrote into the journal.
    #[error(
        "the authority journal (row {row}) names authorities that this server did not make: another server runs with \
         the same keys; stop one of them, then restart the other"
    )]
    ForeignJournal {
        /// Its row.
        row: i64,
    },
    /// The journal's row does not parse.
    #[error("the authority journal (row {row}) is damaged; restore the database from a backup")]
    DamagedJournal {
        /// Its row.
        row: i64,
        /// The cause.
        #[source]
        cause: BadStored,
    },
}

struct State {
    x509: Line<X509>,
    /// None when JWT-SVIDs are disabled.
    jwt: Option<Line<Jwt>>,
    ledger: Ledger,
}

/// The manager of the signing authorities.
pub struct Authority {
    trust_domain: TrustDomain,
    keys: Arc<dyn KeyManager>,
    store: Arc<dyn AuthorityStore>,
    clock: Arc<dyn Clock>,
    signer: Arc<Signer>,
    state: Mutex<State>,
    /// See [`Authority::published_at`].
    published_at: watch::Sender<Option<SystemTime>>,
}

impl Authority {
    /// Finds the authorities again or makes the first ones; publishes, reads back, and opens the signer.
    ///
    /// # Errors
    /// [`AuthorityError`] when there is nothing to sign with: the server must not serve then. That a successor
    /// cannot be made is only logged; the next [`Authority::check`] tries again.
    pub async fn start(
        config: AuthorityConfig,
        keys: Arc<dyn KeyManager>,
        store: Arc<dyn AuthorityStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        let issuer = config.jwt.as_ref().and_then(|jwt| jwt.issuer.clone());
        let signer = Arc::new(Signer::new(Arc::clone(&keys), Arc::clone(&clock), config.ca_ttl, issuer));
        let trust_domain = config.trust_domain.clone();
        let state = Mutex::new(load(config, &*keys, &*store, clock.now()).await?);
        let authority =
            Self { trust_domain, keys, store, clock, signer, state, published_at: watch::Sender::new(None) };
        authority.prune().await?;
        if let Err(error) = authority.check().await {
            if !authority.signs().await {
                return Err(error);
            }
            warn!(
                error = &error as &dyn std::error::Error,
                "the signing authorities could not be checked; the active ones sign"
            );
        }
        Ok(authority)
    }

    /// The signer of this authority.
    #[must_use]
    pub fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.signer)
    }

    /// When this server last put an authority into the bundle and read it back, also before its last restart.
    /// Asks nobody.
    #[must_use]
    pub fn published_at(&self) -> watch::Receiver<Option<SystemTime>> {
        self.published_at.subscribe()
    }

    /// What the X.509 slots hold, the active one first.
    pub async fn slots(&self) -> Vec<X509Slot> {
        self.state.lock().await.x509.slots()
    }

    /// What the JWT slots hold, the active one first; nothing when JWT-SVIDs are disabled.
    pub async fn jwt_slots(&self) -> Vec<JwtSlot> {
        self.state.lock().await.jwt.as_ref().map(Line::slots).unwrap_or_default()
    }

    /// Whether everything that is to sign has an authority to sign with.
    async fn signs(&self) -> bool {
        let jwt = self.state.lock().await.jwt.is_some();
        self.signer.authority_id().is_some() && (!jwt || self.signer.jwt_key_id().is_some())
    }

    /// Does what is due: makes sure that the bundle holds our authorities, prepares and activates successors,
    /// writes the journal. Called at start and every [`CHECK_INTERVAL`]; on failure the active authorities go
    /// on signing and the next call tries again.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn check(&self) -> Result<(), AuthorityError> {
        let mut state = self.state.lock().await;
        let result = self.advance(&mut state).await;
        // Whatever was reached is written down, even when a later step failed; only then it signs.
        let saved = self.save(&mut state).await;
        if saved.is_ok() {
            self.open(&state)?;
        }
        let jwt = state.jwt.as_ref().and_then(Line::published_at);
        self.published_at.send_replace(state.x509.published_at().max(jwt));
        result.and(saved)
    }

    /// Whether this is the id of a key that signs SVIDs.
    #[must_use]
    pub fn is_signing_key(key: &KeyId) -> bool {
        let of =
            |prefix| SlotId::BOTH.iter().any(|slot| slot.key_id(prefix).is_ok_and(|known| known == *key));
        of(X509_CA_KEYS) || of(JWT_KEYS)
    }

    /// Whether the journal or the published bundle knows this key.
    ///
    /// # Errors
    /// [`AuthorityError::Bundle`]: it cannot be told, and then it must be taken as known.
    pub async fn refers_to(&self, public: &PublicKey) -> Result<bool, AuthorityError> {
        let state = self.state.lock().await;
        let (bundle, _) = published::read(&*self.store, &self.trust_domain).await?;
        Ok(state.x509.knows(&state.ledger.journal, &bundle, public)
            || Jwt::knows(&state.ledger.journal, &bundle, public))
    }

    async fn advance(&self, state: &mut State) -> Result<(), AuthorityError> {
        let world = World {
            keys: &*self.keys,
            store: &*self.store,
            trust_domain: &self.trust_domain,
            now: self.clock.now(),
        };
        let (bundle, _) = published::read(&*self.store, &self.trust_domain).await?;
        let x509 = state.x509.advance(&world, &bundle, &mut state.ledger).await;
        // The journal is found by the X.509 authority: without one, a JWT key would be lost at the next start.
        if let Some(jwt) = state.jwt.as_mut().filter(|_| state.x509.ready().is_some()) {
            let jwt = jwt.advance(&world, &bundle, &mut state.ledger).await;
            return x509.and(jwt);
        }
        x509
    }

    async fn save(&self, state: &mut State) -> Result<(), AuthorityError> {
        let State { x509, ledger, .. } = state;
        let Some(active) = x509.active_id().filter(|_| ledger.unsaved) else { return Ok(()) };
        let written = |cause| AuthorityError::Journal { op: "written", cause };
        let data = ledger.journal.encode_to_vec();
        let row = match self.store.put_journal(ledger.stored.as_ref(), &data, active).await {
            Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => {
                let now = self.stored_journal(ledger).await?;
                self.store.put_journal(now.as_ref(), &data, active).await.map_err(written)?
            }
            done => done.map_err(written)?,
        };
        ledger.stored = Some(StoredJournal { row, data });
        ledger.unsaved = false;
        Ok(())
    }

    /// The journal as it is stored now, when it is not as this server left it: the database is of an earlier
    /// moment (a failover, a restored backup), or the answer to a write was lost. What somebody else wrote is
    /// not written over.
    async fn stored_journal(&self, ledger: &Ledger) -> Result<Option<StoredJournal>, AuthorityError> {
        let ids: Vec<_> = ledger.journal.x509_c_as.iter().map(|entry| entry.authority_id.clone()).collect();
        let found = self
            .store
            .find_journal(&ids)
            .await
            .map_err(|cause| AuthorityError::Journal { op: "read", cause })?;
        let Some(found) = found else { return Ok(None) };
        let journal = decode_journal(&found)?;
        if !ledger.covers(&journal) {
            return Err(AuthorityError::ForeignJournal { row: found.row });
        }
        warn!(
            row = found.row,
            "the authority journal in the database is of an earlier moment; it is written again"
        );
        Ok(Some(found))
    }

    /// Lets the active authorities sign that are published and journaled.
    fn open(&self, state: &State) -> Result<(), AuthorityError> {
        if let Some(active) = state.x509.ready()
            && self.signer.authority_id().as_ref() != Some(&active.authority_id)
        {
            let key = key_id::<X509>(active.slot)?;
            let ready = ActiveX509::new(key, active)
                .map_err(|cause| AuthorityError::Certificate(IssueError::Build(cause)))?;
            self.signer.activate_x509(ready);
        }
        if let Some(active) = state.jwt.as_ref().and_then(Line::ready)
            && self.signer.jwt_key_id().as_ref() != Some(&active.authority_id)
        {
            let key = key_id::<Jwt>(active.slot)?;
            self.signer.activate_jwt(ActiveJwt::new(key, active)?);
        }
        Ok(())
    }

    /// Removes authorities from the bundle that ended more than 24 hours ago; never the last one of a kind.
    ///
    /// # Errors
    /// [`AuthorityError::Bundle`].
    pub async fn prune(&self) -> Result<(), AuthorityError> {
        let now = self.clock.now();
        published::update(&*self.store, &self.trust_domain, |bundle| published::prune(bundle, now)).await?;
        Ok(())
    }
}

fn decode_journal(stored: &StoredJournal) -> Result<journal::Entries, AuthorityError> {
    decode_stored(&stored.data).map_err(|cause| AuthorityError::DamagedJournal { row: stored.row, cause })
}

async fn load(
    config: AuthorityConfig,
    keys: &dyn KeyManager,
    store: &dyn AuthorityStore,
    now: SystemTime,
) -> Result<State, AuthorityError> {
    let found = keys_of::<X509>(keys).await?;
    let ids: Vec<String> = found.iter().map(|(_, public)| slots::authority_id(&public.spki_der)).collect();
    let row =
        store.find_journal(&ids).await.map_err(|cause| AuthorityError::Journal { op: "read", cause })?;
    let ledger = match row {
        None => Ledger::default(),
        Some(stored) => Ledger { journal: decode_journal(&stored)?, stored: Some(stored), unsaved: false },
    };
    let (bundle, _) = published::read(store, &config.trust_domain).await?;
    let x509 = X509 {
        trust_domain: config.trust_domain,
        ttl: config.ca_ttl,
        key_type: config.ca_key_type,
        subject: config.ca_subject,
    };
    let x509 = Line::find_again(x509, now, &found, &ledger.journal, &bundle);
    let jwt = match config.jwt {
        None => None,
        Some(jwt) => {
            let found = keys_of::<Jwt>(keys).await?;
            let jwt = Jwt { ttl: config.ca_ttl, key_type: jwt.key_type };
            Some(Line::find_again(jwt, now, &found, &ledger.journal, &bundle))
        }
    };
    Ok(State { x509, jwt, ledger })
}
