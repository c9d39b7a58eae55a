//! Command-line habits of both binaries: SPIRE's flags with one dash or two, pretty or JSON output.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

/// Rewrites Go-style flags for clap: `-spiffeID x`, `--spiffeID x`, `-spiffeID=x` and `--spiffeID=x` all become the two-dash form.
///
/// One dash and one letter (`-h`) stay as they are, so do `-`, negative numbers and everything after `--`. A value that itself starts
/// with a dash and a letter must be written `-flag=-value`. Boolean flags that should also take `-downstream=false` are declared with
/// `num_args(0..=1)`, `require_equals(true)` and `default_missing_value("true")`.
pub fn normalise_args(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut rest_is_plain = false;
    args.into_iter()
        .enumerate()
        .map(|(i, arg)| {
            // The first argument is the program.
            if i == 0 || rest_is_plain {
                return arg;
            }
            let bytes = arg.as_encoded_bytes();
            if bytes == b"--" {
                rest_is_plain = true;
                return arg;
            }
            let name = match bytes.strip_prefix(b"-") {
                Some(name) if !name.starts_with(b"-") => name,
                _ => return arg,
            };
            let end = name.iter().position(|b| *b == b'=').unwrap_or(name.len());
            if end < 2 || !name.first().is_some_and(u8::is_ascii_alphabetic) {
                return arg;
            }
            let mut long = OsString::from("-");
            long.push(&arg);
            long
        })
        .collect()
}

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
    fn go_flags_become_long_flags() {
        for (given, expected) in [
            ("p -spiffeID x", "p --spiffeID x"),
            ("p --spiffeID x", "p --spiffeID x"),
            ("p -spiffeID=x", "p --spiffeID=x"),
            ("p --spiffeID=-x", "p --spiffeID=-x"),
            ("p -id x -h -- -path y", "p --id x -h -- -path y"),
            ("p entry create -data -", "p entry create --data -"),
            ("p -ttl -5 -x=1", "p --ttl -5 -x=1"),
            ("p -x509SVIDTTL 5 unix:uid:1000", "p --x509SVIDTTL 5 unix:uid:1000"),
            ("-odd -path", "-odd --path"),
        ] {
            let args = given.split(' ').map(OsString::from);
            let out: Vec<String> =
                normalise_args(args).into_iter().map(|a| a.into_string().unwrap()).collect();
            assert_eq!(out.join(" "), expected);
        }
        assert!(normalise_args([]).is_empty());
    }

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
