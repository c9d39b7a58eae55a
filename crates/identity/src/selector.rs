//! Selectors: `type:value` facts about a node or a workload.

use std::fmt;
use std::str::FromStr;

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSelector {
    /// No `:` between type and value.
    #[error("a selector is written type:value, such as unix:uid:1000")]
    NoColon,
    /// Empty type.
    #[error("the selector's type is empty")]
    NoType,
    /// A `:` inside the type.
    #[error("the selector's type contains a colon")]
    ColonInType,
    /// Empty value.
    #[error("the selector's value is empty")]
    NoValue,
}

/// One fact, such as `unix:uid:1000` (type `unix`, value `uid:1000`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    kind: String,
    value: String,
}

impl Selector {
    /// Joins a type and a value.
    ///
    /// # Errors
    /// Either is empty, or the type contains a colon.
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Result<Self, BadSelector> {
        let (kind, value) = (kind.into(), value.into());
        if kind.is_empty() {
            return Err(BadSelector::NoType);
        }
        if kind.contains(':') {
            return Err(BadSelector::ColonInType);
        }
        if value.is_empty() {
            return Err(BadSelector::NoValue);
        }
        Ok(Self { kind, value })
    }

    /// The type: the name of the attestor that vouches for the fact.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The value, which may contain colons.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl FromStr for Selector {
    type Err = BadSelector;
    fn from_str(s: &str) -> Result<Self, BadSelector> {
        let (kind, value) = s.split_once(':').ok_or(BadSelector::NoColon)?;
        Self::new(kind, value)
    }
}
