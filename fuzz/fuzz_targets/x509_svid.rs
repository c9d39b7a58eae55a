//! Chains: the input is cut at its DER elements. Nothing signed by nobody is trusted.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use hardroot_identity::{Bundle, Issuer, TrustDomain, X509Svid, verify_x509_svid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    let Ok(trust_domain) = TrustDomain::new("example.org") else { return };
    let chain = match Bundle::from_der_concat(trust_domain.clone(), der) {
        Ok(bundle) => bundle.x509_authorities.into_iter().map(|authority| authority.der).collect(),
        Err(_) => vec![der.to_vec()],
    };
    if let Ok(svid) = X509Svid::parse(chain.clone()) {
        assert!(!svid.id.path().is_empty());
        let empty = Bundle::new(svid.id.trust_domain());
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert!(verify_x509_svid(&chain, &empty, now).is_err());
    }
    let _issuer = Issuer::from_certificate(der).is_ok();
});
