#![no_main]
//! Files beside the keys: SPIRE's `keys.json`, wrapped TPM keys, the TPM attestor's state (each behind its checksum).

use hardroot_hsm_keymanager::disk::DiskKeyManager;
use hardroot_hsm_keymanager::{KeyId, tpm};
use hardroot_identity::TrustDomain;
use hardroot_node_attestors::tpm_quote::reads_state;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = DiskKeyManager::from_text(data, "keys.json") {
        assert!(error.to_string().contains("keys.json"));
    }
    let _wrapped = tpm::reads_key_file(&KeyId::new("agent-svid-A").expect("an id"), data);
    let _state = reads_state(data, &TrustDomain::new("example.org").expect("a name"));
});
