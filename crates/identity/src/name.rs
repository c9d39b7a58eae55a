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

/// A `Name` as text (RFC 2253): the last relative name first, `O=SPIRE,C=US`. Attributes without a short name,
/// and values that are no text, are written as `1.2.3.4=#hex`. Nothing when the bytes are no `Name`.
#[must_use]
pub fn name_text(name_der: &[u8]) -> Option<String> {
    let mut relative = Vec::new();
    let mut names = Cursor::only_sequence(name_der).ok()?;
    while !names.is_finished() {
        let mut pairs = Cursor::new(names.expect(Tag::Set).ok()?.value).ok()?;
        let mut texts = Vec::new();
        while !pairs.is_finished() {
            let mut pair = pairs.sequence().ok()?;
            let kind = pair.expect(Tag::ObjectIdentifier).ok()?.value;
            let value = pair.next().ok()?;
            pair.finish().ok()?;
            texts.push(pair_text(kind, value));
        }
        relative.push(texts.join("+"));
    }
    relative.reverse();
    Some(relative.join(","))
}

fn pair_text(kind: &[u8], value: asn1::Element<'_>) -> String {
    let short = match kind {
        oid::COUNTRY => Some("C"),
        oid::ORGANIZATION => Some("O"),
        oid::ORGANIZATIONAL_UNIT => Some("OU"),
        oid::LOCALITY => Some("L"),
        oid::STATE => Some("ST"),
        oid::STREET => Some("STREET"),
        oid::POSTAL_CODE => Some("POSTALCODE"),
        oid::COMMON_NAME => Some("CN"),
        oid::SERIAL_NUMBER => Some("SERIALNUMBER"),
        _ => None,
    };
    let is_text = matches!(value.tag, Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
    match (short, std::str::from_utf8(value.value)) {
        (Some(short), Ok(text)) if is_text => format!("{short}={}", escaped(text)),
        _ => {
            let hex: String = value.raw.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{}=#{hex}", oid::dotted(kind))
        }
    }
}

/// What RFC 2253 2.4 escapes.
fn escaped(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        if special || (c == '#' && at == 0) || (c == ' ' && (at == 0 || at == last)) {
            out.push('\\');
        }
        out.push(c);
    }
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_text() {
        let name = DistinguishedName {
            country: vec!["US".to_owned()],
            organization: vec!["b, Inc".to_owned(), "a".to_owned()],
            organizational_unit: vec![" x ".to_owned()],
            common_name: "#1 \"é\"".to_owned(),
            serial_number: "7".to_owned(),
        };
        let text = name_text(&name.to_der()).unwrap();
        assert_eq!(text, r#"SERIALNUMBER=7,CN=\#1 \"é\",OU=\ x\ ,O=a+O=b\, Inc,C=US"#);
        let other = relative_name(&[0x2a, 0x03], &["a".to_owned()]);
        assert_eq!(name_text(&join(&[other])).unwrap(), "1.2.3=#130161");
        assert_eq!(name_text(&DistinguishedName::default_svid().to_der()).unwrap(), "O=SPIRE,C=US");
        assert_eq!(name_text(&[]), None);
        assert_eq!(name_text(&[0x30, 0x02, 0x31, 0x05]), None);
    }
}
