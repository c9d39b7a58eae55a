//! The agent's own SVID: found again at start, attested for, and put to use.

use std::time::SystemTime;

use hardroot_identity::{SpiffeId, X509Svid};
use hardroot_telemetry::Call;
use hardroot_transport::{RemoteKey, TlsIdentity};
use tokio::time::Instant;

use super::{Ended, Lifecycle, jitter, refresh_at, show_time};
use crate::attest::{AgentKey, AgentKeyError, check_agent_svid};
use crate::storage::StoredSvid;
use crate::sync::{Attested, Hint, Server, ServerError};

/// The SVID in use.
#[derive(Debug, Clone)]
pub struct AgentSvid {
    /// The agent's ID.
    pub id: SpiffeId,
    /// DER certificates, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Its key.
    pub key: AgentKey,
    /// When it expires.
    pub not_after: SystemTime,
    /// When it is to be replaced.
    pub refresh_at: SystemTime,
    /// Whether it is replaced by attesting again.
    pub reattestable: bool,
}

/// Why an attempt to get an SVID failed on this side or the other.
#[derive(Debug, thiserror::Error)]
pub(super) enum Attempt {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Key(#[from] AgentKeyError),
    #[error(transparent)]
    Judged(#[from] crate::attest::BadAgentSvid),
    #[error(transparent)]
    Storage(#[from] crate::storage::StorageError),
    #[error(transparent)]
    Tls(#[from] hardroot_transport::BadTlsIdentity),
    #[error("there is no trust bundle to judge the SVID by")]
    NoBundle,
}

impl Attempt {
    /// The gRPC status that a metric shows.
    pub(super) fn status(&self) -> &'static str {
        match self {
            Self::Server(error) => error.status_name(),
            _ => "Unknown",
        }
    }
}

impl<S: Server> Lifecycle<S> {
    /// Takes up the stored SVID if it is valid and its key is here: then a restart needs no attestation.
    pub(super) async fn resume(&mut self) {
        let Some(stored) = self.storage.svid() else { return };
        self.csr.clone_from(&stored.csr);
        match self.usable(stored).await {
            Ok(svid) => {
                tracing::info!(
                    spiffe_id = %svid.id,
                    expires_at = %show_time(svid.not_after),
                    reattestable = svid.reattestable,
                    "stored SVID is used"
                );
                match self.show(&svid).await {
                    Ok(()) => self.svid = Some(svid),
                    Err(error) => {
                        tracing::warn!(error = %error, "stored SVID cannot be used; attesting anew")
                    }
                }
            }
            Err(why) => tracing::info!(reason = %why, "stored SVID is not usable; attesting anew"),
        }
    }

    async fn usable(&self, stored: StoredSvid) -> Result<AgentSvid, String> {
        let now = self.clock.now();
        let svid = X509Svid::parse(stored.chain).map_err(|e| e.to_string())?;
        if !svid.id.is_member_of(&self.settings.trust_domain) {
            return Err(format!("it is of trust domain {}", svid.id.trust_domain_name()));
        }
        if svid.not_after <= now {
            return Err(format!("it expired at {}", show_time(svid.not_after)));
        }
        if svid.not_before > now {
            // Kept: a machine without a battery for its clock starts in 1970.
            tracing::warn!(
                now = %show_time(now),
                issued_at = %show_time(svid.not_before),
                "this machine's clock is before the time the stored SVID was issued; is the clock right?"
            );
        }
        let key = match self.keys.holding(&svid.spki_der).await {
            Ok(Some(key)) => key,
            Ok(None) => return Err("its key is not in the key manager".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        Ok(AgentSvid {
            refresh_at: refresh_at(svid.not_before, svid.not_after, jitter()),
            id: svid.id,
            chain: svid.chain,
            key,
            not_after: svid.not_after,
            reattestable: stored.reattestable,
        })
    }

    /// Attests because there is no usable SVID.
    pub(super) async fn attest_anew(&mut self) -> Result<(), Ended> {
        let why = self.needs_attestation().unwrap_or_default();
        tracing::info!(reason = why, attempt = self.attest_retry.failures() + 1, "attesting");
        let key = match (&self.pending_key, &self.svid) {
            (Some(key), _) => Ok(key.clone()),
            (None, Some(svid)) => Ok(svid.key.clone()),
            (None, None) => self.keys.for_first_use().await.map_err(Attempt::from),
        };
        let mut call = Call::start("node.attestor.new_svid");
        call.label("attestor", self.settings.node_attestor);
        let outcome = match key {
            Ok(key) => self.attest_with(&key).await,
            Err(error) => Err(error),
        };
        call.done(outcome.as_ref().err().map_or("OK", Attempt::status));
        let Err(error) = outcome else { return Ok(()) };
        if let Attempt::Server(refused) = error {
            if refused.is_ban() {
                return Err(self.banned().await);
            }
            if self.settings.refusal_is_final && is_final(&refused) {
                self.svid = None;
                if let Err(error) = self.storage.forget_svid() {
                    tracing::error!(error = %error, "the SVID that is of no use any more cannot be removed");
                }
                return Err(Ended::Refused { cause: Box::new(refused) });
            }
            if !refused.is_refusal() {
                // The reasons of calls with an SVID do not apply to a call without; distrust is worth its own line.
                self.judge(&refused).await?;
            }
            let hint = refused.hint();
            self.tell_failed_attestation(&refused, hint);
        } else {
            self.tell_failed_attestation(&error, Hint::Nothing);
        }
        Ok(())
    }

    fn tell_failed_attestation(&mut self, error: &(dyn std::error::Error + 'static), hint: Hint) {
        let pause = self.attest_retry.after(Instant::now(), hint, jitter());
        tracing::warn!(
            error = %error,
            cause = %chain_of(error),
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "attestation failed"
        );
    }

    /// One attestation with `key`, to the SVID in use.
    pub(super) async fn attest_with(&mut self, key: &AgentKey) -> Result<(), Attempt> {
        let csr = self.keys.csr(key, self.csr.as_deref()).await?;
        self.csr = Some(csr.clone());
        let outcome = self.server.attest(&key.public.spki_der, &csr).await;
        let taken = match outcome {
            Ok(attested) => self.take_attested(key, attested).await,
            Err(error) => Err(error.into()),
        };
        self.server.attestation_ended(taken.is_ok()).await;
        taken
    }

    async fn take_attested(&mut self, key: &AgentKey, attested: Attested) -> Result<(), Attempt> {
        let checked =
            check_agent_svid(&attested.chain, &key.public.spki_der, &attested.bundle, self.clock.now())?;
        self.take_own_bundle(attested.bundle);
        self.use_svid(key.clone(), checked, attested.reattestable).await?;
        self.attest_retry.succeeded();
        Ok(())
    }

    /// Stores a new SVID, then shows it: the server forgets the old one when it first sees the new one.
    pub(super) async fn use_svid(
        &mut self,
        key: AgentKey,
        checked: X509Svid,
        reattestable: bool,
    ) -> Result<(), Attempt> {
        let svid = AgentSvid {
            refresh_at: refresh_at(checked.not_before, checked.not_after, jitter()),
            id: checked.id,
            chain: checked.chain,
            key,
            not_after: checked.not_after,
            reattestable,
        };
        self.keep_svid(&svid);
        self.show(&svid).await?;
        tracing::info!(
            spiffe_id = %svid.id,
            expires_at = %show_time(svid.not_after),
            renew_at = %show_time(svid.refresh_at),
            reattestable,
            key_manager = self.keys.manager().custody().backend,
            "agent SVID in use"
        );
        self.svid = Some(svid);
        self.pending_key = None;
        self.must_attest = None;
        self.authority_lost = false;
        self.status_posted = false;
        // A stream is of the old identity; the next one goes on where it was.
        self.followed = false;
        self.next_sync = Instant::now();
        self.sync_retry.succeeded();
        self.renew_retry.succeeded();
        Ok(())
    }

    async fn show(&self, svid: &AgentSvid) -> Result<(), Attempt> {
        let key = RemoteKey::new(
            std::sync::Arc::clone(self.keys.manager()),
            svid.key.id.clone(),
            svid.key.public.clone(),
        );
        let identity = TlsIdentity::new(svid.chain.clone(), std::sync::Arc::new(key))?;
        self.server.use_identity(Some(identity)).await;
        self.status.svid_in_use(svid.chain.clone());
        Ok(())
    }

    /// An SVID that has expired is worth nothing to the server: the node must prove itself anew.
    pub(super) fn note_expiry(&mut self) {
        if let Some(svid) = &self.svid
            && self.must_attest.is_none()
            && svid.not_after <= self.clock.now()
        {
            tracing::error!(
                spiffe_id = %svid.id,
                expired_at = %show_time(svid.not_after),
                "the agent's SVID has expired; is the clock right? Attesting anew"
            );
            self.must_attest = Some("the agent's SVID has expired");
        }
    }

    pub(super) fn renewal_is_due(&self) -> bool {
        let now = self.clock.now();
        self.svid.as_ref().is_some_and(|svid| self.authority_lost || svid.refresh_at <= now)
    }
}

/// Whether the same evidence can never succeed.
fn is_final(error: &ServerError) -> bool {
    matches!(error, ServerError::Evidence(hardroot_node_attestors::AttestError::Rejected { .. }))
        || error.is_refusal()
}

/// The causes of an error, outermost first, without itself and without what an outer one has said already.
pub(crate) fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let this = cause.to_string();
        if !said.contains(&this) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&this);
            said = this;
        }
        next = cause.source();
    }
    text
}
