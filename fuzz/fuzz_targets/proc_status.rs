#![no_main]
//! Any bytes as /proc/PID/status.

use hardroot_agent::peer::proc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(status) = proc::parse_status(data) {
        // Each id takes a digit at least.
        assert!(status.groups.len() + 8 <= data.len());
    }
});
