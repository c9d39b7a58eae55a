//! HCL 1 configuration: parsing with line numbers, every fault at once.
//!
//! Three steps, each usable alone: [`Document::parse`] turns text (HCL 1, or JSON when the first character is `{`) into a
//! tree that knows its lines; [`Decoder`] takes typed values out of it and notes every fault on the way; [`Faults`] prints
//! them, one `file:line: message` each. A fault names keys and rules, never a value: a value may be a secret.
//!
//! Why a parser of our own: docs/decisions/0004-hcl-parser.md.

mod decode;
pub mod duration;
mod env;
mod fault;
mod json;
mod lexer;
mod load;
mod parser;
mod print;
mod value;

pub use decode::{Block, Decoder};
pub use env::expand_env;
pub use fault::{Fault, FaultKind, Faults};
pub use load::{LoadError, Lookup, load};
pub use print::{Comment, Printed, print};
pub use value::{Body, Document, Item, Kind, Name, Pos, Value};

/// The longest configuration text that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// How deep blocks and lists may nest.
pub const MAX_DEPTH: usize = 64;

/// How many keys and values a file holds at most. With some 30 bytes for each, as real ones have, it is as long as a file
/// may be; each costs a hundred bytes and more once it is read.
pub const MAX_VALUES: usize = 1 << 15;

/// How many faults are collected before parsing gives up: a file with more is not a configuration file.
pub const MAX_FAULTS: usize = 100;
