//! Public keys as a PKCS#11 token hands them out: an EC point, or an RSA modulus and exponent.
#![no_main]

use hardroot_hsm_keymanager::{KeyType, ec_point, ec_public_key, rsa_public_key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096] {
        if let Ok(public) = ec_public_key(kind, data) {
            assert!(ec_point(&public).is_none_or(|point| data.ends_with(point)));
        }
        let (exponent, modulus) = data.split_at(data.len().min(3));
        if let Ok(public) = rsa_public_key(kind, modulus, exponent) {
            assert!(public.spki_der.len() > modulus.len() / 2);
        }
    }
});
