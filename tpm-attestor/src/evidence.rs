//! What a node shows of its TPM: to an operator who enrols it, and to a server.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::device::{EkKind, EndorsementKey, Tpm, TpmError};
use crate::verify::{HashAlg, PublicArea};

/// What `hardroot-agent tpm show` prints: all that is needed to enrol a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TpmReport {
    /// Where the TPM is.
    pub tcti: String,
    /// SHA-256 of the endorsement key's `SubjectPublicKeyInfo`, hex: what is enrolled.
    pub ek_hash: String,
    /// `rsa-2048`, `ec-p256` or `ec-p384`.
    pub ek_type: String,
    /// The endorsement key, PEM `PUBLIC KEY`.
    pub ek_public_key: String,
    /// Its certificate, PEM, if the TPM holds one.
    pub ek_certificate: Option<String>,
    /// Further certificates from NV, PEM.
    pub ek_intermediates: Vec<String>,
    /// The manufacturer's code.
    pub vendor: String,
    /// The manufacturer's text, often the model.
    pub model: String,
    /// Firmware version as four decimal numbers.
    pub firmware: String,
    /// PCRs of the SHA-256 bank.
    pub pcrs: Vec<PcrValue>,
    /// Failed authorisations counted towards a lockout, and how many lead to one.
    pub lockout: [u32; 2],
}

/// One PCR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcrValue {
    /// The bank: `sha256`.
    pub bank: &'static str,
    /// Its number.
    pub index: u8,
    /// Its value, hex.
    pub value: String,
}

/// Collects the report. It uses no private key.
///
/// # Errors
/// The TPM fails.
pub async fn report(tpm: &Tpm, kind: Option<EkKind>, pcrs: &[u8]) -> Result<TpmReport, TpmError> {
    let ek = tpm.endorsement_key(kind).await?;
    let properties = tpm.properties().await?;
    let values = tpm.pcrs(HashAlg::Sha256, pcrs).await?;
    let spki = spki(&ek)?;
    Ok(TpmReport {
        tcti: tpm.location(),
        ek_hash: ek.hash()?,
        ek_type: ek.kind.to_string(),
        ek_public_key: pem("PUBLIC KEY", &spki),
        ek_certificate: ek.certificate.as_deref().map(|der| pem("CERTIFICATE", der)),
        ek_intermediates: ek.intermediates.iter().map(|der| pem("CERTIFICATE", der)).collect(),
        vendor: properties.vendor,
        model: properties.vendor_string,
        firmware: properties.firmware,
        pcrs: pcrs
            .iter()
            .zip(values)
            .map(|(index, value)| PcrValue {
                bank: HashAlg::Sha256.as_str(),
                index: *index,
                value: hex::encode(value),
            })
            .collect(),
        lockout: [properties.lockout_counter, properties.max_auth_fail],
    })
}

fn spki(ek: &EndorsementKey) -> Result<Vec<u8>, TpmError> {
    let public = PublicArea::parse(&ek.public)
        .map_err(|cause| TpmError::Evidence { op: "read the endorsement key", cause: cause.into() })?;
    Ok(public.key().spki_der())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).filter_map(|at| text.get(at..(at + 64).min(text.len()))).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
