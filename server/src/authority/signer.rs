//! Issuing X.509-SVIDs with the active authority.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use hardroot_hsm_keymanager::{KeyId, KeyManager, PublicKey};
use hardroot_identity::{BadX509Svid, CannotIssue, Issuer, SpiffeId, Template, X509Svid, certificate};
use hardroot_runtime::clock::Clock;
use tokio::sync::{Semaphore, watch};

use super::sign::{SignError, sign_certificate};
use super::slots::X509Slot;

/// Signatures under way at once; more wait their turn in order of arrival.
const PARALLEL_SIGNATURES: usize = 64;

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// No authority is active: nothing was published yet, or the last one ended.
    #[error("no X.509 authority is active; see the log of the authority manager")]
    NoAuthority,
    /// The active authority ended.
    #[error("the active X.509 authority {authority_id} has expired; its successor could not be activated")]
    Expired {
        /// Which one.
        authority_id: String,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes for a serial number")]
    Random,
    /// The certificate cannot be built: a key that is not fit, a bad DNS name.
    #[error("the certificate cannot be built")]
    Build(#[source] CannotIssue),
    /// The signature failed.
    #[error("the certificate could not be signed")]
    Sign(#[from] SignError),
    /// What was issued is not a correct SVID; it was thrown away.
    #[error("the certificate issued for {id} does not pass its own checks and was thrown away")]
    Check {
        /// For whom.
        id: SpiffeId,
        /// The cause.
        #[source]
        cause: BadX509Svid,
    },
    /// What was issued is not what was asked for; it was thrown away.
    #[error("the certificate issued for {id} carries another identity or key and was thrown away")]
    Mismatch {
        /// For whom.
        id: SpiffeId,
    },
}

impl IssueError {
    /// Whether the key manager, and not the request, is to blame.
    #[must_use]
    pub fn is_our_fault(&self) -> bool {
        !matches!(self, Self::Build(_))
    }
}

/// An issued SVID.
#[derive(Debug, Clone)]
pub struct Issued {
    /// DER certificates, leaf first; roots are never part of it.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's serial number, decimal.
    pub serial: String,
    /// Begin of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// The authority that signed.
    pub authority_id: String,
}

/// The authority that signs now.
#[derive(Debug)]
pub(super) struct Active {
    key: KeyId,
    public: PublicKey,
    issuer: Issuer,
    authority_id: String,
    not_after: SystemTime,
}

impl Active {
    pub(super) fn new(key: KeyId, slot: &X509Slot) -> Result<Self, CannotIssue> {
        Ok(Self {
            key,
            public: slot.public.clone(),
            issuer: Issuer::from_certificate(&slot.certificate)?,
            authority_id: slot.authority_id.clone(),
            not_after: slot.not_after,
        })
    }
}

/// Issues certificates with the active authority. Starts closed: without an active authority every call
/// fails.
pub struct Signer {
    keys: Arc<dyn KeyManager>,
    clock: Arc<dyn Clock>,
    active: ArcSwapOption<Active>,
    turns: Semaphore,
    working: watch::Sender<bool>,
}

impl Signer {
    /// A closed signer.
    #[must_use]
    pub fn new(keys: Arc<dyn KeyManager>, clock: Arc<dyn Clock>) -> Self {
        Self {
            keys,
            clock,
            active: ArcSwapOption::empty(),
            turns: Semaphore::new(PARALLEL_SIGNATURES),
            working: watch::Sender::new(true),
        }
    }

    pub(super) fn activate(&self, active: Active) {
        self.active.store(Some(Arc::new(active)));
    }

    /// Whether the last signature succeeded, as a value to watch: readiness follows it.
    #[must_use]
    pub fn working(&self) -> watch::Receiver<bool> {
        self.working.subscribe()
    }

    /// The id of the active authority.
    #[must_use]
    pub fn authority_id(&self) -> Option<String> {
        self.active.load().as_ref().map(|active| active.authority_id.clone())
    }

    /// Issues an SVID: the template's form, `id`, the key `spki_der`, valid for `ttl` from now (back-dated by
    /// ten seconds) but never longer than the authority itself.
    ///
    /// # Errors
    /// [`IssueError`]; nothing was issued then.
    pub async fn sign_x509(
        &self,
        template: Template<'_>,
        id: &SpiffeId,
        spki_der: &[u8],
        ttl: Duration,
    ) -> Result<Issued, IssueError> {
        let active = self.active.load_full().ok_or(IssueError::NoAuthority)?;
        let now = self.clock.now();
        if active.not_after <= now {
            return Err(IssueError::Expired { authority_id: active.authority_id.clone() });
        }
        let tbs = certificate(
            template,
            id,
            spki_der,
            random_serial()?,
            now,
            ttl,
            &active.issuer,
            active.issuer.signature_algorithm(),
        )
        .map_err(IssueError::Build)?;
        // The semaphore is never closed; without a permit the call would only not wait.
        let turn = self.turns.acquire().await.ok();
        let signed = sign_certificate(&*self.keys, &active.key, &active.public, tbs).await;
        drop(turn);
        let works = signed.is_ok();
        self.working.send_if_modified(|known| std::mem::replace(known, works) != works);
        let svid =
            X509Svid::parse(vec![signed?]).map_err(|cause| IssueError::Check { id: id.clone(), cause })?;
        if &svid.id != id || svid.spki_der != spki_der {
            return Err(IssueError::Mismatch { id: id.clone() });
        }
        Ok(Issued {
            chain: svid.chain,
            serial: svid.serial,
            not_before: svid.not_before,
            not_after: svid.not_after,
            authority_id: active.authority_id.clone(),
        })
    }
}

/// 128 random bits for a serial number, never zero.
pub(super) fn random_serial() -> Result<[u8; 16], IssueError> {
    let mut serial = [0; 16];
    while serial == [0; 16] {
        aws_lc_rs::rand::fill(&mut serial).map_err(|_unspecified| IssueError::Random)?;
    }
    Ok(serial)
}
