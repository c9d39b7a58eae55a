use super::*;

/// A connection's beginning: preface, SETTINGS, then one HEADERS frame (and what follows) with this block.
fn connection(block: &[u8], flags: u8, before: &[u8], after: &[u8]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend(frame(HEADERS, flags, &[before, block, after].concat()));
    bytes
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    bytes.extend(payload);
    bytes
}

fn raw(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap()];
    bytes.extend(text.as_bytes());
    bytes
}

/// As it arrives, cut into pieces of `size`.
fn passed(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut frames = Frames::default();
    let mut bytes = bytes.to_vec();
    for piece in bytes.chunks_mut(size) {
        frames.pass(piece);
    }
    bytes
}

fn mended(block: &[u8], expected: &[u8]) {
    for size in [1, 2, 7, 1000] {
        assert_eq!(passed(&connection(block, 4, &[], &[]), size), connection(expected, 4, &[], &[]));
    }
}

#[test]
fn a_path_in_the_authority_becomes_a_name_of_the_same_length() {
    for (sent, read) in [("run%2Fapi.sock", "run-2Fapi.sock"), ("/run/api.sock", "-run-api.sock")] {
        // With incremental indexing, without, and never indexed; after an indexed field and a table size.
        for first in [0x41, 0x01, 0x11] {
            let block = |value| [&[0x83, 0x3f, 0xe1, 0x1f, first][..], &raw(value), &[0x84]].concat();
            mended(&block(sent), &block(read));
        }
        let literal = |value| [&[0x40][..], &raw(":authority"), &raw(value)].concat();
        mended(&literal(sent), &literal(read));
    }
}

#[test]
fn everything_else_passes_as_it_came() {
    let path = |value| [&[0x44][..], &raw(value)].concat();
    mended(&path("/a%2Fb/c"), &path("/a%2Fb/c"));
    let other = [&[0x40][..], &raw("x-authority"), &raw("a/b"), &[0x41], &raw("localhost:80")].concat();
    mended(&other, &other);
    // Huffman-coded values are left to h2.
    let huffman = [0x41, 0x83, b'/', b'%', b'/'];
    mended(&huffman, &huffman);
    // The payload of other frames.
    let data = frame(0, 0, &[&[0x41][..], &raw("a/b")].concat());
    let whole = [connection(&[0x83], 4, &[], &[]), data].concat();
    assert_eq!(passed(&whole, 3), whole);
}

#[test]
fn padding_priority_and_continuation_are_followed() {
    let value = |text: &str| [&[0x41][..], &raw(text)].concat();
    let padded = |text: &str| connection(&value(text), 4 | PADDED | PRIORITY, &[3, 1, 2, 3, 4, 5], b"///");
    assert_eq!(passed(&padded("a/b"), 1), padded("a-b"));
    let split = |text: &str| {
        let block = value(text);
        let (one, two) = block.split_at(3);
        [connection(one, 0, &[], &[]), frame(CONTINUATION, 4, two)].concat()
    };
    assert_eq!(passed(&split("/run/x"), 2), split("-run-x"));
}

#[test]
fn endless_integers_end_the_attempt_not_the_connection() {
    let block = [&[0x41, 0x7f][..], &[0xff; 20], b"a/b"].concat();
    mended(&block, &block);
}

proptest::proptest! {
    #[test]
    fn no_bytes_confuse_it_and_pieces_do_not_matter(bytes: Vec<u8>, size in 1..40_usize) {
        let whole = passed(&connection(&bytes, 4, &[], &[]), usize::MAX);
        proptest::prop_assert_eq!(whole.len(), connection(&bytes, 4, &[], &[]).len());
        proptest::prop_assert_eq!(passed(&connection(&bytes, 4, &[], &[]), size), whole);
    }
}
