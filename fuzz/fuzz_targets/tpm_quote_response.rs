//! A response that was not made by the recorded attestation key is never taken for a quote or a certification.
#![no_main]

use hardroot_node_attestors::tpm_quote::message::{Message, QuoteResponse};
use hardroot_tpm_attestor::verify::{
    HashAlg, PcrPolicy, PublicArea, check_certification, check_quote, signed_attestation,
};
use libfuzzer_sys::fuzz_target;

const AK: &[u8] = include_bytes!("../../tpm-attestor/testdata/swtpm/ak-ec-p384.pub");

fn judge(quote: &QuoteResponse<'_>) {
    let ak = PublicArea::parse(AK).expect("the recorded key");
    let policy = PcrPolicy::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7]).expect("a policy");
    if let Ok(attest) = signed_attestation(&ak, quote.attest, quote.signature) {
        // A recorded attestation may come back, but never for this nonce.
        let values: Vec<&[u8]> = quote.values.chunks(32).collect();
        assert!(check_quote(&attest, &[0; 32], &ak, &policy, &values).is_err());
    }
}

fuzz_target!(|bytes: &[u8]| {
    match Message::decode(bytes) {
        Ok(Message::Response { certify_attest, certify_signature, key_public, quote, .. }) => {
            judge(&quote);
            let ak = PublicArea::parse(AK).expect("the recorded key");
            if let (Ok(attest), Ok(key)) =
                (signed_attestation(&ak, certify_attest, certify_signature), PublicArea::parse(key_public))
            {
                assert!(check_certification(&attest, &[0; 32], &key, &key.key().spki_der()).is_err());
            }
        }
        Ok(Message::RenewResponse(quote)) => judge(&quote),
        _ => {}
    }
});
