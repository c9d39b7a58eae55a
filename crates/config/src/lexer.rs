//! From text to tokens, as the HCL 1 scanner cuts them.

use crate::MAX_FAULTS;
use crate::fault::Fault;

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Ident(String),
    Text(String),
    Heredoc(String),
    Number(String),
    Bool(bool),
    BraceOpen,
    BraceClose,
    ListOpen,
    ListClose,
    Comma,
    Assign,
    /// Something that is no token; the fault is already noted.
    Bad,
    End,
}

impl Token {
    /// What a person calls it; never its content.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ident(_) => "a bare word",
            Self::Text(_) => "a string",
            Self::Heredoc(_) => "a heredoc",
            Self::Number(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::BraceOpen => "`{`",
            Self::BraceClose => "`}`",
            Self::ListOpen => "`[`",
            Self::ListClose => "`]`",
            Self::Comma => "`,`",
            Self::Assign => "`=`",
            Self::Bad => "something unreadable",
            Self::End => "the end of the file",
        }
    }
}

/// A token and its line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lexeme {
    pub(crate) token: Token,
    pub(crate) line: u32,
}

/// Cuts the text; faults are collected, and the text after a bad piece is still read.
pub(crate) struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    pub(crate) faults: Vec<Fault>,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1, faults: Vec::new() }
    }

    /// Notes a fault; past [`MAX_FAULTS`] the text is dropped, so that parsing ends.
    pub(crate) fn fault(&mut self, line: u32, message: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault::at(line, message));
        } else {
            self.rest = "";
        }
    }

    /// Ends the text here.
    pub(crate) fn stop(&mut self) {
        self.rest = "";
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        if c == '\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(c)
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.line = self.line.saturating_add(count_lines(taken));
        taken
    }

    /// The next token.
    pub(crate) fn next(&mut self) -> Lexeme {
        self.skip_blank();
        let line = self.line;
        let Some(c) = self.peek() else { return Lexeme { token: Token::End, line } };
        let token = match c {
            c if is_letter(c) => self.word(),
            '0'..='9' | '.' | '-' => self.number(line),
            '"' => self.string(line),
            '<' => self.heredoc(line),
            _ => {
                let _consumed = self.bump();
                match c {
                    '{' => Token::BraceOpen,
                    '}' => Token::BraceClose,
                    '[' => Token::ListOpen,
                    ']' => Token::ListClose,
                    ',' => Token::Comma,
                    '=' => Token::Assign,
                    _ => {
                        self.fault(
                            line,
                            "a character that has no meaning here; a value that contains it needs quotes",
                        );
                        Token::Bad
                    }
                }
            }
        };
        Lexeme { token, line }
    }

    /// White space and comments (`#`, `//`, `/* */`).
    fn skip_blank(&mut self) {
        loop {
            let _space = self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                let _comment = self.take_while(|c| c != '\n');
            } else if let Some(body) = self.rest.strip_prefix("/*") {
                let line = self.line;
                if let Some(end) = body.find("*/") {
                    let (comment, rest) = body.split_at(end);
                    self.line = self.line.saturating_add(count_lines(comment));
                    self.rest = rest.get(2..).unwrap_or_default();
                } else {
                    self.fault(line, "the comment that starts here is never closed with `*/`");
                    self.stop();
                }
            } else {
                return;
            }
        }
    }

    fn word(&mut self) -> Token {
        match self.take_while(|c| is_letter(c) || is_digit(c) || c == '-' || c == '.') {
            "true" => Token::Bool(true),
            "false" => Token::Bool(false),
            word => Token::Ident(word.to_owned()),
        }
    }

    /// Decimal, hexadecimal, octal (leading zero) and floating numbers.
    fn number(&mut self, line: u32) -> Token {
        let start = self.rest;
        if self.rest.starts_with('-') {
            let _sign = self.bump();
        }
        if self.rest.starts_with("0x") || self.rest.starts_with("0X") {
            let _prefix = (self.bump(), self.bump());
            let _digits = self.take_while(|c| c.is_ascii_hexdigit());
        } else {
            let _whole = self.take_while(|c| c.is_ascii_digit());
            if self.rest.starts_with('.') {
                let _point = self.bump();
                let _fraction = self.take_while(|c| c.is_ascii_digit());
            }
            if self.rest.starts_with(['e', 'E']) {
                let _e = self.bump();
                if self.rest.starts_with(['+', '-']) {
                    let _sign = self.bump();
                }
                let _exponent = self.take_while(|c| c.is_ascii_digit());
            }
        }
        let text = start.get(..start.len() - self.rest.len()).unwrap_or_default().to_owned();
        if self.peek().is_some_and(|c| is_letter(c) || is_digit(c) || c == '.' || c == '-') {
            let _tail = self.take_while(|c| is_letter(c) || is_digit(c) || c == '.' || c == '-' || c == ':');
            self.fault(
                line,
                "a number is followed by other characters; durations, addresses and IDs need quotes",
            );
            return Token::Bad;
        }
        if integer(&text).is_none() && float(&text).is_none() {
            if text == "-" || text == "." {
                let _consumed = self.take_while(|c| is_letter(c) || is_digit(c));
            }
            self.fault(line, "this is not a number HCL can read; if it is text, put quotes around it");
            return Token::Bad;
        }
        Token::Number(text)
    }

    fn string(&mut self, line: u32) -> Token {
        let _quote = self.bump();
        let mut out: Vec<u8> = Vec::new();
        let mut braces = 0_u32;
        let mut good = true;
        let push = |out: &mut Vec<u8>, c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        loop {
            let c = match self.peek() {
                None => None,
                Some('\n') if braces == 0 => None,
                Some(c) => {
                    let _consumed = self.bump();
                    Some(c)
                }
            };
            match c {
                None => {
                    self.fault(line, "the string that starts here is not closed on its line");
                    return Token::Bad;
                }
                Some('"') if braces == 0 => break,
                // Inside `${ }` quotes do not end the string and nothing is unescaped: it is passed on as written.
                Some('$') if braces == 0 && self.peek() == Some('{') => {
                    let _brace = self.bump();
                    out.extend_from_slice(b"${");
                    braces = 1;
                }
                Some('\\') if braces == 0 => good &= self.escape(&mut out),
                Some(c) => {
                    match c {
                        '{' if braces > 0 => braces = braces.saturating_add(1),
                        '}' if braces > 0 => braces -= 1,
                        _ => {}
                    }
                    push(&mut out, c);
                }
            }
        }
        if !good {
            self.fault(line, "the string contains an escape HCL does not know; write a backslash as `\\\\`");
            return Token::Bad;
        }
        match String::from_utf8(out) {
            Ok(text) => Token::Text(text),
            Err(_bytes_may_be_secret) => {
                self.fault(line, "the escapes of this string do not make UTF-8 text");
                Token::Bad
            }
        }
    }

    /// The part of an escape after the backslash; false when it is none.
    fn escape(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(c) = self.peek() else { return false };
        if c == '\n' {
            return false;
        }
        let _consumed = self.bump();
        let simple = match c {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            '"' => b'"',
            'x' => {
                return self.digits(2, 16).and_then(|v| u8::try_from(v).ok()).map(|b| out.push(b)).is_some();
            }
            'u' | 'U' => {
                let n = if c == 'u' { 4 } else { 8 };
                return match self.digits(n, 16).and_then(char::from_u32) {
                    Some(c) => {
                        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                        true
                    }
                    None => false,
                };
            }
            '0'..='7' => {
                let first = c.to_digit(8).unwrap_or_default();
                let value = self.digits(2, 8).and_then(|rest| u8::try_from(first * 64 + rest).ok());
                return value.map(|b| out.push(b)).is_some();
            }
            _ => return false,
        };
        out.push(simple);
        true
    }

    fn digits(&mut self, n: usize, base: u32) -> Option<u32> {
        let mut value = 0_u32;
        for _ in 0..n {
            let digit = self.peek()?.to_digit(base)?;
            value = value.checked_mul(base)?.checked_add(digit)?;
            let _digit = self.bump();
        }
        Some(value)
    }

    /// `<<END` … `END`, and `<<-END`, which removes the indentation of the closing line from every line.
    fn heredoc(&mut self, line: u32) -> Token {
        let Some(after) = self.rest.strip_prefix("<<") else {
            let _consumed = self.bump();
            self.fault(line, "a heredoc starts with `<<` and its end word");
            return Token::Bad;
        };
        self.rest = after;
        let indented = self.rest.starts_with('-');
        if indented {
            let _dash = self.bump();
        }
        let word = self.take_while(|c| is_letter(c) || is_digit(c));
        if word.is_empty() || !self.rest.starts_with('\n') {
            let _line = self.take_while(|c| c != '\n');
            self.fault(line, "a heredoc starts with `<<` and its end word, alone on the rest of the line");
            return Token::Bad;
        }
        let _newline = self.bump();
        let mut lines: Vec<&str> = Vec::new();
        loop {
            if self.rest.is_empty() {
                self.fault(line, "the heredoc that starts here is never closed by its end word");
                return Token::Bad;
            }
            let text = self.take_while(|c| c != '\n');
            let more = self.bump().is_some();
            let closing = text.trim_end_matches('\r');
            if closing.trim_start().eq(word) {
                let prefix = closing.strip_suffix(word).unwrap_or_default();
                return Token::Heredoc(join(&lines, if indented { prefix } else { "" }));
            }
            if !more {
                continue;
            }
            lines.push(text);
        }
    }
}

/// Lines with a newline each, without `prefix` when all of them have it.
fn join(lines: &[&str], prefix: &str) -> String {
    let strip = lines.iter().all(|line| line.starts_with(prefix));
    let mut out = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        out.push_str(if strip { line.strip_prefix(prefix).unwrap_or(line) } else { line });
        out.push('\n');
    }
    out
}

fn count_lines(text: &str) -> u32 {
    u32::try_from(text.bytes().filter(|b| *b == b'\n').count()).unwrap_or(u32::MAX)
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())
}

/// An integer as HCL 1 writes it: decimal, `0x` hexadecimal, octal after a leading zero, each with a sign.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (base, digits) = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, digits.get(1..)?)
    } else {
        (10, digits)
    };
    if !digits.starts_with(|c: char| c.is_digit(base)) {
        return None;
    }
    let value = i128::from_str_radix(digits, base).ok()?;
    i64::try_from(if negative { -value } else { value }).ok()
}

/// A floating number; `None` for text that only looks like one.
pub(crate) fn float(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let fraction = digits.contains(['.', 'e', 'E']) && !digits.starts_with("0x") && !digits.starts_with("0X");
    if !fraction || !digits.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}
