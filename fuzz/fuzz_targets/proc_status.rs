#![no_main]
//! Any bytes as /proc/PID/status.

#[allow(dead_code, reason = "each target uses one of the parsers")]
#[path = "../../agent/src/peer/proc.rs"]
mod proc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(status) = proc::parse_status(data) {
        // Each id takes a digit at least.
        assert!(status.groups.len() + 8 <= data.len());
    }
});
