#![no_main]
//! Any bytes as /proc/PID/stat.

#[allow(dead_code, reason = "each target uses one of the parsers")]
#[path = "../../agent/src/peer/proc.rs"]
mod proc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(stat) = proc::parse_stat(data) {
        assert!(data.contains(&b')') && data.contains(&stat.state));
    }
});
