#![no_main]
//! A node's response and a server's challenge.

use hardroot_node_attestors::x509pop::{Challenge, Response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(response) = Response::from_json(data) {
        assert_eq!(Response::from_json(&response.to_json()).as_ref(), Ok(&response));
    }
    if let Ok(challenge) = Challenge::from_json(data) {
        assert_eq!(Challenge::from_json(&challenge.to_json()).as_ref(), Ok(&challenge));
    }
});
