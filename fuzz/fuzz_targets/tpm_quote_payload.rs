//! An opening message, decoded and judged as far as a server can without its stores.
#![no_main]

use hardroot_node_attestors::tpm_quote::message::Message;
use hardroot_tpm_attestor::verify::{PublicArea, check_attestation_key, check_endorsement_key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
        if let Message::Evidence(evidence) = &message
            && let (Ok(ek), Ok(ak)) = (PublicArea::parse(evidence.ek_public), PublicArea::parse(evidence.ak_public))
        {
            let _ = check_endorsement_key(&ek).is_ok() && check_attestation_key(&ak).is_ok();
        }
    }
});
