//! CSRs and public keys within bounds.
#![no_main]

use hardroot_identity::{Csr, MAX_CSR_BYTES, MAX_CSR_NAMES, check_public_key, subject_key_id};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    if let Ok(csr) = Csr::parse(der) {
        assert!(der.len() <= MAX_CSR_BYTES);
        assert!(csr.uris.len() + csr.dns_names.len() <= MAX_CSR_NAMES);
        assert_eq!(check_public_key(&csr.spki_der), Ok(csr.key_kind));
    }
    let _key = check_public_key(der).is_ok();
    let _id = subject_key_id(der);
});
