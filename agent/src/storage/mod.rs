//! What an agent keeps on disk: its certificate chain and CSR, and the trust bundle. No private key.
//!
//! Files are mode 0600, replaced by rename, with a checksum. A damaged file is set aside and named in the log;
//! the agent goes on without it, for its hardware can prove the node anew.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hardroot_identity::{BadBundle, Bundle, MAX_CHAIN_CERTIFICATES, TrustDomain};
use hardroot_runtime::state::{self, StateError};
use nix::fcntl::{Flock, FlockArg};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The agent's SVID and what belongs to it.
const SVID_FILE: &str = "agent-svid.json";
/// The trust bundle, a SPIFFE bundle document.
const BUNDLE_FILE: &str = "bundle.json";
/// Held locked while an agent uses the directory.
const LOCK_FILE: &str = "agent.lock";
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The directory cannot be made or entered.
    #[error("cannot use the data directory {path}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It belongs to somebody else.
    #[error("the data directory {path} belongs to user {owner}, not to the agent's user; change its owner or data_dir", path = path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// Another agent runs in it.
    #[error("the data directory {path} is in use by another agent", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be written or removed.
    #[error("cannot keep the agent's state")]
    Write(#[source] StateError),
    /// A file cannot be removed.
    #[error("cannot remove {path}", path = path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// The agent's own SVID, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSvid {
    /// DER certificates, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Whether the server said that this node can attest again.
    pub reattestable: bool,
    /// The CSR of its key, so that a hardware key signs it only once.
    pub csr: Option<Vec<u8>>,
}

impl StoredSvid {
    /// Reads what [`Storage::keep_svid`] wrote, checksum aside.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let file: SvidFile = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if file.version != 1 {
            return Err(format!("it has version {}, this agent knows version 1", file.version));
        }
        let chain: Vec<Vec<u8>> = file.chain.0.into_iter().map(|Der(der)| der).collect();
        if chain.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        Ok(Self { chain, reattestable: file.reattestable, csr: file.csr.map(|Der(der)| der) })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SvidFile {
    version: u32,
    chain: Chain,
    reattestable: bool,
    csr: Option<Der>,
}

/// DER, in base64 in the file.
struct Der(Vec<u8>);

impl Serialize for Der {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;
        impl Visitor<'_> for Base64 {
            type Value = Der;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Der, E> {
                STANDARD.decode(text).map(Der).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Base64)
    }
}

/// Certificates, leaf first; more than a chain may have are not read.
#[derive(Serialize)]
struct Chain(Vec<Der>);

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Chain;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of certificates")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Chain, A::Error> {
                let mut chain = Vec::new();
                while let Some(der) = list.next_element()? {
                    if chain.len() == MAX_CHAIN_CERTIFICATES {
                        let most = format_args!("more than {MAX_CHAIN_CERTIFICATES} certificates");
                        return Err(serde::de::Error::custom(most));
                    }
                    chain.push(der);
                }
                Ok(Chain(chain))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// An agent's data directory, for this process alone.
#[derive(Debug)]
pub struct Storage {
    dir: PathBuf,
    _lock: Flock<std::fs::File>,
}

impl Storage {
    /// Opens the directory, making it when it is not there, and takes its lock. Wider permissions than 0700 are
    /// narrowed.
    ///
    /// # Errors
    /// It cannot be made, belongs to another user, or another agent uses it.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let failed = |cause| StorageError::Directory { path: dir.to_owned(), cause };
        state::ensure_dir(dir, DIR_MODE).map_err(StorageError::Write)?;
        let data = std::fs::metadata(dir).map_err(failed)?;
        if data.uid() != nix::unistd::geteuid().as_raw() {
            return Err(StorageError::Owner { path: dir.to_owned(), owner: data.uid() });
        }
        if data.mode() & 0o077 != 0 {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(DIR_MODE)).map_err(failed)?;
            tracing::info!(path = %dir.display(), "data directory was open to others, now mode 0700");
        }
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(dir.join(LOCK_FILE))
            .map_err(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_held| StorageError::InUse { path: dir.to_owned() })?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// The SVID that was stored, if it is there and whole.
    #[must_use]
    pub fn svid(&self) -> Option<StoredSvid> {
        self.read(SVID_FILE, StoredSvid::decode)
    }

    /// Keeps an SVID. When this returns, a restart finds it.
    ///
    /// # Errors
    /// It cannot be written; the old one is still there.
    pub fn keep_svid(&self, svid: &StoredSvid) -> Result<(), StorageError> {
        let file = SvidFile {
            version: 1,
            chain: Chain(svid.chain.iter().map(|der| Der(der.clone())).collect()),
            reattestable: svid.reattestable,
            csr: svid.csr.clone().map(Der),
        };
        let bytes = serde_json::to_vec(&file).unwrap_or_default();
        state::write_checked(&self.dir.join(SVID_FILE), &bytes, FILE_MODE).map_err(StorageError::Write)
    }

    /// Forgets the SVID.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget_svid(&self) -> Result<(), StorageError> {
        let path = self.dir.join(SVID_FILE);
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::Remove { path, cause })
            }
            _ => Ok(()),
        }
    }

    /// The bundle of `trust_domain` that was stored, if it is there, whole and not empty.
    #[must_use]
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<Bundle> {
        self.read(BUNDLE_FILE, |bytes| {
            let bundle =
                Bundle::from_jwks(trust_domain.clone(), bytes).map_err(|e: BadBundle| e.to_string())?;
            if bundle.x509_authorities.is_empty() {
                return Err("it holds no X.509 authority".to_owned());
            }
            Ok(bundle)
        })
    }

    /// Keeps a bundle.
    ///
    /// # Errors
    /// It cannot be written; the old one is still there.
    pub fn keep_bundle(&self, bundle: &Bundle) -> Result<(), StorageError> {
        state::write_checked(&self.dir.join(BUNDLE_FILE), &bundle.to_jwks(), FILE_MODE)
            .map_err(StorageError::Write)
    }

    fn read<T>(&self, name: &str, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Option<T> {
        let path = self.dir.join(name);
        let why = match state::read_checked(&path) {
            Ok(None) => return None,
            Ok(Some(bytes)) => match parse(&bytes) {
                Ok(value) => return Some(value),
                Err(why) => why,
            },
            Err(StateError::Damaged { why, .. }) => why.to_owned(),
            Err(error) => {
                tracing::error!(path = %path.display(), error = %error, "stored state cannot be read; going on without it");
                return None;
            }
        };
        match state::quarantine(&path) {
            Ok(aside) => {
                tracing::warn!(path = %path.display(), reason = %why, kept_as = %aside.display(), "stored state is damaged and was set aside");
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), reason = %why, error = %error, "stored state is damaged; going on without it");
            }
        }
        None
    }
}
