//! The agent's stored SVID and entries from a server: never a panic, and nothing that would serve by accident.
#![no_main]

use hardroot_agent::cache::AuthorizedEntry;
use hardroot_agent::storage::StoredSvid;
use hardroot_api::spire::api::types::Entry;
use hardroot_identity::TrustDomain;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    if let Ok(stored) = StoredSvid::decode(data) {
        assert!(!stored.chain.is_empty());
    }
    let trust_domain = TrustDomain::new("example.org").expect("a name");
    if let Ok(wire) = Entry::decode(data)
        && let Ok(entry) = AuthorizedEntry::from_wire(wire, &trust_domain)
    {
        assert!(!entry.selectors.is_empty());
        assert!(entry.spiffe_id.is_member_of(&trust_domain) && !entry.spiffe_id.is_reserved());
    }
});
