//! What a TLS client sends first, through the reader that makes ClientHellos wait for their turn: however little of it is
//! here, what was found stays true when more comes.
#![no_main]

use hardroot_transport::{ClientMessage, client_message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = client_message(bytes);
    // Every length at the beginning, where the headers are, and some later.
    let lengths = (0..bytes.len().min(300)).chain((300..bytes.len()).step_by(97));
    let mut found = ClientMessage::Unknown;
    for length in lengths {
        let now = client_message(&bytes[..length]);
        assert!(found == ClientMessage::Unknown || found == now, "{found:?} became {now:?} at {length}");
        found = now;
    }
    assert!(found == ClientMessage::Unknown || found == whole, "{found:?} became {whole:?}");
});
