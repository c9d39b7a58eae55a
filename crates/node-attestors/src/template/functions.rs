//! The functions of templates: Go's own and those of sprig that make sense in a path.

use std::cmp::Ordering;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::value::Value;
use super::{MAX_OUTPUT, RenderError, format, lists};

/// Every function, sorted.
const FUNCTIONS: &[&str] = &[
    "abbrev",
    "all",
    "and",
    "any",
    "append",
    "b64enc",
    "base",
    "cat",
    "clean",
    "coalesce",
    "compact",
    "concat",
    "contains",
    "default",
    "dir",
    "empty",
    "eq",
    "ext",
    "fail",
    "first",
    "ge",
    "get",
    "gt",
    "has",
    "hasKey",
    "hasPrefix",
    "hasSuffix",
    "index",
    "initial",
    "join",
    "keys",
    "last",
    "le",
    "len",
    "list",
    "lower",
    "lt",
    "mustFirst",
    "mustHas",
    "mustInitial",
    "mustLast",
    "mustRest",
    "mustReverse",
    "mustUniq",
    "mustWithout",
    "ne",
    "nospace",
    "not",
    "or",
    "prepend",
    "print",
    "printf",
    "quote",
    "repeat",
    "replace",
    "rest",
    "reverse",
    "sha1sum",
    "sha256sum",
    "slice",
    "sortAlpha",
    "splitList",
    "squote",
    "substr",
    "swapcase",
    "ternary",
    "title",
    "toString",
    "toStrings",
    "trim",
    "trimAll",
    "trimPrefix",
    "trimSuffix",
    "trunc",
    "uniq",
    "untitle",
    "upper",
    "values",
    "without",
];

/// The names of all functions, sorted, for documentation.
#[must_use]
pub fn function_names() -> &'static [&'static str] {
    FUNCTIONS
}

pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.binary_search(&name).is_ok()
}

/// Arguments on their way to a function.
pub(super) struct Args<'a> {
    pub(super) function: &'a str,
    values: std::vec::IntoIter<Value>,
}

impl Args<'_> {
    pub(super) fn fault<T>(&self, reason: impl Into<String>) -> Result<T, RenderError> {
        Err(RenderError::function(self.function, reason))
    }

    pub(super) fn value(&mut self) -> Result<Value, RenderError> {
        match self.values.next() {
            Some(value) => Ok(value),
            None => self.fault("too few arguments"),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, RenderError> {
        match self.value()? {
            Value::Str(text) => Ok(text),
            other => self.fault(format!("expected a text, found {}", other.kind())),
        }
    }

    pub(super) fn number(&mut self) -> Result<i64, RenderError> {
        match self.value()? {
            Value::Int(number) => Ok(number),
            other => self.fault(format!("expected a number, found {}", other.kind())),
        }
    }

    pub(super) fn list(&mut self) -> Result<Vec<Value>, RenderError> {
        match self.value()? {
            Value::List(list) => Ok(list),
            Value::Nil => Ok(Vec::new()),
            Value::Bytes(bytes) => Ok(bytes.into_iter().map(|b| Value::Int(b.into())).collect()),
            other => self.fault(format!("expected a list, found {}", other.kind())),
        }
    }

    pub(super) fn rest(&mut self) -> Vec<Value> {
        self.values.by_ref().collect()
    }

    fn end(&self) -> Result<(), RenderError> {
        if self.values.len() == 0 { Ok(()) } else { self.fault("too many arguments") }
    }
}

/// Calls `function`; a piped value is the last argument.
pub(super) fn call(function: &str, values: Vec<Value>) -> Result<Value, RenderError> {
    let mut args = Args { function, values: values.into_iter() };
    let result = match strings(&mut args)? {
        Some(result) => result,
        None => match lists::call(&mut args)? {
            Some(result) => result,
            None => general(&mut args)?,
        },
    };
    args.end()?;
    match &result {
        Value::Str(text) if text.len() > MAX_OUTPUT => Err(RenderError::TooMuch),
        _ => Ok(result),
    }
}

fn general(args: &mut Args<'_>) -> Result<Value, RenderError> {
    Ok(match args.function {
        "and" | "or" => {
            // The evaluator has stopped at the first decisive one; what is left decides nothing earlier.
            let stop = args.function == "or";
            let mut last = args.value()?;
            for next in args.rest() {
                if last.is_true() == stop {
                    break;
                }
                last = next;
            }
            last
        }
        "not" => Value::Bool(!args.value()?.is_true()),
        "len" => match args.value()? {
            Value::Str(text) => count(text.len()),
            Value::Bytes(bytes) => count(bytes.len()),
            Value::List(list) => count(list.len()),
            Value::Map(map) => count(map.len()),
            other => return args.fault(format!("{} has no length", other.kind())),
        },
        "eq" => {
            let first = args.value()?;
            let others = args.rest();
            if others.is_empty() {
                return args.fault("too few arguments");
            }
            let mut equal = false;
            for other in others {
                equal |= compare(args, &first, &other)? == Some(Ordering::Equal);
            }
            Value::Bool(equal)
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            let (left, right) = (args.value()?, args.value()?);
            let order = compare(args, &left, &right)?;
            Value::Bool(match (args.function, order) {
                ("ne", order) => order != Some(Ordering::Equal),
                (_, None) => return args.fault("these have no order"),
                ("lt", Some(order)) => order.is_lt(),
                ("le", Some(order)) => order.is_le(),
                ("gt", Some(order)) => order.is_gt(),
                (_, Some(order)) => order.is_ge(),
            })
        }
        "print" => Value::Str(format::print(&args.rest())),
        "printf" => {
            let layout = args.text()?;
            Value::Str(format::printf(&layout, args.rest())?)
        }
        "default" => {
            let fallback = args.value()?;
            args.value().ok().filter(Value::is_true).unwrap_or(fallback)
        }
        "empty" => Value::Bool(!args.value()?.is_true()),
        "coalesce" => args.rest().into_iter().find(Value::is_true).unwrap_or(Value::Nil),
        "all" => Value::Bool(args.rest().iter().all(Value::is_true)),
        "any" => Value::Bool(args.rest().iter().any(Value::is_true)),
        "ternary" => {
            let (yes, no) = (args.value()?, args.value()?);
            match args.value()? {
                Value::Bool(true) => yes,
                Value::Bool(false) => no,
                other => return args.fault(format!("expected a boolean last, found {}", other.kind())),
            }
        }
        "toString" => Value::Str(args.value()?.text()),
        "fail" => {
            let reason = args.text()?;
            return args.fault(reason);
        }
        other => return Err(RenderError::function(other, "no such function")),
    })
}

pub(super) fn count(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// `None` when both are of one kind that knows equality only, and they differ.
fn compare(args: &Args<'_>, left: &Value, right: &Value) -> Result<Option<Ordering>, RenderError> {
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => Ok(Some(a.cmp(b))),
        (Value::Str(a), Value::Str(b)) => Ok(Some(a.cmp(b))),
        (Value::Bool(_), Value::Bool(_)) | (Value::Nil, _) | (_, Value::Nil) => {
            Ok((left == right).then_some(Ordering::Equal))
        }
        _ => args.fault(format!("cannot compare {} with {}", left.kind(), right.kind())),
    }
}

/// Functions on texts; the text they work on comes last, as sprig has it.
fn strings(args: &mut Args<'_>) -> Result<Option<Value>, RenderError> {
    let text = match args.function {
        "lower" => args.text()?.to_lowercase(),
        "upper" => args.text()?.to_uppercase(),
        "trim" => args.text()?.trim().to_owned(),
        "title" => each_word(&args.text()?, char::to_uppercase),
        "untitle" => each_word(&args.text()?, char::to_lowercase),
        "nospace" => args.text()?.split_whitespace().collect(),
        "swapcase" => args.text()?.chars().map(swap_case).collect(),
        "b64enc" => STANDARD.encode(args.text()?),
        "sha1sum" => hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, args.text()?.as_bytes())),
        "sha256sum" => hex::encode(digest(&SHA256, args.text()?.as_bytes())),
        "trimAll" => {
            let cut = args.text()?;
            args.text()?.trim_matches(|c| cut.contains(c)).to_owned()
        }
        "trimPrefix" => {
            let cut = args.text()?;
            let text = args.text()?;
            text.strip_prefix(cut.as_str()).unwrap_or(&text).to_owned()
        }
        "trimSuffix" => {
            let cut = args.text()?;
            let text = args.text()?;
            text.strip_suffix(cut.as_str()).unwrap_or(&text).to_owned()
        }
        "contains" | "hasPrefix" | "hasSuffix" => {
            let (part, text) = (args.text()?, args.text()?);
            return Ok(Some(Value::Bool(match args.function {
                "contains" => text.contains(&part),
                "hasPrefix" => text.starts_with(&part),
                _ => text.ends_with(&part),
            })));
        }
        "replace" => {
            let (old, new, text) = (args.text()?, args.text()?, args.text()?);
            if text.matches(&old).count().saturating_mul(new.len()) > MAX_OUTPUT {
                return Err(RenderError::TooMuch);
            }
            text.replace(&old, &new)
        }
        "repeat" => {
            let (times, text) = (args.number()?, args.text()?);
            let times = usize::try_from(times).unwrap_or(0);
            if text.len().saturating_mul(times) > MAX_OUTPUT {
                return Err(RenderError::TooMuch);
            }
            text.repeat(times)
        }
        "substr" => {
            let (start, end, text) = (args.number()?, args.number()?, args.text()?);
            let start = usize::try_from(start).unwrap_or(0);
            let end = usize::try_from(end).unwrap_or(text.len()).min(text.len());
            match text.get(start..end) {
                Some(part) => part.to_owned(),
                None => return args.fault("the range does not lie within the text"),
            }
        }
        "trunc" => {
            let (length, text) = (args.number()?, args.text()?);
            let keep = usize::try_from(length.unsigned_abs()).unwrap_or(usize::MAX);
            let part = if keep >= text.len() {
                Some(text.as_str())
            } else if length < 0 {
                text.get(text.len() - keep..)
            } else {
                text.get(..keep)
            };
            match part {
                Some(part) => part.to_owned(),
                None => return args.fault("the cut would split a character"),
            }
        }
        "abbrev" => {
            let (width, text) = (args.number()?, args.text()?);
            match usize::try_from(width).ok().filter(|width| *width >= 4 && *width < text.len()) {
                None => text,
                Some(width) => match text.get(..width - 3) {
                    Some(part) => format!("{part}..."),
                    None => return args.fault("the cut would split a character"),
                },
            }
        }
        "base" => base(&args.text()?),
        "dir" => {
            let text = args.text()?;
            clean(text.rsplit_once('/').map_or("", |(dir, _)| if dir.is_empty() { "/" } else { dir }))
        }
        "clean" => clean(&args.text()?),
        "ext" => {
            let text = args.text()?;
            let name = text.rsplit('/').next().unwrap_or_default();
            name.rfind('.').and_then(|at| name.get(at..)).unwrap_or_default().to_owned()
        }
        "quote" | "squote" => {
            let values = args.rest();
            let mark = |value: &Value| match args.function {
                "quote" => format!("{:?}", value.text()),
                _ => format!("'{}'", value.text()),
            };
            values.iter().filter(|value| **value != Value::Nil).map(mark).collect::<Vec<_>>().join(" ")
        }
        "cat" => {
            let values = args.rest();
            values.iter().filter(|v| **v != Value::Nil).map(Value::text).collect::<Vec<_>>().join(" ")
        }
        _ => return Ok(None),
    };
    Ok(Some(Value::Str(text)))
}

fn each_word<I: Iterator<Item = char>>(text: &str, first: impl Fn(char) -> I) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for c in text.chars() {
        if before.is_whitespace() {
            out.extend(first(c))
        } else {
            out.push(c)
        }
        before = c;
    }
    out
}

fn swap_case(c: char) -> char {
    if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
}

/// Go's `path.Base`.
fn base(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    match path.trim_end_matches('/').rsplit('/').next() {
        Some("") | None => "/".to_owned(),
        Some(name) => name.to_owned(),
    }
}

/// Go's `path.Clean`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_sorted_for_the_search() {
        assert!(super::FUNCTIONS.is_sorted());
    }
}
