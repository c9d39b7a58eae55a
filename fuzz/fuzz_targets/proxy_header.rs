//! PROXY headers: read as the listener does, never past the end, never without end.
#![no_main]

use hardroot_transport::{Parsed, parse_proxy_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut have = 0;
    while let Some(header) = bytes.get(..have) {
        match parse_proxy_header(header) {
            Ok(Parsed::More(more)) => {
                assert!(more > 0 && have + more <= 2_064);
                have += more;
            }
            Ok(Parsed::Whole(_)) | Err(_) => break,
        }
    }
});
