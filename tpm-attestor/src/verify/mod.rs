//! Judging evidence: pure functions over bytes. No device, no I/O, no clock, no libtss2.
//!
//! Structures of the TPM are decoded once, to the last byte, within bounds; names are computed from the same bytes that
//! are judged; and any error means "not trusted".

mod attest;
mod certificate;
mod credential;
mod error;
mod hash;
mod judge;
mod public;
mod signature;

pub use attest::{Attest, AttestKind, BankSelection, ClockInfo, MAX_ATTEST_BYTES};
pub use certificate::{
    BadAnchors, EkAnchors, EkCertificate, MAX_CERTIFICATE_BYTES, MAX_PRESENTED, certificate_key,
    firmware_text, spki_key, vendor_text, verify_ek_certificate,
};
pub use credential::{Credential, make_credential};
pub use error::{BadStructure, EvidenceError, Reason, Rejection};
pub use hash::HashAlg;
pub use judge::{
    PcrPolicy, Purpose, Uptime, check_activation, check_attestation_key, check_certification,
    check_certified_key, check_clock, check_endorsement_key, check_quote, qualifying_data,
    signed_attestation,
};
pub use public::{Attributes, Curve, MAX_PUBLIC_BYTES, PublicArea, PublicKey, Scheme};
pub use signature::{MAX_SIGNATURE_BYTES, Signature};
