//! Templates of the keys we make, as `TPMT_PUBLIC` bytes.
//!
//! The endorsement keys follow the TCG EK Credential Profile 2.5, annex B: L-1 and H-1 (RSA-2048), L-2 and H-2 (P-256), H-3
//! (P-384), so that the keys come out as the manufacturer certified them.

use crate::verify::Attributes;
use crate::wire::put_sized;

const ECC: u16 = 0x0023;
const RSA: u16 = 0x0001;
const SHA256: u16 = 0x000b;
const SHA384: u16 = 0x000c;
const NULL: u16 = 0x0010;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const ECDSA: u16 = 0x0018;
const P256: u16 = 0x0003;
const P384: u16 = 0x0004;

const FIXED: Attributes =
    Attributes::FIXED_TPM.with(Attributes::FIXED_PARENT).with(Attributes::SENSITIVE_DATA_ORIGIN);
const STORAGE: Attributes = FIXED.with(Attributes::RESTRICTED).with(Attributes::DECRYPT);

/// TPM2_PolicySecret(TPM_RH_ENDORSEMENT), SHA-256 (EK Credential Profile B.6.2, PolicyA).
const POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// TPM2_PolicyOR(PolicyA, PolicyC), SHA-256 (EK Credential Profile B.6.5, PolicyB).
const POLICY_B_SHA256: [u8; 32] = [
    0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06, 0xf7, 0xa3, 0x34, 0x24, 0x14, 0xef, 0xcf, 0xb3, 0xa3,
    0x85, 0xd4, 0x4c, 0xd1, 0xfd, 0x45, 0x90, 0x89, 0xd1, 0x9b, 0x50, 0x71, 0xc0, 0xb7, 0xa0,
];
/// TPM2_PolicyOR(PolicyA, PolicyC), SHA-384 (EK Credential Profile B.6.5, PolicyB).
const POLICY_B_SHA384: [u8; 48] = [
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07,
    0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47,
    0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
];

fn numbers(out: &mut Vec<u8>, numbers: &[u16]) {
    for number in numbers {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn head(kind: u16, name_alg: u16, attributes: Attributes, policy: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    numbers(&mut out, &[kind, name_alg]);
    out.extend_from_slice(&attributes.bits().to_be_bytes());
    put_sized(&mut out, policy);
    out
}

/// ECC parameters with an empty or zero point of `unique` bytes per coordinate.
fn ecc(mut out: Vec<u8>, parameters: &[u16], unique: usize) -> Vec<u8> {
    numbers(&mut out, parameters);
    put_sized(&mut out, &vec![0; unique]);
    put_sized(&mut out, &vec![0; unique]);
    out
}

/// Storage root key: P-256, the TCG template (Provisioning Guidance 7.5.1) with noDA.
pub(crate) fn storage_root_key() -> Vec<u8> {
    let attributes = STORAGE.with(Attributes::USER_WITH_AUTH).with(Attributes::NO_DA);
    ecc(head(ECC, SHA256, attributes, &[]), &[AES, 128, CFB, NULL, P256, NULL], 32)
}

/// Unrestricted signing key: P-256, ECDSA with SHA-256.
pub(crate) fn signing_key() -> Vec<u8> {
    let attributes = FIXED.with(Attributes::USER_WITH_AUTH).with(Attributes::NO_DA).with(Attributes::SIGN);
    ecc(head(ECC, SHA256, attributes, &[]), &[NULL, ECDSA, SHA256, P256, NULL], 0)
}

/// Attestation key: as the signing key, but restricted to what the TPM itself made.
pub(crate) fn attestation_key() -> Vec<u8> {
    let attributes = FIXED
        .with(Attributes::USER_WITH_AUTH)
        .with(Attributes::NO_DA)
        .with(Attributes::SIGN)
        .with(Attributes::RESTRICTED);
    ecc(head(ECC, SHA256, attributes, &[]), &[NULL, ECDSA, SHA256, P256, NULL], 0)
}

/// Endorsement key, RSA-2048 (template L-1).
pub(crate) fn ek_rsa_2048() -> Vec<u8> {
    let mut out = head(RSA, SHA256, STORAGE.with(Attributes::ADMIN_WITH_POLICY), &POLICY_A_SHA256);
    numbers(&mut out, &[AES, 128, CFB, NULL, 2048]);
    out.extend_from_slice(&0_u32.to_be_bytes());
    put_sized(&mut out, &[0; 256]);
    out
}

/// Endorsement key, P-256 (template L-2).
pub(crate) fn ek_p256() -> Vec<u8> {
    let out = head(ECC, SHA256, STORAGE.with(Attributes::ADMIN_WITH_POLICY), &POLICY_A_SHA256);
    ecc(out, &[AES, 128, CFB, NULL, P256, NULL], 32)
}

/// Attributes of the templates for the high range of NV indices.
const HIGH: Attributes = STORAGE.with(Attributes::ADMIN_WITH_POLICY).with(Attributes::USER_WITH_AUTH);

/// Endorsement key, RSA-2048 (template H-1).
pub(crate) fn ek_rsa_2048_high() -> Vec<u8> {
    let mut out = head(RSA, SHA256, HIGH, &POLICY_B_SHA256);
    numbers(&mut out, &[AES, 128, CFB, NULL, 2048]);
    out.extend_from_slice(&0_u32.to_be_bytes());
    put_sized(&mut out, &[]);
    out
}

/// Endorsement key, P-256 (template H-2).
pub(crate) fn ek_p256_high() -> Vec<u8> {
    let out = head(ECC, SHA256, HIGH, &POLICY_B_SHA256);
    ecc(out, &[AES, 128, CFB, NULL, P256, NULL], 0)
}

/// Endorsement key, P-384 (template H-3).
pub(crate) fn ek_p384() -> Vec<u8> {
    let out = head(ECC, SHA384, HIGH, &POLICY_B_SHA384);
    ecc(out, &[AES, 256, CFB, NULL, P384, NULL], 0)
}
