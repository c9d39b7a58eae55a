//! The agent's half.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hardroot_identity::TrustDomain;
use hardroot_tpm_attestor::device::{EkKind, EndorsementKey, ProofRequest, Tpm, TpmError, WrappedKeys};
use hardroot_tpm_attestor::verify::{HashAlg, PublicArea, Purpose, qualifying_data};

use super::NAME;
use super::message::{Evidence, Message, QuoteChallenge, QuoteResponse};
use super::state::{self, State};
use crate::{AgentAttestor, AgentSession, AttestError, AttestationSubject};

/// Settings of the agent's half.
#[derive(Debug, Clone)]
pub struct TpmQuoteAgentConfig {
    /// Where the AK's blob is kept, mode 0700.
    pub state_folder: PathBuf,
    /// Which endorsement key names the node; none means as [`Tpm::endorsement_key`] chooses.
    pub endorsement_key: Option<EkKind>,
}

/// Proves the node by its TPM.
pub struct TpmQuoteAgent {
    tpm: Arc<Tpm>,
    keys: Arc<dyn WrappedKeys>,
    config: TpmQuoteAgentConfig,
    running: Mutex<Option<Running>>,
    /// The short exchange failed: the next attempt is a full one.
    full_next: AtomicBool,
}

/// What [`AgentAttestor::ended`] needs to know of the attempt.
#[derive(Debug, Clone)]
struct Running {
    trust_domain: TrustDomain,
    state: State,
    key_hash: String,
    short: bool,
}

impl TpmQuoteAgent {
    /// `keys` is the key manager of the same TPM, where the agent's key lives.
    #[must_use]
    pub fn new(tpm: Arc<Tpm>, keys: Arc<dyn WrappedKeys>, config: TpmQuoteAgentConfig) -> Self {
        Self { tpm, keys, config, running: Mutex::new(None), full_next: AtomicBool::new(false) }
    }

    /// The state of this trust domain, if the TPM still has its keys.
    async fn stored(&self, trust_domain: &TrustDomain) -> Result<Option<State>, AttestError> {
        let path = state::path(&self.config.state_folder, trust_domain);
        let state = State::load(&path, trust_domain)
            .map_err(|cause| unavailable("read the attestation state", cause))?;
        let Some(state) = state else { return Ok(None) };
        if self.config.endorsement_key.is_some_and(|kind| kind != state.ek.kind) {
            return Ok(None);
        }
        match self.tpm.check_attestation_key(&state.ek, &state.ak).await {
            Ok(()) => Ok(Some(state)),
            Err(error @ (TpmError::ForeignKey { .. } | TpmError::ReplacedEndorsementKey)) => {
                tracing::warn!(%error, "the stored attestation key is not of this TPM: a new one is made");
                Ok(None)
            }
            Err(error) => Err(unavailable("load the attestation key", error)),
        }
    }

    /// The state of this trust domain, made if there is none.
    async fn state(&self, trust_domain: &TrustDomain) -> Result<State, AttestError> {
        if let Some(state) = self.stored(trust_domain).await? {
            return Ok(state);
        }
        let ek = self
            .tpm
            .endorsement_key(self.config.endorsement_key)
            .await
            .map_err(|cause| unavailable("find the endorsement key", cause))?;
        let ak = self
            .tpm
            .create_attestation_key(&ek)
            .await
            .map_err(|cause| unavailable("create the attestation key", cause))?;
        let state = State { ek, ak, accepted_key: None };
        self.save(&state, trust_domain)?;
        Ok(state)
    }

    fn save(&self, state: &State, trust_domain: &TrustDomain) -> Result<(), AttestError> {
        hardroot_runtime::state::ensure_dir(&self.config.state_folder, 0o700)
            .map_err(|cause| unavailable("make the folder of the attestation state", cause))?;
        let path = state::path(&self.config.state_folder, trust_domain);
        state.save(&path, trust_domain).map_err(|cause| unavailable("write the attestation state", cause))
    }
}

#[async_trait::async_trait]
impl AgentAttestor for TpmQuoteAgent {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn begin(
        &self,
        subject: &AttestationSubject,
    ) -> Result<(Vec<u8>, Box<dyn AgentSession>), AttestError> {
        let state = self.state(&subject.trust_domain).await?;
        let key_hash = hex::encode(HashAlg::Sha256.digest(&[&subject.csr_spki_der]));
        let short = state.accepted_key.as_ref() == Some(&key_hash) && !self.full_next.load(Ordering::Relaxed);
        let session = Session {
            tpm: Arc::clone(&self.tpm),
            keys: Arc::clone(&self.keys),
            state: state.clone(),
            subject: subject.clone(),
        };
        let payload = if short {
            let ek = parse(&state.ek.public)?;
            let digest = HashAlg::Sha256.digest(&[&ek.key().spki_der()]);
            let ek_hash = digest.try_into().unwrap_or([0; 32]);
            Message::Renew { ek_hash, ak_name: &parse(&state.ak.public)?.name() }.encode()
        } else {
            session.evidence().await?
        };
        let trust_domain = subject.trust_domain.clone();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Running { trust_domain, state, key_hash, short });
        Ok((payload, Box::new(session)))
    }

    async fn ended(&self, accepted: bool) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut running) = running else { return };
        if !accepted {
            if running.short {
                self.full_next.store(true, Ordering::Relaxed);
            }
            return;
        }
        self.full_next.store(false, Ordering::Relaxed);
        if running.state.accepted_key.as_ref() != Some(&running.key_hash) {
            running.state.accepted_key = Some(running.key_hash);
            if let Err(error) = self.save(&running.state, &running.trust_domain) {
                tracing::warn!(%error, "the next renewal will be a full attestation");
            }
        }
    }
}

struct Session {
    tpm: Arc<Tpm>,
    keys: Arc<dyn WrappedKeys>,
    state: State,
    subject: AttestationSubject,
}

impl Session {
    /// The opening of the full exchange. The certificates are read from the TPM each time, they are not kept.
    async fn evidence(&self) -> Result<Vec<u8>, AttestError> {
        let ek: EndorsementKey = self
            .tpm
            .endorsement_key(Some(self.state.ek.kind))
            .await
            .map_err(|cause| unavailable("read the endorsement key", cause))?;
        // A certificate that came into NV later may be for another key than the one the AK lives under.
        let same = ek.public == self.state.ek.public;
        let evidence = Evidence {
            ek_public: &self.state.ek.public,
            certificate: ek.certificate.as_deref().filter(|_| same),
            intermediates: ek.intermediates.iter().filter(|_| same).map(Vec::as_slice).collect(),
            ak_public: &self.state.ak.public,
        };
        Ok(Message::Evidence(evidence).encode())
    }

    fn binding(&self, purpose: Purpose, quote: &QuoteChallenge<'_>) -> [u8; 32] {
        qualifying_data(
            purpose,
            &quote.nonce,
            self.subject.trust_domain.as_str(),
            &self.subject.csr_spki_der,
            quote.policy_id,
        )
    }

    async fn prove(
        &self,
        quote: &QuoteChallenge<'_>,
        id_object: &[u8],
        encrypted_seed: &[u8],
    ) -> Result<Vec<u8>, AttestError> {
        let key = self
            .keys
            .wrapped_by_spki(&self.subject.csr_spki_der)
            .await
            .map_err(|cause| AttestError::Unavailable { op: "find the agent's key", cause })?
            .ok_or_else(|| unavailable("find the agent's key", NoKey))?;
        let request = ProofRequest {
            ek: self.state.ek.clone(),
            ak: self.state.ak.clone(),
            key,
            credential: id_object.to_vec(),
            encrypted_seed: encrypted_seed.to_vec(),
            qualifying_data: self.binding(Purpose::Attest, quote),
            bank: quote.pcrs.bank(),
            pcrs: quote.pcrs.pcrs().to_vec(),
        };
        let proof =
            self.tpm.prove(request).await.map_err(|cause| unavailable("prove the node by its TPM", cause))?;
        Ok(Message::Response {
            activation: &proof.activation,
            certify_attest: &proof.certification.attest,
            certify_signature: &proof.certification.signature,
            key_public: &proof.certification.public,
            quote: QuoteResponse {
                attest: &proof.quote.attest,
                signature: &proof.quote.signature,
                values: &proof.quote.pcr_values.concat(),
            },
        }
        .encode())
    }

    async fn renew(&self, challenge: &QuoteChallenge<'_>) -> Result<Vec<u8>, AttestError> {
        let data = self.binding(Purpose::Renew, challenge);
        let (bank, pcrs) = (challenge.pcrs.bank(), challenge.pcrs.pcrs());
        let quote = self
            .tpm
            .quote(&self.state.ek, &self.state.ak, data, bank, pcrs)
            .await
            .map_err(|cause| unavailable("quote", cause))?;
        let (attest, signature) = (&quote.attest, &quote.signature);
        Ok(Message::RenewResponse(QuoteResponse { attest, signature, values: &quote.pcr_values.concat() })
            .encode())
    }
}

#[async_trait::async_trait]
impl AgentSession for Session {
    async fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, AttestError> {
        match Message::decode(challenge).map_err(|bad| AttestError::Malformed {
            what: "challenge of the server",
            reason: bad.reason.to_owned(),
        })? {
            Message::Challenge { quote, id_object, encrypted_seed } => {
                self.prove(&quote, id_object, encrypted_seed).await
            }
            Message::RenewChallenge(quote) => self.renew(&quote).await,
            Message::EvidenceWanted { reason } => {
                tracing::info!(reason = %reason.escape_default(), "the server wants a full attestation");
                self.evidence().await
            }
            _ => Err(AttestError::Malformed {
                what: "challenge of the server",
                reason: "it is a message of the agent".to_owned(),
            }),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the key manager holds no TPM key that is the certificate request's: tpm_quote needs KeyManager \"tpm\""
)]
struct NoKey;

fn unavailable(op: &'static str, cause: impl std::error::Error + Send + Sync + 'static) -> AttestError {
    AttestError::Unavailable { op, cause: Box::new(cause) }
}

fn parse(public: &[u8]) -> Result<PublicArea, AttestError> {
    PublicArea::parse(public).map_err(|cause| unavailable("read a stored key", cause))
}
