//! What templates work with.

use std::collections::BTreeMap;

/// A value in a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Go's nil.
    Nil,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Text.
    Str(String),
    /// Bytes, which Go prints as a list of numbers.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A map; a missing key is an error with a dot and nothing with `index`.
    Map(BTreeMap<String, Value>),
    /// Named fields; `name` is for messages.
    Struct {
        /// What it is, for messages.
        name: &'static str,
        /// Its fields.
        fields: BTreeMap<&'static str, Value>,
        /// What it prints as, if it can be printed at all.
        text: Option<String>,
    },
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Str(text)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl Value {
    /// Named fields.
    #[must_use]
    pub fn record(name: &'static str, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self::Struct { name, fields: fields.into_iter().collect(), text: None }
    }

    /// Go's truth: everything but false, 0, nil and what is empty.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Str(s) => !s.is_empty(),
            Self::Bytes(b) => !b.is_empty(),
            Self::List(l) => !l.is_empty(),
            Self::Map(m) => !m.is_empty(),
            Self::Struct { .. } => true,
        }
    }

    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a number",
            Self::Str(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Struct { name, .. } => name,
        }
    }

    /// As Go's `%v` prints it.
    pub(super) fn text(&self) -> String {
        let join = |parts: Vec<String>| parts.join(" ");
        match self {
            Self::Nil => "<nil>".to_owned(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Str(s) => s.clone(),
            Self::Bytes(b) => format!("[{}]", join(b.iter().map(u8::to_string).collect())),
            Self::List(l) => format!("[{}]", join(l.iter().map(Value::text).collect())),
            Self::Map(m) => {
                format!("map[{}]", join(m.iter().map(|(k, v)| format!("{k}:{}", v.text())).collect()))
            }
            Self::Struct { text: Some(text), .. } => text.clone(),
            Self::Struct { fields, .. } => {
                format!("{{{}}}", join(fields.values().map(Value::text).collect()))
            }
        }
    }
}
