//! X.509 certificates (RFC 5280): the fields SPIFFE cares about, read strictly, with raw names and keys.

use std::time::SystemTime;

use der::Tag;

use crate::asn1::{self, Cursor, context};
use crate::extensions::{ExtensionFault, Extensions};

/// Largest certificate that is read, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// Longest serial number that is read, in bytes (RFC 5280 4.1.2.2 allows 20).
const MAX_SERIAL_BYTES: usize = 20;

/// Why bytes are no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCertificate {
    /// More bytes than a certificate may have.
    #[error("the certificate has {len} bytes, at most {MAX_CERTIFICATE_BYTES} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not DER, or not the structure of RFC 5280 4.1.
    #[error("the certificate is malformed: {0}")]
    Malformed(#[source] der::Error),
    /// Version 1 or 2: those have no extensions, so they cannot be SVIDs or SVID authorities.
    #[error("the certificate is not of version 3")]
    Version,
    /// Zero, or more than 20 bytes.
    #[error("the serial number must be positive and have at most {MAX_SERIAL_BYTES} bytes")]
    Serial,
    /// The algorithm inside the signed part differs from the one outside (RFC 5280 4.1.1.2).
    #[error("the signature algorithm differs inside and outside of the signed part")]
    SignatureAlgorithm,
    /// A malformed, repeated or oversized extension.
    #[error(transparent)]
    Extension(#[from] ExtensionFault),
}

impl From<der::Error> for BadCertificate {
    fn from(cause: der::Error) -> Self {
        Self::Malformed(cause)
    }
}

/// A certificate's fields. Nothing about trust is implied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Serial number, big endian without leading zeros.
    pub serial: Vec<u8>,
    /// Issuer `Name`, DER, byte for byte.
    pub issuer_der: Vec<u8>,
    /// Subject `Name`, DER, byte for byte.
    pub subject_der: Vec<u8>,
    /// `SubjectPublicKeyInfo`, DER, byte for byte.
    pub spki_der: Vec<u8>,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
    /// The extensions this crate knows.
    pub extensions: Extensions,
}

impl Certificate {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// Anything that is not strict DER of the RFC 5280 structure, version 3, with extensions that occur once.
    pub fn parse(der: &[u8]) -> Result<Self, BadCertificate> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(BadCertificate::TooLong { len: der.len() });
        }
        let mut outer = Cursor::only_sequence(der)?;
        let tbs = outer.expect(Tag::Sequence)?;
        let outer_algorithm = outer.expect(Tag::Sequence)?;
        outer.whole_bits()?;
        outer.finish()?;

        let mut tbs = Cursor::new(tbs.value)?;
        let Some(version) = tbs.optional(context(0, true))? else { return Err(BadCertificate::Version) };
        if version.value != [asn1::INTEGER, 1, 2] {
            return Err(BadCertificate::Version);
        }
        let serial = tbs.unsigned()?;
        if serial == [0] || serial.len() > MAX_SERIAL_BYTES {
            return Err(BadCertificate::Serial);
        }
        if tbs.expect(Tag::Sequence)?.raw != outer_algorithm.raw {
            return Err(BadCertificate::SignatureAlgorithm);
        }
        let issuer = tbs.expect(Tag::Sequence)?.raw;
        let mut validity = tbs.sequence()?;
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        validity.finish()?;
        let subject = tbs.expect(Tag::Sequence)?.raw;
        let spki = tbs.expect(Tag::Sequence)?.raw;
        // Unique identifiers (RFC 5280 4.1.2.8) are not used by anyone; they are read over.
        tbs.optional(context(1, false))?;
        tbs.optional(context(2, false))?;
        let extensions = match tbs.optional(context(3, true))? {
            Some(list) => Extensions::parse(list.value)?,
            None => Extensions::default(),
        };
        tbs.finish()?;
        Ok(Self {
            serial: serial.to_vec(),
            issuer_der: issuer.to_vec(),
            subject_der: subject.to_vec(),
            spki_der: spki.to_vec(),
            not_before,
            not_after,
            extensions,
        })
    }

    /// The serial number in decimal, as SPIRE's API and database write it.
    #[must_use]
    pub fn serial_decimal(&self) -> String {
        asn1::decimal(&self.serial)
    }

    /// Whether the certificate may sign others: cA is true and key usage holds keyCertSign
    /// (X509-SVID 3.2, 4.1, 4.3).
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.extensions.is_ca() && self.extensions.key_usage.is_some_and(|usage| usage.key_cert_sign())
    }

    /// Whether `now` lies within the validity, both ends included.
    #[must_use]
    pub fn is_current(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}
