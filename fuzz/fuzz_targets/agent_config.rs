//! The agent's configuration: faults, never a panic.
#![no_main]

use hardroot_agent::config::{Overrides, decode};
use hardroot_config::Document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(document) = Document::parse(text)
        && let Err(faults) = decode(&document, "agent.conf", &Overrides::default())
    {
        assert!(!faults.to_string().is_empty());
    }
});
