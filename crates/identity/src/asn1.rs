//! The little DER this crate needs: a strict reader on top of `der`, and a writer that keeps foreign bytes
//! as they are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use der::asn1::{GeneralizedTime, UtcTime};
use der::{Decode, ErrorKind, Header, Reader, SliceReader, Tag, TagNumber};

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// One element: its tag, its content, and all of its bytes as they stood in the input.
#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: Tag,
    pub(crate) value: &'a [u8],
    pub(crate) raw: &'a [u8],
}

/// A cursor over consecutive elements.
#[derive(Clone)]
pub(crate) struct Cursor<'a>(SliceReader<'a>);

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> der::Result<Self> {
        SliceReader::new(bytes).map(Self)
    }

    /// The only element of `bytes`, which must have `tag` and nothing behind it.
    pub(crate) fn only(bytes: &'a [u8], tag: Tag) -> der::Result<Element<'a>> {
        let mut cursor = Self::new(bytes)?;
        let element = cursor.expect(tag)?;
        cursor.finish()?;
        Ok(element)
    }

    /// A cursor over the content of the only element of `bytes`, a SEQUENCE.
    pub(crate) fn only_sequence(bytes: &'a [u8]) -> der::Result<Self> {
        Self::new(Self::only(bytes, Tag::Sequence)?.value)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    pub(crate) fn finish(self) -> der::Result<()> {
        self.0.finish()
    }

    pub(crate) fn next(&mut self) -> der::Result<Element<'a>> {
        let header = Header::peek(&self.0)?;
        let raw = self.0.tlv_bytes()?;
        let value_at = raw.len().saturating_sub(usize::try_from(header.length())?);
        Ok(Element { tag: header.tag(), value: raw.get(value_at..).unwrap_or_default(), raw })
    }

    pub(crate) fn expect(&mut self, tag: Tag) -> der::Result<Element<'a>> {
        let element = self.next()?;
        element.tag.assert_eq(tag)?;
        Ok(element)
    }

    /// The next element when it has `tag`; otherwise the cursor stays where it is.
    pub(crate) fn optional(&mut self, tag: Tag) -> der::Result<Option<Element<'a>>> {
        if self.is_finished() || Tag::peek(&self.0)? != tag { Ok(None) } else { self.next().map(Some) }
    }

    pub(crate) fn sequence(&mut self) -> der::Result<Self> {
        Self::new(self.expect(Tag::Sequence)?.value)
    }

    /// A non-negative INTEGER, big endian without leading zeros (zero itself is one zero byte).
    pub(crate) fn unsigned(&mut self) -> der::Result<&'a [u8]> {
        unsigned(&self.expect(Tag::Integer)?)
    }

    /// A BIT STRING whose length is a whole number of octets.
    pub(crate) fn whole_bits(&mut self) -> der::Result<&'a [u8]> {
        match self.expect(Tag::BitString)?.value {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(Tag::BitString.value_error().into()),
        }
    }

    /// UTCTime or GeneralizedTime in the forms RFC 5280 4.1.2.5 allows.
    pub(crate) fn time(&mut self) -> der::Result<SystemTime> {
        let element = self.next()?;
        let since_epoch = match element.tag {
            Tag::UtcTime => UtcTime::from_der(element.raw)?.to_unix_duration(),
            Tag::GeneralizedTime => GeneralizedTime::from_der(element.raw)?.to_unix_duration(),
            other => return Err(other.unexpected_error(Some(Tag::UtcTime)).into()),
        };
        UNIX_EPOCH.checked_add(since_epoch).ok_or_else(|| ErrorKind::DateTime.into())
    }
}

/// The magnitude of a non-negative INTEGER in its shortest form.
pub(crate) fn unsigned<'a>(element: &Element<'a>) -> der::Result<&'a [u8]> {
    match element.value {
        [0] => Ok(element.value),
        [0, rest @ ..] if rest.first().is_some_and(|b| b & 0x80 != 0) => Ok(rest),
        [first, ..] if *first != 0 && first & 0x80 == 0 => Ok(element.value),
        _ => Err(Tag::Integer.non_canonical_error().into()),
    }
}

/// A BOOLEAN in DER: 0x00 or 0xFF.
pub(crate) fn boolean(element: &Element<'_>) -> der::Result<bool> {
    match element.value {
        [0x00] => Ok(false),
        [0xff] => Ok(true),
        _ => Err(Tag::Boolean.non_canonical_error().into()),
    }
}

pub(crate) fn context(number: u32, constructed: bool) -> Tag {
    TagNumber(number).context_specific(constructed)
}

/// Writes one element around the concatenation of `parts`.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(len.saturating_add(6));
    out.push(tag);
    match u8::try_from(len) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = len.to_be_bytes();
            let significant =
                bytes.iter().position(|b| *b != 0).map_or(&bytes[..0], |at| bytes.split_at(at).1);
            // At most eight length bytes, so the count fits the low bits.
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
            out.extend_from_slice(significant);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// Writes a non-negative INTEGER from big-endian bytes.
pub(crate) fn integer(magnitude: &[u8]) -> Vec<u8> {
    let start = magnitude.iter().position(|b| *b != 0).unwrap_or(magnitude.len());
    let significant = magnitude.get(start..).unwrap_or_default();
    match significant.first() {
        Some(first) if first & 0x80 == 0 => element(INTEGER, &[significant]),
        _ => element(INTEGER, &[&[0], significant]),
    }
}

/// Writes a time as RFC 5280 4.1.2.5 wants it: UTCTime up to 2049, GeneralizedTime from 2050 on; whole
/// seconds, the fraction is cut.
pub(crate) fn time(at: SystemTime) -> der::Result<Vec<u8>> {
    let since_epoch = at.duration_since(UNIX_EPOCH).ok().ok_or(ErrorKind::DateTime)?;
    let moment = der::DateTime::from_unix_duration(Duration::from_secs(since_epoch.as_secs()))?;
    let tail = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        moment.month(),
        moment.day(),
        moment.hour(),
        moment.minutes(),
        moment.seconds()
    );
    Ok(if moment.year() < 2050 {
        element(UTC_TIME, &[format!("{:02}{tail}", moment.year() % 100).as_bytes()])
    } else {
        element(GENERALIZED_TIME, &[format!("{:04}{tail}", moment.year()).as_bytes()])
    })
}

/// A big-endian unsigned number as decimal text.
pub(crate) fn decimal(magnitude: &[u8]) -> String {
    // Nine decimal digits a limb, least significant first.
    const LIMB: u64 = 1_000_000_000;
    let mut limbs: Vec<u64> = vec![0];
    for byte in magnitude {
        let mut carry = u64::from(*byte);
        for limb in &mut limbs {
            let value = *limb * 256 + carry;
            *limb = value % LIMB;
            carry = value / LIMB;
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    let mut digits = limbs.iter().rev();
    let mut text = digits.next().map_or_else(String::new, u64::to_string);
    for limb in digits {
        text.push_str(&format!("{limb:09}"));
    }
    text
}
