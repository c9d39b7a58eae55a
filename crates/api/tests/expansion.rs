//! What requests cost in memory, by an allocator that counts: those that would grow beyond the bound cost nothing, and
//! what is accepted stays within it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use hardroot_api::expansion::{MOST_FOR_EACH_BYTE, Shaped, check};
use hardroot_api::spire::api::server::agent::v1::{ListAgentsRequest, list_agents_request};
use hardroot_api::spire::api::server::bundle::v1::BatchSetFederatedBundleRequest;
use hardroot_api::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, SyncAuthorizedEntriesRequest,
};
use hardroot_api::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use hardroot_api::spire::api::server::trustdomain::v1::BatchCreateFederationRelationshipRequest;
use hardroot_api::spire::api::types::{
    Bundle, Entry, FederationRelationship, JwtKey, Selector, SelectorMatch, X509Certificate,
};
use hardroot_api::workload::JwtsvidRequest;
use prost::Message;

/// A refusal's own text.
const CONSTANT: u64 = 2048;
/// A list's room is doubled as it grows, and while it is moved the old room is there, too.
const GROWING: u64 = 3;

fn empty<T: Default + Clone>(count: usize) -> Vec<T> {
    vec![T::default(); count]
}

/// Checks and decodes as the codec does. Whether it was accepted, and the most that was allocated.
fn cost<T: Message + Shaped + Default>(bytes: &[u8]) -> (bool, u64) {
    let mut accepted = false;
    let measured = allocation_counter::measure(|| {
        accepted = check(T::SHAPE.unwrap(), bytes).is_ok() && T::decode(bytes).is_ok();
    });
    (accepted, measured.bytes_max)
}

/// `of` makes a request with so many empty items, and a text that long.
fn try_all<T: Message + Shaped + Default>(what: &str, of: impl Fn(usize, String) -> T) {
    let mut refused = 0;
    for size in [8 << 10, 64 << 10, 256 << 10] {
        // From nothing but empty items to few beside a long text.
        for items in [size / 2, size / 4, size / 10, size / 30, size / 60] {
            let bytes = of(items, "x".repeat(size - items * 2)).encode_to_vec();
            let (accepted, peak) = cost::<T>(&bytes);
            let each = u64::try_from(MOST_FOR_EACH_BYTE).unwrap();
            let most = if accepted { u64::try_from(bytes.len()).unwrap() * each * GROWING } else { 0 };
            assert!(
                peak <= most + CONSTANT,
                "{what}: {items} items in {} bytes took {peak} bytes, accepted: {accepted}",
                bytes.len()
            );
            refused += usize::from(!accepted);
        }
    }
    assert!(refused >= 3, "{what}: {refused} requests of empty items were refused");
}

#[test]
fn empty_items_cost_nothing() {
    let entry = |selectors, dns_names, id| Entry { id, selectors, dns_names, ..Entry::default() };
    try_all("entries", |n, id| {
        let mut entries = empty(n);
        entries.push(entry(vec![], vec![], id));
        BatchCreateEntryRequest { entries, ..Default::default() }
    });
    try_all("selectors of an entry", |n, id| BatchUpdateEntryRequest {
        entries: vec![entry(empty::<Selector>(n), vec![], id)],
        ..Default::default()
    });
    try_all("names of an entry", |n, id| BatchCreateEntryRequest {
        entries: vec![entry(vec![], empty(n), id)],
        ..Default::default()
    });
    try_all("ids", |n, id| BatchDeleteEntryRequest { ids: [empty(n), vec![id]].concat() });
    try_all("ids to be in step with", |n, id| SyncAuthorizedEntriesRequest {
        ids: [empty(n), vec![id]].concat(),
        ..Default::default()
    });
    try_all("CSRs", |n, entry_id| {
        let mut params = empty(n);
        params.push(NewX509svidParams { entry_id, csr: Vec::new() });
        BatchNewX509svidRequest { params }
    });
    try_all("audiences", |n, id| NewJwtsvidRequest {
        audience: [empty(n), vec![id]].concat(),
        ..Default::default()
    });
    try_all("audiences of a workload", |n, spiffe_id| JwtsvidRequest { audience: empty(n), spiffe_id });
    try_all("certificates of a bundle", |n, trust_domain| BatchSetFederatedBundleRequest {
        bundle: vec![Bundle {
            trust_domain,
            x509_authorities: empty::<X509Certificate>(n),
            ..Bundle::default()
        }],
        ..Default::default()
    });
    try_all("keys of a relationship's bundle", |n, trust_domain| BatchCreateFederationRelationshipRequest {
        federation_relationships: vec![FederationRelationship {
            trust_domain_bundle: Some(Bundle {
                trust_domain,
                jwt_authorities: empty::<JwtKey>(n),
                ..Bundle::default()
            }),
            ..FederationRelationship::default()
        }],
        ..Default::default()
    });
    try_all("selectors of a filter", |n, page_token| ListAgentsRequest {
        filter: Some(list_agents_request::Filter {
            by_selector_match: Some(SelectorMatch { selectors: empty(n), ..SelectorMatch::default() }),
            ..Default::default()
        }),
        page_token,
        ..Default::default()
    });
}

#[test]
fn batches_of_spires_agents_and_commands_are_accepted() {
    let id = |n: usize| format!("{n:08x}-0000-4000-8000-000000000000");
    // An agent asks for 500 SVIDs at once, and for 1,000 entries.
    let params = (0..1000).map(|n| NewX509svidParams { entry_id: id(n), csr: vec![0x30; 220] }).collect();
    assert!(cost::<BatchNewX509svidRequest>(&BatchNewX509svidRequest { params }.encode_to_vec()).0);
    let sync = SyncAuthorizedEntriesRequest { ids: (0..100_000).map(id).collect(), ..Default::default() };
    assert!(cost::<SyncAuthorizedEntriesRequest>(&sync.encode_to_vec()).0);
    // `entry create -data` sends a whole file in one call: as many short entries as a message holds.
    let path = |path: String| {
        Some(hardroot_api::spire::api::types::Spiffeid { trust_domain: "td".to_owned(), path })
    };
    let entry = |n: usize| Entry {
        spiffe_id: path(format!("/{n}")),
        parent_id: path("/a".to_owned()),
        selectors: vec![Selector { r#type: "unix".to_owned(), value: format!("uid:{n}") }],
        ..Entry::default()
    };
    let entries = BatchCreateEntryRequest { entries: (0..80_000).map(entry).collect(), output_mask: None };
    let bytes = entries.encode_to_vec();
    assert!(bytes.len() > 3 << 20 && bytes.len() < 5 << 20, "{}", bytes.len());
    assert!(cost::<BatchCreateEntryRequest>(&bytes).0);
}
