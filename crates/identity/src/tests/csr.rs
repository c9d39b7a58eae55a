//! CSRs: honest ones from two makers, and hostile ones, which must be cheap to refuse.

use std::time::{Duration, Instant};

use super::support::{Key, names, seq, uri_name};
use crate::asn1::{self, element};
use crate::{
    BadCsr, BadPublicKey, Csr, DistinguishedName, ExtensionFault, MAX_CSR_BYTES, MAX_CSR_NAMES,
    PublicKeyKind, assemble_csr, check_public_key, csr_to_be_signed, oid,
};

fn honest(key: &Key, uri: Option<&str>) -> Vec<u8> {
    let tbs = csr_to_be_signed(&DistinguishedName::default_svid().to_der(), &key.spki, uri);
    assemble_csr(&tbs, key.alg, &key.sign(&tbs))
}

/// A CSR with this key and these attributes; the signature is noise, which is judged last.
fn unsigned(spki: &[u8], attributes: &[u8]) -> Vec<u8> {
    let info = seq(&[&[asn1::INTEGER, 1, 0], &seq(&[]), spki, &element(0xa0, &[attributes])]);
    let algorithm = crate::SignatureAlgorithm::RsaSha256.identifier();
    seq(&[&info, &algorithm, &element(asn1::BIT_STRING, &[&[0; 257]])])
}

fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = seq(&[&asn1::integer(modulus), &asn1::integer(exponent)]);
    let algorithm = seq(&[&element(asn1::OID, &[oid::RSA_ENCRYPTION]), &[5, 0]]);
    seq(&[&algorithm, &element(asn1::BIT_STRING, &[&[0], &key])])
}

fn ec_spki(curve: &[u8], point: &[u8]) -> Vec<u8> {
    let algorithm = seq(&[&element(asn1::OID, &[oid::EC_PUBLIC_KEY]), curve]);
    seq(&[&algorithm, &element(asn1::BIT_STRING, &[&[0], point])])
}

fn request(extensions: &[u8]) -> Vec<u8> {
    seq(&[&element(asn1::OID, &[oid::EXTENSION_REQUEST]), &element(asn1::SET, &[extensions])])
}

fn san_request(list: &[Vec<u8>]) -> Vec<u8> {
    let value = names(list);
    let extension =
        seq(&[&element(asn1::OID, &[oid::SUBJECT_ALT_NAME]), &element(asn1::OCTET_STRING, &[&value])]);
    request(&seq(&[&extension]))
}

#[test]
fn honest_csrs_are_read() {
    for (key, kind) in [
        (Key::p256(), PublicKeyKind::EcP256),
        (Key::p384(), PublicKeyKind::EcP384),
        (Key::rsa(), PublicKeyKind::Rsa { bits: 2048 }),
    ] {
        let csr = Csr::parse(&honest(&key, Some("spiffe://example.org/w"))).unwrap();
        assert_eq!((csr.key_kind, csr.spki_der, csr.signature_valid), (kind, key.spki, true));
        assert_eq!(csr.uris, ["spiffe://example.org/w"]);
        assert_eq!(csr.subject_der, DistinguishedName::default_svid().to_der());
    }
    // Agents ask for nothing but a certificate.
    let plain = Csr::parse(&honest(&Key::p256(), None)).unwrap();
    assert!(plain.uris.is_empty() && plain.dns_names.is_empty() && plain.signature_valid);
}

#[test]
fn csrs_of_another_maker_are_read() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.example.org".to_owned()]).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI("spiffe://example.org/w".try_into().unwrap()));
    let request = params.serialize_request(&key).unwrap();
    let csr = Csr::parse(request.der()).unwrap();
    assert!(csr.signature_valid);
    assert_eq!(
        (csr.uris.as_slice(), csr.dns_names.as_slice()),
        (&["spiffe://example.org/w".to_owned()][..], &["a.example.org".to_owned()][..])
    );
}

#[test]
fn a_bad_signature_is_reported_but_no_error() {
    let key = Key::p256();
    let tbs = csr_to_be_signed(&seq(&[]), &key.spki, None);
    let by_other = assemble_csr(&tbs, key.alg, &Key::p256().sign(&tbs));
    assert!(!Csr::parse(&by_other).unwrap().signature_valid);
    let mut flipped = honest(&key, None);
    *flipped.last_mut().unwrap() ^= 1;
    assert!(!Csr::parse(&flipped).unwrap().signature_valid);
    let wrong_algorithm = assemble_csr(&tbs, crate::SignatureAlgorithm::RsaSha256, &key.sign(&tbs));
    assert!(!Csr::parse(&wrong_algorithm).unwrap().signature_valid);
}

#[test]
fn weak_and_oversized_keys_are_refused_before_any_cryptography() {
    let modulus = |bytes: usize| [&[0xc3][..], &vec![0xa5; bytes - 1]].concat();
    let exponent = &[1, 0, 1][..];
    let size = |bits, bytes| {
        let spki = rsa_spki(&modulus(bytes), exponent);
        let refused = BadPublicKey::RsaSize { bits, max: 4096 };
        assert_eq!(Csr::parse(&unsigned(&spki, &[])), Err(BadCsr::Key(refused)));
    };
    size(16384, 2048);
    size(8192, 1024);
    size(4104, 513);
    size(1024, 128);
    size(2040, 255);
    // One, even, and 34 bits or more.
    for weak in [&[1][..], &[2], &[1, 0, 0], &[2, 0, 0, 0, 1], &[0xff; 8]] {
        let spki = rsa_spki(&modulus(256), weak);
        assert_eq!(
            Csr::parse(&unsigned(&spki, &[])),
            Err(BadCsr::Key(BadPublicKey::RsaExponent)),
            "{weak:?}"
        );
    }
}

#[test]
fn unknown_curves_and_points_off_the_curve_are_refused() {
    let named = |curve: &[u8]| element(asn1::OID, &[curve]);
    let good = Key::p256().spki;
    let point = &good[good.len() - 65..];
    assert_eq!(check_public_key(&ec_spki(&named(oid::P256), point)), Ok(PublicKeyKind::EcP256));
    let secp256k1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x0a];
    let p224: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x21];
    for curve in [secp256k1, p224] {
        let verdict = check_public_key(&ec_spki(&named(curve), point));
        assert_eq!(verdict, Err(BadPublicKey::Curve { oid: oid::dotted(curve) }));
    }
    let explicit = check_public_key(&ec_spki(&seq(&[&[asn1::INTEGER, 1, 1]]), point));
    assert!(matches!(explicit, Err(BadPublicKey::Curve { .. })));
    assert!(matches!(check_public_key(&ec_spki(&[], point)), Err(BadPublicKey::Curve { .. })));
    let mut off = point.to_vec();
    off[64] ^= 1;
    let compressed = [&[2][..], &point[1..33]].concat();
    for bad in [&off[..], &compressed, &[0], &[4], &[], &point[..64], &[4; 65]] {
        assert_eq!(check_public_key(&ec_spki(&named(oid::P256), bad)), Err(BadPublicKey::Value), "{bad:?}");
    }
    // The point of another curve, and the length of another.
    assert_eq!(check_public_key(&ec_spki(&named(oid::P384), point)), Err(BadPublicKey::Value));
    let ed25519 = seq(&[&seq(&[&named(&[0x2b, 0x65, 0x70])]), &element(asn1::BIT_STRING, &[&[0; 33]])]);
    assert_eq!(check_public_key(&ed25519), Err(BadPublicKey::Algorithm { oid: "1.3.101.112".to_owned() }));
}

#[test]
fn names_are_counted() {
    let key = Key::p256();
    let dns = |count: usize| san_request(&vec![element(0x82, &[b"a.org"]); count]);
    assert_eq!(Csr::parse(&unsigned(&key.spki, &dns(MAX_CSR_NAMES))).unwrap().dns_names.len(), MAX_CSR_NAMES);
    let too_many = BadCsr::Extension(ExtensionFault::TooManyNames { limit: MAX_CSR_NAMES });
    assert_eq!(Csr::parse(&unsigned(&key.spki, &dns(MAX_CSR_NAMES + 1))), Err(too_many));
    let huge = unsigned(&key.spki, &dns(10_000));
    assert_eq!(Csr::parse(&huge), Err(BadCsr::TooLong { len: huge.len() }));
}

#[test]
fn malformed_csrs_are_refused() {
    let key = Key::p256();
    assert_eq!(Csr::parse(&vec![0; MAX_CSR_BYTES + 1]), Err(BadCsr::TooLong { len: MAX_CSR_BYTES + 1 }));
    for bytes in [&[][..], &[0x30], &[0x30, 0], &[0x30, 0x80, 0, 0], b"-----BEGIN CERTIFICATE REQUEST-----"] {
        assert!(matches!(Csr::parse(bytes), Err(BadCsr::Malformed(_))), "{bytes:?}");
    }
    let mut trailing = honest(&key, None);
    trailing.push(0);
    assert!(matches!(Csr::parse(&trailing), Err(BadCsr::Malformed(_))));
    let twice = [san_request(&[uri_name("a:b")]), san_request(&[uri_name("a:b")])].concat();
    assert_eq!(Csr::parse(&unsigned(&key.spki, &twice)), Err(BadCsr::SeveralRequests));
    let info = seq(&[&[asn1::INTEGER, 1, 1], &seq(&[]), &key.spki, &[0xa0, 0]]);
    let version = seq(&[&info, &key.alg.identifier(), &element(asn1::BIT_STRING, &[&[0, 1]])]);
    assert_eq!(Csr::parse(&version), Err(BadCsr::Version));
    // Every truncation is refused, too.
    let good = honest(&key, Some("spiffe://example.org/w"));
    for len in 0..good.len() {
        assert!(Csr::parse(&good[..len]).is_err(), "{len}");
    }
}

#[test]
fn no_csr_costs_five_milliseconds() {
    let modulus = [&[0xc3][..], &[0xa5; 510], &[0xa7]].concat();
    let cases = [
        honest(&Key::rsa(), Some("spiffe://example.org/w")),
        honest(&Key::p384(), None),
        unsigned(&rsa_spki(&modulus, &[1, 0xff, 0xff, 0xff, 0xff]), &[]),
        unsigned(&rsa_spki(&[0xc3; 4000], &[1, 0, 1]), &[]),
        unsigned(&rsa_spki(&modulus, &[0xc3; 512]), &[]),
        unsigned(&Key::p256().spki, &san_request(&vec![element(0x82, &[b"a.org"]); 4_000])),
        unsigned(&Key::p256().spki, &request(&seq(&[&seq(&[]).repeat(15_000)]))),
        [0x30, 0x80].repeat(MAX_CSR_BYTES / 2),
    ];
    for (index, case) in cases.iter().enumerate() {
        // The best of several runs: the machine has other things to do.
        let best = (0..20)
            .map(|_| {
                let start = Instant::now();
                let _outcome = Csr::parse(case).is_ok();
                start.elapsed()
            })
            .min()
            .unwrap();
        assert!(best < Duration::from_millis(5), "case {index} took {best:?}");
    }
}
