//! No made-up signature verifies.
#![no_main]

use hardroot_tpm_attestor::verify::{PublicArea, Signature};
use libfuzzer_sys::fuzz_target;

const AK: &[u8] = include_bytes!("../../tpm-attestor/testdata/swtpm/ak-ec-p384.pub");

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signature) = Signature::parse(bytes) {
        let ak = PublicArea::parse(AK).expect("the recorded key");
        assert!(signature.verify(&ak, b"never signed").is_err());
        assert!(Signature::parse(&[bytes, &[0]].concat()).is_err());
    }
});
