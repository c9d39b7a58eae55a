//! The server's half: from a response to a verdict. A session owns its nonce and is used up by the first response,
//! whatever that is.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use hardroot_identity::{Selector, SpiffeId};
use hardroot_tpm_attestor::verify::{
    Attest, ClockInfo, HashAlg, PublicArea, Purpose, Uptime, check_activation, check_certification,
    check_clock, check_quote, firmware_text, qualifying_data, signed_attestation,
};

use super::NAME;
use super::message::{Message, QuoteResponse};
use super::record::{Facts, Record};
use super::server::{Inner, evidence_error, malformed, rejected, unexpected};
use crate::{AttestError, AttestedNode, NodeRecord, ServerContext, ServerSession, Step};

/// How long an agent may take to answer: slow chips need seconds.
const CHALLENGE_LIFETIME: Duration = Duration::from_secs(60);

/// What is known of an attempt from its beginning.
pub(super) struct Exchange {
    pub(super) context: ServerContext,
    evidence: digest::Context,
}

impl Exchange {
    pub(super) fn new(context: &ServerContext, payload: &[u8]) -> Self {
        let mut exchange = Self { context: context.clone(), evidence: digest::Context::new(&digest::SHA256) };
        exchange.saw(payload);
        exchange
    }

    /// Adds a message of the agent to the evidence's digest.
    fn saw(&mut self, message: &[u8]) {
        self.evidence.update(&u64::try_from(message.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.evidence.update(message);
    }

    pub(super) fn key_hash(&self) -> String {
        hex::encode(HashAlg::Sha256.digest(&[&self.context.csr_spki_der]))
    }

    fn binding(&self, purpose: Purpose, nonce: &[u8; 32], policy_id: &[u8]) -> [u8; 32] {
        let trust_domain = self.context.trust_domain.as_str();
        qualifying_data(purpose, nonce, trust_domain, &self.context.csr_spki_der, policy_id)
    }
}

fn check_age(inner: &Inner, issued: Duration) -> Result<(), AttestError> {
    let age = (inner.clock)().saturating_sub(issued);
    if age > CHALLENGE_LIFETIME {
        let detail =
            format!("answered after {} s, {} s are allowed", age.as_secs(), CHALLENGE_LIFETIME.as_secs());
        return Err(rejected("challenge_expired", detail));
    }
    Ok(())
}

/// Verifies signature, binding, selection and digest of a quote. The attestation and its values are returned.
fn judge_quote<'a>(
    inner: &Inner,
    ak: &PublicArea,
    data: &[u8; 32],
    quote: &QuoteResponse<'a>,
) -> Result<(Attest<'a>, Vec<&'a [u8]>), AttestError> {
    let attest = signed_attestation(ak, quote.attest, quote.signature).map_err(evidence_error)?;
    let values: Vec<&[u8]> = quote.values.chunks(inner.config.pcrs.bank().size()).collect();
    check_quote(&attest, data, ak, &inner.config.pcrs, &values)
        .map_err(|refusal| evidence_error(refusal.into()))?;
    Ok((attest, values))
}

/// The verdict of either exchange.
struct Verdict<'a> {
    mode: &'static str,
    agent_id: SpiffeId,
    ak: &'a PublicArea,
    ek_hash: String,
    facts: Facts,
    attest: Attest<'a>,
    values: Vec<&'a [u8]>,
}

impl Verdict<'_> {
    fn attested(self, inner: &Inner, exchange: Exchange) -> Result<Step, AttestError> {
        let firmware = firmware_text(self.attest.firmware());
        let mut texts = vec![format!("ek_hash:{}", self.ek_hash), format!("firmware:{firmware}")];
        let optional = |name: &str, value: &Option<String>| {
            value.as_ref().filter(|value| !value.is_empty()).map(|value| format!("{name}:{value}"))
        };
        texts.extend(optional("ek_issuer:cn", &self.facts.issuer_cn));
        texts.extend(optional("vendor", &self.facts.vendor));
        texts.extend(optional("model", &self.facts.model));
        let bank = inner.config.pcrs.bank().as_str();
        let pcrs = inner.config.pcrs.pcrs().iter().zip(&self.values);
        texts.extend(pcrs.map(|(pcr, value)| format!("pcr:{bank}:{pcr}:{}", hex::encode(value))));
        let selectors = texts
            .into_iter()
            .map(|text| Selector::new(NAME, text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|cause| AttestError::Unavailable { op: "make selectors", cause: Box::new(cause) })?;
        let clock = self.attest.clock();
        let policy_id = hex::encode(inner.policy_id);
        let audit = self.audit(clock, &policy_id, exchange.key_hash(), firmware);
        let record =
            Record::new(self.ek_hash, self.ak.as_bytes(), exchange.key_hash(), policy_id, clock, self.facts);
        let record = NodeRecord { key: self.agent_id.as_str().to_owned(), data: record.encode() };
        Ok(Step::Attested(AttestedNode {
            agent_id: self.agent_id,
            selectors,
            can_reattest: true,
            evidence_digest: hex::encode(exchange.evidence.finish()),
            record: Some(record),
            audit,
        }))
    }

    fn audit(
        &self,
        clock: ClockInfo,
        policy_id: &str,
        key_hash: String,
        firmware: String,
    ) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("mode", self.mode.to_owned()),
            ("ek_hash", self.ek_hash.clone()),
            ("ak_name", hex::encode(self.ak.name())),
            ("key_hash", key_hash),
            ("policy_id", policy_id.to_owned()),
            ("reset_count", clock.reset_count.to_string()),
            ("restart_count", clock.restart_count.to_string()),
            ("clock_ms", clock.clock.to_string()),
            ("clock_safe", clock.safe.to_string()),
            ("firmware", firmware),
        ];
        if let Some(issuer) = &self.facts.issuer_cn {
            facts.push(("ek_issuer", issuer.clone()));
        }
        facts
    }
}

/// Waits for the proof of a full exchange.
pub(super) struct AttestSession {
    pub(super) inner: Arc<Inner>,
    pub(super) exchange: Exchange,
    pub(super) agent_id: SpiffeId,
    pub(super) ek_hash: String,
    pub(super) ak: PublicArea,
    pub(super) facts: Facts,
    pub(super) record: Option<Record>,
    pub(super) nonce: [u8; 32],
    pub(super) secret: [u8; 32],
    pub(super) issued: Duration,
}

#[async_trait::async_trait]
impl ServerSession for AttestSession {
    async fn respond(self: Box<Self>, response: &[u8]) -> Result<Step, AttestError> {
        let Self { inner, mut exchange, agent_id, ek_hash, ak, facts, record, nonce, secret, issued } = *self;
        check_age(&inner, issued)?;
        exchange.saw(response);
        let Message::Response { activation, certify_attest, certify_signature, key_public, quote } =
            Message::decode(response).map_err(malformed)?
        else {
            return Err(unexpected());
        };
        let refused = |refusal: hardroot_tpm_attestor::verify::Rejection| evidence_error(refusal.into());
        check_activation(&secret, activation).map_err(refused)?;
        let data = exchange.binding(Purpose::Attest, &nonce, &inner.policy_id);
        let key = PublicArea::parse(key_public).map_err(malformed)?;
        let certified = signed_attestation(&ak, certify_attest, certify_signature).map_err(evidence_error)?;
        check_certification(&certified, &data, &key, &exchange.context.csr_spki_der).map_err(refused)?;
        let (attest, values) = judge_quote(&inner, &ak, &data, &quote)?;
        if let Some(record) = record {
            // An interruption is what a full exchange is for; only going back is not.
            check_clock(record.clock, attest.clock()).map_err(refused)?;
        }
        Verdict { mode: "attest", agent_id, ak: &ak, ek_hash, facts, attest, values }
            .attested(&inner, exchange)
    }
}

/// Waits for the quote of a short exchange.
pub(super) struct RenewSession {
    pub(super) inner: Arc<Inner>,
    pub(super) exchange: Exchange,
    pub(super) agent_id: SpiffeId,
    pub(super) ak: PublicArea,
    pub(super) record: Record,
    pub(super) nonce: [u8; 32],
    pub(super) issued: Duration,
}

#[async_trait::async_trait]
impl ServerSession for RenewSession {
    async fn respond(self: Box<Self>, response: &[u8]) -> Result<Step, AttestError> {
        let Self { inner, mut exchange, agent_id, ak, record, nonce, issued } = *self;
        check_age(&inner, issued)?;
        exchange.saw(response);
        let Message::RenewResponse(quote) = Message::decode(response).map_err(malformed)? else {
            return Err(unexpected());
        };
        let data = exchange.binding(Purpose::Renew, &nonce, &inner.policy_id);
        let (attest, values) = judge_quote(&inner, &ak, &data, &quote)?;
        match check_clock(record.clock, attest.clock()).map_err(|refusal| evidence_error(refusal.into()))? {
            Uptime::Continuous => {}
            Uptime::Interrupted => {
                return Ok(Inner::ask_for_evidence(
                    &inner,
                    exchange,
                    "the TPM was reset since the last attestation",
                ));
            }
        }
        let (ek_hash, facts) = (record.ek_hash, record.facts);
        Verdict { mode: "renew", agent_id, ak: &ak, ek_hash, facts, attest, values }
            .attested(&inner, exchange)
    }
}

/// Waits for the opening of the full exchange, after the short one did not do.
pub(super) struct EvidenceSession {
    pub(super) inner: Arc<Inner>,
    pub(super) exchange: Exchange,
}

#[async_trait::async_trait]
impl ServerSession for EvidenceSession {
    async fn respond(self: Box<Self>, response: &[u8]) -> Result<Step, AttestError> {
        let Self { inner, mut exchange } = *self;
        exchange.saw(response);
        match Message::decode(response).map_err(malformed)? {
            Message::Evidence(evidence) => Inner::challenge(&inner, exchange, &evidence).await,
            _ => Err(unexpected()),
        }
    }
}
