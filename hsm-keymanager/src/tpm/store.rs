//! Wrapped keys as files: `<key id>.tpmkey`, mode 0600, replaced as a whole, with a checksum.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hardroot_runtime::state::{StateError, ensure_dir, quarantine, read_checked, write_checked};
use hardroot_tpm_attestor::device::WrappedKey;
use serde::{Deserialize, Serialize};

use super::TpmKeyError;
use crate::types::KeyId;

const SUFFIX: &str = ".tpmkey";
/// Longest part of a wrapped key, in bytes: a TPM2B is at most 65,535 and none comes near it.
const MAX_PART: usize = 4096;

/// A key file's content, behind the checksum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    id: String,
    /// `TPMT_PUBLIC`, base64.
    public: String,
    /// `TPM2B_PRIVATE` without its length, base64.
    private: String,
}

/// The directory with the key files.
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(super) fn open(directory: PathBuf) -> Result<Self, TpmKeyError> {
        ensure_dir(&directory, 0o700)?;
        Ok(Self { directory })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn path(&self, id: &KeyId) -> PathBuf {
        self.directory.join(format!("{id}{SUFFIX}"))
    }

    /// Every key whose file is whole. A damaged file is set aside.
    pub(super) fn read_all(&self) -> Result<Vec<(KeyId, WrappedKey)>, TpmKeyError> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(self.io("list", &self.directory))? {
            let name = entry.map_err(self.io("list", &self.directory))?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).map(KeyId::new) else {
                continue;
            };
            let Ok(id) = id else {
                tracing::warn!(file = ?name, "this file has the name of no key and is ignored");
                continue;
            };
            let read = read_checked(&self.path(&id)).map(|bytes| bytes.map(|bytes| decode(&id, &bytes)));
            match read {
                Ok(Some(Ok(key))) => keys.push((id, key)),
                Ok(Some(Err(reason))) => self.set_aside(&id, reason)?,
                Ok(None) => {}
                Err(error @ StateError::Damaged { .. }) => self.set_aside(&id, &error.to_string())?,
                Err(error) => return Err(error.into()),
            }
        }
        keys.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(keys)
    }

    pub(super) fn set_aside(&self, id: &KeyId, reason: &str) -> Result<(), TpmKeyError> {
        let path = self.path(id);
        let aside = quarantine(&path)?;
        tracing::error!(key = %id, reason, file = %path.display(), aside = %aside.display(), "set a key file aside");
        Ok(())
    }

    pub(super) fn write(&self, id: &KeyId, key: &WrappedKey) -> Result<(), TpmKeyError> {
        let path = self.path(id);
        let stored = Stored {
            version: 1,
            id: id.as_str().to_owned(),
            public: STANDARD.encode(&key.public),
            private: STANDARD.encode(&key.private),
        };
        let text = serde_json::to_vec(&stored).map_err(|cause| self.io("encode", &path)(cause.into()))?;
        Ok(write_checked(&path, &text, 0o600)?)
    }

    pub(super) fn remove(&self, id: &KeyId) -> Result<(), TpmKeyError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Ok(()) => File::open(&self.directory)
                .and_then(|directory| directory.sync_all())
                .map_err(self.io("sync the directory of", &path)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(self.io("remove", &path)(cause)),
        }
    }

    fn io(&self, op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TpmKeyError + use<> {
        let path = path.to_owned();
        move |cause| StateError::Io { op, path, cause }.into()
    }
}

/// Reads a key file's content. The reason never quotes it.
pub(super) fn decode(id: &KeyId, bytes: &[u8]) -> Result<WrappedKey, &'static str> {
    let stored: Stored =
        serde_json::from_slice(bytes).map_err(|_quotes_the_text| "it is not in the format of a key file")?;
    if stored.version != 1 {
        return Err("it is of a later version");
    }
    if stored.id != id.as_str() {
        return Err("it is another key's file under this name");
    }
    let part = |text: &str| {
        let bytes = STANDARD.decode(text).map_err(|_quotes_the_text| "a part of it is no base64")?;
        if bytes.is_empty() || bytes.len() > MAX_PART {
            Err("a part of it has the wrong length")
        } else {
            Ok(bytes)
        }
    };
    Ok(WrappedKey { public: part(&stored.public)?, private: part(&stored.private)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_come_back_and_damage_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("keys")).unwrap();
        let (a, b) = (KeyId::new("a").unwrap(), KeyId::new("b").unwrap());
        let key = WrappedKey { public: vec![1; 88], private: vec![2; 126] };
        store.write(&a, &key).unwrap();
        store.write(&b, &key).unwrap();
        assert_eq!(store.read_all().unwrap(), [(a.clone(), key.clone()), (b.clone(), key.clone())]);

        // Under another key's name.
        fs::copy(store.path(&a), store.path(&b)).unwrap();
        assert_eq!(store.read_all().unwrap(), [(a.clone(), key.clone())]);
        // One bit.
        let mut bytes = fs::read(store.path(&a)).unwrap();
        let last = bytes.len() - 10;
        bytes[last] ^= 1;
        fs::write(store.path(&a), bytes).unwrap();
        assert_eq!(store.read_all().unwrap(), []);
        assert!(directory.path().join("keys/a.tpmkey.damaged-1").exists());
        assert!(directory.path().join("keys/b.tpmkey.damaged-1").exists());
        store.remove(&a).unwrap();
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,100}") {
            let id = KeyId::new("a").unwrap();
            drop(decode(&id, &bytes));
            let text = serde_json::json!({"version": 1, "id": "a", "public": text, "private": text}).to_string();
            drop(decode(&id, text.as_bytes()));
        }
    }
}
