//! Decoders of what operators and we ourselves write: configurations, state, keys, rows; and of what the kernel and tokens say.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use hardroot_agent::cache::AuthorizedEntry;
use hardroot_agent::peer::proc::{parse_stat, parse_status};
use hardroot_agent::storage::StoredSvid;
use hardroot_api::expansion::decode_stored;
use hardroot_api::spire::api::types::Entry;
use hardroot_api::spire::common;
use hardroot_api::spire::server::journal;
use hardroot_config::Document;
use hardroot_hsm_keymanager::disk::DiskKeyManager;
use hardroot_hsm_keymanager::{KeyId, KeyType, PublicKey, ec_public_key, rsa_public_key, tpm};
use hardroot_node_attestors::tpm_quote::{reads_record, reads_state};
use hardroot_runtime::state::{read_checked, seal, unseal};
use hardroot_server::authority::published;
use hardroot_server::authority::slots::{CaFacts, SlotId, active_by};
use hardroot_server::cli::count_items;
use hardroot_server::config::ServerConfig;
use prost::Message as _;

use super::decoders::{EXAMPLE, text};
use super::file_shapes::*;
use super::shapes::*;
use super::{Decoder, der};

/// A hundred faults with their texts, twice while they are sorted.
const FAULTS: u64 = 64 << 10;
/// The buffer that a file is read through.
const BUFFER: u64 = 80 << 10;
/// The generator of P-256 as a public key (SEC 2, 2.4.2): a point that everybody knows.
const POINT: [u8; 65] = [
    4, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77,
    0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3,
    0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33,
    0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

/// Hands the bytes over as a file that only its owner may read.
fn as_file<T>(bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), bytes).expect("room for a file");
    read(file.path())
}

fn agent_config(bytes: &[u8]) -> bool {
    let Ok(document) = Document::parse_bytes(bytes) else { return false };
    hardroot_agent::config::decode(&document, "agent.conf", &hardroot_agent::config::Overrides::default())
        .is_ok()
}

fn token_key(bytes: &[u8]) -> bool {
    let (exponent, modulus) = bytes.split_at(bytes.len().min(3));
    let ec = [KeyType::EcP256, KeyType::EcP384].into_iter().any(|kind| ec_public_key(kind, bytes).is_ok());
    let rsa = [KeyType::Rsa2048, KeyType::Rsa4096];
    ec || rsa.into_iter().any(|kind| rsa_public_key(kind, modulus, exponent).is_ok())
}

fn key_file(bytes: &[u8]) -> bool {
    tpm::reads_key_file(&KeyId::new("agent-svid-A").expect("an id"), bytes)
}

/// What a row of the datastore says of our keys. Nothing of it is trusted but by a key that we hold: a row of something else is
/// malformed, even if protobuf can read it.
fn row(journal: &journal::Entries, bundle: &common::Bundle) -> bool {
    static OURS: LazyLock<PublicKey> =
        LazyLock::new(|| ec_public_key(KeyType::EcP256, &POINT).expect("a point"));
    let keys = [(SlotId::A, OURS.clone()), (SlotId::B, OURS.clone())];
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    active_by(now, &keys, journal, bundle, &EXAMPLE).iter().any(|active| *active > 0)
}

fn bundle_row(bytes: &[u8]) -> bool {
    published::decode(&EXAMPLE, bytes).is_ok_and(|bundle| row(&journal::Entries::default(), &bundle))
}

fn journal_row(bytes: &[u8]) -> bool {
    decode_stored::<journal::Entries>(bytes).is_ok_and(|journal| row(&journal, &common::Bundle::default()))
}

fn entry(bytes: &[u8]) -> bool {
    Entry::decode(bytes).is_ok_and(|wire| AuthorizedEntry::from_wire(wire, &EXAMPLE).is_ok())
}

pub(super) fn decoders() -> Vec<Decoder> {
    let d = Decoder::new;
    let wider = |decoder: Decoder, limit| Decoder { limit, ..decoder };
    let from = |decoder: Decoder, constant| Decoder { constant, ..decoder };
    let config = hardroot_config::MAX_BYTES;
    let all = vec![
        from(
            d(
                "configuration, HCL syntax",
                "hcl_config",
                config,
                &[
                    hcl_open_blocks,
                    hcl_open_lists,
                    hcl_open_list,
                    hcl_labels,
                    hcl_open_string,
                    hcl_escapes,
                    hcl_bad_escapes,
                    hcl_open_heredoc,
                    hcl_lines_of_windows,
                    hcl_equal_signs,
                    hcl_words,
                    hcl_items_and_one_fault,
                    hcl_open_comment,
                    hcl_comments,
                    hcl_digits,
                    hcl_nested_faults,
                    high_bytes,
                ],
                |b| Document::parse_bytes(b).is_ok(),
            ),
            FAULTS,
        ),
        d(
            "configuration, JSON syntax",
            "server_config",
            config,
            &[json_names, json_depth, json_escapes, json_members, json_list, json_open_text, json_spaces],
            |b| b.trim_ascii_start().first() == Some(&b'{') && Document::parse_bytes(b).is_ok(),
        ),
        // What has no fault of syntax becomes a tree before it is judged; of at most MAX_VALUES values.
        wider(
            from(
                d("configuration, server", "server_config", config, CONFIGURATIONS, |b| {
                    ServerConfig::parse(text(b), "server.conf").is_ok()
                }),
                FAULTS,
            ),
            TREE,
        ),
        wider(
            from(d("configuration, agent", "agent_config", config, CONFIGURATIONS, agent_config), FAULTS),
            TREE,
        ),
        wider(
            from(
                d(
                    "entry create -data, entry delete -file",
                    "entry_data",
                    4 << 20,
                    &[
                        data_selectors,
                        data_names,
                        data_domains,
                        data_text,
                        data_escapes,
                        data_key,
                        data_depth,
                        data_id,
                        data_ids,
                        json_names,
                    ],
                    |b| as_file(b, |path| count_items(path).into_iter().any(|read| read.is_ok())),
                ),
                BUFFER,
            ),
            // serde_json's reader of files collects a text in a buffer that doubles; a name that nobody knows is quoted, and then
            // told with its place.
            6.0,
        ),
        d("state file", "state_file", 8 << 20, &[state_header, state_flipped, zeros, letters], |b| {
            as_file(b, |path| read_checked(path).is_ok_and(|state| state.is_some())) && unseal(b).is_ok()
        }),
        d(
            "agent's stored SVID",
            "agent_state",
            8 << 20,
            &[stored_empty, stored_small, stored_large, stored_csr, json_names, json_depth, json_escapes],
            |b| StoredSvid::decode(b).is_ok(),
        ),
        d(
            "TPM attestor's state",
            "key_files",
            8 << 20,
            &[json_names, json_depth, json_escapes, stored_large, tpm_state],
            |b| reads_state(b, &EXAMPLE),
        ),
        d(
            "keys.json",
            "key_files",
            4 << 20,
            &[keys_empty, keys_named, keys_large, keys_escaped, json_names, json_depth],
            |b| as_file(b, |path| DiskKeyManager::open(path).is_ok()),
        ),
        d("wrapped TPM key", "key_files", 1 << 20, &[json_names, json_depth, json_escapes, zeros], key_file),
        d("/proc/PID/stat", "proc_stat", 1 << 20, &[letters, proc_brackets, proc_fields], |b| {
            parse_stat(b).is_ok()
        }),
        d("/proc/PID/status", "proc_status", 1 << 20, &[letters, proc_groups, proc_lines, proc_ids], |b| {
            parse_status(b).is_ok()
        }),
        d("public key of a token", "token_public_key", 1 << 20, &[zeros, high_bytes, letters], token_key),
        // prost holds a struct for each element, however empty, and small lists grow to places that stay empty.
        wider(d("bundle in the datastore", "stored_rows", 1 << 20, ROWS, bundle_row), STORED),
        wider(d("journal in the datastore", "stored_rows", 1 << 20, ROWS, journal_row), STORED),
        d(
            "record of a node",
            "stored_rows",
            1 << 20,
            &[json_names, json_depth, json_escapes, record_text],
            reads_record,
        ),
        d(
            "authority in the datastore",
            "stored_rows",
            64 << 10,
            &[der::nested, der::sequences, zeros],
            |b| CaFacts::of(b).is_some(),
        ),
        wider(
            d("entry from the server", "agent_state", 4 << 20, &[entry_selectors, entry_names, zeros], entry),
            PROTOBUF,
        ),
    ];
    // Of the smallest items there are, a configuration of this size is still read.
    let few = |decoder: Decoder| Decoder { timed: 60_000, ..decoder };
    all.into_iter()
        .map(|decoder| {
            if decoder.largest == config && decoder.name.starts_with("configuration") {
                few(decoder)
            } else {
                decoder
            }
        })
        .collect()
}

/// Heavy configurations without faults of syntax.
const CONFIGURATIONS: &[super::Shape] = &[
    config_unknown,
    config_twice,
    config_blocks,
    config_labels_in_list,
    config_switched_off,
    config_plugin_data,
    config_list,
    config_text,
    config_federation,
    config_block_list,
    config_attestors,
    json_names_closed,
];

/// Rows of the datastore.
const ROWS: &[super::Shape] =
    &[rows_empty_roots, rows_small_roots, rows_empty_keys, rows_one_root, zeros, letters];

/// How many times its text a tree of the smallest items is.
const TREE: f64 = 120.0;

/// How many times its bytes a stored row may be: `MOST_FOR_EACH_BYTE`, and lists that have room for twice as much.
const STORED: f64 = 20.0;

/// How many times its message a list of empty elements is.
const PROTOBUF: f64 = 100.0;

/// A state file whose payload is not the one of its header.
fn state_flipped(size: usize) -> Vec<u8> {
    let mut bytes = seal(&vec![b'a'; size.saturating_sub(110)]).to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes
}
