//! One attestation as a conversation: bounded in size, rounds and time, independent of gRPC.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt};
use hardroot_api::spire::api::server::agent::v1::{
    AttestAgentRequest, AttestAgentResponse, attest_agent_request, attest_agent_response,
};
use hardroot_identity::{Csr, TrustDomain};
use hardroot_node_attestors::{AttestError, AttestedNode, ServerAttestor, ServerContext, Step};
use tokio::sync::mpsc;
use tonic::Status;
use tracing::warn;

use super::refusal::Refusal;

/// Largest payload or challenge response, in bytes. A TPM's evidence is a few KiB, a long x509pop chain less.
pub(super) const MAX_PAYLOAD_BYTES: usize = 512 * 1024;
/// Longest name of an attestor, in bytes.
pub(super) const MAX_TYPE_BYTES: usize = 64;
/// Challenges at most.
pub(super) const MAX_ROUNDS: usize = 8;
/// Time for the whole conversation. A TPM that works hard takes a few seconds.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// What opens the conversation.
#[derive(Debug)]
pub(super) struct Opening {
    /// The attestor's name.
    pub(super) kind: String,
    /// Its payload.
    pub(super) payload: Vec<u8>,
    /// The CSR, DER.
    pub(super) csr_der: Vec<u8>,
    /// The CSR, read; its own signature need not verify, for only its public key is used.
    pub(super) csr: Csr,
}

/// Reads the first message.
///
/// # Errors
/// `InvalidArgument`: the message is missing, incomplete or too large.
pub(super) async fn opening<S>(inbound: &mut S) -> Result<Opening, Refusal>
where
    S: Stream<Item = Result<AttestAgentRequest, Status>> + Unpin + Send,
{
    let malformed = |reason: &str| Refusal::malformed("malformed_request", reason);
    let request = next(inbound).await?;
    let Some(attest_agent_request::Step::Params(params)) = request.step else {
        return Err(malformed("malformed param: missing params"));
    };
    let data = params.data.ok_or_else(|| malformed("malformed param: missing attestation data"))?;
    let svid = params.params.ok_or_else(|| malformed("malformed param: missing X509-SVID parameters"))?;
    if svid.csr.is_empty() {
        return Err(malformed("malformed param: missing CSR"));
    }
    if data.r#type.is_empty() {
        return Err(malformed("malformed param: missing attestation data type"));
    }
    if data.r#type.len() > MAX_TYPE_BYTES {
        return Err(malformed("malformed param: the attestation data type is too long"));
    }
    if data.payload.is_empty() {
        return Err(malformed("malformed param: missing attestation data payload"));
    }
    bounded(&data.payload)?;
    let csr = Csr::parse(&svid.csr).map_err(|error| malformed(&format!("failed to parse CSR: {error}")))?;
    Ok(Opening { kind: data.r#type, payload: data.payload, csr_der: svid.csr, csr })
}

async fn next<S>(inbound: &mut S) -> Result<AttestAgentRequest, Refusal>
where
    S: Stream<Item = Result<AttestAgentRequest, Status>> + Unpin + Send,
{
    match inbound.next().await {
        Some(Ok(request)) => Ok(request),
        Some(Err(status)) => Err(Refusal::broken(&status)),
        None => Err(Refusal::malformed("stream_ended", "the stream ended before the attestation did")),
    }
}

fn bounded(payload: &[u8]) -> Result<(), Refusal> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(Refusal::malformed(
            "payload_too_large",
            &format!("{} bytes of evidence are more than the {MAX_PAYLOAD_BYTES} allowed", payload.len()),
        ));
    }
    Ok(())
}

/// Lets the attestor judge: relays its challenges and the agent's responses until it is satisfied.
///
/// # Errors
/// Anything that means "not trusted".
pub(super) async fn judge<S>(
    attestor: &dyn ServerAttestor,
    trust_domain: &TrustDomain,
    peer: Option<IpAddr>,
    now: SystemTime,
    opening: &Opening,
    inbound: &mut S,
    outbound: &mpsc::Sender<Result<AttestAgentResponse, Status>>,
) -> Result<AttestedNode, Refusal>
where
    S: Stream<Item = Result<AttestAgentRequest, Status>> + Unpin + Send,
{
    let context = ServerContext {
        trust_domain: trust_domain.clone(),
        csr_spki_der: opening.csr.spki_der.clone(),
        peer,
        now,
    };
    let mut step = attestor.begin(&context, &opening.payload).await.map_err(refused)?;
    for _ in 0..MAX_ROUNDS {
        let session = match step {
            Step::Attested(node) => return Ok(node),
            Step::Challenge(challenge, session) => {
                let challenge = attest_agent_response::Step::Challenge(challenge);
                let sent = outbound.send(Ok(AttestAgentResponse { step: Some(challenge) })).await;
                sent.map_err(|_gone| Refusal::gone())?;
                session
            }
        };
        let Some(attest_agent_request::Step::ChallengeResponse(response)) = next(inbound).await?.step else {
            return Err(Refusal::malformed("malformed_request", "expected a challenge response"));
        };
        bounded(&response)?;
        step = session.respond(&response).await.map_err(refused)?;
    }
    match step {
        Step::Attested(node) => Ok(node),
        Step::Challenge(..) => {
            Err(Refusal::malformed("too_many_rounds", "the attestation took too many rounds"))
        }
    }
}

/// The peer is told the class and the reason; the log gets the rest.
fn refused(error: AttestError) -> Refusal {
    warn!(error = &error as &dyn std::error::Error, "attestation refused");
    match error {
        AttestError::Malformed { what, reason } => {
            Refusal::malformed("malformed_evidence", &format!("malformed {what}: {reason}"))
        }
        AttestError::Unusable { reason } => Refusal::malformed("malformed_evidence", reason),
        AttestError::Rejected { reason, detail } => Refusal::rejected(reason, detail),
        other => Refusal::ours("attestor_unavailable", "the attestor cannot judge now; try again", &other),
    }
}
