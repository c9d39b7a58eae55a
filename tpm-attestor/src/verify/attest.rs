//! `TPMS_ATTEST`: what a TPM attested (TPM 2.0 part 2, 10.12.12).

use serde::{Deserialize, Serialize};

use crate::verify::{EvidenceError, Reason};
use crate::wire::Reader;

/// Largest attestation that is looked at.
pub const MAX_ATTEST_BYTES: usize = 1024;

/// TPM_GENERATED_VALUE: data from outside that begins so is never signed by a restricted key.
const MAGIC: u32 = 0xff54_4347;
const CERTIFY: u16 = 0x8017;
const QUOTE: u16 = 0x8018;
/// A name: a two-byte algorithm and at most a SHA-512 digest.
const MAX_NAME: usize = 66;
const MAX_SELECTIONS: u32 = 16;

/// The TPM's clock and counters (TPMS_CLOCK_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockInfo {
    /// Milliseconds the TPM was powered since it was last cleared.
    pub clock: u64,
    /// TPM Resets since it was last cleared: cold starts.
    pub reset_count: u32,
    /// Restarts and resumes since the last reset.
    pub restart_count: u32,
    /// Whether the clock is sure not to have been lower before: false after an unorderly shutdown.
    pub safe: bool,
}

/// One bank of a PCR selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BankSelection {
    /// TPM_ALG_ID of the bank.
    pub bank: u16,
    /// Bit n stands for PCR n.
    pub pcrs: u32,
}

/// What was attested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttestKind<'a> {
    /// A quote.
    Quote {
        /// The banks and PCRs, as the TPM lists them.
        selection: Vec<BankSelection>,
        /// Digest of the PCR values.
        digest: &'a [u8],
    },
    /// A certified object.
    Certify {
        /// Its name.
        name: &'a [u8],
    },
}

/// A decoded attestation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest<'a> {
    qualified_signer: &'a [u8],
    extra_data: &'a [u8],
    clock: ClockInfo,
    firmware: u64,
    kind: AttestKind<'a>,
}

impl<'a> Attest<'a> {
    /// Decodes a quote or a certification, to the last byte.
    ///
    /// # Errors
    /// No such structure, the wrong magic, or another type of attestation.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EvidenceError> {
        let mut r = Reader::new("TPMS_ATTEST", bytes, MAX_ATTEST_BYTES)?;
        let magic = r.u32()?;
        if magic != MAGIC {
            return Err(Reason::AttestMagic
                .because(format!("{magic:#010x} instead of {MAGIC:#010x}"))
                .into());
        }
        let kind = r.u16()?;
        if !matches!(kind, QUOTE | CERTIFY) {
            return Err(Reason::AttestType
                .because(format!("{kind:#06x} is neither quote nor certify"))
                .into());
        }
        let qualified_signer = r.sized(MAX_NAME)?;
        let extra_data = r.sized(64)?;
        let clock = ClockInfo {
            clock: r.u64()?,
            reset_count: r.u32()?,
            restart_count: r.u32()?,
            safe: match r.u8()? {
                0 => false,
                1 => true,
                _ => return Err(r.fault("safe is neither yes nor no").into()),
            },
        };
        let firmware = r.u64()?;
        let kind = if kind == QUOTE {
            let count = r.u32()?;
            if count > MAX_SELECTIONS {
                return Err(r.fault("too many PCR banks").into());
            }
            let mut selection = Vec::new();
            for _ in 0..count {
                let bank = r.u16()?;
                let size = usize::from(r.u8()?);
                if size > 4 {
                    return Err(r.fault("a PCR selection is longer than 32 PCRs").into());
                }
                let pcrs = r.take(size)?.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
                selection.push(BankSelection { bank, pcrs });
            }
            AttestKind::Quote { selection, digest: r.sized(64)? }
        } else {
            let name = r.sized(MAX_NAME)?;
            // The qualified name depends on the ancestors, which the name does not need.
            r.sized(MAX_NAME)?;
            AttestKind::Certify { name }
        };
        r.end()?;
        Ok(Self { qualified_signer, extra_data, clock, firmware, kind })
    }

    /// The signing key's qualified name.
    #[must_use]
    pub fn qualified_signer(&self) -> &'a [u8] {
        self.qualified_signer
    }

    /// The qualifying data given by the caller.
    #[must_use]
    pub fn extra_data(&self) -> &'a [u8] {
        self.extra_data
    }

    /// Clock and counters.
    #[must_use]
    pub fn clock(&self) -> ClockInfo {
        self.clock
    }

    /// Firmware version; true for keys of the endorsement hierarchy, obfuscated for others.
    #[must_use]
    pub fn firmware(&self) -> u64 {
        self.firmware
    }

    /// What was attested.
    #[must_use]
    pub fn kind(&self) -> &AttestKind<'a> {
        &self.kind
    }
}
