//! The little DER that TPM keys need: key infos and signatures.

use crate::verify::Curve;

const OID_EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// One element: tag, length, content.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(length + 5);
    out.push(tag);
    if length < 0x80 {
        out.push(u8::try_from(length).unwrap_or(0x7f));
    } else {
        let bytes = length.to_be_bytes();
        let significant = bytes.get(bytes.iter().take_while(|b| **b == 0).count()..).unwrap_or_default();
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or(0));
        out.extend_from_slice(significant);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A non-negative INTEGER from big-endian bytes.
pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    let significant = bytes.get(zeros..).unwrap_or_default();
    match significant.first() {
        None => element(0x02, &[&[0]]),
        Some(first) if first & 0x80 != 0 => element(0x02, &[&[0], significant]),
        Some(_) => element(0x02, &[significant]),
    }
}

/// An ECDSA signature (RFC 3279 2.2.3).
pub(crate) fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    element(0x30, &[&integer(r), &integer(s)])
}

/// RSA SubjectPublicKeyInfo with exponent 65537 (RFC 3279 2.3.1).
pub(crate) fn rsa_spki(modulus: &[u8]) -> Vec<u8> {
    let key = element(0x30, &[&integer(modulus), &integer(&[1, 0, 1])]);
    let algorithm = element(0x30, &[&element(0x06, &[OID_RSA]), &[0x05, 0x00]]);
    element(0x30, &[&algorithm, &element(0x03, &[&[0], &key])])
}

/// EC SubjectPublicKeyInfo with a named curve (RFC 5480 2).
pub(crate) fn ec_spki(curve: Curve, point: &[u8]) -> Vec<u8> {
    let oid = match curve {
        Curve::P256 => OID_P256,
        Curve::P384 => OID_P384,
    };
    let algorithm = element(0x30, &[&element(0x06, &[OID_EC_PUBLIC_KEY]), &element(0x06, &[oid])]);
    element(0x30, &[&algorithm, &element(0x03, &[&[0], point])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_minimal_and_never_negative() {
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [2, 1, 0]);
    }

    #[test]
    fn long_lengths_have_their_own_bytes() {
        assert_eq!(element(4, &[&[7; 200]])[..3], [4, 0x81, 200]);
        assert_eq!(element(4, &[&[7; 300]])[..4], [4, 0x82, 1, 44]);
    }
}
