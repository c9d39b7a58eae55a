//! The server's own SVID: what it shows on its TLS port. Its key stays in the key manager.
//!
//! The certificate is renewed at half life with the same key; the key itself changes when another authority
//! signs, so that an hourly certificate does not cost a hardware key every half hour.

use std::sync::Arc;
use std::time::Duration;

use hardroot_hsm_keymanager::{KeyError, KeyId, KeyManager, KeyType, PublicKey};
use hardroot_identity::{SpiffeId, Template};
use hardroot_runtime::clock::Clock;
use hardroot_telemetry::Call;
use hardroot_transport::{BadTlsIdentity, IdentitySlot, RemoteKey, TlsIdentity};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::schedule::half_life;
use super::signer::{IssueError, Issued, Signer};
use super::slots::{SlotId, unix_seconds};

/// Prefix of the server's TLS keys: `server-svid-A`, `server-svid-B`.
pub(super) const SERVER_SVID_KEYS: &str = "server-svid";

/// Why the server has no SVID, or keeps the old one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerSvidError {
    /// The key manager failed, or refused the key.
    #[error("the server's TLS key {key} cannot be {op}")]
    Key {
        /// `read`, `made` or `destroyed`.
        op: &'static str,
        /// The key.
        key: String,
        /// The cause.
        #[source]
        cause: KeyError,
    },
    /// No certificate was issued.
    #[error("the server's own SVID cannot be issued")]
    Issue(#[from] IssueError),
    /// The certificate and the key do not belong together.
    #[error("the server's own SVID cannot be used")]
    Identity(#[from] BadTlsIdentity),
}

struct State {
    slot: SlotId,
    public: PublicKey,
    issued: Option<Issued>,
    /// A replaced key, destroyed one check later: a handshake under way may still need it.
    retired: Option<KeyId>,
}

/// Keeps the server's SVID fresh.
pub struct ServerSvid {
    id: SpiffeId,
    kind: KeyType,
    ttl: Duration,
    keys: Arc<dyn KeyManager>,
    clock: Arc<dyn Clock>,
    signer: Arc<Signer>,
    identity: IdentitySlot,
    state: Mutex<State>,
}

impl ServerSvid {
    /// Finds the server's key again or makes it, issues the SVID and puts it into `identity`.
    ///
    /// # Errors
    /// [`ServerSvidError`].
    pub async fn start(
        id: SpiffeId,
        kind: KeyType,
        ttl: Duration,
        keys: Arc<dyn KeyManager>,
        clock: Arc<dyn Clock>,
        signer: Arc<Signer>,
        identity: IdentitySlot,
    ) -> Result<Self, ServerSvidError> {
        let state = Mutex::new(find_or_make(&*keys, kind).await?);
        let svid = Self { id, kind, ttl, keys, clock, signer, identity, state };
        svid.check().await?;
        Ok(svid)
    }

    /// Renews at half life, or at once when another authority signs. On failure the old SVID stays.
    ///
    /// # Errors
    /// [`ServerSvidError`].
    pub async fn check(&self) -> Result<(), ServerSvidError> {
        let mut state = self.state.lock().await;
        if let Some(key) = state.retired.take() {
            // A key that stays behind harms nobody and is found and destroyed at the next start.
            if let Err(error) = self.keys.destroy(&key).await {
                warn!(%key, %error, "the former TLS key could not be destroyed");
            }
        }
        let other_authority = state
            .issued
            .as_ref()
            .is_some_and(|i| Some(&i.authority_id) != self.signer.authority_id().as_ref());
        let due = state
            .issued
            .as_ref()
            .is_none_or(|i| other_authority || self.clock.now() >= half_life(i.not_before, i.not_after));
        if !due {
            return Ok(());
        }
        Call::start("svid.rotate").finish(self.renew(&mut state, other_authority).await)
    }

    async fn renew(&self, state: &mut State, other_authority: bool) -> Result<(), ServerSvidError> {
        let (slot, public) = if other_authority {
            let slot = state.slot.other();
            (slot, generate(&*self.keys, slot, self.kind).await?)
        } else {
            (state.slot, state.public.clone())
        };
        let issued = self.signer.sign_x509(Template::Server, &self.id, &public.spki_der, self.ttl).await?;
        let key = key_id(slot)?;
        info!(
            %key, serial_number = %issued.serial, expiration = unix_seconds(issued.not_after),
            authority_id = %issued.authority_id, "server SVID issued"
        );
        let remote = RemoteKey::new(Arc::clone(&self.keys), key, public.clone());
        self.identity.store(Some(Arc::new(TlsIdentity::new(issued.chain.clone(), Arc::new(remote))?)));
        if slot != state.slot {
            state.retired = Some(key_id(state.slot)?);
        }
        state.slot = slot;
        state.public = public;
        state.issued = Some(issued);
        Ok(())
    }

    /// Signs a certificate that nobody gets: whether the key manager works again after a failure is not left to
    /// the next one who needs a signature.
    ///
    /// # Errors
    /// [`ServerSvidError::Issue`].
    pub async fn probe(&self) -> Result<(), ServerSvidError> {
        let spki = self.state.lock().await.public.spki_der.clone();
        self.signer.sign_x509(Template::Server, &self.id, &spki, self.ttl).await?;
        Ok(())
    }

    /// The SVID shown now: chain and end of validity.
    pub async fn current(&self) -> Option<Issued> {
        self.state.lock().await.issued.clone()
    }
}

async fn find_or_make(keys: &dyn KeyManager, kind: KeyType) -> Result<State, ServerSvidError> {
    let mut found: Option<(SlotId, PublicKey)> = None;
    for slot in SlotId::BOTH {
        let key = key_id(slot)?;
        let public = keys.find(&key).await.map_err(|cause| ServerSvidError::Key {
            op: "read",
            key: key.to_string(),
            cause,
        })?;
        match public {
            None => {}
            Some(public) if public.kind == kind && found.is_none() => found = Some((slot, public)),
            // The rest of an interrupted change, or of another key type: nothing refers to it any more.
            Some(_) => keys.destroy(&key).await.map_err(|cause| ServerSvidError::Key {
                op: "destroyed",
                key: key.to_string(),
                cause,
            })?,
        }
    }
    let (slot, public) = match found {
        Some(found) => found,
        None => (SlotId::A, generate(keys, SlotId::A, kind).await?),
    };
    Ok(State { slot, public, issued: None, retired: None })
}

async fn generate(keys: &dyn KeyManager, slot: SlotId, kind: KeyType) -> Result<PublicKey, ServerSvidError> {
    let key = key_id(slot)?;
    keys.generate(&key, kind).await.map_err(|cause| ServerSvidError::Key {
        op: "made",
        key: key.to_string(),
        cause,
    })
}

fn key_id(slot: SlotId) -> Result<KeyId, ServerSvidError> {
    slot.key_id(SERVER_SVID_KEYS).map_err(|cause| ServerSvidError::Key {
        op: "read",
        key: SERVER_SVID_KEYS.to_owned(),
        cause,
    })
}
