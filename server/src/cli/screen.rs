//! What a command prints. Tests read it, a process hands it over: at the end, or in pieces where a command
//! prints more than should be kept.

use std::io::{self, IsTerminal as _, Write as _};

use hardroot_api::json::to_json;
use hardroot_runtime::cli::{print, printable};
use prost::Message;
use serde_json::Value;
use zeroize::Zeroize as _;

use super::CliError;

/// Standard output and standard error of a command.
#[derive(Debug, Default)]
pub struct Screen {
    /// For standard output.
    pub out: String,
    /// For standard error.
    pub err: String,
    /// The line that tells how far a command is; on a terminal it is written over again and again.
    status: Option<String>,
    kind: Kind,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Everything is kept.
    #[default]
    Kept,
    /// The process's own output, standard error being no terminal.
    Process,
    /// The process's own output, standard error being a terminal.
    Terminal,
}

/// Back to the line's start, the line wiped.
const WIPE: &str = "\r\x1b[K";

impl Screen {
    /// The process's own standard output and standard error.
    #[must_use]
    pub fn of_process() -> Self {
        let kind = if io::stderr().is_terminal() { Kind::Terminal } else { Kind::Process };
        Self { kind, ..Self::default() }
    }

    /// A line for standard output. Control characters in it are escaped: a value cannot add lines.
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        self.out.push_str(&printable(text.as_ref()));
        self.out.push('\n');
    }

    /// A line for standard error.
    pub(super) fn err_line(&mut self, text: impl AsRef<str>) {
        self.err.push_str(&printable(text.as_ref()));
        self.err.push('\n');
    }

    /// Text of several lines that was made to be printed as it is.
    pub(super) fn text(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// One JSON value on one line, keys sorted, nulls left out.
    pub(super) fn json(&mut self, value: Value) {
        self.json_part(value);
        self.out.push('\n');
    }

    /// A JSON value within a larger one.
    pub(super) fn json_part(&mut self, mut value: Value) {
        tidy(&mut value);
        self.out.push_str(&value.to_string());
    }

    /// A value of our own on one line, its members in the order of their declaration.
    pub(super) fn struct_json(&mut self, value: &impl serde::Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|fault| CliError::Outcome(fault.to_string()))?;
        self.out.push_str(&text);
        self.out.push('\n');
        Ok(())
    }

    /// A message whose full protobuf name is `name`, as SPIRE's commands print it.
    pub(super) fn message<M: Message>(&mut self, name: &str, message: &M) -> Result<(), CliError> {
        let value = to_json(name, message).map_err(|fault| CliError::Outcome(fault.to_string()))?;
        self.json(value);
        Ok(())
    }

    /// Whether someone watches standard error.
    pub(super) fn on_terminal(&self) -> bool {
        self.kind == Kind::Terminal
    }

    /// Tells on standard error how far the command is: on a terminal in one line that changes, elsewhere in a
    /// line of its own. None takes the line away.
    pub(super) fn status(&mut self, text: Option<String>) {
        match (self.kind, text) {
            (Kind::Terminal, text) => {
                if self.status.is_some() {
                    self.err.insert_str(0, WIPE);
                }
                self.status = text;
            }
            (_, Some(text)) => self.err_line(text),
            (_, None) => {}
        }
    }

    /// Hands over what there is, if the screen is the process's.
    ///
    /// # Errors
    /// Standard output cannot be written (a reader that has gone away is no error).
    pub fn flush(&mut self) -> io::Result<()> {
        if self.kind == Kind::Kept {
            return Ok(());
        }
        let mut err = io::stderr().lock();
        // Where not even standard error can be written, the exit code has to do.
        if self.status.is_some() && !(self.out.is_empty() && self.err.is_empty()) {
            drop(err.write_all(WIPE.as_bytes()));
        }
        let written = print(&self.out);
        // What was minted may be in it.
        self.out.zeroize();
        drop(err.write_all(std::mem::take(&mut self.err).as_bytes()));
        if let Some(status) = &self.status {
            drop(err.write_all(format!("{WIPE}{}", printable(status)).as_bytes()));
        }
        drop(err.flush());
        written
    }
}

/// Removes nulls and sorts keys, at any depth.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| !item.is_null());
            items.iter_mut().for_each(tidy);
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> =
                std::mem::take(members).into_iter().filter(|(_, member)| !member.is_null()).collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            for (name, mut member) in sorted {
                tidy(&mut member);
                members.insert(name, member);
            }
        }
        _ => {}
    }
}
