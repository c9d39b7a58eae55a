//! An accepted ID is written back as it came, and its parts make it again.
#![no_main]

use hardroot_identity::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.as_str(), text);
        assert!(text.len() <= 2048);
        assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()), Ok(id.clone()));
        assert_eq!(TrustDomain::from_name_or_id(text), Ok(id.trust_domain()));
    }
    if let Ok(name) = TrustDomain::new(text) {
        assert_eq!(name.id().trust_domain(), name);
    }
});
