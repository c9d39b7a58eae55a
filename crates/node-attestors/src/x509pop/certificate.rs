//! What x509pop wants to know of a certificate, and what it shows to path templates.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::proof::{Curve, without_zeros};
use crate::template::Value;

/// Largest certificate that is read, in bytes.
const MAX_CERTIFICATE: usize = 32 * 1024;

/// The kinds of key that can prove themselves here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// RSA with a modulus of this many bits.
    Rsa {
        bits: usize,
    },
    Ec(Curve),
    /// Another one: it may sign certificates, it cannot be a leaf's.
    Other,
}

/// A parsed certificate; nothing about trust is implied.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) der: Vec<u8>,
    pub(super) spki_der: Vec<u8>,
    pub(super) key: KeyKind,
    pub(super) digital_signature: bool,
    /// Big-endian, without leading zeros.
    serial: Vec<u8>,
    serial_decimal: String,
    subject: BTreeMap<&'static str, Value>,
    issuer: BTreeMap<&'static str, Value>,
    pub(super) common_name: Option<String>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) uris: Vec<String>,
    dns_names: Vec<String>,
    emails: Vec<String>,
    subject_key_id: Vec<u8>,
    authority_key_id: Vec<u8>,
    version: i64,
    is_ca: bool,
}

/// SHA-1 of a certificate in lower-case hex: SPIRE's fingerprint.
pub(super) fn fingerprint(der: &[u8]) -> String {
    hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, der))
}

impl Certificate {
    /// Reads a certificate of which nothing else follows.
    pub(super) fn parse(der: &[u8]) -> Result<Self, String> {
        if der.len() > MAX_CERTIFICATE {
            return Err(format!("it has {} bytes, at most {MAX_CERTIFICATE} are read", der.len()));
        }
        let (rest, cert) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow it", rest.len()));
        }
        let raw_serial = cert.raw_serial();
        if raw_serial.first().is_some_and(|first| first & 0x80 != 0) {
            return Err("its serial number is negative".to_owned());
        }
        let mut new = Self {
            der: der.to_vec(),
            spki_der: cert.public_key().raw.to_vec(),
            key: key_kind(&cert),
            digital_signature: false,
            serial: without_zeros(raw_serial).to_vec(),
            serial_decimal: cert.tbs_certificate.serial.to_string(),
            subject: name(cert.subject()),
            issuer: name(cert.issuer()),
            common_name: last_text(cert.subject().iter_common_name()),
            ips: Vec::new(),
            uris: Vec::new(),
            dns_names: Vec::new(),
            emails: Vec::new(),
            subject_key_id: Vec::new(),
            authority_key_id: Vec::new(),
            version: i64::from(cert.version().0) + 1,
            is_ca: false,
        };
        let extensions = cert.extensions_map().map_err(|_error| "an extension is there twice".to_owned())?;
        for extension in extensions.values() {
            new.extension(extension.parsed_extension())?;
        }
        Ok(new)
    }

    fn extension(&mut self, extension: &ParsedExtension<'_>) -> Result<(), String> {
        match extension {
            ParsedExtension::KeyUsage(usage) => self.digital_signature = usage.digital_signature(),
            ParsedExtension::BasicConstraints(constraints) => self.is_ca = constraints.ca,
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = id.0.to_vec(),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id =
                    id.key_identifier.as_ref().map(|id| id.0.to_vec()).unwrap_or_default();
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    self.alternative_name(name)?;
                }
            }
            ParsedExtension::ParseError { .. } => return Err("an extension is malformed".to_owned()),
            _ => {}
        }
        Ok(())
    }

    fn alternative_name(&mut self, name: &GeneralName<'_>) -> Result<(), String> {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::IPAddress(octets) => self.ips.push(match octets.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*octets).unwrap_or_default()),
                16 => IpAddr::from(<[u8; 16]>::try_from(*octets).unwrap_or_default()).to_canonical(),
                other => return Err(format!("an IP address among its names has {other} bytes")),
            }),
            GeneralName::Invalid(..) => return Err("one of its alternative names is malformed".to_owned()),
            _ => {}
        }
        Ok(())
    }

    /// Lower-case hex of even length, `00` for zero.
    pub(super) fn serial_hex(&self) -> String {
        if self.serial.is_empty() { "00".to_owned() } else { hex::encode(&self.serial) }
    }

    /// The names under which Go templates know a certificate's fields.
    pub(super) fn template_fields(&self) -> Vec<(&'static str, Value)> {
        let uris = self.uris.iter().map(|uri| uri_value(uri)).collect();
        let ips = self.ips.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        vec![
            ("Subject", Value::record("the subject", self.subject.clone())),
            ("Issuer", Value::record("the issuer", self.issuer.clone())),
            ("SerialNumber", self.serial_decimal.clone().into()),
            ("Version", Value::Int(self.version)),
            ("IsCA", Value::Bool(self.is_ca)),
            ("DNSNames", self.dns_names.clone().into()),
            ("EmailAddresses", self.emails.clone().into()),
            ("IPAddresses", ips.into()),
            ("URIs", Value::List(uris)),
            ("SubjectKeyId", Value::Bytes(self.subject_key_id.clone())),
            ("AuthorityKeyId", Value::Bytes(self.authority_key_id.clone())),
        ]
    }
}

/// A URI with the parts that Go's `url.URL` has as plain fields.
fn uri_value(uri: &str) -> Value {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (host_and_path, _) = rest.split_at(end);
    let (host, path) = host_and_path.split_at(host_and_path.find('/').unwrap_or(host_and_path.len()));
    Value::Struct {
        name: "the URI",
        fields: [
            ("Scheme", scheme.to_ascii_lowercase().into()),
            ("Host", host.into()),
            ("Path", percent_decoded(path).unwrap_or_else(|| path.to_owned()).into()),
        ]
        .into(),
        text: Some(uri.to_owned()),
    }
}

/// `None` for a malformed escape or what is not UTF-8.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            out.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn key_kind(cert: &X509Certificate<'_>) -> KeyKind {
    let spki = cert.public_key();
    match spki.parsed() {
        // key_size() rounds up to bytes; the limits are multiples of eight.
        Ok(PublicKey::RSA(rsa)) => KeyKind::Rsa { bits: rsa.key_size() },
        Ok(PublicKey::EC(_)) => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => KeyKind::Ec(Curve::P256),
                Some("1.3.132.0.34") => KeyKind::Ec(Curve::P384),
                Some("1.3.132.0.35") => KeyKind::Ec(Curve::P521),
                _ => KeyKind::Other,
            }
        }
        _ => KeyKind::Other,
    }
}

fn last_text<'a>(
    attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Option<String> {
    attributes
        .filter_map(|attribute| attribute.as_str().ok())
        .last()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// Go's `pkix.Name`: lists, but CommonName and SerialNumber, of which the last one counts.
fn name(name: &X509Name<'_>) -> BTreeMap<&'static str, Value> {
    let list = |oid: &str| -> Value {
        name.iter_attributes()
            .filter(|attribute| attribute.attr_type().to_id_string() == oid)
            .filter_map(|attribute| attribute.as_str().ok())
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .into()
    };
    let last = |oid: &str| -> Value {
        let of_kind = name.iter_attributes().filter(|attribute| attribute.attr_type().to_id_string() == oid);
        last_text(of_kind).unwrap_or_default().into()
    };
    [
        ("Country", list("2.5.4.6")),
        ("Organization", list("2.5.4.10")),
        ("OrganizationalUnit", list("2.5.4.11")),
        ("Locality", list("2.5.4.7")),
        ("Province", list("2.5.4.8")),
        ("StreetAddress", list("2.5.4.9")),
        ("PostalCode", list("2.5.4.17")),
        ("SerialNumber", last("2.5.4.5")),
        ("CommonName", last("2.5.4.3")),
    ]
    .into()
}
