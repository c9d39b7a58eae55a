//! Reading a configuration file.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::fault::{Fault, Faults};
use crate::value::Document;
use crate::{MAX_BYTES, expand_env};

/// Says what a variable of the environment holds.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Why a configuration file could not be taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be opened or read.
    #[error("cannot read the configuration file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The text has faults of syntax.
    #[error("{0}")]
    Faults(#[from] Faults),
}

/// Reads and parses a file. With `environment`, `$NAME` and `${NAME}` are replaced first ([`expand_env`]).
///
/// # Errors
/// The file cannot be read, is larger than [`MAX_BYTES`], or has faults of syntax.
pub fn load(path: &Path, environment: Option<&Lookup<'_>>) -> Result<Document, LoadError> {
    let name = path.display().to_string();
    let read = |cause| LoadError::Read { path: path.to_owned(), cause };
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(read)?.take(limit + 1).read_to_end(&mut bytes).map_err(read)?;
    let faults = |faults: Vec<Fault>| LoadError::Faults(Faults::new(&name, faults));
    match environment {
        Some(lookup) if bytes.len() <= MAX_BYTES => {
            let text = std::str::from_utf8(&bytes)
                .or_else(|_| Document::parse_bytes(&bytes).map(|_| "").map_err(faults))?;
            Document::parse(&expand_env(text, lookup)).map_err(faults)
        }
        _ => Document::parse_bytes(&bytes).map_err(faults),
    }
}
