#![no_main]
//! Any bytes as /proc/PID/stat.

use hardroot_agent::peer::proc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(stat) = proc::parse_stat(data) {
        assert!(data.contains(&b')') && data.contains(&stat.state));
    }
});
