//! A decoded public area keeps its bytes, and nothing may follow them.
#![no_main]

use hardroot_tpm_attestor::verify::{PublicArea, check_attestation_key, check_endorsement_key, make_credential};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(public) = PublicArea::parse(bytes) {
        assert_eq!(public.as_bytes(), bytes);
        assert_eq!(public.name().len(), 2 + public.name_alg().size());
        assert!(PublicArea::parse(&[bytes, &[0]].concat()).is_err());
        // No key is both.
        assert!(check_attestation_key(&public).is_err() || check_endorsement_key(&public).is_err());
        if let Ok(credential) = make_credential(&public, &public.name(), &[7; 32]) {
            assert!(credential.id_object.len() <= 256 && credential.encrypted_seed.len() <= 512);
        }
    }
});
