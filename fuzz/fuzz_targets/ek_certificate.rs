//! Only the recorded certificate itself is believed.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use hardroot_tpm_attestor::verify::{EkAnchors, PublicArea, certificate_key, spki_key, verify_ek_certificate};
use libfuzzer_sys::fuzz_target;

const EK: &[u8] = include_bytes!("../../tpm-attestor/testdata/swtpm/ek-ec-p384.pub");
const CERTIFICATE: &[u8] = include_bytes!("../../tpm-attestor/testdata/swtpm/ek-ec-p384.der");
const MANUFACTURER: &[u8] = include_bytes!("../../tpm-attestor/testdata/swtpm/manufacturer.pem");

fuzz_target!(|bytes: &[u8]| {
    let ek = PublicArea::parse(EK).expect("the recorded key");
    let anchors = EkAnchors::from_pem([MANUFACTURER]).expect("the recorded manufacturer");
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let judged = verify_ek_certificate(bytes, &[bytes], &anchors, &ek, now);
    assert!(judged.is_err() || bytes == CERTIFICATE);
    for key in [certificate_key(bytes), spki_key(bytes)].into_iter().flatten() {
        assert_eq!(spki_key(&key.spki_der()), Ok(key));
    }
});
