#![no_main]
//! Any bytes as a state file: refused, and what is sealed is unsealed.

use hardroot_runtime::state::{seal, unseal};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(payload) = unseal(data) {
        assert_eq!(&**seal(payload), data);
    }
    assert_eq!(unseal(&seal(data)), Ok(data));
});
