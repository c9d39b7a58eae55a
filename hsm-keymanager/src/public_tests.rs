use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair, RsaKeyPair};
use proptest::prelude::*;

use super::*;

fn ec_pair(kind: KeyType) -> EcdsaKeyPair {
    EcdsaKeyPair::generate(match kind {
        KeyType::EcP384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        _ => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
    })
    .unwrap()
}

#[test]
fn points_are_read_by_their_exact_length() {
    for kind in [KeyType::EcP256, KeyType::EcP384] {
        let pair = ec_pair(kind);
        let point = pair.public_key().as_ref();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let wrapped = [&[0x04, point.len() as u8], point].concat();
        for form in [point, &wrapped] {
            let public = ec_public_key(kind, form).unwrap();
            assert_eq!(public.spki_der, spki.as_ref());
            assert_eq!(ec_point(&public).unwrap(), point);
        }
        let other = if kind == KeyType::EcP256 { KeyType::EcP384 } else { KeyType::EcP256 };
        assert!(matches!(ec_public_key(other, point), Err(BadPublicKey::PointLength { .. })));
        assert!(matches!(
            ec_public_key(kind, &wrapped[..wrapped.len() - 1]),
            Err(BadPublicKey::PointLength { .. })
        ));
        let mut header = wrapped.clone();
        header[1] ^= 1;
        assert_eq!(ec_public_key(kind, &header), Err(BadPublicKey::PointHeader));
        let mut off = point.to_vec();
        off[5] ^= 1;
        assert_eq!(ec_public_key(kind, &off), Err(BadPublicKey::NotOnCurve { kind }));
        let mut compressed = point.to_vec();
        compressed[0] = 0x02;
        assert_eq!(ec_public_key(kind, &compressed), Err(BadPublicKey::NotOnCurve { kind }));
    }
}

#[test]
fn a_bare_point_that_looks_like_der_is_still_a_bare_point() {
    // 0x04 0x41 at the start of a 65-byte point: read as DER it would be an OCTET STRING cut short.
    let mut tries = 0;
    let point = loop {
        let pair = ec_pair(KeyType::EcP256);
        if pair.public_key().as_ref()[1] == 0x41 {
            break pair.public_key().as_ref().to_vec();
        }
        tries += 1;
        assert!(tries < 100_000);
    };
    assert_eq!(ec_point(&ec_public_key(KeyType::EcP256, &point).unwrap()).unwrap(), point);
}

#[test]
fn rsa_numbers_become_the_spki_that_the_library_writes() {
    let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let spki = spki.as_ref();
    // SEQUENCE, algorithm (15), BIT STRING header (5), SEQUENCE (4), INTEGER header (4) and its zero byte.
    let modulus = &spki[spki.len() - 256 - 5..spki.len() - 5];
    let public = rsa_public_key(KeyType::Rsa2048, modulus, &[1, 0, 1]).unwrap();
    assert_eq!(public.spki_der, spki);
    let padded = [&[0, 0], modulus].concat();
    assert_eq!(rsa_public_key(KeyType::Rsa2048, &padded, &[0, 1, 0, 1]).unwrap().spki_der, spki);
    assert!(matches!(
        rsa_public_key(KeyType::Rsa4096, modulus, &[1, 0, 1]),
        Err(BadPublicKey::Rsa { bits: 2048, .. })
    ));
    assert!(matches!(rsa_public_key(KeyType::Rsa2048, modulus, &[]), Err(BadPublicKey::Rsa { .. })));
    assert!(rsa_public_key(KeyType::Rsa2048, &modulus[1..], &[1, 0, 1]).is_err());
}

#[test]
fn raw_signatures_become_der_that_verifies() {
    let rng = aws_lc_rs::rand::SystemRandom::new();
    for kind in [KeyType::EcP256, KeyType::EcP384] {
        let pair = ec_pair(kind);
        let public = ec_public_key(kind, pair.public_key().as_ref()).unwrap();
        let hash = if kind == KeyType::EcP384 { HashAlgorithm::Sha384 } else { HashAlgorithm::Sha256 };
        let digest = Digest::of(hash, b"message");
        // Enough tries to meet short and high-bit numbers.
        for _ in 0..300 {
            let raw = pair.sign(&rng, b"message").unwrap();
            let der = ecdsa_der(kind, raw.as_ref()).unwrap();
            assert!(verify(&public, SignatureScheme::Ecdsa, &digest, &der));
        }
        assert_eq!(ecdsa_der(kind, &[]), None);
        assert_eq!(ecdsa_der(kind, &[1; 63]), None);
        assert_eq!(ecdsa_der(kind, &[1; 98]), None);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096] {
            if let Ok(public) = ec_public_key(kind, &bytes) {
                prop_assert!(bytes.ends_with(ec_point(&public).unwrap()));
            }
            drop(rsa_public_key(kind, &bytes, &[1, 0, 1]));
            drop(ecdsa_der(kind, &bytes));
        }
    }

    #[test]
    fn der_integers_hold_the_number(raw in proptest::collection::vec(any::<u8>(), 64)) {
        let der = ecdsa_der(KeyType::EcP256, &raw).unwrap();
        prop_assert_eq!(der[0], 0x30);
        prop_assert_eq!(der[1] as usize + 2, der.len());
        let r_len = der[3] as usize;
        prop_assert_eq!(trim(&der[4..4 + r_len]), trim(&raw[..32]));
        prop_assert!(der[4] & 0x80 == 0);
        prop_assert_eq!(trim(&der[4 + r_len + 2..]), trim(&raw[32..]));
    }
}
