//! What a command prints, kept until it ends: tests read it, `main` writes it out.

use hardroot_api::json::to_json;
use hardroot_runtime::cli::printable;
use prost::Message;
use serde_json::Value;

use super::CliError;

/// Standard output and standard error of a command.
#[derive(Debug, Default)]
pub struct Screen {
    /// For standard output.
    pub out: String,
    /// For standard error.
    pub err: String,
}

impl Screen {
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
    pub(super) fn json(&mut self, mut value: Value) {
        tidy(&mut value);
        self.out.push_str(&value.to_string());
        self.out.push('\n');
    }

    /// A message whose full protobuf name is `name`, as SPIRE's commands print it.
    pub(super) fn message<M: Message>(&mut self, name: &str, message: &M) -> Result<(), CliError> {
        let value = to_json(name, message).map_err(|fault| CliError::Outcome(fault.to_string()))?;
        self.json(value);
        Ok(())
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
