//! Certificates and requests in DER, well-formed in their outer parts and heavy inside.

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..=0x7f => out.push(u8::try_from(len).unwrap()),
        0x80..=0xff => out.extend([0x81, u8::try_from(len).unwrap()]),
        0x100..=0xffff => {
            out.push(0x82);
            out.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        _ => {
            out.push(0x84);
            out.extend(u32::try_from(len).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// ecdsa-with-SHA256
fn algorithm() -> Vec<u8> {
    sequence(&[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]])
}

/// The generator of P-256 as a key.
fn spki() -> Vec<u8> {
    let point = hex::decode(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
         4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    )
    .unwrap();
    let kind = sequence(&[
        &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01],
        &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
    ]);
    sequence(&[&kind, &tlv(0x03, &[&[0][..], &point].concat())])
}

fn certificate(subject: &[u8], extensions: &[u8]) -> Vec<u8> {
    let validity = sequence(&[&tlv(0x17, b"250101000000Z"), &tlv(0x17, b"350101000000Z")]);
    let tbs = sequence(&[
        &[0xa0, 3, 2, 1, 2, 2, 1, 1],
        &algorithm(),
        &sequence(&[]),
        &validity,
        &sequence(&[subject]),
        &spki(),
        &tlv(0xa3, &sequence(&[extensions])),
    ]);
    sequence(&[&tbs, &algorithm(), &[3, 1, 0]])
}

fn extension(oid: &[u8], value: &[u8]) -> Vec<u8> {
    sequence(&[&tlv(6, oid), &tlv(4, value)])
}

fn repeat_to(piece: &[u8], size: usize) -> Vec<u8> {
    piece.repeat(size.saturating_sub(300) / piece.len())
}

/// Every relative distinguished name has one attribute with an empty text.
pub(super) fn many_names(size: usize) -> Vec<u8> {
    let name = tlv(0x31, &sequence(&[&[6, 3, 0x55, 4, 3], &[0x0c, 0]]));
    certificate(&repeat_to(&name, size), &[])
}

/// Unknown extensions, each the shortest there is.
pub(super) fn many_extensions(size: usize) -> Vec<u8> {
    certificate(&[], &repeat_to(&extension(&[0x2a], &[]), size))
}

/// A subject alternative name with as many URIs as fit.
pub(super) fn many_uris(size: usize) -> Vec<u8> {
    let names = sequence(&[&repeat_to(&[0x86, 1, b'a'], size)]);
    certificate(&[], &extension(&[0x55, 0x1d, 0x11], &names))
}

/// Extended key usages of one byte each.
pub(super) fn many_usages(size: usize) -> Vec<u8> {
    let usages = sequence(&[&repeat_to(&[6, 1, 0x2a], size)]);
    certificate(&[], &extension(&[0x55, 0x1d, 0x25], &usages))
}

/// Directory names inside an alternative name, each with many attributes.
pub(super) fn directory_names(size: usize) -> Vec<u8> {
    let attribute = tlv(0x31, &sequence(&[&[6, 3, 0x55, 4, 3], &[0x0c, 0]]));
    let directory = tlv(0xa4, &sequence(&[&repeat_to(&attribute, size)]));
    certificate(&[], &extension(&[0x55, 0x1d, 0x11], &sequence(&[&directory])))
}

/// Empty sequences one after the other, and one in the other.
pub(super) fn sequences(size: usize) -> Vec<u8> {
    repeat_to(&[0x30, 0], size + 300)
}

pub(super) fn nested(size: usize) -> Vec<u8> {
    repeat_to(&[0x30, 0x80], size + 300)
}

/// A request for as many names as fit.
pub(super) fn request(size: usize) -> Vec<u8> {
    let names = sequence(&[&repeat_to(&[0x86, 1, b'a'], size)]);
    let wanted = sequence(&[&extension(&[0x55, 0x1d, 0x11], &names)]);
    let attribute = sequence(&[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 0x0e], &tlv(0x31, &wanted)]);
    let info = sequence(&[&[2, 1, 0], &sequence(&[]), &spki(), &tlv(0xa0, &attribute)]);
    sequence(&[&info, &algorithm(), &[3, 1, 0]])
}

/// A request whose attributes are many and unknown.
pub(super) fn request_attributes(size: usize) -> Vec<u8> {
    let attribute = sequence(&[&[6, 1, 0x2a], &[0x31, 0]]);
    let info = sequence(&[&[2, 1, 0], &sequence(&[]), &spki(), &tlv(0xa0, &repeat_to(&attribute, size))]);
    sequence(&[&info, &algorithm(), &[3, 1, 0]])
}
