//! An attestation is decoded to its last byte or not at all.
#![no_main]

use hardroot_tpm_attestor::verify::Attest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(attest) = Attest::parse(bytes) {
        assert!(bytes.starts_with(&[0xff, 0x54, 0x43, 0x47, 0x80]));
        assert!(attest.extra_data().len() <= 64);
        assert!(bytes.split_last().is_some_and(|(_, cut)| Attest::parse(cut).is_err()));
        assert!(Attest::parse(&[bytes, &[0]].concat()).is_err());
    }
});
