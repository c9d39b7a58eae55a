//! Heavy inputs for the decoders of files: configurations, data of entries, state, keys, `/proc`, rows.

use super::shapes::repeated;

/// `prefix`, then what `piece` says of 0, 1, 2 …, to about `size` bytes, then `suffix`.
fn numbered(prefix: &str, piece: impl Fn(u32) -> String, suffix: &str, size: usize) -> Vec<u8> {
    let mut out = prefix.to_owned();
    let mut number = 0;
    loop {
        let next = piece(number);
        if number > 0 && out.len() + next.len() + suffix.len() > size {
            break;
        }
        out.push_str(&next);
        number += 1;
    }
    out.push_str(suffix);
    out.into_bytes()
}

/// A function of a size for each line: a name, what stands in front, what is repeated, what stands behind.
macro_rules! repeating {
    ($($name:ident: $prefix:expr, $piece:expr, $suffix:expr;)*) => {
        $(pub(super) fn $name(size: usize) -> Vec<u8> {
            repeated($prefix, $piece, $suffix, size)
        })*
    };
}

repeating! {
    hcl_open_blocks: b"", b"a{", b"";
    hcl_open_lists: b"a=", b"[", b"";
    hcl_open_list: b"a=[", b"1,", b"";
    hcl_labels: b"a ", b"\"\" ", b"= 1";
    hcl_open_string: b"a=\"", b"x", b"";
    hcl_escapes: b"a=\"", br"\n", b"\" =";
    hcl_bad_escapes: b"", b"a=\"\\q\"\n", b"";
    hcl_open_heredoc: b"a=<<E\n", b"\n", b"";
    hcl_lines_of_windows: b"", b"a=1\r\n", b"=";
    hcl_equal_signs: b"", b"=\n", b"";
    hcl_words: b"", b"a ", b"";
    hcl_open_comment: b"/*", b"\n", b"";
    hcl_comments: b"", b"#\n", b"=";
    hcl_digits: b"a=", b"9", b"x";
    hcl_nested_faults: b"", b"a{[[", b"";
    json_list: b"{\"a\":[", b"1,", b"";
    json_open_text: b"{\"a\":\"", b"x", b"";
    json_spaces: b"{", b"\n ", b"";
    config_blocks: b"", b"a{}", b"";
    config_twice: b"server {", b"data_dir=\"\"\n", b"}";
    config_block_list: b"server { federation { federates_with = [", b"{},", b"] } }";
    config_list: b"server { admin_ids = [", b"1,", b"] }";
    config_text: b"server { trust_domain = \"", b"x", b"\" }";
    data_selectors: b"{\"entries\":[{\"selectors\":[", b"{\"type\":\"\",\"value\":\"\"},", b"";
    data_names: b"{\"entries\":[{\"dns_names\":[", b"\"\",", b"";
    data_domains: b"{\"entries\":[{\"federates_with\":[", b"\"a\",", b"";
    data_text: b"{\"entries\":[{\"hint\":\"", b"x", b"\"}]}";
    data_escapes: b"{\"entries\":[{\"hint\":\"", br"\u0041", b"\"}]}";
    data_key: b"{\"entries\":[{\"", b"x", b"\":1}]}";
    data_depth: b"{\"entries\":[{\"revision_number\":", b"[", b"";
    data_id: b"{\"entries\":[{\"spiffe_id\":\"spiffe://", b"a", b"\"}]}";
    data_ids: b"{\"ids\":[", b"\"\",", b"";
    state_header: b"hardroot-state 1 sha256=", b"0", b" length=1\n";
    stored_empty: b"{\"version\":1,\"chain\":[", b"\"\",", b"";
    stored_small: b"{\"version\":1,\"chain\":[", b"\"AAAA\",", b"";
    stored_large: b"{\"version\":1,\"chain\":[\"", b"AAAA", b"\"]}";
    stored_csr: b"{\"version\":1,\"chain\":[],\"reattestable\":true,\"csr\":\"", b"AAAA", b"\"}";
    tpm_state: b"{\"version\":1,\"trust_domain\":\"example.org\",\"ek_type\":\"x\",\"ek_public\":\"", b"AAAA", b"\",";
    keys_empty: b"{\"keys\":{", b"\"\":\"\",", b"";
    keys_large: b"{\"keys\":{\"a\":\"", b"AAAA", b"\"}}";
    keys_escaped: b"{\"keys\":{\"a\":\"", br"\u0041", b"\"}}";
    proc_brackets: b"1 (", b")", b" S";
    proc_fields: b"1 (a) S", b" 1", b"";
    proc_groups: b"Uid:\t1 1 1 1\nGid:\t1 1 1 1\nGroups:\t", b"1 ", b"x";
    proc_ids: b"Gid:\t1 1 1 1\nGroups:\t\nUid:\t", b"1 ", b"";
    proc_lines: b"", b"\n", b"";
    rows_empty_roots: b"", &[0x12, 0], b"";
    rows_small_roots: b"", &[0x12, 3, 0x0a, 1, b'a'], b"";
    rows_empty_keys: b"", &[0x1a, 0], b"";
    record_text: b"{\"version\":1,\"ek_hash\":\"", b"a", b"\"}";
    entry_selectors: b"", &[0x22, 0], b"";
    entry_names: b"", &[0x4a, 0], b"";
}

/// Items that are good, and a fault at the end: everything before it was for nothing.
pub(super) fn hcl_items_and_one_fault(size: usize) -> Vec<u8> {
    numbered("", |n| format!("k{n}=1\n"), "=", size)
}

pub(super) fn json_members(size: usize) -> Vec<u8> {
    numbered("{", |n| format!("\"k{n}\":{{}},"), "", size)
}

pub(super) fn json_names_closed(size: usize) -> Vec<u8> {
    numbered("{\"server\":{", |n| format!("\"{n}\":0,"), "\"x\":0}}", size)
}

pub(super) fn keys_named(size: usize) -> Vec<u8> {
    numbered("{\"keys\":{", |n| format!("\"k{n}\":\"AAAA\","), "", size)
}

/// Names of one edit beside a known one.
pub(super) fn config_unknown(size: usize) -> Vec<u8> {
    numbered("server {", |n| format!("trust_domai{n}=1\n"), "}", size)
}

/// One long name for a list of blocks, each of which is called by it.
pub(super) fn config_labels_in_list(size: usize) -> Vec<u8> {
    let name = "x".repeat(size / 2);
    let prefix = format!("plugins {{ KeyManager {{ \"{name}\" = [");
    repeated(prefix.as_bytes(), b"{},", b"] } }", size)
}

/// Plugins that are switched off need not be right, however much stands in them.
pub(super) fn config_switched_off(size: usize) -> Vec<u8> {
    let piece = |n| format!("k{n}=1\n");
    numbered(
        "plugins { WorkloadAttestor \"docker\" { enabled = false\n",
        piece,
        "} KeyManager \"x\" { enabled = false } }",
        size,
    )
}

pub(super) fn config_plugin_data(size: usize) -> Vec<u8> {
    numbered("plugins { KeyManager \"no\" { plugin_data {", |n| format!("k{n}=1\n"), "} } }", size)
}

pub(super) fn config_federation(size: usize) -> Vec<u8> {
    let piece = |n| format!("federates_with \"d{n}\" {{ bundle_endpoint_url = \"https://d\" }}\n");
    numbered("server { federation {", piece, "} }", size)
}

pub(super) fn config_attestors(size: usize) -> Vec<u8> {
    let piece = |n| format!("WorkloadAttestor \"a{n}\" {{}}\nNodeAttestor \"b{n}\" {{}}\n");
    numbered("plugins {", piece, "}", size)
}

/// A bundle with one authority of almost its size, which is no certificate.
pub(super) fn rows_one_root(size: usize) -> Vec<u8> {
    let der = vec![0x30; size.saturating_sub(12)];
    let certificate = [&[0x0a], varint(der.len()).as_slice(), &der].concat();
    [&[0x12], varint(certificate.len()).as_slice(), &certificate].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
    out
}
