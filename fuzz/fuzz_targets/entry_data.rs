#![no_main]
//! The files of `entry create -data` and `entry delete -file`: no file is both.

use hardroot_server::cli::count_items;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("hardroot-fuzz-entry-data-{}", std::process::id()));
    std::fs::write(&path, data).expect("a temporary file");
    let [entries, ids] = count_items(&path);
    assert!(entries.is_err() || ids.is_err());
    for error in [entries, ids].into_iter().filter_map(Result::err) {
        assert!(!error.to_string().is_empty());
    }
});
