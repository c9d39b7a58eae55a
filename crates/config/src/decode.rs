//! Typed values out of a document, with every fault noted on the way.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::duration;
use crate::fault::{Fault, Faults};
use crate::lexer::{float, integer};
use crate::value::{Document, Item, Kind, Value};

type Notes = Arc<Mutex<Vec<Fault>>>;

/// Decodes one document. Every getter returns at once and notes what is wrong; [`Decoder::into_result`] tells it all.
///
/// ```
/// let text = "server {\n  trust_domain = 5\n  data_dri = \"/x\"\n}";
/// let doc = hardroot_config::Document::parse(text).expect("no fault of syntax");
/// let decoder = hardroot_config::Decoder::new(&doc, "server.conf");
/// let server = decoder.block("server");
/// let _trust_domain: String = server.required_string("trust_domain");
/// let _data_dir: Option<String> = server.string("data_dir");
/// server.finish();
/// let faults = decoder.into_result().expect_err("three faults").to_string();
/// assert_eq!(faults.lines().count(), 1);
/// ```
#[derive(Debug)]
pub struct Decoder<'a> {
    file: String,
    root: Block<'a>,
}

impl<'a> Decoder<'a> {
    /// Starts at the top of a document; `file` is the name that faults are told with.
    #[must_use]
    pub fn new(document: &'a Document, file: &str) -> Self {
        let items = document.body().items.iter().collect();
        let root = Block::new(Arc::default(), String::new(), Vec::new(), 1, true, items);
        Self { file: file.to_owned(), root }
    }

    /// The top of the document as a block.
    #[must_use]
    pub fn root(&self) -> &Block<'a> {
        &self.root
    }

    /// As [`Block::block`], at the top.
    #[must_use]
    pub fn block(&self, name: &str) -> Block<'a> {
        self.root.block(name)
    }

    /// As [`Block::opt_block`], at the top.
    #[must_use]
    pub fn opt_block(&self, name: &str) -> Option<Block<'a>> {
        self.root.opt_block(name)
    }

    /// Ends decoding: unknown keys at the top become faults, and all faults come out in the order of the lines.
    ///
    /// # Errors
    /// At least one fault was noted.
    pub fn into_result(self) -> Result<(), Faults> {
        self.root.finish();
        let mut faults = std::mem::take(&mut *lock(&self.root.notes));
        faults.sort();
        faults.dedup();
        if faults.is_empty() { Ok(()) } else { Err(Faults::new(&self.file, faults)) }
    }
}

fn lock(notes: &Notes) -> std::sync::MutexGuard<'_, Vec<Fault>> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A block (or several of one name, read as one). Keys are matched as HCL 1 does, without regard to letter case.
///
/// A getter given a value of another kind notes a fault and returns as if the key were absent.
#[derive(Debug)]
pub struct Block<'a> {
    notes: Notes,
    path: String,
    labels: Vec<String>,
    line: u32,
    present: bool,
    items: Vec<&'a Item>,
    asked: RefCell<Vec<String>>,
    finished: Cell<bool>,
}

impl<'a> Block<'a> {
    fn new(
        notes: Notes,
        path: String,
        labels: Vec<String>,
        line: u32,
        present: bool,
        items: Vec<&'a Item>,
    ) -> Self {
        Self {
            notes,
            path,
            labels,
            line,
            present,
            items,
            asked: RefCell::default(),
            finished: Cell::new(false),
        }
    }

    /// Whether the block is written in the file.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// The labels, such as `disk` in `KeyManager "disk" { }`.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The first label, or the empty text.
    #[must_use]
    pub fn label(&self) -> &str {
        self.labels.first().map_or("", String::as_str)
    }

    /// The line where the block starts.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The keys that are written here, in order, each once per item.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.items.iter().map(|item| item.key.text.as_str())
    }

    /// Whether a key is written here with a value other than JSON's `null`.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.ask(key);
        self.find(key).next().is_some()
    }

    /// Notes a fault of meaning at a key (at the block when the key is not there). The message must not hold a value.
    pub fn fault(&self, key: &str, message: impl Display) {
        let line = self.items.iter().find(|item| item.key.text.eq_ignore_ascii_case(key));
        self.note(
            line.map_or(self.line, |item| item.key.pos.line),
            &format!("{}: {message}", self.name_of(key)),
        );
    }

    /// Notes a fault of meaning at the block. The message must not hold a value.
    pub fn fault_here(&self, message: impl Display) {
        let message =
            if self.path.is_empty() { message.to_string() } else { format!("{}: {message}", self.path) };
        self.note(self.line, &message);
    }

    fn note(&self, line: u32, message: &str) {
        lock(&self.notes).push(Fault::at(line, message));
    }

    fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn ask(&self, key: &str) {
        let mut asked = self.asked.borrow_mut();
        if !asked.iter().any(|known| known == key) {
            asked.push(key.to_owned());
        }
    }

    fn find(&self, key: &str) -> impl Iterator<Item = &'a Item> {
        let items = self.items.iter().copied();
        items.filter(move |item| item.key.text.eq_ignore_ascii_case(key) && item.value.kind != Kind::Null)
    }

    /// The only value under a key that is no block.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.ask(key);
        let mut found = self.find(key);
        let first = found.next()?;
        if let Some(second) = found.next() {
            self.twice(second, first.key.pos.line);
        }
        if first.labels.is_empty() {
            return Some(&first.value);
        }
        self.note(
            first.key.pos.line,
            &format!("{} takes a value, not a block with a label", self.name_of(key)),
        );
        None
    }

    fn twice(&self, item: &Item, first: u32) {
        let message = format!("{} is already set at line {first}", self.name_of(&item.key.text));
        self.note(item.key.pos.line, &message);
    }

    fn wrong<T>(&self, key: &str, value: &Value, wanted: impl Display) -> Option<T> {
        let message = format!("{} must be {wanted}, not {}", self.name_of(key), value.kind.name());
        self.note(value.pos.line, &message);
        None
    }

    fn bad<T>(&self, key: &str, value: &Value, why: impl Display) -> Option<T> {
        self.note(value.pos.line, &format!("{}: {why}", self.name_of(key)));
        None
    }

    fn missing(&self, key: &str) {
        self.note(self.line, &format!("{} is required", self.name_of(key)));
    }

    /// Declares a key that is known and needs no reading.
    pub fn ignore(&self, key: &str) {
        self.ask(key);
    }

    /// Declares a key that is known from elsewhere and not to be had here; it is a fault with the reason when it is set.
    pub fn unsupported(&self, key: &str, why: impl Display) {
        self.ask(key);
        if let Some(item) = self.find(key).next() {
            self.note(item.key.pos.line, &format!("{} is not supported: {why}", self.name_of(key)));
        }
    }

    /// A string; a number is taken as written, as HCL 1 does.
    #[must_use]
    pub fn string(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::Text(text) | Kind::Number(text) => Some(text.clone()),
            _ => self.wrong(key, value, "a string"),
        }
    }

    /// A string that must be there and not empty; the empty text after a fault.
    #[must_use]
    pub fn required_string(&self, key: &str) -> String {
        match self.string(key) {
            Some(text) if !text.is_empty() => text,
            Some(_) => {
                self.fault(key, "must not be empty");
                String::new()
            }
            None if self.has(key) => String::new(),
            None => {
                self.missing(key);
                String::new()
            }
        }
    }

    /// A string, or `default`.
    #[must_use]
    pub fn string_or(&self, key: &str, default: &str) -> String {
        self.string(key).unwrap_or_else(|| default.to_owned())
    }

    /// A string that is wiped when dropped. The document still holds its copy until it is dropped.
    #[must_use]
    pub fn secret(&self, key: &str) -> Option<Zeroizing<String>> {
        self.string(key).map(Zeroizing::new)
    }

    /// A path; it is a fault when it is empty or holds a NUL.
    #[must_use]
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        let text = self.string(key)?;
        if text.is_empty() || text.contains('\0') {
            self.fault(key, "must be a path");
            return None;
        }
        Some(PathBuf::from(text))
    }

    /// A path that must be there; the empty path after a fault.
    #[must_use]
    pub fn required_path(&self, key: &str) -> PathBuf {
        if !self.has(key) {
            self.missing(key);
        }
        self.path(key).unwrap_or_default()
    }

    /// A string parsed by its type. The error's text must not hold the value.
    #[must_use]
    pub fn parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Option<T> {
        self.parsed_by(key, str::parse)
    }

    /// A string parsed by a function. The error's text must not hold the value.
    #[must_use]
    pub fn parsed_by<T, E: Display>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::Text(text) | Kind::Number(text) => match parse(text) {
                Ok(parsed) => Some(parsed),
                Err(why) => self.bad(key, value, why),
            },
            _ => self.wrong(key, value, "a string"),
        }
    }

    /// As [`Block::parsed`], for a key that must be there.
    #[must_use]
    pub fn required_parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Option<T> {
        if !self.has(key) {
            self.missing(key);
        }
        self.parsed(key)
    }

    /// One of some words, matched without regard to letter case.
    #[must_use]
    pub fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.parsed_by(key, |text| {
            words
                .iter()
                .find(|(word, _)| word.eq_ignore_ascii_case(text))
                .map(|(_, value)| *value)
                .ok_or_else(|| {
                    let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                    format!("must be one of {}", words.join(", "))
                })
        })
    }

    /// A boolean: `true` or `false` without quotes.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        match value.kind {
            Kind::Bool(value) => Some(value),
            _ => self.wrong(key, value, "true or false, without quotes"),
        }
    }

    /// A boolean, or `default`.
    #[must_use]
    pub fn bool_or(&self, key: &str, default: bool) -> bool {
        self.bool(key).unwrap_or(default)
    }

    /// An integer; quotes around it are accepted, as HCL 1 does.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::Number(text) | Kind::Text(text) => match integer(text) {
                Some(number) => Some(number),
                None => self.bad(key, value, "must be an integer"),
            },
            _ => self.wrong(key, value, "an integer"),
        }
    }

    /// An integer within bounds.
    #[must_use]
    pub fn int_in(&self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let number = self.int(key)?;
        if range.contains(&number) {
            return Some(number);
        }
        self.fault(key, format_args!("must be between {} and {}", range.start(), range.end()));
        None
    }

    /// A TCP port, 1 to 65535.
    #[must_use]
    pub fn port(&self, key: &str) -> Option<u16> {
        self.int_in(key, 1..=i64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
    }

    /// A number with or without a fraction.
    #[must_use]
    pub fn float(&self, key: &str) -> Option<f64> {
        let value = self.value(key)?;
        match &value.kind {
            #[expect(clippy::cast_precision_loss, reason = "a configured integer is far below 2^53")]
            Kind::Number(text) => match float(text).or_else(|| integer(text).map(|n| n as f64)) {
                Some(number) => Some(number),
                None => self.bad(key, value, "must be a number"),
            },
            _ => self.wrong(key, value, "a number"),
        }
    }

    /// A Go duration in a string (`"1h30m"`).
    #[must_use]
    pub fn duration(&self, key: &str) -> Option<Duration> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::Text(text) | Kind::Number(text) => match duration::parse(text) {
                Ok(duration) => Some(duration),
                Err(why) => self.bad(key, value, why),
            },
            _ => self.wrong(key, value, "a duration such as \"1h30m\""),
        }
    }

    /// A list of strings.
    #[must_use]
    pub fn string_list(&self, key: &str) -> Option<Vec<String>> {
        let value = self.value(key)?;
        let Kind::List(list) = &value.kind else { return self.wrong(key, value, "a list of strings") };
        let mut strings = Vec::with_capacity(list.len());
        let mut good = true;
        for element in list {
            match &element.kind {
                Kind::Text(text) | Kind::Number(text) => strings.push(text.clone()),
                _ => {
                    let why = format_args!("a list of strings contains {}", element.kind.name());
                    let _none: Option<()> = self.bad(key, element, why);
                    good = false;
                }
            }
        }
        good.then_some(strings)
    }

    /// A block whose keys are free: each with its string.
    #[must_use]
    pub fn string_map(&self, key: &str) -> Option<BTreeMap<String, String>> {
        let block = self.opt_block(key)?;
        let mut map = BTreeMap::new();
        for key in block.keys() {
            if let Some(text) = block.string(key) {
                map.insert(key.to_owned(), text);
            }
        }
        Some(map)
    }

    /// A block without labels; several of the name count as one, as in HCL 1. An empty one stands for one that is absent.
    #[must_use]
    pub fn block(&self, key: &str) -> Block<'a> {
        self.opt_block(key)
            .unwrap_or_else(|| self.child(self.name_of(key), Vec::new(), self.line, false, Vec::new()))
    }

    /// As [`Block::block`], and a fault when it is absent.
    #[must_use]
    pub fn required_block(&self, key: &str) -> Block<'a> {
        if !self.has(key) {
            self.note(self.line, &format!("the block {} is required", self.name_of(key)));
        }
        self.block(key)
    }

    /// As [`Block::block`], `None` when it is absent.
    #[must_use]
    pub fn opt_block(&self, key: &str) -> Option<Block<'a>> {
        let blocks = self.blocks(key);
        let line = blocks.first()?.line;
        let mut items = Vec::new();
        for block in blocks {
            if !block.labels.is_empty() {
                self.note(block.line, &format!("{} takes no label", self.name_of(key)));
            }
            items.extend(block.items);
        }
        Some(self.child(self.name_of(key), Vec::new(), line, true, items))
    }

    /// Every block of a name, in order, with its labels. A list of objects is as many blocks.
    #[must_use]
    pub fn blocks(&self, key: &str) -> Vec<Block<'a>> {
        self.ask(key);
        let mut blocks = Vec::new();
        for item in self.find(key) {
            let labels: Vec<String> = item.labels.iter().map(|label| label.text.clone()).collect();
            let mut path = self.name_of(key);
            for label in &labels {
                path.push_str(&format!(" \"{label}\""));
            }
            self.bodies(key, &item.value, |items, line| {
                // The line of the key, unless this is one of a list.
                let line = if item.value.pos.line == line { item.key.pos.line } else { line };
                blocks.push(self.child(path.clone(), labels.clone(), line, true, items));
            });
        }
        blocks
    }

    /// Every block of a name that takes one label, with it: `KeyManager "disk" { }`, and the same as nested objects
    /// (`"KeyManager": {"disk": { }}`, also in a list), which is how JSON says it.
    #[must_use]
    pub fn labelled_blocks(&self, key: &str) -> Vec<(String, Block<'a>)> {
        let mut found = Vec::new();
        for block in self.blocks(key) {
            match block.labels.as_slice() {
                [label] => found.push((label.clone(), block)),
                [] => {
                    for item in &block.items {
                        let label = item.key.text.clone();
                        if !item.labels.is_empty() {
                            self.note(item.key.pos.line, &format!("{} takes one label", self.name_of(key)));
                        }
                        let path = format!("{} \"{label}\"", self.name_of(key));
                        self.bodies(key, &item.value, |items, _| {
                            let child =
                                self.child(path.clone(), vec![label.clone()], item.key.pos.line, true, items);
                            found.push((label.clone(), child));
                        });
                    }
                }
                _ => self.note(block.line, &format!("{} takes one label", self.name_of(key))),
            }
        }
        found
    }

    /// Calls `each` with the items of an object, or of every object in a list.
    fn bodies(&self, key: &str, value: &'a Value, mut each: impl FnMut(Vec<&'a Item>, u32)) {
        match &value.kind {
            Kind::Object(body) => each(body.items.iter().collect(), value.pos.line),
            Kind::List(list) => {
                for element in list {
                    match &element.kind {
                        Kind::Object(body) => each(body.items.iter().collect(), element.pos.line),
                        _ => {
                            let _none: Option<()> = self.wrong(key, element, "a block");
                        }
                    }
                }
            }
            _ => {
                let _none: Option<()> = self.wrong(key, value, "a block");
            }
        }
    }

    fn child(
        &self,
        path: String,
        labels: Vec<String>,
        line: u32,
        present: bool,
        items: Vec<&'a Item>,
    ) -> Block<'a> {
        Block::new(Arc::clone(&self.notes), path, labels, line, present, items)
    }

    /// Notes every key that nobody asked for, and every key that is assigned twice. Call it when all keys of the block have
    /// been read; once is enough.
    pub fn finish(&self) {
        if self.finished.replace(true) {
            return;
        }
        let asked = self.asked.borrow();
        let mut assigned: HashMap<String, u32> = HashMap::new();
        for item in &self.items {
            let key = &item.key.text;
            if item.assigned {
                match assigned.entry(key.to_ascii_lowercase()) {
                    Entry::Occupied(first) => self.twice(item, *first.get()),
                    Entry::Vacant(free) => {
                        free.insert(item.key.pos.line);
                    }
                }
            }
            if asked.iter().any(|known| known.eq_ignore_ascii_case(key)) {
                continue;
            }
            let place = if self.path.is_empty() { String::new() } else { format!(" in {}", self.path) };
            let near = asked
                .iter()
                .filter(|known| distance(known, key) <= 2)
                .min_by_key(|known| distance(known, key));
            let hint = near.map_or_else(String::new, |known| format!("; did you mean `{known}`?"));
            self.note(item.key.pos.line, &format!("unknown key `{key}`{place}{hint}"));
        }
    }
}

/// How many single-letter edits lie between two words; words longer than 64 bytes are never near.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let substituted = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = *cell;
            left = substituted.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
