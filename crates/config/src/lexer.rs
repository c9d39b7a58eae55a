//! From text to tokens, as the HCL 1 scanner cuts them.

use crate::fault::Fault;
use crate::{MAX_FAULTS, MAX_VALUES};

/// How many tokens are cut from a text at most: more than its keys and values can need.
const MAX_TOKENS: usize = 5 * MAX_VALUES;

/// What a token is. It holds places of the text: a text that is no configuration costs no copy of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    Ident(&'a str),
    Text(Quoted<'a>),
    Heredoc(Lines<'a>),
    Number(&'a str),
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

/// What stands between quotes. Its escapes are known to be good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quoted<'a> {
    raw: &'a str,
    escaped: bool,
}

impl Quoted<'_> {
    /// The text that is meant.
    pub(crate) fn text(self) -> String {
        if !self.escaped {
            return unix(self.raw);
        }
        let text = unescape(self.raw).and_then(|bytes| String::from_utf8(bytes).ok());
        text.unwrap_or_default()
    }
}

/// The lines of a heredoc, each with its newline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lines<'a> {
    raw: &'a str,
    /// What is cut off in front, if all lines begin with it.
    prefix: &'a str,
}

impl Lines<'_> {
    /// The text that is meant.
    pub(crate) fn text(self) -> String {
        let Self { raw, prefix } = self;
        if prefix.is_empty() || !raw.lines().all(|line| line.starts_with(prefix)) {
            return unix(raw);
        }
        let mut out = String::with_capacity(raw.len());
        for line in raw.lines() {
            out.push_str(line.strip_prefix(prefix).unwrap_or(line));
            out.push('\n');
        }
        out
    }
}

/// A piece of the text with `\r\n` as one newline. It only matters inside of quotes and heredocs: elsewhere both are space.
fn unix(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((line, more)) = rest.split_once("\r\n") {
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str(rest);
    out
}

impl Token<'_> {
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lexeme<'a> {
    pub(crate) token: Token<'a>,
    pub(crate) line: u32,
}

/// Cuts the text; faults are collected, and the text after a bad piece is still read.
pub(crate) struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    tokens: usize,
    pub(crate) faults: Vec<Fault>,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1, tokens: 0, faults: Vec::new() }
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
    pub(crate) fn next(&mut self) -> Lexeme<'a> {
        self.skip_blank();
        let line = self.line;
        let Some(c) = self.peek() else { return Lexeme { token: Token::End, line } };
        self.tokens += 1;
        if self.tokens > MAX_TOKENS {
            self.fault(line, format!("the file holds more than {MAX_TOKENS} words and signs"));
            self.stop();
            return Lexeme { token: Token::End, line };
        }
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
        let text = self.rest;
        // By bytes: all of these are ASCII, and a configuration is mostly made of them.
        let bytes = text.as_bytes();
        let mut at = 0;
        loop {
            match bytes.get(at) {
                Some(b'\n') => {
                    self.line = self.line.saturating_add(1);
                    at += 1;
                }
                Some(b' ' | b'\t' | b'\r') => at += 1,
                Some(b'#') => at = line_end(bytes, at),
                Some(b'/') if bytes.get(at + 1) == Some(&b'/') => at = line_end(bytes, at),
                Some(b'/') if bytes.get(at + 1) == Some(&b'*') => {
                    let body = text.get(at + 2..).unwrap_or_default();
                    let Some(end) = body.find("*/") else {
                        self.fault(self.line, "the comment that starts here is never closed with `*/`");
                        self.stop();
                        return;
                    };
                    self.line = self.line.saturating_add(count_lines(body.get(..end).unwrap_or_default()));
                    at += end + 4;
                }
                _ => break,
            }
        }
        self.rest = text.get(at..).unwrap_or_default();
    }

    fn word(&mut self) -> Token<'a> {
        match self.take_while(|c| is_letter(c) || is_digit(c) || c == '-' || c == '.') {
            "true" => Token::Bool(true),
            "false" => Token::Bool(false),
            word => Token::Ident(word),
        }
    }

    /// Decimal, hexadecimal, octal (leading zero) and floating numbers.
    fn number(&mut self, line: u32) -> Token<'a> {
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
        let text = start.get(..start.len() - self.rest.len()).unwrap_or_default();
        if self.peek().is_some_and(|c| is_letter(c) || is_digit(c) || c == '.' || c == '-') {
            let _tail = self.take_while(|c| is_letter(c) || is_digit(c) || c == '.' || c == '-' || c == ':');
            self.fault(
                line,
                "a number is followed by other characters; durations, addresses and IDs need quotes",
            );
            return Token::Bad;
        }
        if integer(text).is_none() && float(text).is_none() {
            if text == "-" || text == "." {
                let _consumed = self.take_while(|c| is_letter(c) || is_digit(c));
            }
            self.fault(line, "this is not a number HCL can read; if it is text, put quotes around it");
            return Token::Bad;
        }
        Token::Number(text)
    }

    fn string(&mut self, line: u32) -> Token<'a> {
        let _quote = self.bump();
        let start = self.rest;
        let mut braces = 0_u32;
        let mut escaped = false;
        let mut lines = 0_u32;
        let mut bytes = start.bytes().enumerate().peekable();
        // Every byte that means something is ASCII, so where one stands is a character's boundary.
        let end = loop {
            match bytes.next() {
                None => break Err(start.len()),
                Some((at, b'\n')) if braces == 0 => break Err(at),
                Some((at, b'"')) if braces == 0 => break Ok(at),
                // Inside `${ }` quotes do not end the string and nothing is unescaped: it is passed on as written.
                Some((_, b'$')) if braces == 0 => {
                    braces = u32::from(bytes.next_if(|(_, next)| *next == b'{').is_some());
                }
                Some((_, b'\\')) if braces == 0 => {
                    escaped = true;
                    let _escaped = bytes.next_if(|(_, next)| *next != b'\n');
                }
                Some((_, b'{')) if braces > 0 => braces = braces.saturating_add(1),
                Some((_, b'}')) if braces > 0 => braces -= 1,
                Some((_, b'\n')) => lines = lines.saturating_add(1),
                Some(_) => {}
            }
        };
        self.line = self.line.saturating_add(lines);
        let at = match end {
            Ok(at) | Err(at) => at,
        };
        let (raw, rest) = start.split_at_checked(at).unwrap_or((start, ""));
        self.rest = rest;
        if end.is_err() {
            self.fault(line, "the string that starts here is not closed on its line");
            return Token::Bad;
        }
        let _quote = self.bump();
        if !escaped {
            return Token::Text(Quoted { raw, escaped });
        }
        match unescape(raw).map(String::from_utf8) {
            Some(Ok(_text)) => Token::Text(Quoted { raw, escaped }),
            Some(Err(_bytes_may_be_secret)) => {
                self.fault(line, "the escapes of this string do not make UTF-8 text");
                Token::Bad
            }
            None => {
                self.fault(
                    line,
                    "the string contains an escape HCL does not know; write a backslash as `\\\\`",
                );
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
    fn heredoc(&mut self, line: u32) -> Token<'a> {
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
        if self.rest.starts_with("\r\n") {
            let _return = self.bump();
        }
        if word.is_empty() || !self.rest.starts_with('\n') {
            let _line = self.take_while(|c| c != '\n');
            self.fault(line, "a heredoc starts with `<<` and its end word, alone on the rest of the line");
            return Token::Bad;
        }
        let _newline = self.bump();
        let start = self.rest;
        let bytes = start.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let end = line_end(bytes, at);
            // Most lines are too short or end otherwise.
            let closing = start.get(at..end).unwrap_or_default().trim_end_matches('\r');
            if closing.ends_with(word) && closing.trim_start().eq(word) {
                let prefix = if indented { closing.strip_suffix(word).unwrap_or_default() } else { "" };
                let (raw, _) = start.split_at_checked(at).unwrap_or_default();
                self.rest = start.get(end..).unwrap_or_default();
                let _newline = self.bump();
                return Token::Heredoc(Lines { raw, prefix });
            }
            self.line = self.line.saturating_add(1);
            at = end + 1;
        }
        self.rest = "";
        self.fault(line, "the heredoc that starts here is never closed by its end word");
        Token::Bad
    }
}

/// Where the line that holds a byte ends: at its newline, or at the end of the text.
fn line_end(bytes: &[u8], at: usize) -> usize {
    let line = bytes.get(at..).unwrap_or_default();
    line.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// What stands between quotes without its escapes; `None` when one of them is none. The bytes need not be UTF-8.
fn unescape(raw: &str) -> Option<Vec<u8>> {
    let mut lexer = Lexer::new(raw);
    let mut out = Vec::with_capacity(raw.len());
    let mut braces = 0_u32;
    while let Some(c) = lexer.bump() {
        match c {
            '\\' if braces == 0 => {
                if !lexer.escape(&mut out) {
                    return None;
                }
                continue;
            }
            '$' if braces == 0 && lexer.peek() == Some('{') => {
                let _brace = lexer.bump();
                out.extend_from_slice(b"${");
                braces = 1;
                continue;
            }
            '{' if braces > 0 => braces = braces.saturating_add(1),
            '}' if braces > 0 => braces -= 1,
            _ => {}
        }
        // As in `unix`.
        if c == '\r' && lexer.peek() == Some('\n') {
            continue;
        }
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(out)
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
