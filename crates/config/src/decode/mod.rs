//! Typed values out of a document, with every fault noted on the way.

mod blocks;
mod unknown;
mod values;

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use crate::MAX_FAULTS;
use crate::fault::{Fault, FaultKind, Faults, shown};
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
        let root = Block::new(Arc::default(), "".into(), Vec::new(), 1, true, items);
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
    /// What faults call it; long labels are cut in it.
    path: Arc<str>,
    labels: Vec<&'a str>,
    line: u32,
    present: bool,
    items: Vec<&'a Item>,
    asked: RefCell<Vec<String>>,
    /// Every key is known.
    free: Cell<bool>,
    finished: Cell<bool>,
}

impl<'a> Block<'a> {
    fn new(
        notes: Notes,
        path: Arc<str>,
        labels: Vec<&'a str>,
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
            free: Cell::new(false),
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
    pub fn labels(&self) -> &[&'a str] {
        &self.labels
    }

    /// The first label, or the empty text.
    #[must_use]
    pub fn label(&self) -> &'a str {
        self.labels.first().copied().unwrap_or_default()
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
        self.push(Fault::at(line, message));
    }

    fn push(&self, fault: Fault) {
        if self.has_room() {
            lock(&self.notes).push(fault);
        }
    }

    /// Whether another fault is noted. A file with more is no configuration, and each fault is many times the size of what it
    /// is about.
    fn has_room(&self) -> bool {
        lock(&self.notes).len() < MAX_FAULTS
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
        let message = format!("{} is already set at line {first}", self.name_of(&shown(&item.key.text)));
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

    /// Declares that any key may stand here: nobody reads them.
    pub fn ignore_all(&self) {
        self.free.set(true);
    }

    /// Declares a key that is known from elsewhere and not to be had here; it is a fault with the reason when it is set.
    pub fn unsupported(&self, key: &str, why: impl Display) {
        self.ask(key);
        if let Some(item) = self.find(key).next() {
            let message = format!("{} is not supported: {why}", self.name_of(key));
            self.push(Fault::at(item.key.pos.line, message).of(FaultKind::Unsupported));
        }
    }
}
