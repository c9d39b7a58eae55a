//! The tree as HCL text again.

use crate::value::{Body, Item, Kind, Value};

/// A text and where its items stand in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// HCL, which [`Document::parse`](crate::Document::parse) reads as the same tree.
    pub text: String,
    /// For each item that stands in a body (not in a list): its line, and the indexes that lead to it.
    pub places: Vec<(u32, Vec<usize>)>,
}

/// Writes a tree as HCL. `notes` gives the comment lines that stand before an item (by its indexes) or, for
/// the indexes of a block, at the end of the block; those of the empty path stand at the top of the text.
#[must_use]
pub fn print(body: &Body, notes: &dyn Fn(&[usize], Comment) -> Vec<String>) -> Printed {
    let mut printer = Printer {
        printed: Printed { text: String::new(), places: Vec::new() },
        line: 1,
        notes,
        path: Vec::new(),
    };
    printer.comments(0, Comment::Before);
    printer.body(body, 0);
    printer.comments(0, Comment::AtEnd);
    printer.printed
}

/// Where a comment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comment {
    /// Before the item.
    Before,
    /// At the end of the block.
    AtEnd,
}

struct Printer<'a> {
    printed: Printed,
    line: u32,
    notes: &'a dyn Fn(&[usize], Comment) -> Vec<String>,
    path: Vec<usize>,
}

impl Printer<'_> {
    fn put(&mut self, depth: usize, text: &str) {
        for _ in 0..depth {
            self.printed.text.push_str("    ");
        }
        self.printed.text.push_str(text);
        self.printed.text.push('\n');
        let lines = text.bytes().filter(|byte| *byte == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines + 1).unwrap_or(u32::MAX));
    }

    fn comments(&mut self, depth: usize, place: Comment) {
        for note in (self.notes)(&self.path, place) {
            for line in note.lines() {
                self.put(depth, &format!("# {line}"));
            }
        }
    }

    fn body(&mut self, body: &Body, depth: usize) {
        for (index, item) in body.items.iter().enumerate() {
            self.path.push(index);
            self.comments(depth, Comment::Before);
            self.printed.places.push((self.line, self.path.clone()));
            self.item(item, depth);
            self.path.pop();
        }
    }

    fn item(&mut self, item: &Item, depth: usize) {
        let mut head = word(&item.key.text);
        for label in &item.labels {
            head.push(' ');
            head.push_str(&quoted(&label.text));
        }
        match &item.value.kind {
            // `null` is as if the key were not there.
            Kind::Null => self.put(depth, &format!("# {head} is null")),
            Kind::Object(body) => {
                if body.items.is_empty() && (self.notes)(&self.path, Comment::AtEnd).is_empty() {
                    self.put(depth, &format!("{head} {{}}"));
                    return;
                }
                self.put(depth, &format!("{head} {{"));
                self.body(body, depth + 1);
                self.comments(depth + 1, Comment::AtEnd);
                self.put(depth, "}");
            }
            _ => {
                let mut text = format!("{head} = ");
                value(&mut text, &item.value, depth);
                self.put(depth, &text);
            }
        }
    }
}

/// A key that HCL reads without quotes, or a quoted one.
fn word(key: &str) -> String {
    let first = key.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if first && rest && !matches!(key, "true" | "false") { key.to_owned() } else { quoted(key) }
}

/// A string with HCL 1's escapes. What stands in `${ }` is never unescaped by HCL, so it stays as it is.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    let mut characters = text.chars().peekable();
    let mut braces = 0_usize;
    while let Some(c) = characters.next() {
        if braces > 0 {
            braces = match c {
                '{' => braces + 1,
                '}' => braces - 1,
                _ => braces,
            };
            out.push(c);
            continue;
        }
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '$' if characters.peek() == Some(&'{') => {
                characters.next();
                out.push_str("${");
                braces = 1;
            }
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn value(out: &mut String, value_: &Value, depth: usize) {
    match &value_.kind {
        Kind::Null => out.push_str("\"\""),
        Kind::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Kind::Number(text) => out.push_str(text),
        Kind::Text(text) => out.push_str(&quoted(text)),
        Kind::List(list) => {
            out.push('[');
            for (index, element) in list.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                value(out, element, depth);
            }
            out.push(']');
        }
        Kind::Object(body) => {
            out.push_str("{\n");
            for item in &body.items {
                for _ in 0..=depth {
                    out.push_str("    ");
                }
                out.push_str(&word(&item.key.text));
                for label in &item.labels {
                    out.push(' ');
                    out.push_str(&quoted(&label.text));
                }
                out.push_str(if matches!(item.value.kind, Kind::Object(_)) { " " } else { " = " });
                value(out, &item.value, depth + 1);
                out.push('\n');
            }
            for _ in 0..depth {
                out.push_str("    ");
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Document;

    /// The tree without its lines.
    fn bare(body: &Body) -> String {
        let items = body.items.iter().filter(|item| item.value.kind != Kind::Null).map(|item| {
            let labels: Vec<&str> = item.labels.iter().map(|label| label.text.as_str()).collect();
            format!("{:?} {labels:?} {};", item.key.text, bare_value(&item.value))
        });
        items.collect()
    }

    fn bare_value(value: &Value) -> String {
        match &value.kind {
            Kind::Null => "\"\"".into(),
            Kind::Bool(flag) => flag.to_string(),
            Kind::Number(text) => text.clone(),
            Kind::Text(text) => format!("{text:?}"),
            Kind::List(list) => format!("[{}]", list.iter().map(bare_value).collect::<Vec<_>>().join(",")),
            Kind::Object(body) => format!("{{{}}}", bare(body)),
        }
    }

    fn none(_: &[usize], _: Comment) -> Vec<String> {
        Vec::new()
    }

    #[test]
    fn a_printed_tree_reads_as_the_same_tree() {
        let text = "server {\n bind_port = \"8081\"\n odd-key = 0x1f\n list = [\"a\", 1, true]\n nested { a { b = 1.5 } }\n}\n\
                    plugins {\n KeyManager \"disk\" { plugin_data { keys_path = \"a\\\"b\\\\c\\n${env \"X\"}\\u0001\" } }\n}\n\
                    objects = [{ a = 1 }, { b = [\"x\"] }]\n\"quoted key\" = <<END\nline 1\n  line 2\nEND\n";
        let document = Document::parse(text).unwrap();
        let printed = print(document.body(), &none);
        let again =
            Document::parse(&printed.text).unwrap_or_else(|faults| panic!("{faults:?}\n{}", printed.text));
        assert_eq!(bare(document.body()), bare(again.body()), "{}", printed.text);
    }

    #[test]
    fn places_are_where_items_stand_and_comments_do_not_move_them() {
        let document = Document::parse("a = 1\nb {\n c = 2\n d \"e\" { f = 3 }\n}\n").unwrap();
        let notes = |path: &[usize], place: Comment| match (path, place) {
            ([], Comment::Before) => vec!["top".to_owned()],
            ([1], Comment::AtEnd) => vec!["two\nlines".to_owned()],
            ([1, 1, 0], Comment::Before) => vec!["before f".to_owned()],
            _ => Vec::new(),
        };
        let printed = print(document.body(), &notes);
        let again = Document::parse(&printed.text).unwrap();
        assert_eq!(bare(document.body()), bare(again.body()));
        assert!(printed.text.starts_with("# top\n") && printed.text.contains("    # two\n    # lines\n}"));
        for (line, path) in &printed.places {
            let mut body = again.body();
            let mut found = None;
            for index in path {
                let item = &body.items[*index];
                found = Some(item.key.pos.line);
                if let Kind::Object(inner) = &item.value.kind {
                    body = inner;
                }
            }
            assert_eq!(found, Some(*line), "{path:?} in\n{}", printed.text);
        }
    }

    proptest! {
        #[test]
        fn any_string_survives(key in "\\PC{0,12}", text in any::<String>()) {
            // A `${` that is never closed is no string of HCL.
            let open = text.matches("${").count();
            prop_assume!(open == 0 && !key.contains("${"));
            let name = crate::Name { text: key, pos: crate::Pos { line: 1 } };
            let value = Value { kind: Kind::Text(text), pos: crate::Pos { line: 1 } };
            let body = Body { items: vec![Item { key: name, labels: Vec::new(), value, assigned: true }] };
            let printed = print(&body, &none);
            let again = Document::parse(&printed.text).unwrap();
            prop_assert_eq!(bare(&body), bare(again.body()));
        }
    }
}
