//! Items of a JSON file, one after the other: `{"entries": [...]}`, `{"ids": [...]}`. The file may be of any
//! size, one item at most 4 MiB, which is also the most that a server takes in one message.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::marker::PhantomData;
use std::path::Path;
use std::rc::Rc;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::cli::CliError;

/// Most bytes of one item, and between two.
const MAX_ITEM: u64 = 4 << 20;
/// Longest message of a fault that is told whole, in bytes.
const LONGEST_MESSAGE: usize = 1024;
/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// A file that can be read more than once.
pub(super) struct Source {
    file: File,
    name: String,
}

/// What a list of items in JSON is called and made of.
pub(super) trait Listed {
    /// The one name of the outer object.
    const KEY: &'static str;
    /// The same list read to be judged alone: it refuses the same and holds less.
    type Seen: Listed;
    /// An item as it is written.
    type Data: DeserializeOwned;
    /// An item as it is sent.
    type Item;
    /// Judges an item.
    fn judge(data: Self::Data) -> Result<Self::Item, String>;
}

impl Source {
    /// Opens a file. Standard input (`-`) is copied into an unnamed file first: all of it is checked before
    /// anything is sent, and it cannot be read twice.
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let name = path.display().to_string();
        let file = if path.as_os_str() == "-" { spool(&mut io::stdin().lock()) } else { File::open(path) };
        match file {
            Ok(file) => Ok(Self { file, name }),
            Err(cause) => Err(CliError::File { op: "reading", path: name, reason: cause.to_string() }),
        }
    }

    /// Reads every item from the beginning and gives it to `each` with its number, counted from 1, until
    /// `each` says false. Returns how many there were.
    ///
    /// # Errors
    /// The file cannot be read, or is not what it should be; with the item, the line and the column.
    pub(super) fn read<L: Listed>(
        &mut self,
        each: impl FnMut(usize, L::Item) -> bool,
    ) -> Result<usize, CliError> {
        let fault = |op, reason| CliError::File { op, path: self.name.clone(), reason };
        self.file.seek(SeekFrom::Start(0)).map_err(|cause| fault("reading", cause.to_string()))?;
        let budget = Rc::new(Cell::new(MAX_ITEM));
        let limited = Limited { inner: &self.file, budget: Rc::clone(&budget) };
        let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(BUFFER, limited));
        let mut progress = Progress { read: 0, stopped: false, budget };
        let outer = Outer::<L, _> { progress: &mut progress, each, of: PhantomData };
        let outcome = (&mut json).deserialize_map(outer).and_then(|()| json.end());
        match outcome {
            Ok(()) => Ok(progress.read),
            Err(_) if progress.stopped => Ok(progress.read),
            Err(cause) if cause.is_io() => Err(fault("reading", cause.to_string())),
            Err(cause) => Err(fault("parsing", readable(cause.to_string()))),
        }
    }
}

/// A message that quotes the file: its beginning and its end, where line and column are.
fn readable(message: String) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message;
    }
    let (head, _) = message.split_at(message.floor_char_boundary(LONGEST_MESSAGE / 2));
    let tail =
        message.get(message.ceil_char_boundary(message.len() - LONGEST_MESSAGE / 4)..).unwrap_or_default();
    format!("{head} … {tail}")
}

/// Copies a stream into a file without a name, which goes away with the process.
fn spool(from: &mut impl Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(from, &mut file)?;
    Ok(file)
}

struct Progress {
    read: usize,
    stopped: bool,
    budget: Rc<Cell<u64>>,
}

/// A reader that gives up where one item takes too long.
struct Limited<'f> {
    inner: &'f File,
    budget: Rc<Cell<u64>>,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self
            .budget
            .get()
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(format!("an item is larger than {} MiB", MAX_ITEM >> 20)))?;
        self.budget.set(left);
        Ok(read)
    }
}

/// The object around the list.
struct Outer<'p, L, F> {
    progress: &'p mut Progress,
    each: F,
    of: PhantomData<L>,
}

impl<'de, L: Listed, F: FnMut(usize, L::Item) -> bool> Visitor<'de> for Outer<'_, L, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object {{\"{}\": [...]}}", L::KEY)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == L::KEY {
                if found {
                    return Err(A::Error::duplicate_field(L::KEY));
                }
                found = true;
                map.next_value_seed(List::<L, F> { outer: &mut self })?;
            } else if name == "next_page_token" {
                // A listing that is fed back in has it.
                map.next_value::<IgnoredAny>()?;
            } else {
                return Err(A::Error::custom(format_args!("unknown field `{name}`, expected `{}`", L::KEY)));
            }
        }
        if found { Ok(()) } else { Err(A::Error::missing_field(L::KEY)) }
    }
}

/// The list.
struct List<'o, 'p, L, F> {
    outer: &'o mut Outer<'p, L, F>,
}

impl<'de, L: Listed, F: FnMut(usize, L::Item) -> bool> DeserializeSeed<'de> for List<'_, '_, L, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, L: Listed, F: FnMut(usize, L::Item) -> bool> Visitor<'de> for List<'_, '_, L, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", L::KEY)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Outer { progress, each, .. } = self.outer;
        loop {
            let number = progress.read.saturating_add(1);
            let told = |cause: &dyn fmt::Display| A::Error::custom(format_args!("item {number}: {cause}"));
            let data = seq.next_element::<L::Data>().map_err(|cause| told(&cause))?;
            let Some(data) = data else { return Ok(()) };
            progress.budget.set(MAX_ITEM);
            let item = L::judge(data).map_err(|cause| told(&cause))?;
            progress.read = number;
            if !each(number, item) {
                progress.stopped = true;
                return Err(A::Error::custom("stopped"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    struct Numbers;

    impl Listed for Numbers {
        const KEY: &'static str = "numbers";
        type Seen = Self;
        type Data = u8;
        type Item = u8;

        fn judge(data: u8) -> Result<u8, String> {
            if data == 13 { Err("unlucky".to_owned()) } else { Ok(data) }
        }
    }

    fn source(text: &[u8]) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        Source { file, name: "f".to_owned() }
    }

    fn fault(text: &str) -> String {
        source(text.as_bytes()).read::<Numbers>(|_, _| true).unwrap_err().to_string()
    }

    #[test]
    fn items_come_with_their_numbers_as_often_as_asked() {
        let mut source = source(b" {\"next_page_token\": {\"a\":[1]}, \"numbers\": [1, 2, 3]} ");
        for _ in 0..2 {
            let mut seen = Vec::new();
            let read = source.read::<Numbers>(|number, item| {
                seen.push((number, item));
                true
            });
            assert_eq!((read.unwrap(), seen), (3, vec![(1, 1), (2, 2), (3, 3)]));
        }
        assert_eq!(source.read::<Numbers>(|number, _| number < 2).unwrap(), 2, "stopped by the caller");
    }

    #[test]
    fn faults_name_item_line_and_column() {
        assert_eq!(
            fault("{\"numbers\": [\n  1,\n  \"x\"]}"),
            "parsing f: item 2: invalid type: string \"x\", expected u8 at line 3 column 5"
        );
        assert_eq!(fault("{\"numbers\":[1,13]}"), "parsing f: item 2: unlucky at line 1 column 17");
        assert_eq!(
            fault("{\"numbers\":[1 2]}"),
            "parsing f: item 2: expected `,` or `]` at line 1 column 15"
        );
        assert_eq!(
            fault("{\"numbers\":[1"),
            "parsing f: item 2: EOF while parsing a list at line 1 column 13"
        );
        assert_eq!(fault("{\"numbers\":[1]} x"), "parsing f: trailing characters at line 1 column 17");
        assert_eq!(fault("{}"), "parsing f: missing field `numbers` at line 1 column 2");
        assert_eq!(
            fault("{\"number\":[]}"),
            "parsing f: unknown field `number`, expected `numbers` at line 1 column 10"
        );
        assert!(fault("[1]").starts_with(
            "parsing f: invalid type: sequence, expected an object {\"numbers\": [...]} at line 1"
        ));
        assert_eq!(fault(""), "parsing f: EOF while parsing a value at line 1 column 0");
        let long = fault(&format!("{{\"numbers\":[1,\"{}\"]}}", "é".repeat(100_000)));
        assert!(long.starts_with("parsing f: item 2: invalid type: string \"éé"), "{long}");
        assert!(long.len() < 1024 && long.ends_with("at line 1 column 200016"), "{long}");
    }

    #[test]
    fn a_large_file_is_read_and_a_large_item_is_not() {
        let many = format!("{{\"numbers\":[{}1]}}", "1,".repeat(6 << 20));
        assert_eq!(source(many.as_bytes()).read::<Numbers>(|_, _| true).unwrap(), (6 << 20) + 1);
        let spaces = format!("{{\"numbers\":[1,{}1]}}", " ".repeat(5 << 20));
        let fault = fault(&spaces);
        assert!(fault.contains("item 2: an item is larger than 4 MiB"), "{fault}");
    }

    #[test]
    fn a_stream_is_spooled() {
        let mut file = spool(&mut &b"{\"numbers\":[7]}"[..]).unwrap();
        let mut source = Source { file: file.try_clone().unwrap(), name: "-".to_owned() };
        assert_eq!(source.read::<Numbers>(|_, item| item == 7).unwrap(), 1);
        assert!(file.seek(SeekFrom::End(0)).unwrap() > 0);
    }
}
