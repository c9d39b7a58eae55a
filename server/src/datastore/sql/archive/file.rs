//! The file of a backup: written as a whole or not at all, read line by line.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

use super::super::StoreError;

/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 256 << 20;

pub(super) fn file_fault(op: &'static str, path: &Path) -> impl Fn(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |cause| StoreError::Database { op, cause: format!("{}: {cause}", path.display()).into() }
}

/// A file that takes its name only when it is whole, and goes away when it does not.
pub(in super::super) struct Partial(PathBuf);

impl Partial {
    pub(in super::super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it the file `target`.
    pub(in super::super) fn keep(self, target: &Path) -> Result<(), StoreError> {
        let fault = file_fault(super::BACKUP, target);
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(&fault)?;
        fs::rename(&self.0, target).map_err(&fault)?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(&fault)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After `keep` there is nothing to remove.
        drop(fs::remove_file(&self.0));
    }
}

/// Makes an empty file of mode 0600 beside `target`.
pub(in super::super) fn new_file(target: &Path) -> Result<Partial, StoreError> {
    if target.exists() {
        return Err(StoreError::Invalid {
            reason: format!("{} is there already; choose another file", target.display()),
        });
    }
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let path = PathBuf::from(name);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(file_fault(super::BACKUP, target))?;
    Ok(Partial(path))
}

/// Writes lines and hashes them.
pub(super) struct Sink {
    out: BufWriter<File>,
    hash: Context,
}

impl Sink {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let out = OpenOptions::new().write(true).open(path)?;
        Ok(Self { out: BufWriter::new(out), hash: Context::new(&SHA256) })
    }

    /// Of all lines so far, lower-case hex.
    pub(super) fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finish())
    }

    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }

    pub(super) fn line(&mut self, line: &impl Serialize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.hash.update(&text);
        self.out.write_all(&text)
    }
}

pub(super) fn damaged(file: &Path, line: usize, why: &str) -> StoreError {
    StoreError::Invalid { reason: format!("{} is no whole backup: line {line} {why}", file.display()) }
}

/// A file line by line.
pub(super) struct Lines<'a> {
    file: &'a Path,
    input: BufReader<File>,
    line: Vec<u8>,
    number: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn open(file: &'a Path) -> Result<Self, StoreError> {
        let input = BufReader::new(File::open(file).map_err(file_fault(super::RESTORE, file))?);
        Ok(Self { file, input, line: Vec::new(), number: 0 })
    }

    /// The next line with its number, without its newline.
    pub(super) fn next(&mut self) -> Result<Option<(usize, &[u8])>, StoreError> {
        self.line.clear();
        self.number += 1;
        let mut limited = std::io::Read::take(&mut self.input, MAX_LINE);
        if limited.read_until(b'\n', &mut self.line).map_err(file_fault(super::RESTORE, self.file))? == 0 {
            return Ok(None);
        }
        if self.line.pop() != Some(b'\n') {
            return Err(damaged(self.file, self.number, "is cut short"));
        }
        Ok(Some((self.number, &self.line)))
    }
}
