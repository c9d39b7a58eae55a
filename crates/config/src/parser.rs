//! From tokens to the tree, by the HCL 1 grammar: items need no separator (several may share a line), a comma between them
//! is allowed, keys may be quoted, `key { … }` and `key = { … }` are the same.

use crate::fault::{Fault, shown};
use crate::lexer::{Lexeme, Lexer, Quoted, Token};
use crate::value::{Body, Item, Kind, Name, Pos, Value};
use crate::{MAX_DEPTH, MAX_VALUES};

/// The fault is noted; the caller goes on behind the bad piece.
struct Noted;

struct Parser<'a> {
    lexer: Lexer<'a>,
    peeked: Option<Lexeme<'a>>,
    /// Line of the last token taken.
    last_line: u32,
    /// Whether the tree is kept. A text is first looked through without one, so that one that is no configuration does not
    /// cost many times its size.
    keep: bool,
    /// Names and values so far.
    values: usize,
}

/// Parses a whole text.
pub(crate) fn parse(text: &str) -> Result<Body, Vec<Fault>> {
    run(text, false)?;
    run(text, true)
}

fn run(text: &str, keep: bool) -> Result<Body, Vec<Fault>> {
    let mut parser = Parser { lexer: Lexer::new(text), peeked: None, last_line: 1, keep, values: 0 };
    let body = parser.body(None, 0);
    let mut faults = parser.lexer.faults;
    if faults.is_empty() {
        return Ok(body);
    }
    faults.sort();
    faults.dedup();
    Err(faults)
}

/// A key or a label as it stands in the text.
#[derive(Clone, Copy)]
enum Word<'a> {
    Bare(&'a str),
    Quoted(Quoted<'a>),
}

impl Word<'_> {
    fn text(self) -> String {
        match self {
            Self::Bare(text) => text.to_owned(),
            Self::Quoted(text) => text.text(),
        }
    }
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Lexeme<'a> {
        let lexer = &mut self.lexer;
        *self.peeked.get_or_insert_with(|| lexer.next())
    }

    fn take(&mut self) -> Lexeme<'a> {
        let lexeme = self.peeked.take().unwrap_or_else(|| self.lexer.next());
        self.last_line = lexeme.line;
        lexeme
    }

    fn fault(&mut self, line: u32, message: impl Into<String>) -> Noted {
        self.lexer.fault(line, message);
        Noted
    }

    /// Items up to the closing brace (taken), or to the end of the text when `opened` is none.
    fn body(&mut self, opened: Option<u32>, depth: usize) -> Body {
        let mut body = Body::default();
        loop {
            match (self.peek().token, opened) {
                (Token::BraceClose, Some(_)) => {
                    let _brace = self.take();
                    break;
                }
                (Token::End, None) => break,
                (Token::End, Some(line)) => {
                    self.fault(line, "the block that starts here is never closed with `}`");
                    break;
                }
                _ => {}
            }
            match self.item(depth) {
                Ok(Some(item)) => body.items.push(item),
                Ok(None) => {}
                Err(Noted) => self.recover(opened.is_some()),
            }
            if self.peek().token == Token::Comma {
                let _comma = self.take();
            }
        }
        body
    }

    /// Counts a name or a value; too many end the text, as what follows of it is not looked at.
    fn count(&mut self, line: u32) -> Result<(), Noted> {
        self.values += 1;
        if self.values <= MAX_VALUES {
            return Ok(());
        }
        let noted = self.fault(line, format!("the file holds more than {MAX_VALUES} keys and values"));
        self.lexer.stop();
        self.peeked = None;
        Err(noted)
    }

    /// One item; none when the tree is not kept.
    fn item(&mut self, depth: usize) -> Result<Option<Item>, Noted> {
        let mut key: Option<(Word<'a>, u32)> = None;
        let mut labels: Vec<Name> = Vec::new();
        let mut labelled = false;
        let (key, assigned, line) = loop {
            let Lexeme { token, line } = self.peek();
            let word = match (token, key) {
                (Token::Ident(text), _) => Word::Bare(text),
                (Token::Text(text), _) => Word::Quoted(text),
                (Token::Assign, Some(key)) if !labelled => break (key, true, line),
                (Token::Assign, None) => return Err(self.fault(line, "there is no key before `=`")),
                (Token::Assign, _) => {
                    return Err(self.fault(line, "a key with labels takes a block, not `=`"));
                }
                (Token::BraceOpen, None) => return Err(self.fault(line, "there is no key before `{`")),
                (Token::BraceOpen, Some(key)) => break (key, false, line),
                (Token::Bad, _) => return Err(Noted),
                (other, Some((key, line))) => {
                    let key = key.text();
                    let message =
                        format!("after the key `{}` comes `=` or `{{`, not {}", shown(&key), other.name());
                    return Err(self.fault(line, message));
                }
                (other, None) => {
                    return Err(self.fault(line, format!("a key was expected, not {}", other.name())));
                }
            };
            self.count(line)?;
            match key {
                None => key = Some((word, line)),
                Some(_) => labelled = true,
            }
            if self.keep && labelled {
                labels.push(Name { text: word.text(), pos: Pos { line } });
            }
            let _name = self.take();
        };
        let (key, key_line) = key;
        if assigned {
            let _sign = self.take();
            let next = self.peek();
            if matches!(next.token, Token::Ident(_)) && next.line > line {
                let key = key.text();
                return Err(self.fault(line, format!("the key `{}` has no value", shown(&key))));
            }
        }
        let value = self.value(depth)?;
        let name = |key: Word<'_>| Name { text: key.text(), pos: Pos { line: key_line } };
        Ok(self.keep.then(|| Item { key: name(key), labels, value, assigned }))
    }

    fn value(&mut self, depth: usize) -> Result<Value, Noted> {
        let Lexeme { token, line } = self.peek();
        let pos = Pos { line };
        let kind = match token {
            Token::Text(_) | Token::Heredoc(_) | Token::Number(_) if !self.keep => Kind::Null,
            Token::Text(text) => Kind::Text(text.text()),
            Token::Heredoc(lines) => Kind::Text(lines.text()),
            Token::Number(text) => Kind::Number(text.to_owned()),
            Token::Bool(value) => Kind::Bool(value),
            Token::BraceOpen | Token::ListOpen if depth >= MAX_DEPTH => {
                let noted = self.fault(line, format!("blocks and lists nest deeper than {MAX_DEPTH}"));
                self.lexer.stop();
                self.peeked = None;
                return Err(noted);
            }
            Token::BraceOpen => {
                let _brace = self.take();
                return Ok(Value { kind: Kind::Object(self.body(Some(line), depth + 1)), pos });
            }
            Token::ListOpen => {
                let _bracket = self.take();
                return Ok(Value { kind: Kind::List(self.list(line, depth + 1)?), pos });
            }
            Token::Bad => return Err(Noted),
            Token::Ident(_) => {
                return Err(self.fault(line, "a bare word is no value; text needs quotes"));
            }
            other => return Err(self.fault(line, format!("a value was expected, not {}", other.name()))),
        };
        let _value = self.take();
        Ok(Value { kind, pos })
    }

    fn list(&mut self, opened: u32, depth: usize) -> Result<Vec<Value>, Noted> {
        let mut list = Vec::new();
        let mut comma = true;
        loop {
            let Lexeme { token, line } = self.peek();
            match token {
                Token::ListClose => {
                    let _bracket = self.take();
                    return Ok(list);
                }
                Token::Comma => {
                    let _comma = self.take();
                    comma = true;
                }
                Token::End => {
                    return Err(self.fault(opened, "the list that starts here is never closed with `]`"));
                }
                Token::Bad => return Err(Noted),
                other if !comma => {
                    return Err(self.fault(line, format!("in a list comes `,` or `]`, not {}", other.name())));
                }
                _ => {
                    self.count(line)?;
                    let value = self.value(depth)?;
                    if self.keep {
                        list.push(value);
                    }
                    comma = false;
                }
            }
        }
    }

    /// Skips to where the next item of this body can start: a first word on a later line, or the closing brace.
    fn recover(&mut self, in_block: bool) {
        let mut depth = 0_usize;
        let mut line = self.last_line;
        loop {
            let next = self.peek();
            match next.token {
                Token::End => return,
                Token::BraceClose if depth == 0 && in_block => return,
                Token::Ident(_) | Token::Text(_) if depth == 0 && next.line > line => return,
                Token::BraceOpen | Token::ListOpen => depth += 1,
                Token::BraceClose | Token::ListClose => depth = depth.saturating_sub(1),
                _ => {}
            }
            line = line.max(next.line);
            let _skipped = self.take();
        }
    }
}
