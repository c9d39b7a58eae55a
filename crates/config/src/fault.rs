//! Faults: what is wrong with a configuration file, and where.

use std::fmt;

/// What is the matter with what a fault points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum FaultKind {
    /// It is wrong, or something is missing.
    #[default]
    Wrong,
    /// A key that is known from elsewhere and not to be had here: without it the rest may be right.
    Unsupported,
    /// A key that nobody knows.
    Unknown,
}

/// One fault in one file. It never contains a configured value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The line, from 1.
    pub line: u32,
    /// What is wrong and what to do.
    pub message: String,
    /// What is the matter.
    pub kind: FaultKind,
}

impl Fault {
    /// A fault at a line.
    #[must_use]
    pub fn at(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into(), kind: FaultKind::Wrong }
    }

    /// The same of another kind.
    #[must_use]
    pub fn of(self, kind: FaultKind) -> Self {
        Self { kind, ..self }
    }
}

/// How much of a name stands in a fault, in bytes. A fault is repeated and logged; a name may be as long as its file.
const LONGEST_NAME: usize = 128;

/// A name as a fault shows it: its beginning, with a mark where more followed.
pub(crate) fn shown(name: &str) -> std::borrow::Cow<'_, str> {
    if name.len() <= LONGEST_NAME {
        return name.into();
    }
    let (head, _) = name.split_at(name.floor_char_boundary(LONGEST_NAME));
    format!("{head}…").into()
}

/// Every fault found; never empty when it is returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    list: Vec<(String, Fault)>,
}

impl Faults {
    /// Faults of one file.
    #[must_use]
    pub fn new(file: &str, faults: Vec<Fault>) -> Self {
        Self { list: faults.into_iter().map(|fault| (file.to_owned(), fault)).collect() }
    }

    /// Adds those of another file.
    pub fn merge(&mut self, other: Self) {
        self.list.extend(other.list);
    }

    /// Each fault with the name of its file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Fault)> {
        self.list.iter().map(|(file, fault)| (file.as_str(), fault))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// One `file:line: message` a line, without a newline at the end.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (file, fault)) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{file}:{}: {}", fault.line, fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
