//! Reading a key file: key after key, so that a file that is none costs little, and no copy of a key is left behind.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hardroot_runtime::state::read_whole;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use zeroize::Zeroizing;

use super::{DiskError, MAX_FILE};
use crate::software::{KeyMap, SoftwareKey};
use crate::types::KeyId;

/// How much of the name of a key that cannot be used is told, in characters.
const LONGEST_NAME: usize = 64;

/// The text of a key file; `None` when there is no file yet.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, DiskError> {
    let cannot = |cause| DiskError::Read { path: path.to_owned(), cause };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(cannot(cause)),
    };
    let data = file.metadata().map_err(cannot)?;
    let mode = data.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DiskError::Mode { path: path.to_owned(), mode });
    }
    let text = read_whole(file, data.len(), MAX_FILE).map_err(cannot)?;
    if text.len() as u64 > MAX_FILE {
        return Err(DiskError::TooLarge { path: path.to_owned() });
    }
    Ok(Some(text))
}

/// Reads key after key: nothing is held of a file but the keys that are good so far.
pub(super) fn parse(text: &[u8], path: &Path) -> Result<KeyMap, DiskError> {
    let mut reader = FileReader { path, keys: KeyMap::default(), fault: None };
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = (&mut json).deserialize_map(&mut reader).and_then(|()| json.end());
    match (reader.fault, read) {
        (Some(fault), _) => Err(fault),
        (None, Ok(())) => Ok(reader.keys),
        // serde_json's message may quote the text, which holds keys: only the place is told.
        (None, Err(cause)) => {
            Err(DiskError::Format { path: path.to_owned(), line: cause.line(), column: cause.column() })
        }
    }
}

/// Reads the object `{"keys": {...}}`. What is wrong with a key is kept: serde's errors are texts.
struct FileReader<'p> {
    path: &'p Path,
    keys: KeyMap,
    fault: Option<DiskError>,
}

impl FileReader<'_> {
    fn take(&mut self, name: &str, encoded: &str) -> Result<(), String> {
        let id = KeyId::new(name).map_err(|cause| cause.to_string())?;
        let pkcs8 =
            Zeroizing::new(STANDARD.decode(encoded).map_err(|cause| format!("it is no base64: {cause}"))?);
        self.keys.put(&id, SoftwareKey::from_pkcs8(&pkcs8).map_err(|cause| cause.to_string())?);
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut FileReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object {\"keys\": {...}}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(name) = members.next_key::<Quoted<'de>>()? {
            if &*name != "keys" {
                members.next_value::<IgnoredAny>()?;
            } else if std::mem::replace(&mut found, true) {
                return Err(A::Error::duplicate_field("keys"));
            } else {
                members.next_value_seed(Keys(self))?;
            }
        }
        if found { Ok(()) } else { Err(A::Error::missing_field("keys")) }
    }
}

/// Reads the object of keys.
struct Keys<'r, 'p>(&'r mut FileReader<'p>);

impl<'de> DeserializeSeed<'de> for Keys<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of names and keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let reader = self.0;
        while let Some((name, encoded)) = members.next_entry::<Quoted<'de>, Quoted<'de>>()? {
            if let Err(reason) = reader.take(&name, &encoded) {
                let id = name.chars().take(LONGEST_NAME).flat_map(char::escape_default).collect();
                reader.fault = Some(DiskError::Key { path: reader.path.to_owned(), id, reason });
                return Err(A::Error::custom("a key cannot be used"));
            }
        }
        Ok(())
    }
}

/// A text: in place where it has no escapes, as base64 and the names of keys have none.
enum Quoted<'de> {
    InPlace(&'de str),
    Unescaped(Zeroizing<String>),
}

impl Deref for Quoted<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::InPlace(text) => text,
            Self::Unescaped(text) => text,
        }
    }
}

impl<'de> Deserialize<'de> for Quoted<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Quoted<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Quoted<'de>, E> {
                Ok(Quoted::InPlace(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Quoted<'de>, E> {
                Ok(Quoted::Unescaped(Zeroizing::new(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Either)
    }
}
