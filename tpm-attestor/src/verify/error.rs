//! Why evidence does not hold.

/// Bytes that are not the structure they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct BadStructure {
    /// The structure, such as `TPMS_ATTEST`.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Evidence that was understood and does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.slug())]
pub struct Rejection {
    /// The reason, stable over versions.
    pub reason: Reason,
    /// What was expected and found.
    pub detail: String,
}

/// Any way in which judging evidence ends without trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// A structure could not be decoded.
    #[error(transparent)]
    Malformed(#[from] BadStructure),
    /// The evidence was decoded and does not hold.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl EvidenceError {
    /// The stable slug: the reason's, or `malformed`.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Rejected(rejection) => rejection.reason.slug(),
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $slug:literal,)+) => {
        /// Reasons for which evidence is refused. Each has a stable slug for audit records and dashboards.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable name, lower case with underscores.
            #[must_use]
            pub fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)+ }
            }

            /// A rejection for this reason.
            #[must_use]
            pub fn because(self, detail: impl Into<String>) -> Rejection {
                Rejection { reason: self, detail: detail.into() }
            }
        }
    };
}

reasons! {
    /// The EK's type, size or curve is not accepted.
    EkUnsupported = "ek_unsupported",
    /// The EK's attributes are not those of an endorsement key.
    EkAttributes = "ek_attributes",
    /// The certificate is no readable EK certificate.
    EkCertificateInvalid = "ek_certificate_invalid",
    /// The certificate does not chain to a pinned manufacturer root, or is outside its validity.
    EkCertificateUntrusted = "ek_certificate_untrusted",
    /// The certificate is for another key than the EK presented.
    EkCertificateKeyMismatch = "ek_certificate_key_mismatch",
    /// The certificate's key usage does not allow what an EK does.
    EkCertificateUsage = "ek_certificate_usage",
    /// More certificates, or larger keys in them, than are looked at.
    EkCertificateLimits = "ek_certificate_limits",
    /// The AK's algorithm, size or scheme is not accepted.
    AkUnsupported = "ak_unsupported",
    /// The AK is not restricted, so it would sign forged attestations.
    AkNotRestricted = "ak_not_restricted",
    /// The AK lacks fixedTPM, fixedParent, sensitiveDataOrigin or sign, or has decrypt set.
    AkAttributes = "ak_attributes",
    /// The secret is not the one sealed to EK and AK: the AK is not in the TPM of that EK.
    ActivationMismatch = "activation_mismatch",
    /// The attestation does not begin with TPM_GENERATED_VALUE.
    AttestMagic = "attest_magic",
    /// The attestation is of another type than asked for.
    AttestType = "attest_type",
    /// The attestation's qualifying data is not that of this exchange.
    QualifyingData = "qualifying_data_mismatch",
    /// The signature does not verify with the AK.
    AttestSignature = "attest_signature",
    /// The signature's algorithm or hash is not that of the AK's public area.
    SignatureScheme = "signature_scheme_mismatch",
    /// The attested name is not that of the agent's key.
    CertifiedName = "certified_name_mismatch",
    /// The certified key could leave the TPM, or may do other things than sign.
    CertifiedAttributes = "certified_key_attributes",
    /// The certified key is not the key of the certificate request.
    CsrKeyMismatch = "csr_key_mismatch",
    /// The quote covers other PCRs or banks than asked for.
    PcrSelection = "pcr_selection_mismatch",
    /// The PCR values do not hash to the quoted digest.
    PcrDigest = "pcr_digest_mismatch",
    /// The TPM's reset count, restart count or clock went back: it was cleared or replaced.
    ClockRollback = "tpm_clock_rollback",
}
