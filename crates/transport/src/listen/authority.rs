//! Clients that put the path of a local socket into `:authority`.
//!
//! gRPC's C core (Python, C++, Ruby, PHP) sends `:authority: run%2Fapi.sock` over a local socket, grpc-java sends the
//! bare path. Neither is an authority (RFC 3986 3.2), the `h2` crate resets such a stream with PROTOCOL_ERROR,
//! and every SPIFFE client in these languages would fail. On a local socket the authority means nothing, so
//! what is no authority in it is replaced by `-` before `h2` reads it.
//!
//! Each byte is replaced by one byte, within a literal that is not Huffman-coded: no length changes, neither of a
//! frame (RFC 9113 4.1) nor of an entry in the dynamic table (RFC 7541 4.1), so both ends stay in step. Whatever
//! cannot be followed is passed on as it came, for `h2` to judge.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::through::writes_through;

/// `PRI * HTTP/2.0 … SM …` (RFC 9113 3.4).
const PREFACE: u32 = 24;
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Index of `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: u64 = 1;
const AUTHORITY_NAME: &[u8] = b":authority";

/// A connection whose `:authority` fields are made valid as they are read.
#[derive(Debug)]
pub struct MendedAuthority<S> {
    stream: S,
    frames: Frames,
}

impl<S> MendedAuthority<S> {
    /// Wraps a connection from which nothing has been read.
    pub fn new(stream: S) -> Self {
        Self { stream, frames: Frames::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MendedAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(new) = buf.filled_mut().get_mut(before..) {
            this.frames.pass(new);
        }
        outcome
    }
}

writes_through!(MendedAuthority<S>, S);

/// Where in the sequence of frames the next byte stands.
#[derive(Debug)]
struct Frames {
    /// Bytes of the preface still to come.
    preface: u32,
    header: [u8; FRAME_HEADER],
    header_len: usize,
    /// Payload bytes of the current frame still to come.
    payload: u32,
    /// Before the header block: the pad length, the priority fields.
    skip: u32,
    pad_length_next: bool,
    /// At the end of the payload.
    padding: u32,
    in_block: bool,
    block: Block,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            preface: PREFACE,
            header: [0; FRAME_HEADER],
            header_len: 0,
            payload: 0,
            skip: 0,
            pad_length_next: false,
            padding: 0,
            in_block: false,
            block: Block::default(),
        }
    }
}

impl Frames {
    fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.preface > 0 {
                self.preface -= 1;
            } else if self.payload > 0 {
                self.payload -= 1;
                self.payload_byte(byte);
            } else {
                self.header_byte(*byte);
            }
        }
    }

    fn header_byte(&mut self, byte: u8) {
        if let Some(place) = self.header.get_mut(self.header_len) {
            *place = byte;
        }
        self.header_len += 1;
        if self.header_len < FRAME_HEADER {
            return;
        }
        self.header_len = 0;
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload = u32::from_be_bytes([0, a, b, c]);
        self.in_block = matches!(kind, HEADERS | CONTINUATION);
        (self.skip, self.padding, self.pad_length_next) = (0, 0, false);
        if kind == HEADERS {
            self.block = Block::default();
            self.pad_length_next = flags & PADDED != 0;
            self.skip = if flags & PRIORITY == 0 { 0 } else { 5 };
        }
    }

    fn payload_byte(&mut self, byte: &mut u8) {
        if !self.in_block {
            return;
        }
        if self.pad_length_next {
            self.pad_length_next = false;
            self.padding = u32::from(*byte);
        } else if self.skip > 0 {
            self.skip -= 1;
        } else if self.payload >= self.padding {
            self.block.byte(byte);
        }
    }
}

/// Where in a header block (RFC 7541 6) the next byte stands.
#[derive(Debug, Default)]
struct Block {
    state: State,
    /// The field being read is `:authority`.
    authority: bool,
    /// How much of a literal name agrees with `:authority`; `None` when it does not.
    name: Option<usize>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first byte of a field.
    #[default]
    Field,
    /// More bytes of an integer (RFC 7541 5.1).
    Integer { of: Of, value: u64, shift: u32 },
    /// The first byte of a string (RFC 7541 5.2).
    StringStart { name: bool },
    /// The bytes of a string.
    String { name: bool, huffman: bool, left: u64 },
    /// Not understood: nothing is touched until the next block.
    Lost,
}

/// What an integer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    IndexedField,
    NameIndex,
    TableSize,
    Length { name: bool, huffman: bool },
}

impl Block {
    fn byte(&mut self, byte: &mut u8) {
        self.state = match self.state {
            State::Field => {
                self.authority = false;
                match *byte {
                    b if b & 0x80 != 0 => self.integer(b, 7, Of::IndexedField),
                    b if b & 0x40 != 0 => self.integer(b, 6, Of::NameIndex),
                    b if b & 0x20 != 0 => self.integer(b, 5, Of::TableSize),
                    b => self.integer(b, 4, Of::NameIndex),
                }
            }
            State::Integer { of, value, shift } => {
                let value = value.saturating_add(u64::from(*byte & 0x7f) << shift);
                match (*byte & 0x80 != 0, shift) {
                    // Longer than any length there can be.
                    (true, 28..) => State::Lost,
                    (true, _) => State::Integer { of, value, shift: shift + 7 },
                    (false, _) => self.known(of, value),
                }
            }
            State::StringStart { name } => {
                let huffman = *byte & 0x80 != 0;
                self.integer(*byte, 7, Of::Length { name, huffman })
            }
            State::String { name, huffman, left } => {
                if name {
                    let agrees = |at: &usize| !huffman && AUTHORITY_NAME.get(*at) == Some(byte);
                    self.name = self.name.filter(agrees).map(|at| at + 1);
                } else if self.authority && !huffman {
                    mend(byte);
                }
                self.string(name, huffman, left - 1)
            }
            State::Lost => State::Lost,
        };
    }

    fn integer(&mut self, first: u8, bits: u32, of: Of) -> State {
        let mask = (1_u8 << bits) - 1;
        let value = first & mask;
        if value == mask {
            State::Integer { of, value: u64::from(value), shift: 0 }
        } else {
            self.known(of, u64::from(value))
        }
    }

    fn known(&mut self, of: Of, value: u64) -> State {
        match of {
            Of::IndexedField | Of::TableSize => State::Field,
            Of::NameIndex => {
                self.authority = value == AUTHORITY_INDEX;
                self.name = Some(0);
                State::StringStart { name: value == 0 }
            }
            Of::Length { name, huffman } => self.string(name, huffman, value),
        }
    }

    fn string(&mut self, name: bool, huffman: bool, left: u64) -> State {
        if left > 0 {
            return State::String { name, huffman, left };
        }
        if !name {
            return State::Field;
        }
        self.authority = self.name == Some(AUTHORITY_NAME.len());
        State::StringStart { name: false }
    }
}

/// Keeps what may stand in a registered name or an address with a port (RFC 3986 3.2.2).
fn mend(byte: &mut u8) {
    if !(byte.is_ascii_alphanumeric() || matches!(*byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')) {
        *byte = b'-';
    }
}

#[cfg(test)]
mod tests;
