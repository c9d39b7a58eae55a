//! Certificate signing requests (PKCS#10, RFC 2986): a public key, and what the requester wishes.
//!
//! Only the key is ever taken from an agent's or workload's CSR; names come from entries.

use der::Tag;

use crate::asn1::{self, Cursor, context};
use crate::extensions::{ExtensionFault, Extensions};
use crate::key::{BadPublicKey, PublicKey, PublicKeyKind, verify_signature};
use crate::oid;

/// Largest CSR that is read, in bytes.
pub const MAX_CSR_BYTES: usize = 32 * 1024;
/// Most subject alternative names in a CSR.
pub const MAX_CSR_NAMES: usize = 128;

/// Why bytes are no acceptable CSR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadCsr {
    /// Over [`MAX_CSR_BYTES`].
    #[error("the CSR has {len} bytes, at most {MAX_CSR_BYTES} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not DER, or not the structure of RFC 2986 4.
    #[error("the CSR is malformed: {0}")]
    Malformed(#[source] der::Error),
    /// Another version than 1.
    #[error("the CSR is not of version 1")]
    Version,
    /// Two extension requests.
    #[error("the CSR asks for extensions twice")]
    SeveralRequests,
    /// A malformed, repeated or oversized extension.
    #[error("the CSR's extension request: {0}")]
    Extension(#[from] ExtensionFault),
    /// The key is refused.
    #[error("the CSR's key is refused: {0}")]
    Key(#[from] BadPublicKey),
}

impl From<der::Error> for BadCsr {
    fn from(cause: der::Error) -> Self {
        Self::Malformed(cause)
    }
}

/// A CSR whose size and key are within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Csr {
    /// `SubjectPublicKeyInfo`, DER, byte for byte.
    pub spki_der: Vec<u8>,
    /// What kind of key it is.
    pub key_kind: PublicKeyKind,
    /// URIs asked for.
    pub uris: Vec<String>,
    /// DNS names asked for.
    pub dns_names: Vec<String>,
    /// Subject `Name`, DER, byte for byte.
    pub subject_der: Vec<u8>,
    /// Whether the CSR is signed with its own key. Agents' CSRs need not be: some sign with another key, and
    /// attestation binds the key anyway.
    pub signature_valid: bool,
}

impl Csr {
    /// Reads a DER CSR. Sizes, counts and the kind of key are checked before any cryptography.
    ///
    /// # Errors
    /// See [`BadCsr`]; a signature that does not verify is no error but reported in the result.
    pub fn parse(der: &[u8]) -> Result<Self, BadCsr> {
        if der.len() > MAX_CSR_BYTES {
            return Err(BadCsr::TooLong { len: der.len() });
        }
        let mut outer = Cursor::only_sequence(der)?;
        let info = outer.expect(Tag::Sequence)?;
        let algorithm = outer.expect(Tag::Sequence)?;
        let signature = outer.whole_bits()?;
        outer.finish()?;

        let mut fields = Cursor::new(info.value)?;
        if fields.expect(Tag::Integer)?.value != [0] {
            return Err(BadCsr::Version);
        }
        let subject = fields.expect(Tag::Sequence)?;
        let spki = fields.expect(Tag::Sequence)?;
        let extensions = match fields.optional(context(0, true))? {
            Some(attributes) => requested_extensions(attributes.value)?,
            None => Extensions::default(),
        };
        fields.finish()?;
        // Names are counted and the key is judged by now; only then the signature is worth its price.
        let key_kind = PublicKey::parse(spki.raw)?.kind;
        let names = extensions.names.unwrap_or_default();
        Ok(Self {
            spki_der: spki.raw.to_vec(),
            key_kind,
            uris: names.uris,
            dns_names: names.dns_names,
            subject_der: subject.raw.to_vec(),
            signature_valid: verify_signature(algorithm.value, spki.raw, info.raw, signature),
        })
    }
}

fn requested_extensions(attributes: &[u8]) -> Result<Extensions, BadCsr> {
    let mut found = None;
    let mut cursor = Cursor::new(attributes)?;
    while !cursor.is_finished() {
        let mut attribute = cursor.sequence()?;
        let kind = attribute.expect(Tag::ObjectIdentifier)?.value;
        let values = attribute.expect(Tag::Set)?;
        attribute.finish()?;
        if kind != oid::EXTENSION_REQUEST {
            continue;
        }
        if found.is_some() {
            return Err(BadCsr::SeveralRequests);
        }
        let list = Cursor::only(values.value, Tag::Sequence)?;
        found = Some(Extensions::parse_bounded(list.raw, MAX_CSR_NAMES)?);
    }
    Ok(found.unwrap_or_default())
}

/// The part of a CSR that its own key signs: subject, key, and one URI name when `uri` is there. Sign it
/// with the key's algorithm and hand the signature to [`assemble_csr`].
#[must_use]
pub fn csr_to_be_signed(subject_der: &[u8], spki_der: &[u8], uri: Option<&str>) -> Vec<u8> {
    csr_to_be_signed_with_names(subject_der, spki_der, &[], uri)
}

/// As [`csr_to_be_signed`], asking for DNS names too; names are written as they are, judging them is the
/// issuer's.
#[must_use]
pub fn csr_to_be_signed_with_names(
    subject_der: &[u8],
    spki_der: &[u8],
    dns_names: &[String],
    uri: Option<&str>,
) -> Vec<u8> {
    let mut names: Vec<Vec<u8>> =
        dns_names.iter().map(|name| asn1::element(0x82, &[name.as_bytes()])).collect();
    names.extend(uri.map(|uri| asn1::element(0x86, &[uri.as_bytes()])));
    let request = (!names.is_empty()).then(|| {
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let names = asn1::element(asn1::SEQUENCE, &names);
        let extension = asn1::element(
            asn1::SEQUENCE,
            &[
                &asn1::element(asn1::OID, &[oid::SUBJECT_ALT_NAME]),
                &asn1::element(asn1::OCTET_STRING, &[&names]),
            ],
        );
        let list = asn1::element(asn1::SEQUENCE, &[&extension]);
        asn1::element(
            asn1::SEQUENCE,
            &[&asn1::element(asn1::OID, &[oid::EXTENSION_REQUEST]), &asn1::element(asn1::SET, &[&list])],
        )
    });
    let attributes = asn1::element(0xa0, &[request.as_deref().unwrap_or_default()]);
    asn1::element(asn1::SEQUENCE, &[&[asn1::INTEGER, 1, 0], subject_der, spki_der, &attributes])
}

/// Joins the signed part of a CSR and its signature.
#[must_use]
pub fn assemble_csr(to_be_signed: &[u8], algorithm: crate::SignatureAlgorithm, signature: &[u8]) -> Vec<u8> {
    asn1::element(
        asn1::SEQUENCE,
        &[to_be_signed, &algorithm.identifier(), &asn1::element(asn1::BIT_STRING, &[&[0], signature])],
    )
}
