//! X.501 names: written once by us, and otherwise carried as the bytes they came in.

use der::Tag;

use crate::asn1::{self, Cursor};
use crate::oid;

/// A distinguished name made of the attributes that configurations offer. Empty lists write nothing;
/// several values of one attribute share one relative distinguished name, as SPIRE writes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DistinguishedName {
    /// `C`, two letters each.
    pub country: Vec<String>,
    /// `O`.
    pub organization: Vec<String>,
    /// `OU`.
    pub organizational_unit: Vec<String>,
    /// `CN`; empty for none.
    pub common_name: String,
    /// The `serialNumber` attribute; empty for none.
    pub serial_number: String,
}

impl DistinguishedName {
    /// `C=US, O=SPIFFE`: a CA's subject unless configured otherwise.
    #[must_use]
    pub fn default_ca() -> Self {
        Self { country: vec!["US".to_owned()], organization: vec!["SPIFFE".to_owned()], ..Self::default() }
    }

    /// `C=US, O=SPIRE`: the subject of every SVID.
    #[must_use]
    pub fn default_svid() -> Self {
        Self { country: vec!["US".to_owned()], organization: vec!["SPIRE".to_owned()], ..Self::default() }
    }

    /// `Name`, DER, in the order C, O, OU, CN, serialNumber.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let mut parts = Vec::new();
        let single = |value: &String| if value.is_empty() { vec![] } else { vec![value.clone()] };
        for (attribute, values) in [
            (oid::COUNTRY, self.country.clone()),
            (oid::ORGANIZATION, self.organization.clone()),
            (oid::ORGANIZATIONAL_UNIT, self.organizational_unit.clone()),
            (oid::COMMON_NAME, single(&self.common_name)),
            (oid::SERIAL_NUMBER, single(&self.serial_number)),
        ] {
            if !values.is_empty() {
                parts.push(relative_name(attribute, &values));
            }
        }
        join(&parts)
    }
}

/// Whether the bytes are a `Name` (RFC 5280 4.1.2.4): sets of pairs of type and value.
pub(crate) fn check(name_der: &[u8]) -> der::Result<()> {
    let mut names = Cursor::only_sequence(name_der)?;
    while !names.is_finished() {
        let mut pairs = Cursor::new(names.expect(Tag::Set)?.value)?;
        // An empty set is no relative name, so there is always a first pair.
        loop {
            let mut pair = pairs.sequence()?;
            pair.expect(Tag::ObjectIdentifier)?;
            pair.next()?;
            pair.finish()?;
            if pairs.is_finished() {
                break;
            }
        }
    }
    Ok(())
}

/// Whether a `Name` has no relative distinguished name at all.
pub(crate) fn is_empty(name_der: &[u8]) -> bool {
    Cursor::only_sequence(name_der).is_ok_and(|names| names.is_finished())
}

/// `name_der` without its attributes of type `attribute`, and with `attribute=value` put at the place
/// where SPIRE's order (C, O, OU, L, ST, STREET, POSTALCODE, CN, serialNumber) has it. All other relative
/// names keep their bytes.
pub(crate) fn with_attribute(name_der: &[u8], attribute: &[u8], value: &str) -> der::Result<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut insert_at = None;
    let mut names = Cursor::only_sequence(name_der)?;
    while !names.is_finished() {
        let set = names.expect(Tag::Set)?;
        let (kept, types) = without(set.value, attribute)?;
        if insert_at.is_none() && types.iter().any(|found| rank(found) > rank(attribute)) {
            insert_at = Some(parts.len());
        }
        match kept {
            Kept::All => parts.push(set.raw.to_vec()),
            Kept::Some(rest) => parts.push(rest),
            Kept::Nothing => {}
        }
    }
    parts.insert(insert_at.unwrap_or(parts.len()), relative_name(attribute, &[value.to_owned()]));
    Ok(join(&parts))
}

enum Kept {
    All,
    Some(Vec<u8>),
    Nothing,
}

/// One relative name without the attributes of type `unwanted`, and the types of those that stay.
fn without<'a>(set: &'a [u8], unwanted: &[u8]) -> der::Result<(Kept, Vec<&'a [u8]>)> {
    let (mut kept, mut types, mut dropped) = (Vec::new(), Vec::new(), false);
    let mut cursor = Cursor::new(set)?;
    while !cursor.is_finished() {
        let pair = cursor.expect(Tag::Sequence)?;
        let kind = Cursor::new(pair.value)?.expect(Tag::ObjectIdentifier)?.value;
        if kind == unwanted {
            dropped = true;
        } else {
            kept.push(pair.raw);
            types.push(kind);
        }
    }
    let kept = match (dropped, kept.is_empty()) {
        (false, _) => Kept::All,
        (true, true) => Kept::Nothing,
        (true, false) => Kept::Some(asn1::element(asn1::SET, &kept)),
    };
    Ok((kept, types))
}

/// Place in SPIRE's order; unknown attributes have none and so never attract an insertion.
fn rank(attribute: &[u8]) -> Option<usize> {
    [
        oid::COUNTRY,
        oid::ORGANIZATION,
        oid::ORGANIZATIONAL_UNIT,
        oid::LOCALITY,
        oid::STATE,
        oid::STREET,
        oid::POSTAL_CODE,
        oid::COMMON_NAME,
        oid::SERIAL_NUMBER,
    ]
    .iter()
    .position(|known| *known == attribute)
}

fn relative_name(attribute: &[u8], values: &[String]) -> Vec<u8> {
    let mut pairs: Vec<Vec<u8>> = values
        .iter()
        .map(|value| {
            let tag = if printable(value) { asn1::PRINTABLE_STRING } else { asn1::UTF8_STRING };
            let text = asn1::element(tag, &[value.as_bytes()]);
            asn1::element(asn1::SEQUENCE, &[&asn1::element(asn1::OID, &[attribute]), &text])
        })
        .collect();
    // DER sorts a SET OF by its encodings (X.690 11.6).
    pairs.sort();
    let pairs: Vec<&[u8]> = pairs.iter().map(Vec::as_slice).collect();
    asn1::element(asn1::SET, &pairs)
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    asn1::element(asn1::SEQUENCE, &parts)
}

/// Whether a text fits PrintableString (X.680 41.4).
fn printable(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b))
}
