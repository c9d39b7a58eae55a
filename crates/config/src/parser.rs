//! From tokens to the tree, by the HCL 1 grammar: items need no separator (several may share a line), a comma between them
//! is allowed, keys may be quoted, `key { … }` and `key = { … }` are the same.

use crate::MAX_DEPTH;
use crate::fault::Fault;
use crate::lexer::{Lexeme, Lexer, Token};
use crate::value::{Body, Item, Kind, Name, Pos, Value};

/// The fault is noted; the caller goes on behind the bad piece.
struct Noted;

struct Parser<'a> {
    lexer: Lexer<'a>,
    peeked: Option<Lexeme>,
    /// Line of the last token taken.
    last_line: u32,
}

/// Parses a whole text.
pub(crate) fn parse(text: &str) -> Result<Body, Vec<Fault>> {
    let unix;
    let text = if text.contains("\r\n") {
        unix = text.replace("\r\n", "\n");
        &unix
    } else {
        text
    };
    let mut parser = Parser { lexer: Lexer::new(text), peeked: None, last_line: 1 };
    let body = parser.body(None, 0);
    let mut faults = parser.lexer.faults;
    if faults.is_empty() {
        return Ok(body);
    }
    faults.sort();
    faults.dedup();
    Err(faults)
}

impl Parser<'_> {
    fn peek(&mut self) -> &Lexeme {
        let lexer = &mut self.lexer;
        self.peeked.get_or_insert_with(|| lexer.next())
    }

    fn take(&mut self) -> Lexeme {
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
            match (&self.peek().token, opened) {
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
                Ok(item) => body.items.push(item),
                Err(Noted) => self.recover(opened.is_some()),
            }
            if self.peek().token == Token::Comma {
                let _comma = self.take();
            }
        }
        body
    }

    fn item(&mut self, depth: usize) -> Result<Item, Noted> {
        let mut names: Vec<Name> = Vec::new();
        let (assigned, line) = loop {
            let Lexeme { token, line } = self.peek().clone();
            match token {
                Token::Ident(text) | Token::Text(text) => {
                    names.push(Name { text, pos: Pos { line } });
                }
                Token::Assign if names.len() == 1 => break (true, line),
                Token::Assign if names.is_empty() => {
                    return Err(self.fault(line, "there is no key before `=`"));
                }
                Token::Assign => return Err(self.fault(line, "a key with labels takes a block, not `=`")),
                Token::BraceOpen if names.is_empty() => {
                    return Err(self.fault(line, "there is no key before `{`"));
                }
                Token::BraceOpen => break (false, line),
                Token::Bad => return Err(Noted),
                other => {
                    let (line, message) = match names.first() {
                        Some(key) => (
                            key.pos.line,
                            format!("after the key `{}` comes `=` or `{{`, not {}", key.text, other.name()),
                        ),
                        None => (line, format!("a key was expected, not {}", other.name())),
                    };
                    return Err(self.fault(line, message));
                }
            }
            let _name = self.take();
        };
        let mut names = names.into_iter();
        let Some(key) = names.next() else { return Err(self.fault(line, "there is no key here")) };
        if assigned {
            let _sign = self.take();
            let next = self.peek();
            if matches!(next.token, Token::Ident(_)) && next.line > line {
                return Err(self.fault(line, format!("the key `{}` has no value", key.text)));
            }
        }
        let value = self.value(depth)?;
        Ok(Item { key, labels: names.collect(), value, assigned })
    }

    fn value(&mut self, depth: usize) -> Result<Value, Noted> {
        let Lexeme { token, line } = self.peek().clone();
        let pos = Pos { line };
        let kind = match token {
            Token::Text(text) | Token::Heredoc(text) => Kind::Text(text),
            Token::Number(text) => Kind::Number(text),
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
            let Lexeme { token, line } = self.peek().clone();
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
                    list.push(self.value(depth)?);
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
