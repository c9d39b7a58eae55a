//! From tokens to a tree.

use std::iter::Peekable;
use std::vec::IntoIter;

use super::BadTemplate;
use super::functions::is_function;
use super::lexer::{Kind, Token};
use super::value::Value;

/// Deepest nesting of blocks and parentheses.
const MAX_DEPTH: usize = 32;
/// Names that Go or sprig know; their absence here is said differently from a typing error.
const KNOWN_ELSEWHERE: &[&str] = &[
    "define",
    "template",
    "block",
    "break",
    "continue",
    "call",
    "html",
    "js",
    "urlquery",
    "regexMatch",
    "mustRegexMatch",
    "regexFind",
    "mustRegexFind",
    "regexFindAll",
    "mustRegexFindAll",
    "regexReplaceAll",
    "mustRegexReplaceAll",
    "regexReplaceAllLiteral",
    "mustRegexReplaceAllLiteral",
    "regexSplit",
    "mustRegexSplit",
    "regexQuoteMeta",
    "urlParse",
    "urlJoin",
    "uuidv4",
    "dict",
    "set",
    "unset",
    "pick",
    "omit",
    "merge",
    "mergeOverwrite",
    "mustMerge",
    "mustMergeOverwrite",
    "pluck",
    "dig",
    "chunk",
    "mustChunk",
    "wrap",
    "wrapWith",
    "indent",
    "nindent",
    "plural",
    "seq",
    "tuple",
    "initials",
    "snakecase",
    "camelcase",
    "kebabcase",
    "adler32sum",
    "abbrevboth",
    "isAbs",
    "b32enc",
    "b32dec",
    "b64dec",
];

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    /// `if` with its `else if`s.
    If {
        arms: Vec<(Pipeline, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    /// Variables it sets, and whether they are new (`:=`) or not (`=`).
    pub(super) sets: Option<(Vec<String>, bool)>,
    pub(super) commands: Vec<Command>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Value(Operand),
    Call { function: String, arguments: Vec<Operand> },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Sub(Box<Pipeline>),
    /// A function without arguments inside a list of arguments.
    Function(String),
}

/// How a list of nodes ended.
enum End {
    Text,
    Block,
    Else,
    ElseIf,
}

pub(super) fn parse(tokens: Vec<Token>) -> Result<Vec<Node>, BadTemplate> {
    let mut parser = Parser { at: tokens.last().map_or(0, |t| t.at), tokens: tokens.into_iter().peekable() };
    let end = parser.at;
    let (nodes, how) = parser.nodes(0)?;
    match how {
        End::Text => Ok(nodes),
        _ => Err(BadTemplate::Syntax {
            at: end.min(parser.at),
            reason: "end or else without if, range or with".to_owned(),
        }),
    }
}

struct Parser {
    tokens: Peekable<IntoIter<Token>>,
    at: usize,
}

impl Parser {
    fn syntax<T>(&self, reason: impl Into<String>) -> Result<T, BadTemplate> {
        Err(BadTemplate::Syntax { at: self.at, reason: reason.into() })
    }

    fn next(&mut self) -> Option<Kind> {
        let token = self.tokens.next()?;
        self.at = token.at;
        Some(token.kind)
    }

    fn peek(&mut self) -> Option<&Kind> {
        self.tokens.peek().map(|token| &token.kind)
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| token.kind == Kind::Word(word.to_owned())).is_some()
    }

    fn close(&mut self) -> Result<(), BadTemplate> {
        match self.next() {
            Some(Kind::Close) => Ok(()),
            _ => self.syntax("expected }}"),
        }
    }

    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, End), BadTemplate> {
        if depth > MAX_DEPTH {
            return self.syntax(format!("blocks are nested more than {MAX_DEPTH} deep"));
        }
        let mut nodes = Vec::new();
        loop {
            match self.next() {
                None => return Ok((nodes, End::Text)),
                Some(Kind::Text(text)) => nodes.push(Node::Text(text)),
                _ => {
                    if self.take_word("end") {
                        self.close()?;
                        return Ok((nodes, End::Block));
                    }
                    if self.take_word("else") {
                        if self.take_word("if") {
                            return Ok((nodes, End::ElseIf));
                        }
                        self.close()?;
                        return Ok((nodes, End::Else));
                    }
                    nodes.push(self.action(depth)?);
                }
            }
        }
    }

    fn action(&mut self, depth: usize) -> Result<Node, BadTemplate> {
        if self.take_word("if") {
            return self.conditional(depth);
        }
        if self.take_word("range") {
            let over = self.head(depth, 2)?;
            let (body, otherwise) = self.block(depth)?;
            return Ok(Node::Range { over, body, otherwise });
        }
        if self.take_word("with") {
            let value = self.head(depth, 1)?;
            let (body, otherwise) = self.block(depth)?;
            return Ok(Node::With { value, body, otherwise });
        }
        Ok(Node::Print(self.head(depth, 1)?))
    }

    fn conditional(&mut self, depth: usize) -> Result<Node, BadTemplate> {
        let mut arms = Vec::new();
        loop {
            let condition = self.head(depth, 1)?;
            let (body, end) = self.nodes(depth + 1)?;
            arms.push((condition, body));
            match end {
                End::ElseIf => {}
                End::Block => return Ok(Node::If { arms, otherwise: Vec::new() }),
                End::Else => {
                    let (otherwise, end) = self.nodes(depth + 1)?;
                    return match end {
                        End::Block => Ok(Node::If { arms, otherwise }),
                        _ => self.syntax("expected {{end}} after {{else}}"),
                    };
                }
                End::Text => return self.syntax("{{if}} without {{end}}"),
            }
        }
    }

    /// Body and `else` part of `range` and `with`.
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Vec<Node>), BadTemplate> {
        let (body, end) = self.nodes(depth + 1)?;
        match end {
            End::Block => Ok((body, Vec::new())),
            End::Else => {
                let (otherwise, end) = self.nodes(depth + 1)?;
                match end {
                    End::Block => Ok((body, otherwise)),
                    _ => self.syntax("expected {{end}} after {{else}}"),
                }
            }
            End::ElseIf => self.syntax("{{else if}} belongs to {{if}} only"),
            End::Text => self.syntax("{{range}} or {{with}} without {{end}}"),
        }
    }

    /// A pipeline with its variables, up to `}}`.
    fn head(&mut self, depth: usize, max_variables: usize) -> Result<Pipeline, BadTemplate> {
        let sets = self.variables(max_variables)?;
        let mut pipeline = self.pipeline(depth, &Kind::Close)?;
        pipeline.sets = sets;
        Ok(pipeline)
    }

    /// `$a :=`, `$a, $b :=` or `$a =`; nothing when the variable is only used.
    fn variables(&mut self, max: usize) -> Result<Option<(Vec<String>, bool)>, BadTemplate> {
        let mut ahead = self.tokens.clone();
        let mut names = Vec::new();
        while let Some(Token { kind: Kind::Variable(name), .. }) = ahead.next() {
            names.push(name);
            match ahead.next().map(|token| token.kind) {
                Some(Kind::Comma) => {}
                Some(how @ (Kind::Declare | Kind::Assign)) => {
                    if names.len() > max || names.iter().any(String::is_empty) {
                        return self.syntax("too many variables, or one without a name");
                    }
                    self.tokens = ahead;
                    return Ok(Some((names, how == Kind::Declare)));
                }
                _ => break,
            }
        }
        Ok(None)
    }

    fn pipeline(&mut self, depth: usize, end: &Kind) -> Result<Pipeline, BadTemplate> {
        if depth > MAX_DEPTH {
            return self.syntax(format!("parentheses are nested more than {MAX_DEPTH} deep"));
        }
        let mut commands = Vec::new();
        loop {
            commands.push(self.command(depth, commands.is_empty())?);
            match self.next() {
                Some(Kind::Pipe) => {}
                Some(kind) if kind == *end => return Ok(Pipeline { sets: None, commands }),
                _ => return self.syntax("expected | or the end of the action"),
            }
        }
    }

    fn command(&mut self, depth: usize, first: bool) -> Result<Command, BadTemplate> {
        let head = self.operand(depth)?;
        let mut arguments = Vec::new();
        while !matches!(self.peek(), None | Some(Kind::Pipe | Kind::Close | Kind::RightParen)) {
            arguments.push(self.operand(depth)?);
        }
        match head {
            Operand { base: Base::Function(function), fields } if fields.is_empty() => {
                Ok(Command::Call { function, arguments })
            }
            value if arguments.is_empty() && first => Ok(Command::Value(value)),
            _ => self.syntax("only a function can be given arguments or stand after |"),
        }
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, BadTemplate> {
        let mut fields = Vec::new();
        let base = match self.next() {
            Some(Kind::Dot) => Base::Dot,
            Some(Kind::Field(name)) => {
                fields.push(name);
                Base::Dot
            }
            Some(Kind::Variable(name)) => Base::Variable(name),
            Some(Kind::Str(text)) => Base::Literal(Value::Str(text)),
            Some(Kind::Int(number)) => Base::Literal(Value::Int(number)),
            Some(Kind::LeftParen) => Base::Sub(Box::new(self.pipeline(depth + 1, &Kind::RightParen)?)),
            Some(Kind::Word(word)) => self.word(word)?,
            _ => return self.syntax("expected a value"),
        };
        while let Some(token) = self.tokens.next_if(|t| !t.spaced && matches!(t.kind, Kind::Field(_))) {
            if let Kind::Field(name) = token.kind {
                fields.push(name);
            }
        }
        Ok(Operand { base, fields })
    }

    fn word(&self, word: String) -> Result<Base, BadTemplate> {
        Ok(match word.as_str() {
            "true" => Base::Literal(Value::Bool(true)),
            "false" => Base::Literal(Value::Bool(false)),
            "nil" => Base::Literal(Value::Nil),
            name if is_function(name) => Base::Function(word),
            name if KNOWN_ELSEWHERE.contains(&name) => {
                return Err(BadTemplate::Unsupported { at: self.at, what: word });
            }
            "end" | "else" | "if" | "range" | "with" => {
                return self.syntax(format!("{word} is out of place"));
            }
            _ => return self.syntax(format!("there is no function {word}")),
        })
    }
}
