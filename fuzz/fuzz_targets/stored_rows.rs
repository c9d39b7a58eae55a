#![no_main]
//! What the server reads back from its database: the bundle, the journal, the certificates in both, a node's record.

use std::time::{Duration, UNIX_EPOCH};

use hardroot_api::expansion::decode_stored;
use hardroot_api::spire::server::journal;
use hardroot_hsm_keymanager::{KeyType, ec_public_key};
use hardroot_identity::TrustDomain;
use hardroot_node_attestors::tpm_quote::reads_record;
use hardroot_server::authority::published;
use hardroot_server::authority::slots::{CaFacts, SlotId, active_by};
use libfuzzer_sys::fuzz_target;


/// The generator of P-256 as a public key (SEC 2, 2.4.2): a point that everybody knows.
const POINT: [u8; 65] = [
    4, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d,
    0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f,
    0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40,
    0x68, 0x37, 0xbf, 0x51, 0xf5,
];

fuzz_target!(|data: &[u8]| {
    let trust_domain = TrustDomain::new("example.org").expect("a name");
    let bundle = published::decode(&trust_domain, data);
    let journal = decode_stored::<journal::Entries>(data);
    let _facts = CaFacts::of(data);
    let _record = reads_record(data);
    let public = ec_public_key(KeyType::EcP256, &POINT).expect("a point");
    let keys = [(SlotId::A, public.clone()), (SlotId::B, public)];
    let (bundle, journal) = (bundle.unwrap_or_default(), journal.unwrap_or_default());
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    assert!(active_by(now, &keys, &journal, &bundle, &trust_domain).iter().all(|active| *active <= 1));
    let _judged = published::to_identity(&trust_domain, &bundle);
});
