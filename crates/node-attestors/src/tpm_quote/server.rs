//! The server's half: from an opening message to a challenge.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use aws_lc_rs::rand;
use hardroot_identity::SpiffeId;
use hardroot_tpm_attestor::verify::{
    EkAnchors, EvidenceError, HashAlg, PcrPolicy, PublicArea, check_attestation_key, check_endorsement_key,
    make_credential, verify_ek_certificate,
};

use super::NAME;
use super::message::{Evidence, Message, QuoteChallenge};
use super::record::{Facts, Record};
use super::session::{AttestSession, EvidenceSession, Exchange, RenewSession};
use crate::{AttestError, Enrolments, NodeRecords, ServerAttestor, ServerContext, Step};

/// What makes a TPM trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolling {
    /// Its EK hash is enrolled.
    Required,
    /// Its certificate chains to a pinned manufacturer.
    Endorsement,
}

/// Settings of the server's half.
#[derive(Debug, Clone)]
pub struct TpmQuoteServerConfig {
    /// The pinned manufacturers.
    pub anchors: EkAnchors,
    /// What makes a TPM trusted.
    pub enrolment: Enrolling,
    /// With [`Enrolling::Required`]: the certificate must chain to a pinned manufacturer as well.
    pub require_certificate: bool,
    /// What is quoted.
    pub pcrs: PcrPolicy,
}

/// Time since some fixed point, never going back.
pub type MonotonicClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Judges nodes by their TPMs.
#[derive(Clone)]
pub struct TpmQuoteServer {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: TpmQuoteServerConfig,
    pub(super) policy_id: [u8; 32],
    pub(super) records: Arc<dyn NodeRecords>,
    enrolments: Arc<dyn Enrolments>,
    pub(super) clock: MonotonicClock,
}

impl fmt::Debug for TpmQuoteServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TpmQuoteServer").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl TpmQuoteServer {
    /// A server's half that measures challenge lifetimes by the system's monotonic clock.
    #[must_use]
    pub fn new(
        config: TpmQuoteServerConfig,
        enrolments: Arc<dyn Enrolments>,
        records: Arc<dyn NodeRecords>,
    ) -> Self {
        let start = Instant::now();
        Self::with_clock(config, enrolments, records, Arc::new(move || start.elapsed()))
    }

    /// As [`TpmQuoteServer::new`], with a clock of the caller's.
    #[must_use]
    pub fn with_clock(
        config: TpmQuoteServerConfig,
        enrolments: Arc<dyn Enrolments>,
        records: Arc<dyn NodeRecords>,
        clock: MonotonicClock,
    ) -> Self {
        let policy_id = policy_id(&config);
        Self { inner: Arc::new(Inner { config, policy_id, records, enrolments, clock }) }
    }
}

/// A name for everything that decides what a node must prove, so that a change of it ends short renewals.
fn policy_id(config: &TpmQuoteServerConfig) -> [u8; 32] {
    let text = format!(
        "{:?} {} {} {:?} {}",
        config.enrolment,
        config.require_certificate,
        config.pcrs.bank().as_str(),
        config.pcrs.pcrs(),
        hex::encode(config.anchors.fingerprint()),
    );
    HashAlg::Sha256.digest(&[text.as_bytes()]).try_into().unwrap_or([0; 32])
}

#[async_trait::async_trait]
impl ServerAttestor for TpmQuoteServer {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn begin(&self, context: &ServerContext, payload: &[u8]) -> Result<Step, AttestError> {
        let exchange = Exchange::new(context, payload);
        match Message::decode(payload).map_err(malformed)? {
            Message::Evidence(evidence) => Inner::challenge(&self.inner, exchange, &evidence).await,
            Message::Renew { ek_hash, ak_name } => {
                Inner::renew_challenge(&self.inner, exchange, &hex::encode(ek_hash), ak_name).await
            }
            _ => Err(unexpected()),
        }
    }
}

impl Inner {
    /// The agent ID of an EK, if the operator wants it here.
    async fn agent_id(&self, exchange: &Exchange, ek_hash: &str) -> Result<SpiffeId, AttestError> {
        let enrolment = self.enrolments.enrolment(ek_hash).await?;
        if enrolment.is_none() && self.config.enrolment == Enrolling::Required {
            return Err(rejected(
                "ek_not_enrolled",
                format!("enrol it: hardroot-server tpm enroll -ekHash {ek_hash}"),
            ));
        }
        let path = enrolment
            .and_then(|enrolment| enrolment.agent_path)
            .unwrap_or_else(|| format!("/{NAME}/{ek_hash}"));
        SpiffeId::new(&exchange.context.trust_domain, &format!("/spire/agent{path}")).map_err(|cause| {
            AttestError::Unavailable { op: "make the agent ID of the enrolment", cause: Box::new(cause) }
        })
    }

    /// The record of an agent ID, which must be of the same EK.
    async fn record(&self, agent_id: &SpiffeId, ek_hash: &str) -> Result<Option<Record>, AttestError> {
        let stored = self.records.record(NAME, agent_id.as_str()).await?;
        let Some(record) = stored.and_then(|stored| Record::decode(&stored.data)) else { return Ok(None) };
        if record.ek_hash != ek_hash {
            return Err(rejected(
                "ek_changed",
                format!(
                    "{agent_id} is on record with the TPM {}: if the TPM was replaced, evict the agent first",
                    record.ek_hash
                ),
            ));
        }
        Ok(Some(record))
    }

    /// What the certificate says: verified, or nothing where the enrolment alone decides.
    fn certificate(
        &self,
        exchange: &Exchange,
        ek: &PublicArea,
        evidence: &Evidence<'_>,
    ) -> Result<Facts, AttestError> {
        let needed = self.config.enrolment == Enrolling::Endorsement || self.config.require_certificate;
        let Some(certificate) = evidence.certificate else {
            if needed {
                return Err(rejected(
                    "ek_certificate_missing",
                    "the node presents no EK certificate".to_owned(),
                ));
            }
            return Ok(Facts::default());
        };
        let (intermediates, now) = (&evidence.intermediates, exchange.context.now);
        match verify_ek_certificate(certificate, intermediates, &self.config.anchors, ek, now) {
            Ok(verified) => Ok(Facts {
                issuer_cn: verified.issuer_cn,
                vendor: verified.vendor,
                model: verified.model,
                until: verified.not_after,
            }),
            Err(error) if needed || error.slug() == "ek_certificate_key_mismatch" => {
                Err(evidence_error(error))
            }
            // The operator has enrolled the key itself; the certificate only adds selectors when it is good.
            Err(error) => {
                tracing::debug!(%error, "the EK certificate of an enrolled TPM says nothing to us");
                Ok(Facts::default())
            }
        }
    }

    /// Judges the opening of a full exchange, cheap checks first, and seals a secret to EK and AK.
    pub(super) async fn challenge(
        inner: &Arc<Self>,
        exchange: Exchange,
        evidence: &Evidence<'_>,
    ) -> Result<Step, AttestError> {
        let ek = PublicArea::parse(evidence.ek_public).map_err(malformed)?;
        let ak = PublicArea::parse(evidence.ak_public).map_err(malformed)?;
        check_endorsement_key(&ek).map_err(|refusal| evidence_error(refusal.into()))?;
        check_attestation_key(&ak).map_err(|refusal| evidence_error(refusal.into()))?;
        let ek_hash = ek.key().hash_hex();
        let agent_id = inner.agent_id(&exchange, &ek_hash).await?;
        let record = inner.record(&agent_id, &ek_hash).await?;
        let facts = inner.certificate(&exchange, &ek, evidence)?;
        let (nonce, secret) = (random()?, random()?);
        let credential = make_credential(&ek, &ak.name(), &secret).map_err(evidence_error)?;
        let quote = QuoteChallenge { nonce, pcrs: inner.config.pcrs.clone(), policy_id: &inner.policy_id };
        let challenge = Message::Challenge {
            quote,
            id_object: &credential.id_object,
            encrypted_seed: &credential.encrypted_seed,
        };
        let (challenge, issued) = (challenge.encode(), (inner.clock)());
        let inner = Arc::clone(inner);
        let session =
            AttestSession { inner, exchange, agent_id, ek_hash, ak, facts, record, nonce, secret, issued };
        Ok(Step::Challenge(challenge, Box::new(session)))
    }

    /// Judges the opening of a short exchange. Whatever does not fit the record asks for the full one.
    async fn renew_challenge(
        inner: &Arc<Self>,
        exchange: Exchange,
        ek_hash: &str,
        ak_name: &[u8],
    ) -> Result<Step, AttestError> {
        let agent_id = inner.agent_id(&exchange, ek_hash).await?;
        let Some(record) = inner.record(&agent_id, ek_hash).await? else {
            return Ok(Self::ask_for_evidence(inner, exchange, "the node is not on record"));
        };
        let Some(ak) = record.ak_public().and_then(|bytes| PublicArea::parse(&bytes).ok()) else {
            return Ok(Self::ask_for_evidence(inner, exchange, "the record is damaged"));
        };
        let now = exchange.context.now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let over = record.facts.until != 0 && i64::try_from(now).unwrap_or(i64::MAX) > record.facts.until;
        let different = if ak.name() != ak_name {
            Some("the attestation key is another than on record")
        } else if record.key_hash != exchange.key_hash() {
            Some("the agent's key is another than on record")
        } else if record.policy_id != hex::encode(inner.policy_id) {
            Some("the server's policy has changed")
        } else if over {
            Some("the EK certificate has expired")
        } else {
            None
        };
        if let Some(reason) = different {
            return Ok(Self::ask_for_evidence(inner, exchange, reason));
        }
        let nonce = random()?;
        let quote = QuoteChallenge { nonce, pcrs: inner.config.pcrs.clone(), policy_id: &inner.policy_id };
        let challenge = Message::RenewChallenge(quote).encode();
        let (inner, issued) = (Arc::clone(inner), (inner.clock)());
        let session = RenewSession { inner, exchange, agent_id, ak, record, nonce, issued };
        Ok(Step::Challenge(challenge, Box::new(session)))
    }

    /// Turns a short exchange into a full one.
    pub(super) fn ask_for_evidence(inner: &Arc<Self>, exchange: Exchange, reason: &'static str) -> Step {
        let session = EvidenceSession { inner: Arc::clone(inner), exchange };
        Step::Challenge(Message::EvidenceWanted { reason }.encode(), Box::new(session))
    }
}

fn random() -> Result<[u8; 32], AttestError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)
        .map_err(|cause| AttestError::Unavailable { op: "make a nonce", cause: Box::new(cause) })?;
    Ok(bytes)
}

pub(super) fn rejected(reason: &'static str, detail: String) -> AttestError {
    AttestError::Rejected { reason, detail }
}

pub(super) fn unexpected() -> AttestError {
    AttestError::Malformed { what: "tpm_quote message", reason: "it is not the one that is due".to_owned() }
}

pub(super) fn malformed(bad: hardroot_tpm_attestor::verify::BadStructure) -> AttestError {
    AttestError::Malformed { what: bad.what, reason: bad.reason.to_owned() }
}

pub(super) fn evidence_error(error: EvidenceError) -> AttestError {
    match error {
        EvidenceError::Malformed(bad) => malformed(bad),
        EvidenceError::Rejected(rejection) => rejected(rejection.reason.slug(), rejection.detail),
        other => rejected("evidence_refused", other.to_string()),
    }
}
