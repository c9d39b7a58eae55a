//! `disk`: software keys in a file, in the format of SPIRE's `keys.json`. For evaluation, and for moving
//! from SPIRE: the same file may be read by either.

mod file;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hardroot_runtime::state::write_atomic;
use serde::Serialize;
use tokio::sync::Mutex;
use zeroize::{Zeroize, Zeroizing};

use crate::KeyManager;
use crate::software::{KeyMap, SoftwareKey, generate, run, software_error};
use crate::types::{Custody, Digest, KeyError, KeyId, KeyInfo, KeyType, PublicKey, SignatureScheme};

/// Largest key file read, in bytes: far more than a server's dozen keys need.
const MAX_FILE: u64 = 4 << 20;

/// What can be wrong with a key file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// Reading failed.
    #[error("cannot read the key file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// Writing failed; the old file is still in place.
    #[error("cannot write the key file {path}; the keys it held before are unchanged")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Others may read the keys.
    #[error("the key file {path} has mode {mode:04o}: others may read its keys. Run: chmod 0600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any key file.
    #[error("the key file {path} has more than {MAX_FILE} bytes; is it a key file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not the format.
    #[error(
        "the key file {path} is damaged or in another format (line {line}, column {column}). Restore it from a backup, or move it away to start with new keys"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// One key of the file cannot be used.
    #[error("key \"{id}\" in {path} cannot be used: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The key's name, escaped.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The file as it is written: names and PKCS#8 keys in base64. Wiped when dropped.
#[derive(Default, Serialize)]
struct Entries {
    keys: BTreeMap<String, String>,
}

impl Drop for Entries {
    fn drop(&mut self) {
        self.keys.values_mut().for_each(Zeroize::zeroize);
    }
}

/// Keys in a file.
pub struct DiskKeyManager {
    path: PathBuf,
    keys: KeyMap,
    /// Held while the file is rewritten: one writer at a time.
    file: Mutex<()>,
}

impl DiskKeyManager {
    /// Opens a key file; one that is not there yet is made by the first `generate`. Blocks for a few
    /// milliseconds, and some more for RSA keys.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, holds a key that cannot be used, or may be read by others than
    /// its owner.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let path = path.into();
        match file::read(&path)? {
            Some(text) => Self::from_text(&text, path),
            None => Ok(Self { path, keys: KeyMap::default(), file: Mutex::new(()) }),
        }
    }

    /// As [`DiskKeyManager::open`], of a file with this text.
    ///
    /// # Errors
    /// [`DiskError::Format`], [`DiskError::Key`].
    pub fn from_text(text: &[u8], path: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let path = path.into();
        let keys = file::parse(text, &path)?;
        Ok(Self { path, keys, file: Mutex::new(()) })
    }

    /// Rewrites the file as a whole with one key put in or taken out, then changes what is in memory.
    async fn change(&self, op: &'static str, id: &KeyId, key: Option<SoftwareKey>) -> Result<(), KeyError> {
        let _one_writer = self.file.lock().await;
        let mut entries = Entries::default();
        let encode = |key: &SoftwareKey| key.to_pkcs8().map(|der| STANDARD.encode(&*der));
        for info in self.keys.list() {
            if let Some(held) = self.keys.get(&info.id).filter(|_| info.id != *id) {
                let encoded = encode(&held).map_err(|cause| software_error(op, id, cause))?;
                entries.keys.insert(info.id.as_str().to_owned(), encoded);
            }
        }
        if let Some(key) = &key {
            let encoded = encode(key).map_err(|cause| software_error(op, id, cause))?;
            entries.keys.insert(id.as_str().to_owned(), encoded);
        }
        let path = self.path.clone();
        run(op, id, move || write(&path, &entries)).await?.map_err(|cause| KeyError::Device {
            op,
            id: id.to_string(),
            retryable: true,
            cause: Box::new(cause),
        })?;
        match key {
            Some(key) => self.keys.put(id, key),
            None => self.keys.remove(id),
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl KeyManager for DiskKeyManager {
    fn custody(&self) -> Custody {
        Custody {
            backend: "disk",
            hardware: false,
            detail: format!("software keys, unencrypted in {}", self.path.display()),
        }
    }

    fn lanes(&self) -> usize {
        crate::software::lanes()
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        let key = generate(id, kind).await?;
        let public = key.public().clone();
        self.change("generation", id, Some(key)).await?;
        Ok(public)
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        Ok(self.keys.get(id).map(|key| key.public().clone()))
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        Ok(self.keys.list())
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        self.keys.sign(id, scheme, digest).await
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        if self.keys.get(id).is_none() {
            return Ok(());
        }
        self.change("destruction", id, None).await
    }
}

fn write(path: &Path, entries: &Entries) -> Result<(), DiskError> {
    let cannot =
        |cause: Box<dyn std::error::Error + Send + Sync>| DiskError::Write { path: path.to_owned(), cause };
    let mut text = Zeroizing::new(Vec::with_capacity(64 << 10));
    let style = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    entries
        .serialize(&mut serde_json::Serializer::with_formatter(&mut *text, style))
        .map_err(|cause| cannot(cause.into()))?;
    write_atomic(path, &text, 0o600).map_err(|cause| cannot(cause.into()))
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
