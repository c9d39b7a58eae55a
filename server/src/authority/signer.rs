//! Issuing certificates with the active X.509 authority; tokens are in [`super::sign_jwt`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use hardroot_hsm_keymanager::{KeyId, KeyManager, PublicKey};
use hardroot_identity::{
    BadCertificate, BadX509Svid, CannotIssue, Certificate, Issuer, SpiffeId, Template, TrustDomain, X509Svid,
    certificate,
};
use hardroot_runtime::clock::Clock;
use hardroot_telemetry::count;
use tokio::sync::watch;

use super::queue::{Busy, Class, Places, Queue};
use super::sign::{SignError, sign_message};
use super::sign_jwt::ActiveJwt;
use super::slots::X509Slot;

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
    /// Another process is this server instance.
    #[error("another process runs as this server instance, so this one signs nothing; see the log")]
    Suspended,
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
    /// The intermediate CA that was issued cannot be read; it was thrown away.
    #[error("the CA certificate issued for {id} does not pass its own checks and was thrown away")]
    CheckCa {
        /// For whom.
        id: SpiffeId,
        /// The cause.
        #[source]
        cause: BadCertificate,
    },
    /// What was issued is not what was asked for; it was thrown away.
    #[error("the certificate issued for {id} carries another identity or key and was thrown away")]
    Mismatch {
        /// For whom.
        id: SpiffeId,
    },
}

impl IssueError {
    /// When to come back, if there is more to sign than can be signed in time.
    #[must_use]
    pub fn busy(&self) -> Option<&Busy> {
        match self {
            Self::Sign(SignError::Busy(busy)) => Some(busy),
            _ => None,
        }
    }

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

/// The authority that signs certificates now.
#[derive(Debug)]
pub(super) struct ActiveX509 {
    key: KeyId,
    public: PublicKey,
    issuer: Issuer,
    authority_id: String,
    not_after: SystemTime,
}

impl ActiveX509 {
    pub(super) fn new(key: KeyId, slot: &X509Slot) -> Result<Self, CannotIssue> {
        Ok(Self {
            key,
            public: slot.public.clone(),
            issuer: Issuer::from_certificate(&slot.credential)?,
            authority_id: slot.authority_id.clone(),
            not_after: slot.not_after,
        })
    }
}

/// Issues certificates and tokens with the active authorities. Starts closed: without an active authority every
/// call fails.
pub struct Signer {
    pub(super) keys: Arc<dyn KeyManager>,
    pub(super) clock: Arc<dyn Clock>,
    /// Lifetime of intermediate CAs that ask for none.
    ca_ttl: Duration,
    pub(super) jwt_issuer: Option<String>,
    x509: ArcSwapOption<ActiveX509>,
    pub(super) jwt: ArcSwapOption<ActiveJwt>,
    queue: Arc<Queue>,
    working: watch::Sender<bool>,
    /// Another process is this server instance: nothing is signed.
    suspended: AtomicBool,
}

impl Signer {
    /// A closed signer. `ca_ttl` is the lifetime of intermediate CAs that ask for none, `jwt_issuer` the claim
    /// `iss` of tokens.
    #[must_use]
    pub fn new(
        keys: Arc<dyn KeyManager>,
        clock: Arc<dyn Clock>,
        ca_ttl: Duration,
        jwt_issuer: Option<String>,
    ) -> Self {
        let queue = Queue::new(keys.lanes());
        Self {
            keys,
            clock,
            ca_ttl,
            jwt_issuer,
            x509: ArcSwapOption::empty(),
            jwt: ArcSwapOption::empty(),
            queue,
            working: watch::Sender::new(true),
            suspended: AtomicBool::new(false),
        }
    }

    /// Stops signing, or goes on with it: for a process that is this server instance no more.
    pub fn suspend(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Release);
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    pub(super) fn activate_x509(&self, active: ActiveX509) {
        self.x509.store(Some(Arc::new(active)));
    }

    pub(super) fn activate_jwt(&self, active: ActiveJwt) {
        self.jwt.store(Some(Arc::new(active)));
    }

    /// Whether the last signature succeeded, as a value to watch: readiness follows it.
    #[must_use]
    pub fn working(&self) -> watch::Receiver<bool> {
        self.working.subscribe()
    }

    /// The active authority and when it ends.
    #[must_use]
    pub fn active_until(&self) -> Option<(String, SystemTime)> {
        self.x509.load().as_ref().map(|active| (active.authority_id.clone(), active.not_after))
    }

    /// The id of the active X.509 authority.
    #[must_use]
    pub fn authority_id(&self) -> Option<String> {
        self.x509.load().as_ref().map(|active| active.authority_id.clone())
    }

    /// The id of the active JWT key.
    #[must_use]
    pub fn jwt_key_id(&self) -> Option<String> {
        self.jwt.load().as_ref().map(|active| active.key_id().to_owned())
    }

    /// Where requests wait for the key manager.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Signs a message when it is its turn, and notes whether it worked. The caller verifies the signature.
    pub(super) async fn in_turn(
        &self,
        places: &Places,
        key: &KeyId,
        public: &PublicKey,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let turn = places.turn().await?;
        let signed = sign_message(&*self.keys, key, public.kind, message).await;
        match &signed {
            Ok(_) => turn.done(),
            Err(_) => drop(turn),
        }
        signed
    }

    /// Readiness follows the last signature, the verified one.
    pub(super) fn note(&self, outcome: &Result<impl Sized, SignError>) {
        // Too much to do is no fault of the key manager.
        if matches!(outcome, Err(SignError::Busy(_))) {
            return;
        }
        let works = outcome.is_ok();
        self.working.send_if_modified(|known| std::mem::replace(known, works) != works);
    }

    async fn certify(
        &self,
        places: &Places,
        template: Template<'_>,
        id: &SpiffeId,
        spki_der: &[u8],
        ttl: Duration,
    ) -> Result<(Vec<u8>, Arc<ActiveX509>), IssueError> {
        if self.is_suspended() {
            return Err(IssueError::Suspended);
        }
        let active = self.x509.load_full().ok_or(IssueError::NoAuthority)?;
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
        let signature = self.in_turn(places, &active.key, &active.public, tbs.to_be_signed()).await;
        // A device that signs with the wrong key, or wrongly, must not get a certificate out of the house.
        let signed = signature.and_then(|signature| {
            tbs.assemble(&signature).map_err(|cause| SignError::wrong(&active.key, cause))
        });
        self.note(&signed);
        Ok((signed?, active))
    }

    /// As [`Signer::sign_x509_in`], with a place of its own in the queue: servers' own SVIDs always have one, agents' are
    /// before workloads'.
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
        let places = match template {
            Template::Server => self.queue.admit_own(),
            Template::Agent => self.queue.admit(Class::Agent, 1, None).map_err(SignError::from)?,
            _ => self.queue.admit(Class::Workload, 1, None).map_err(SignError::from)?,
        };
        self.sign_x509_in(&places, template, id, spki_der, ttl).await
    }

    /// Issues an SVID: the template's form, `id`, the key `spki_der`, valid for `ttl` from now (back-dated by
    /// ten seconds) but never longer than the authority itself. Waits for a turn of `places`.
    ///
    /// # Errors
    /// [`IssueError`]; nothing was issued then.
    pub async fn sign_x509_in(
        &self,
        places: &Places,
        template: Template<'_>,
        id: &SpiffeId,
        spki_der: &[u8],
        ttl: Duration,
    ) -> Result<Issued, IssueError> {
        let (signed, active) = self.certify(places, template, id, spki_der, ttl).await?;
        let svid =
            X509Svid::parse(vec![signed]).map_err(|cause| IssueError::Check { id: id.clone(), cause })?;
        if &svid.id != id || svid.spki_der != spki_der {
            return Err(IssueError::Mismatch { id: id.clone() });
        }
        count("server_ca.sign.x509_svid", &[]);
        Ok(Issued {
            chain: svid.chain,
            serial: svid.serial,
            not_before: svid.not_before,
            not_after: svid.not_after,
            authority_id: active.authority_id.clone(),
        })
    }

    /// Issues a CA certificate of the trust domain to a downstream server's key. `ttl` zero means `ca_ttl`; it
    /// never outlives the authority.
    ///
    /// # Errors
    /// [`IssueError`]; nothing was issued then.
    pub async fn sign_downstream_ca(
        &self,
        trust_domain: &TrustDomain,
        spki_der: &[u8],
        ttl: Duration,
    ) -> Result<Issued, IssueError> {
        let id = trust_domain.id();
        let ttl = if ttl.is_zero() { self.ca_ttl } else { ttl };
        // Our own authority is a root: the chain above the new CA has one certificate.
        let template = Template::IntermediateCa { parent_chain_len: 1 };
        let places = self.queue.admit(Class::Agent, 1, None).map_err(SignError::from)?;
        let (signed, active) = self.certify(&places, template, &id, spki_der, ttl).await?;
        let ca =
            Certificate::parse(&signed).map_err(|cause| IssueError::CheckCa { id: id.clone(), cause })?;
        let names = ca.extensions.names.as_ref().map(|names| names.uris.as_slice());
        let named =
            names.is_some_and(|uris| uris.len() == 1 && uris.first().is_some_and(|uri| uri == id.as_str()));
        if !ca.is_authority() || !named || ca.spki_der != spki_der {
            return Err(IssueError::Mismatch { id });
        }
        count("server_ca.sign.x509_ca_svid", &[]);
        Ok(Issued {
            serial: ca.serial_decimal(),
            not_before: ca.not_before,
            not_after: ca.not_after,
            authority_id: active.authority_id.clone(),
            chain: vec![signed],
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
