//! `print` and `printf` as Go's fmt does them.

use super::value::Value;
use super::{MAX_OUTPUT, RenderError};

/// Go's `Sprint`: a space between operands when neither is a text.
pub(super) fn print(values: &[Value]) -> String {
    let mut out = String::new();
    let mut after_text = true;
    for (n, value) in values.iter().enumerate() {
        let is_text = matches!(value, Value::Str(_));
        if n > 0 && !is_text && !after_text {
            out.push(' ');
        }
        out.push_str(&value.text());
        after_text = is_text;
    }
    out
}

/// One `%` directive.
#[derive(Default)]
struct Directive {
    left: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

/// Go's `Sprintf` with the verbs s v d x X q t and %%, the flags - 0 +, width and precision. What Go would
/// print as `%!d(string=x)` is an error here.
pub(super) fn printf(layout: &str, values: Vec<Value>) -> Result<String, RenderError> {
    let fault = |reason: String| RenderError::function("printf", reason);
    let mut out = String::new();
    let mut values = values.into_iter();
    let mut chars = layout.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = Directive::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+')) {
            match flag {
                '-' => directive.left = true,
                '0' => directive.zero = true,
                _ => directive.plus = true,
            }
        }
        directive.width = digits(&mut chars).unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            directive.precision = Some(digits(&mut chars).unwrap_or(0));
        }
        let Some(verb) = chars.next() else {
            return Err(fault("the layout ends within a % directive".to_owned()));
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = values.next() else { return Err(fault(format!("there is no value for %{verb}"))) };
        directive.write(verb, &value, &mut out)?;
        if out.len() > MAX_OUTPUT {
            return Err(RenderError::TooMuch);
        }
    }
    if values.next().is_some() {
        return Err(fault("there are more values than % directives".to_owned()));
    }
    Ok(out)
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit).and_then(|c| c.to_digit(10)) {
        let so_far: usize = number.unwrap_or(0);
        number = Some(so_far.saturating_mul(10).saturating_add(digit as usize));
    }
    number
}

impl Directive {
    fn write(&self, verb: char, value: &Value, out: &mut String) -> Result<(), RenderError> {
        let (text, numeric) = match (verb, value) {
            ('v' | 'd', Value::Int(n)) => (self.sign(n.to_string(), *n), true),
            ('x', Value::Int(n)) => (self.sign(magnitude(*n, |n| format!("{n:x}")), *n), true),
            ('X', Value::Int(n)) => (self.sign(magnitude(*n, |n| format!("{n:X}")), *n), true),
            ('s' | 'v', value) => (self.cut(value.text()), false),
            ('x', Value::Str(text)) => (hex::encode(self.cut(text.clone())), false),
            ('X', Value::Str(text)) => (hex::encode_upper(self.cut(text.clone())), false),
            ('x', Value::Bytes(bytes)) => (hex::encode(bytes), false),
            ('X', Value::Bytes(bytes)) => (hex::encode_upper(bytes), false),
            ('q', Value::Str(text)) => (format!("{:?}", self.cut(text.clone())), false),
            ('t', Value::Bool(b)) => (b.to_string(), false),
            (verb, value) => {
                return Err(RenderError::function(
                    "printf",
                    format!("%{verb} cannot print {}", value.kind()),
                ));
            }
        };
        if self.width > MAX_OUTPUT {
            return Err(RenderError::TooMuch);
        }
        let missing = self.width.saturating_sub(text.chars().count());
        let (sign, rest) = match text.strip_prefix(['-', '+']).filter(|_| numeric && self.zero && !self.left)
        {
            Some(rest) => text.split_at(text.len() - rest.len()),
            None => ("", text.as_str()),
        };
        let filler = if self.zero && !self.left { "0" } else { " " }.repeat(missing);
        match self.left {
            true => out.extend([rest, &filler]),
            false if self.zero => out.extend([sign, &filler, rest]),
            false => out.extend([filler.as_str(), rest]),
        }
        Ok(())
    }

    fn sign(&self, digits: String, number: i64) -> String {
        if self.plus && number >= 0 { format!("+{digits}") } else { digits }
    }

    fn cut(&self, text: String) -> String {
        match self.precision {
            Some(length) => text.chars().take(length).collect(),
            None => text,
        }
    }
}

fn magnitude(number: i64, format: impl Fn(u64) -> String) -> String {
    let digits = format(number.unsigned_abs());
    if number < 0 { format!("-{digits}") } else { digits }
}
