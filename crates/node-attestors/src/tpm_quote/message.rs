//! The messages of `tpm_quote`, version 1: `HRTQ`, version, kind, then fields (docs/decisions/0006).
//!
//! Numbers are big-endian, byte strings have a length of two bytes, and nothing may follow. Decoding lends slices of
//! the message and allocates next to nothing.

use hardroot_tpm_attestor::verify::{
    BadStructure, HashAlg, MAX_ATTEST_BYTES, MAX_CERTIFICATE_BYTES, MAX_PRESENTED, MAX_PUBLIC_BYTES,
    MAX_SIGNATURE_BYTES, PcrPolicy,
};
use hardroot_tpm_attestor::wire::{Reader, put_sized};

/// Largest message.
pub const MAX_MESSAGE_BYTES: usize = 65536;

const MAGIC: &[u8] = b"HRTQ";
const VERSION: u8 = 1;
const WHAT: &str = "tpm_quote message";
/// A name: a two-byte algorithm and at most a SHA-512 digest.
const MAX_NAME: usize = 66;
/// 24 PCRs of SHA-512.
const MAX_VALUES: usize = 24 * 64;

mod kind {
    pub(super) const EVIDENCE: u8 = 1;
    pub(super) const RENEW: u8 = 2;
    pub(super) const CHALLENGE: u8 = 3;
    pub(super) const RENEW_CHALLENGE: u8 = 4;
    pub(super) const EVIDENCE_WANTED: u8 = 5;
    pub(super) const RESPONSE: u8 = 6;
    pub(super) const RENEW_RESPONSE: u8 = 7;
}

/// Agent to server, first: who the TPM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// The EK's `TPMT_PUBLIC`.
    pub ek_public: &'a [u8],
    /// The EK's certificate, DER, if there is one.
    pub certificate: Option<&'a [u8]>,
    /// Certificates from NV, DER.
    pub intermediates: Vec<&'a [u8]>,
    /// The AK's `TPMT_PUBLIC`.
    pub ak_public: &'a [u8],
}

/// What is quoted, and bound to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteChallenge<'a> {
    /// The server's nonce.
    pub nonce: [u8; 32],
    /// PCRs to quote.
    pub pcrs: PcrPolicy,
    /// Names the server's policy; bound, not interpreted.
    pub policy_id: &'a [u8],
}

/// A quote and its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteResponse<'a> {
    /// `TPMS_ATTEST`.
    pub attest: &'a [u8],
    /// `TPMT_SIGNATURE`.
    pub signature: &'a [u8],
    /// PCR values, one after the other.
    pub values: &'a [u8],
}

/// Any message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// The full exchange begins.
    Evidence(Evidence<'a>),
    /// The short exchange begins: EK hash and AK name of a node on record.
    Renew {
        /// SHA-256 of the EK's `SubjectPublicKeyInfo`.
        ek_hash: [u8; 32],
        /// The AK's name.
        ak_name: &'a [u8],
    },
    /// Server to agent: prove EK, AK and key, and quote.
    Challenge {
        /// What to quote.
        quote: QuoteChallenge<'a>,
        /// `TPMS_ID_OBJECT`.
        id_object: &'a [u8],
        /// The encrypted seed.
        encrypted_seed: &'a [u8],
    },
    /// Server to agent: quote.
    RenewChallenge(QuoteChallenge<'a>),
    /// Server to agent: the short exchange does not do; answer with [`Message::Evidence`].
    EvidenceWanted {
        /// Why, for the log.
        reason: &'a str,
    },
    /// Agent to server: the answer to [`Message::Challenge`].
    Response {
        /// The secret from the credential.
        activation: &'a [u8],
        /// `TPMS_ATTEST` of the certification.
        certify_attest: &'a [u8],
        /// `TPMT_SIGNATURE` of the certification.
        certify_signature: &'a [u8],
        /// The agent key's `TPMT_PUBLIC`.
        key_public: &'a [u8],
        /// The quote.
        quote: QuoteResponse<'a>,
    },
    /// Agent to server: the answer to [`Message::RenewChallenge`].
    RenewResponse(QuoteResponse<'a>),
}

impl<'a> Message<'a> {
    /// Decodes a message, to the last byte.
    ///
    /// # Errors
    /// It is no message of this version, or out of bounds.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BadStructure> {
        let mut r = Reader::new(WHAT, bytes, MAX_MESSAGE_BYTES)?;
        if r.take(MAGIC.len())? != MAGIC {
            return Err(r.fault("it does not begin with HRTQ"));
        }
        if r.u8()? != VERSION {
            return Err(r.fault("another protocol version than 1: update the older side"));
        }
        let message = match r.u8()? {
            kind::EVIDENCE => Self::Evidence(evidence(&mut r)?),
            kind::RENEW => Self::Renew { ek_hash: array(&mut r)?, ak_name: r.sized(MAX_NAME)? },
            kind::CHALLENGE => Self::Challenge {
                quote: quote_challenge(&mut r)?,
                id_object: r.sized(256)?,
                encrypted_seed: r.sized(512)?,
            },
            kind::RENEW_CHALLENGE => Self::RenewChallenge(quote_challenge(&mut r)?),
            kind::EVIDENCE_WANTED => Self::EvidenceWanted {
                reason: std::str::from_utf8(r.sized(128)?)
                    .map_err(|_not_text| r.fault("the reason is no text"))?,
            },
            kind::RESPONSE => Self::Response {
                activation: r.sized(64)?,
                certify_attest: r.sized(MAX_ATTEST_BYTES)?,
                certify_signature: r.sized(MAX_SIGNATURE_BYTES)?,
                key_public: r.sized(MAX_PUBLIC_BYTES)?,
                quote: quote_response(&mut r)?,
            },
            kind::RENEW_RESPONSE => Self::RenewResponse(quote_response(&mut r)?),
            _ => return Err(r.fault("unknown kind")),
        };
        r.end()?;
        Ok(message)
    }

    /// Encodes the message. One with a field over its bounds is refused by whoever decodes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        out.push(self.kind());
        match self {
            Self::Evidence(evidence) => {
                put_sized(&mut out, evidence.ek_public);
                // An empty certificate stands for none.
                put_sized(&mut out, evidence.certificate.unwrap_or_default());
                let count = evidence.intermediates.len().min(MAX_PRESENTED);
                out.push(u8::try_from(count).unwrap_or(u8::MAX));
                for certificate in evidence.intermediates.iter().take(count) {
                    put_sized(&mut out, certificate);
                }
                put_sized(&mut out, evidence.ak_public);
            }
            Self::Renew { ek_hash, ak_name } => {
                out.extend_from_slice(ek_hash);
                put_sized(&mut out, ak_name);
            }
            Self::Challenge { quote, id_object, encrypted_seed } => {
                put_quote_challenge(&mut out, quote);
                put_sized(&mut out, id_object);
                put_sized(&mut out, encrypted_seed);
            }
            Self::RenewChallenge(quote) => put_quote_challenge(&mut out, quote),
            Self::EvidenceWanted { reason } => put_sized(&mut out, reason.as_bytes()),
            Self::Response { activation, certify_attest, certify_signature, key_public, quote } => {
                for part in [activation, certify_attest, certify_signature, key_public] {
                    put_sized(&mut out, part);
                }
                put_quote_response(&mut out, quote);
            }
            Self::RenewResponse(quote) => put_quote_response(&mut out, quote),
        }
        out
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Evidence(_) => kind::EVIDENCE,
            Self::Renew { .. } => kind::RENEW,
            Self::Challenge { .. } => kind::CHALLENGE,
            Self::RenewChallenge(_) => kind::RENEW_CHALLENGE,
            Self::EvidenceWanted { .. } => kind::EVIDENCE_WANTED,
            Self::Response { .. } => kind::RESPONSE,
            Self::RenewResponse(_) => kind::RENEW_RESPONSE,
        }
    }
}

fn array<const N: usize>(r: &mut Reader<'_>) -> Result<[u8; N], BadStructure> {
    let fault = r.fault("truncated");
    r.take(N)?.try_into().map_err(|_length_was_checked| fault)
}

fn evidence<'a>(r: &mut Reader<'a>) -> Result<Evidence<'a>, BadStructure> {
    let ek_public = r.sized(MAX_PUBLIC_BYTES)?;
    let certificate = r.sized(MAX_CERTIFICATE_BYTES)?;
    let count = usize::from(r.u8()?);
    if count > MAX_PRESENTED {
        return Err(r.fault("more than 4 intermediate certificates"));
    }
    let mut intermediates = Vec::with_capacity(count);
    for _ in 0..count {
        intermediates.push(r.sized(MAX_CERTIFICATE_BYTES)?);
    }
    let ak_public = r.sized(MAX_PUBLIC_BYTES)?;
    let certificate = (!certificate.is_empty()).then_some(certificate);
    Ok(Evidence { ek_public, certificate, intermediates, ak_public })
}

fn quote_challenge<'a>(r: &mut Reader<'a>) -> Result<QuoteChallenge<'a>, BadStructure> {
    let nonce = array(r)?;
    let bank = HashAlg::from_id(r.u16()?).ok_or_else(|| r.fault("the PCR bank is unknown"))?;
    let bits = r.u32()?;
    let pcrs: Vec<u8> = (0..32).filter(|pcr| bits >> pcr & 1 == 1).collect();
    let pcrs = PcrPolicy::new(bank, &pcrs).ok_or_else(|| r.fault("no PCRs, or PCRs over 23"))?;
    Ok(QuoteChallenge { nonce, pcrs, policy_id: r.sized(64)? })
}

fn put_quote_challenge(out: &mut Vec<u8>, quote: &QuoteChallenge<'_>) {
    out.extend_from_slice(&quote.nonce);
    out.extend_from_slice(&quote.pcrs.bank().id().to_be_bytes());
    let bits = quote.pcrs.pcrs().iter().fold(0_u32, |bits, pcr| bits | 1 << (pcr & 31));
    out.extend_from_slice(&bits.to_be_bytes());
    put_sized(out, quote.policy_id);
}

fn quote_response<'a>(r: &mut Reader<'a>) -> Result<QuoteResponse<'a>, BadStructure> {
    Ok(QuoteResponse {
        attest: r.sized(MAX_ATTEST_BYTES)?,
        signature: r.sized(MAX_SIGNATURE_BYTES)?,
        values: r.sized(MAX_VALUES)?,
    })
}

fn put_quote_response(out: &mut Vec<u8>, quote: &QuoteResponse<'_>) {
    for part in [quote.attest, quote.signature, quote.values] {
        put_sized(out, part);
    }
}
