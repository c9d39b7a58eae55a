//! The JSON form of a configuration, parsed into the same tree with the same lines.

use crate::fault::{Fault, shown};
use crate::value::{Body, Item, Kind, Name, Pos, Value};
use crate::{MAX_DEPTH, MAX_VALUES};

struct Reader<'a> {
    rest: &'a str,
    line: u32,
    faults: Vec<Fault>,
    /// Whether the tree is kept: a text is first looked through without one, as with HCL.
    keep: bool,
    /// Keys and values so far.
    values: usize,
}

/// Parses a whole text. JSON cannot be read on after a fault of syntax, so there is at most one of those.
pub(crate) fn parse(text: &str) -> Result<Body, Vec<Fault>> {
    run(text, false)?;
    run(text, true)
}

fn run(text: &str, keep: bool) -> Result<Body, Vec<Fault>> {
    let mut reader = Reader { rest: text, line: 1, faults: Vec::new(), keep, values: 0 };
    let body = match reader.value(0) {
        Ok(Value { kind: Kind::Object(body), .. }) => {
            reader.skip_space();
            if !reader.rest.is_empty() {
                reader.faults.push(Fault::at(reader.line, "there is more text after the closing brace"));
            }
            body
        }
        Ok(_) => Body::default(),
        Err(fault) => {
            reader.faults.push(fault);
            Body::default()
        }
    };
    if reader.faults.is_empty() { Ok(body) } else { Err(reader.faults) }
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::at(self.line, format!("JSON: {}", message.into())))
    }

    fn skip_space(&mut self) {
        let trimmed = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let skipped = self.rest.len() - trimmed.len();
        let lines = self.rest.bytes().take(skipped).filter(|b| *b == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.rest = trimmed;
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        self.skip_space();
        if depth > MAX_DEPTH {
            return self.fail(format!("objects and arrays nest deeper than {MAX_DEPTH}"));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return self.fail(format!("the file holds more than {MAX_VALUES} values"));
        }
        let pos = Pos { line: self.line };
        let kind = if self.eat("{") {
            Kind::Object(self.object(depth)?)
        } else if self.eat("[") {
            Kind::List(self.array(depth)?)
        } else if self.rest.starts_with('"') {
            let text = self.string()?;
            if self.keep { Kind::Text(text) } else { Kind::Null }
        } else if self.eat("true") {
            Kind::Bool(true)
        } else if self.eat("false") {
            Kind::Bool(false)
        } else if self.eat("null") {
            Kind::Null
        } else {
            let text = self.number()?;
            if self.keep { Kind::Number(text.to_owned()) } else { Kind::Null }
        };
        Ok(Value { kind, pos })
    }

    fn object(&mut self, depth: usize) -> Result<Body, Fault> {
        let mut body = Body::default();
        self.skip_space();
        if self.eat("}") {
            return Ok(body);
        }
        loop {
            self.skip_space();
            if !self.rest.starts_with('"') {
                return self.fail("a key in quotes was expected");
            }
            let key = Name { pos: Pos { line: self.line }, text: self.string()? };
            self.skip_space();
            if !self.eat(":") {
                return self.fail(format!("`:` was expected after the key `{}`", shown(&key.text)));
            }
            let value = self.value(depth + 1)?;
            if self.keep {
                body.items.push(Item { key, labels: Vec::new(), value, assigned: true });
            }
            self.skip_space();
            if self.eat("}") {
                return Ok(body);
            }
            if !self.eat(",") {
                return self.fail("`,` or `}` was expected");
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, Fault> {
        let mut list = Vec::new();
        self.skip_space();
        if self.eat("]") {
            return Ok(list);
        }
        loop {
            let value = self.value(depth + 1)?;
            if self.keep {
                list.push(value);
            }
            self.skip_space();
            if self.eat("]") {
                return Ok(list);
            }
            if !self.eat(",") {
                return self.fail("`,` or `]` was expected");
            }
        }
    }

    fn number(&mut self) -> Result<&'a str, Fault> {
        let end = self.rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'));
        let (text, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let digits = text.strip_prefix('-').unwrap_or(text);
        let octal = digits.len() > 1
            && digits.starts_with('0')
            && !digits.starts_with("0.")
            && !digits.starts_with("0e");
        let bare = !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('.');
        let readable = crate::lexer::integer(text).is_some() || crate::lexer::float(text).is_some();
        if octal || bare || !readable {
            return self.fail("a value was expected");
        }
        self.rest = rest;
        Ok(text)
    }

    fn string(&mut self) -> Result<String, Fault> {
        let text = self.rest.strip_prefix('"').unwrap_or(self.rest);
        let mut out = String::with_capacity(written(text));
        let mut chars = text.chars();
        loop {
            let c = match chars.next() {
                Some('"') => break,
                Some('\\') => match chars.next() {
                    Some(c @ ('"' | '\\' | '/')) => c,
                    Some('b') => '\u{8}',
                    Some('f') => '\u{c}',
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('u') => match unicode(&mut chars) {
                        Some(c) => c,
                        None => return self.fail("a string contains a bad \\u escape"),
                    },
                    _ => return self.fail("a string contains an escape JSON does not know"),
                },
                Some(c) if c >= ' ' => c,
                Some(_) => return self.fail("a string is not closed on its line"),
                None => return self.fail("a string is never closed"),
            };
            out.push(c);
        }
        self.rest = chars.as_str();
        Ok(out)
    }
}

/// The bytes up to the quote that ends a string, or to where it cannot go on. What is meant is never longer.
fn written(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte < b' ' || (byte == b'"' && !escaped);
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.unwrap_or(text.len())
}

/// Four hexadecimal digits, and a second escape when they are the first half of a surrogate pair.
fn unicode(chars: &mut std::str::Chars<'_>) -> Option<char> {
    let unit = |chars: &mut std::str::Chars<'_>| {
        (0..4).try_fold(0_u32, |v, _| Some(v * 16 + chars.next()?.to_digit(16)?))
    };
    let first = unit(chars)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    if chars.next()? != '\\' || chars.next()? != 'u' {
        return None;
    }
    let second = unit(chars)?;
    if !(0xdc00..0xe000).contains(&second) {
        return None;
    }
    char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
}
