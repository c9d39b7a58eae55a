//! The tree a document is parsed into.

use std::fmt;

use crate::fault::Fault;
use crate::{MAX_BYTES, json, parser};

/// A place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos {
    /// Line, from 1.
    pub line: u32,
}

/// A key or a label, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The text, without quotes.
    pub text: String,
    /// Where it starts.
    pub pos: Pos,
}

/// One `key = value` or `key "label" { … }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The key.
    pub key: Name,
    /// The labels between key and block.
    pub labels: Vec<Name>,
    /// The value.
    pub value: Value,
    /// Written with `=` (or as JSON), so that a second one of this name is a fault ([`Block::finish`](crate::Block::finish)), not one more block.
    pub assigned: bool,
}

/// What stands between braces, in the order of the text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Body {
    /// The items.
    pub items: Vec<Item>,
}

/// A value and where it starts.
#[derive(Clone, PartialEq)]
pub struct Value {
    /// What it is.
    pub kind: Kind,
    /// Where it starts.
    pub pos: Pos,
}

/// The kinds of value.
#[derive(Clone, PartialEq)]
pub enum Kind {
    /// `null`, in JSON only: as if the key were not there.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as written (`8081`, `0x1f`, `010` for eight, `1.5`, `1e3`).
    Number(String),
    /// A quoted string or a heredoc.
    Text(String),
    /// `[ … ]`.
    List(Vec<Value>),
    /// `{ … }`.
    Object(Body),
}

impl Kind {
    /// What a person calls this kind.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "a block",
        }
    }
}

/// Prints the kind and the place only: the value may be a secret.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.kind, self.pos.line)
    }
}

/// Prints structure only: a value may be a secret.
impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(items) => f.debug_list().entries(items).finish(),
            Self::Object(body) => body.fmt(f),
            other => f.write_str(other.name()),
        }
    }
}

/// A parsed configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub(crate) body: Body,
}

impl Document {
    /// Parses HCL 1, or JSON when the first character that is not white space is `{`.
    ///
    /// # Errors
    /// Every fault of syntax that can be told apart, in the order of the text; also a text over
    /// [`MAX_BYTES`](crate::MAX_BYTES) or nested deeper than [`MAX_DEPTH`](crate::MAX_DEPTH).
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        if text.len() > MAX_BYTES {
            return Err(too_large());
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let body = if text.trim_start().starts_with('{') { json::parse(text) } else { parser::parse(text) }?;
        Ok(Self { body })
    }

    /// As [`Document::parse`], for bytes as they come from a file.
    ///
    /// # Errors
    /// As [`Document::parse`]; bytes that are not UTF-8 are a fault at their line.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, Vec<Fault>> {
        match std::str::from_utf8(bytes) {
            _ if bytes.len() > MAX_BYTES => Err(too_large()),
            Ok(text) => Self::parse(text),
            Err(e) => {
                let good = bytes.get(..e.valid_up_to()).unwrap_or_default();
                let line = 1 + good.iter().filter(|b| **b == b'\n').count();
                Err(vec![Fault::at(u32::try_from(line).unwrap_or(u32::MAX), "the text is not UTF-8")])
            }
        }
    }

    /// The items at the top.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }
}

fn too_large() -> Vec<Fault> {
    vec![Fault::at(1, format!("the file is larger than {MAX_BYTES} bytes"))]
}
