//! An accepted selector is written back as it came.
#![no_main]

use hardroot_identity::Selector;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string(), text);
        assert!(!selector.kind().contains(':') && !selector.kind().is_empty() && !selector.value().is_empty());
    }
});
