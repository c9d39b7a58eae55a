//! Command-line habits of both binaries: SPIRE's flags with one dash or two, pretty or JSON output.

mod args;

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

pub use args::{Refused, parse};

/// `-output pretty|json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people.
    #[default]
    Pretty,
    /// For programs: one JSON value.
    Json,
}

impl FromStr for Output {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err("the output is `pretty` or `json`".to_owned()),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        })
    }
}

/// The column that values start in, in SPIRE's pretty output of one object.
pub const LABEL_WIDTH: usize = 17;

/// One object, as `Label            : value` lines with the values in one column. Scripts parse this: labels are fixed words.
///
/// Control characters in a value are shown escaped, so that a value cannot add a line or move the cursor.
#[must_use]
pub fn fields<'a>(width: usize, fields: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut out = String::new();
    for (label, value) in fields {
        out.push_str(&format!("{label:<width$}: {}\n", printable(&value)));
    }
    out
}

/// A table: columns as wide as their widest cell, two spaces between them, no lines around.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = headings.iter().map(|text| (*text).to_owned()).collect();
    let cells: Vec<Vec<String>> = std::iter::once(&heading)
        .chain(rows)
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let width = |column: usize| {
        cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    for row in &cells {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The text with control characters escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Writes text to standard output. A reader that has gone away (`| head`) is no error.
///
/// # Errors
/// The output cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a JSON value and a newline to standard output.
///
/// # Errors
/// The output cannot be written.
pub fn print_json(value: &serde_json::Value) -> io::Result<()> {
    print(&format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_for_people() {
        let text =
            fields(LABEL_WIDTH, [("Entry ID", "e1".to_owned()), ("SPIFFE ID", "a\nb\u{1b}[1m".to_owned())]);
        assert_eq!(text, "Entry ID         : e1\nSPIFFE ID        : a\\nb\\u{1b}[1m\n");
        let rows = vec![vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "Note"], &rows), "ID    Note\na     b\nlong\n");
        assert_eq!("json".parse(), Ok(Output::Json));
        assert_eq!(Output::Pretty.to_string().parse(), Ok(Output::default()));
        assert!("xml".parse::<Output>().is_err());
    }
}
