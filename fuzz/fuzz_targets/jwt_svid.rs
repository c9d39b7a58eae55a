//! Tokens against a bundle that was read from the same input: none may verify but one that its key signed,
//! which a fuzzer cannot do.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use hardroot_identity::{Bundle, TrustDomain, verify_jwt_svid};
use libfuzzer_sys::fuzz_target;

/// A P-256 key whose private half nobody has kept.
const KEYS: &[u8] = br#"{"keys":[{"kty":"EC","use":"jwt-svid","kid":"k","crv":"P-256",
"x":"Zq_97IN1zdnbBLnJodURl5oClO4-53yED0sw-FCTNOo","y":"dSitr63g7Wx0eOWsVeveWg-E1S5b3oWMkeS6jkhyWK4"}]}"#;

fuzz_target!(|token: &str| {
    let Ok(trust_domain) = TrustDomain::new("example.org") else { return };
    let bundle = Bundle::from_jwks(trust_domain, KEYS).expect("the bundle is readable");
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let verdict = verify_jwt_svid(token, &["audience"], |_| Some(&bundle), now, Duration::from_secs(60));
    assert!(verdict.is_err());
});
