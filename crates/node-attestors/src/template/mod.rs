//! Agent path templates: the part of Go's `text/template` and of sprig that such templates use, so that an
//! `agent_path_template` written for SPIRE keeps its meaning.
//!
//! Understood: text, `{{ }}` with trim marks and comments, fields, variables, literals, pipelines, parentheses,
//! `if`, `range`, `with`, and the functions of [`function_names`]. What lies outside is an error when the
//! configuration is read, never a silently different path.

mod eval;
mod format;
mod functions;
mod lexer;
mod lists;
mod parser;
mod value;

pub use functions::function_names;
pub use value::Value;

/// Longest template, in bytes.
pub const MAX_TEMPLATE: usize = 4_096;
/// Longest text a template or one of its functions may make, in bytes; a SPIFFE ID has 2,048 at most.
pub const MAX_OUTPUT: usize = 8_192;

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTemplate {
    /// Longer than [`MAX_TEMPLATE`].
    #[error("the template has {len} bytes, at most {MAX_TEMPLATE} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not the template language.
    #[error("at byte {at} of the template: {reason}")]
    Syntax {
        /// Offset in bytes.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// Go or SPIRE know it, we do not.
    #[error(
        "at byte {at} of the template: {what} is not supported here; see the list of functions in the x509pop page"
    )]
    Unsupported {
        /// Offset in bytes.
        at: usize,
        /// The keyword or function.
        what: String,
    },
}

/// Why a template made no text from the given data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// No such field or map key.
    #[error("there is no {name} in {of}")]
    NoField {
        /// The name asked for.
        name: String,
        /// What was asked.
        of: &'static str,
    },
    /// A function cannot work with what it was given.
    #[error("{function}: {reason}")]
    Function {
        /// The function, or what takes its place.
        function: String,
        /// What is wrong.
        reason: String,
    },
    /// Too much text or too many steps.
    #[error("the template makes more than {MAX_OUTPUT} bytes or takes too many steps")]
    TooMuch,
}

impl RenderError {
    pub(crate) fn function(function: &str, reason: impl Into<String>) -> Self {
        Self::Function { function: function.to_owned(), reason: reason.into() }
    }
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    nodes: Vec<parser::Node>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// It is malformed, too long, or uses what is not supported.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        if text.len() > MAX_TEMPLATE {
            return Err(BadTemplate::TooLong { len: text.len() });
        }
        Ok(Self { nodes: parser::parse(lexer::lex(text)?)? })
    }

    /// Makes the text for `data`, normally a [`Value::Struct`].
    ///
    /// # Errors
    /// A field or map key is missing (as with Go's `missingkey=error`), a function fails, or the result is too long.
    pub fn render(&self, data: &Value) -> Result<String, RenderError> {
        eval::render(&self.nodes, data)
    }
}

#[cfg(test)]
mod tests;
