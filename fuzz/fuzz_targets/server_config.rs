#![no_main]
//! The server's configuration: a configuration or faults, never a panic and never silence.

use hardroot_server::config::ServerConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = ServerConfig::parse(text, "server.conf") {
        assert!(!error.to_string().is_empty());
    }
});
