//! An accepted bundle document says the same after it was written by us.
#![no_main]

use hardroot_identity::{Bundle, TrustDomain, bundles_from_map, bundles_to_map};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| {
    let Ok(trust_domain) = TrustDomain::new("example.org") else { return };
    if let Ok(bundle) = Bundle::from_jwks(trust_domain.clone(), document) {
        let again = Bundle::from_jwks(trust_domain.clone(), &bundle.to_jwks());
        // Authorities with keys that have no JWK form may be lost, nothing else.
        let again = again.expect("our own document is readable");
        assert_eq!(again.jwt_authorities, bundle.jwt_authorities);
        assert_eq!(again.sequence_number, bundle.sequence_number);
        assert_eq!(again.refresh_hint, bundle.refresh_hint);
        assert!(again.x509_authorities.len() <= bundle.x509_authorities.len());
    }
    if let Ok(bundles) = bundles_from_map(document) {
        assert!(bundles_from_map(&bundles_to_map(&bundles)).is_ok());
    }
    if let Ok(bundle) = Bundle::from_pem(trust_domain.clone(), document) {
        assert_eq!(Bundle::from_pem(trust_domain.clone(), bundle.x509_pem().as_bytes()).ok(), Some(bundle));
    }
    if let Ok(bundle) = Bundle::from_der_concat(trust_domain.clone(), document) {
        assert_eq!(Bundle::from_der_concat(trust_domain, &bundle.x509_der_concat()).ok(), Some(bundle));
    }
});
