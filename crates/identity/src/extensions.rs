//! Certificate extensions (RFC 5280 4.2): those that SPIFFE gives a meaning, for certificates and CSRs.

use std::collections::BTreeSet;

use der::Tag;

use crate::asn1::{self, Cursor, context};
use crate::oid;

/// Most names that a subject alternative name may hold.
const MAX_NAMES: usize = 512;
/// Most extensions a certificate or CSR may hold.
const MAX_EXTENSIONS: usize = 64;

/// What is wrong with an extension.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtensionFault {
    /// Not the structure its standard asks for.
    #[error("{extension} is malformed: {cause}")]
    Malformed {
        /// Which extension.
        extension: &'static str,
        /// What the decoder found.
        #[source]
        cause: der::Error,
    },
    /// Twice the same extension (RFC 5280 4.2).
    #[error("extension {oid} occurs more than once")]
    Repeated {
        /// The extension, dotted.
        oid: String,
    },
    /// Too many extensions.
    #[error("there are more than {MAX_EXTENSIONS} extensions")]
    TooMany,
    /// Too many subject alternative names.
    #[error("there are more than {limit} subject alternative names")]
    TooManyNames {
        /// How many are allowed here.
        limit: usize,
    },
    /// A URI or DNS name that is not ASCII text.
    #[error("a subject alternative name is not printable ASCII")]
    NameText,
}

/// Key usage bits (RFC 5280 4.2.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUsage {
    /// The first octet of the bit string; digitalSignature is the highest bit.
    bits: u8,
    /// Whether the extension is critical.
    pub critical: bool,
}

impl KeyUsage {
    /// digitalSignature.
    #[must_use]
    pub fn digital_signature(self) -> bool {
        self.bits & 0x80 != 0
    }

    /// keyEncipherment.
    #[must_use]
    pub fn key_encipherment(self) -> bool {
        self.bits & 0x20 != 0
    }

    /// keyAgreement.
    #[must_use]
    pub fn key_agreement(self) -> bool {
        self.bits & 0x08 != 0
    }

    /// keyCertSign.
    #[must_use]
    pub fn key_cert_sign(self) -> bool {
        self.bits & 0x04 != 0
    }

    /// cRLSign.
    #[must_use]
    pub fn crl_sign(self) -> bool {
        self.bits & 0x02 != 0
    }
}

/// Extended key usage (RFC 5280 4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtendedKeyUsage {
    /// serverAuth.
    pub server_auth: bool,
    /// clientAuth.
    pub client_auth: bool,
    /// anyExtendedKeyUsage.
    pub any: bool,
}

/// Basic constraints (RFC 5280 4.2.1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicConstraints {
    /// cA.
    pub ca: bool,
    /// Whether a path length constraint is there.
    pub has_path_len: bool,
    /// Whether the extension is critical.
    pub critical: bool,
}

/// Subject alternative names (RFC 5280 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AlternativeNames {
    /// URIs, in order.
    pub uris: Vec<String>,
    /// DNS names, in order.
    pub dns_names: Vec<String>,
    /// How many names of other kinds there are.
    pub others: usize,
    /// Whether the extension is critical.
    pub critical: bool,
}

/// The known extensions of a certificate or of a CSR's extension request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    /// Key usage.
    pub key_usage: Option<KeyUsage>,
    /// Extended key usage.
    pub extended_key_usage: Option<ExtendedKeyUsage>,
    /// Basic constraints.
    pub basic_constraints: Option<BasicConstraints>,
    /// Subject alternative names.
    pub names: Option<AlternativeNames>,
    /// Subject key identifier.
    pub subject_key_id: Option<Vec<u8>>,
    /// The key identifier of the authority key identifier.
    pub authority_key_id: Option<Vec<u8>>,
}

impl Extensions {
    /// Reads `Extensions`, DER.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, ExtensionFault> {
        Self::parse_bounded(der, MAX_NAMES)
    }

    /// As [`Extensions::parse`], with at most `max_names` alternative names.
    pub(crate) fn parse_bounded(der: &[u8], max_names: usize) -> Result<Self, ExtensionFault> {
        let list = |cause| ExtensionFault::Malformed { extension: "the extension list", cause };
        let mut found = Self::default();
        let mut seen = BTreeSet::new();
        let mut cursor = Cursor::only_sequence(der).map_err(list)?;
        while !cursor.is_finished() {
            let (id, critical, value) = one(&mut cursor).map_err(list)?;
            if seen.len() >= MAX_EXTENSIONS {
                return Err(ExtensionFault::TooMany);
            }
            if !seen.insert(id) {
                return Err(ExtensionFault::Repeated { oid: oid::dotted(id) });
            }
            found.take(id, critical, value, max_names)?;
        }
        Ok(found)
    }

    fn take(
        &mut self,
        id: &[u8],
        critical: bool,
        value: &[u8],
        max_names: usize,
    ) -> Result<(), ExtensionFault> {
        let named = |extension| move |cause| ExtensionFault::Malformed { extension, cause };
        match id {
            oid::KEY_USAGE => {
                self.key_usage = Some(key_usage(value, critical).map_err(named("key usage"))?);
            }
            oid::EXT_KEY_USAGE => {
                self.extended_key_usage =
                    Some(extended_key_usage(value).map_err(named("extended key usage"))?);
            }
            oid::BASIC_CONSTRAINTS => {
                self.basic_constraints =
                    Some(basic_constraints(value, critical).map_err(named("basic constraints"))?);
            }
            oid::SUBJECT_ALT_NAME => {
                self.names = Some(alternative_names(value, critical, max_names)?);
            }
            oid::SUBJECT_KEY_ID => {
                let key_id =
                    Cursor::only(value, Tag::OctetString).map_err(named("subject key identifier"))?;
                self.subject_key_id = Some(key_id.value.to_vec());
            }
            oid::AUTHORITY_KEY_ID => {
                self.authority_key_id = authority_key_id(value).map_err(named("authority key identifier"))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether basic constraints say cA; absence means no.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.basic_constraints.is_some_and(|constraints| constraints.ca)
    }
}

fn one<'a>(cursor: &mut Cursor<'a>) -> der::Result<(&'a [u8], bool, &'a [u8])> {
    let mut extension = cursor.sequence()?;
    let id = extension.expect(Tag::ObjectIdentifier)?.value;
    let critical = match extension.optional(Tag::Boolean)? {
        Some(flag) => asn1::boolean(&flag)?,
        None => false,
    };
    let value = extension.expect(Tag::OctetString)?.value;
    extension.finish()?;
    Ok((id, critical, value))
}

fn key_usage(value: &[u8], critical: bool) -> der::Result<KeyUsage> {
    match Cursor::only(value, Tag::BitString)?.value {
        // Named bits are at most nine, so one or two octets (X.680: decipherOnly is the ninth).
        [unused @ 0..=7, bits] if bits.trailing_zeros() >= u32::from(*unused) => {
            Ok(KeyUsage { bits: *bits, critical })
        }
        [7, bits, 0x80] => Ok(KeyUsage { bits: *bits, critical }),
        _ => Err(Tag::BitString.value_error().into()),
    }
}

fn extended_key_usage(value: &[u8]) -> der::Result<ExtendedKeyUsage> {
    let mut cursor = Cursor::only_sequence(value)?;
    let mut usage = ExtendedKeyUsage::default();
    while !cursor.is_finished() {
        match cursor.expect(Tag::ObjectIdentifier)?.value {
            oid::SERVER_AUTH => usage.server_auth = true,
            oid::CLIENT_AUTH => usage.client_auth = true,
            oid::ANY_EXT_KEY_USAGE => usage.any = true,
            _ => {}
        }
    }
    Ok(usage)
}

fn basic_constraints(value: &[u8], critical: bool) -> der::Result<BasicConstraints> {
    let mut cursor = Cursor::only_sequence(value)?;
    let ca = match cursor.optional(Tag::Boolean)? {
        // DER omits a default, but cA FALSE written out is common and harmless.
        Some(flag) => asn1::boolean(&flag)?,
        None => false,
    };
    let path_len = cursor.optional(Tag::Integer)?;
    if let Some(path_len) = &path_len {
        asn1::unsigned(path_len)?;
    }
    cursor.finish()?;
    Ok(BasicConstraints { ca, has_path_len: path_len.is_some(), critical })
}

fn authority_key_id(value: &[u8]) -> der::Result<Option<Vec<u8>>> {
    let mut cursor = Cursor::only_sequence(value)?;
    let key_id = cursor.optional(context(0, false))?.map(|id| id.value.to_vec());
    // Issuer and serial number may follow; nobody here uses them.
    while !cursor.is_finished() {
        cursor.next()?;
    }
    Ok(key_id)
}

fn alternative_names(
    value: &[u8],
    critical: bool,
    max_names: usize,
) -> Result<AlternativeNames, ExtensionFault> {
    let malformed = |cause| ExtensionFault::Malformed { extension: "subject alternative name", cause };
    let mut names = AlternativeNames { critical, ..AlternativeNames::default() };
    let mut cursor = Cursor::only_sequence(value).map_err(malformed)?;
    while !cursor.is_finished() {
        let name = cursor.next().map_err(malformed)?;
        if names.uris.len() + names.dns_names.len() + names.others >= max_names {
            return Err(ExtensionFault::TooManyNames { limit: max_names });
        }
        match name.tag {
            Tag::ContextSpecific { constructed: false, number } if number.value() == 6 => {
                names.uris.push(text(name.value)?);
            }
            Tag::ContextSpecific { constructed: false, number } if number.value() == 2 => {
                names.dns_names.push(text(name.value)?);
            }
            Tag::ContextSpecific { .. } => names.others += 1,
            other => return Err(malformed(other.unexpected_error(None).into())),
        }
    }
    Ok(names)
}

/// IA5String content without control characters: a NUL inside a name has fooled others.
fn text(value: &[u8]) -> Result<String, ExtensionFault> {
    if !value.iter().all(|b| (0x20..0x7f).contains(b)) {
        return Err(ExtensionFault::NameText);
    }
    Ok(value.iter().copied().map(char::from).collect())
}
