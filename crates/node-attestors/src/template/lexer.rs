//! From text to tokens.

use super::BadTemplate;

/// A token and where it began.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    /// Whether white space came before it, which tells `.A.B` from `.A .B`.
    pub(super) spaced: bool,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Text outside `{{ }}`.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.`
    Dot,
    /// `.Name`
    Field(String),
    /// `$` or `$name`, without the dollar
    Variable(String),
    /// A function or keyword.
    Word(String),
    Str(String),
    Int(i64),
    Pipe,
    LeftParen,
    RightParen,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

fn syntax(at: usize, reason: impl Into<String>) -> BadTemplate {
    BadTemplate::Syntax { at, reason: reason.into() }
}

/// Splits a template into tokens; `{{-` and `-}}` have trimmed the text beside them, comments are gone.
pub(super) fn lex(text: &str) -> Result<Vec<Token>, BadTemplate> {
    let mut tokens = Vec::new();
    let (mut rest, mut trim_next) = (text, false);
    loop {
        let at = text.len() - rest.len();
        let (before, inside) = match rest.split_once("{{") {
            Some((before, inside)) => (before, Some(inside)),
            None => (rest, None),
        };
        let mut literal = if trim_next { before.trim_start() } else { before };
        let mut action = inside.unwrap_or_default();
        if let Some(marked) = action.strip_prefix('-').filter(|marked| marked.starts_with(is_space)) {
            literal = literal.trim_end();
            action = marked;
        }
        if !literal.is_empty() {
            tokens.push(Token { at, spaced: false, kind: Kind::Text(literal.to_owned()) });
        }
        if inside.is_none() {
            return Ok(tokens);
        }
        let opened = text.len() - action.len();
        (rest, trim_next) = match action.trim_start_matches(is_space).strip_prefix("/*") {
            Some(comment) => {
                end_of_comment(comment).ok_or_else(|| syntax(opened, "a comment is not closed by */}}"))?
            }
            None => {
                tokens.push(Token { at: opened, spaced: false, kind: Kind::Open });
                Action { text, rest: action }.lex(&mut tokens)?
            }
        };
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// What follows a comment, and whether its white space is to be trimmed.
fn end_of_comment(comment: &str) -> Option<(&str, bool)> {
    let (_, after) = comment.split_once("*/")?;
    if let Some(after) = after.strip_prefix("}}") {
        return Some((after, false));
    }
    after.strip_prefix(is_space)?.trim_start_matches(is_space).strip_prefix("-}}").map(|after| (after, true))
}

struct Action<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Action<'a> {
    /// Reads to the end of the action; returns what follows and whether its white space is to be trimmed.
    fn lex(mut self, tokens: &mut Vec<Token>) -> Result<(&'a str, bool), BadTemplate> {
        loop {
            let trimmed = self.rest.trim_start_matches(is_space);
            let spaced = trimmed.len() != self.rest.len();
            self.rest = trimmed;
            let at = self.text.len() - self.rest.len();
            let push = |tokens: &mut Vec<Token>, kind| tokens.push(Token { at, spaced, kind });
            if let Some(after) = self.rest.strip_prefix("}}") {
                push(tokens, Kind::Close);
                return Ok((after, false));
            }
            if let Some(after) = self.rest.strip_prefix("-}}").filter(|_| spaced) {
                push(tokens, Kind::Close);
                return Ok((after, true));
            }
            let kind = self.token(at)?;
            push(tokens, kind);
        }
    }

    fn token(&mut self, at: usize) -> Result<Kind, BadTemplate> {
        let mut chars = self.rest.chars();
        let first = chars.next().ok_or_else(|| syntax(at, "an action is not closed by }}"))?;
        let after = chars.as_str();
        let simple = |kind| Ok((kind, after));
        let (kind, rest) = match first {
            '|' => simple(Kind::Pipe),
            '(' => simple(Kind::LeftParen),
            ')' => simple(Kind::RightParen),
            ',' => simple(Kind::Comma),
            '=' => simple(Kind::Assign),
            ':' => match after.strip_prefix('=') {
                Some(rest) => Ok((Kind::Declare, rest)),
                None => Err(syntax(at, "expected :=")),
            },
            '"' => quoted(after, at),
            '`' => match after.split_once('`') {
                Some((raw, rest)) => Ok((Kind::Str(raw.to_owned()), rest)),
                None => Err(syntax(at, "a raw string is not closed by `")),
            },
            '.' => {
                let (name, rest) = word(after);
                Ok(if name.is_empty() { (Kind::Dot, rest) } else { (Kind::Field(name.to_owned()), rest) })
            }
            '$' => {
                let (name, rest) = word(after);
                Ok((Kind::Variable(name.to_owned()), rest))
            }
            '-' | '+' | '0'..='9' => number(self.rest, at),
            c if c == '_' || c.is_ascii_alphabetic() => {
                let (name, rest) = word(self.rest);
                Ok((Kind::Word(name.to_owned()), rest))
            }
            '\'' => Err(BadTemplate::Unsupported { at, what: "a character constant".to_owned() }),
            other => Err(syntax(at, format!("unexpected {other:?}"))),
        }?;
        self.rest = rest;
        Ok(kind)
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    text.split_at(end)
}

fn number(text: &str, at: usize) -> Result<(Kind, &str), BadTemplate> {
    let digits_from = usize::from(text.starts_with(['-', '+']));
    let body = text.get(digits_from..).unwrap_or_default();
    let end = digits_from + word(body).0.len();
    let (digits, rest) = text.split_at(end);
    if rest.starts_with('.') {
        return Err(BadTemplate::Unsupported { at, what: "a fraction".to_owned() });
    }
    match digits.parse() {
        Ok(number) => Ok((Kind::Int(number), rest)),
        Err(_) => Err(syntax(at, format!("{digits:?} is no whole decimal number"))),
    }
}

/// An interpreted string; `text` begins after the opening quote.
fn quoted(text: &str, at: usize) -> Result<(Kind, &str), BadTemplate> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok((Kind::Str(out), chars.as_str())),
            '\n' => break,
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(plain @ ('"' | '\\')) => out.push(plain),
                _ => return Err(syntax(at, "only \\n \\t \\r \\\" and \\\\ are understood in a string")),
            },
            plain => out.push(plain),
        }
    }
    Err(syntax(at, "a string is not closed by \""))
}
