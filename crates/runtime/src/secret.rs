//! Secrets come from files, never from values: a PIN, a TPM auth value, a join token.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::libc;
use zeroize::Zeroizing;

/// The largest secret, in bytes.
pub const MAX_BYTES: u64 = 64 << 10;

/// The variable in which systemd names the directory of a unit's credentials.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Bytes that are wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the call that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The text, when it is UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The system refused.
    #[error("cannot read the secret file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Not a regular file, or more than 64 KiB.
    #[error("the secret file {path} is not usable: {why}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// Others could have read it.
    #[error("the secret file {path} is open to others: {why}; make it mode 0600 and its owner the daemon's user", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// `credential:NAME` without systemd, or a name that is a path.
    #[error("there is no credential {name}: {why}")]
    NoCredential {
        /// The name.
        name: String,
        /// Why.
        why: &'static str,
    },
}

/// A file with a secret: a path, or `credential:NAME` for a systemd credential (`LoadCredential=NAME:…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    path: PathBuf,
    /// In systemd's own directory, which only the unit can enter.
    credential: bool,
}

impl SecretFile {
    /// Finds the file that a configured text names. `credentials` is the value of [`CREDENTIALS_DIRECTORY`].
    ///
    /// # Errors
    /// `credential:NAME` when systemd gave no directory, or when NAME is not one plain file name.
    pub fn locate(spec: &Path, credentials: Option<&Path>) -> Result<Self, SecretError> {
        let name = spec.to_str().and_then(|text| text.strip_prefix("credential:"));
        if let Some(name) = name {
            let no = |why| SecretError::NoCredential { name: name.to_owned(), why };
            let dir = credentials
                .ok_or_else(|| no("CREDENTIALS_DIRECTORY is not set; is LoadCredential= in the unit?"))?;
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(no("its name must be a plain file name"));
            }
            return Ok(Self { path: dir.join(name), credential: true });
        }
        let credential = credentials.is_some_and(|dir| spec.parent() == Some(dir));
        Ok(Self { path: spec.to_owned(), credential })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it, without one newline at its end.
    ///
    /// # Errors
    /// The file cannot be read, is no regular file, exceeds 64 KiB, or is open to others: any permission of group or others, or an
    /// owner who is neither this process' user nor root. (systemd's credentials may show group read: that is how their ACL is seen.)
    pub fn read(&self) -> Result<Secret, SecretError> {
        let path = &self.path;
        let failed = |cause| SecretError::Read { path: path.clone(), cause };
        let unusable = |why| SecretError::Unusable { path: path.clone(), why };
        let open = |why| SecretError::Open { path: path.clone(), why };
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK);
        let file = options.open(path).map_err(failed)?;
        let data = file.metadata().map_err(failed)?;
        if !data.is_file() {
            return Err(unusable("it is not a regular file"));
        }
        if data.uid() != nix::unistd::geteuid().as_raw() && data.uid() != 0 {
            return Err(open("another user owns it"));
        }
        if data.mode() & if self.credential { 0o037 } else { 0o077 } != 0 {
            return Err(open("its mode gives rights to group or others"));
        }
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(data.len().min(MAX_BYTES)).unwrap_or(0) + 1));
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(unusable("it is larger than 64 KiB"));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Ok(Secret(bytes))
    }
}

/// Reads the secret that a configured text names, with systemd's directory from the environment.
///
/// # Errors
/// As [`SecretFile::locate`] and [`SecretFile::read`].
pub fn read(spec: &Path) -> Result<Secret, SecretError> {
    let credentials = std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from);
    SecretFile::locate(spec, credentials.as_deref())?.read()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn file(dir: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn one_newline_is_cut_and_nothing_is_printed() {
        let dir = tempfile::tempdir().unwrap();
        for (content, expected) in [
            (&b"1234"[..], &b"1234"[..]),
            (b"1234\n", b"1234"),
            (b"1234\r\n", b"1234"),
            (b"a\n\n", b"a\n"),
            (b"", b""),
        ] {
            let secret = read(&file(dir.path(), "pin", content, 0o600)).unwrap();
            assert_eq!(secret.expose(), expected);
            assert_eq!(format!("{secret:?}"), format!("Secret({} bytes)", expected.len()));
        }
    }

    #[test]
    fn files_open_to_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o660, 0o601] {
            let error = read(&file(dir.path(), "pin", b"x", mode)).unwrap_err();
            assert!(matches!(error, SecretError::Open { .. }), "{mode:o}: {error}");
        }
        assert!(read(&file(dir.path(), "pin", b"x", 0o400)).is_ok());
        assert!(matches!(
            read(&file(dir.path(), "big", &vec![0; 70_000], 0o600)),
            Err(SecretError::Unusable { .. })
        ));
        assert!(matches!(read(dir.path()), Err(SecretError::Unusable { .. })));
        assert!(matches!(read(&dir.path().join("none")), Err(SecretError::Read { .. })));
    }

    #[test]
    fn systemd_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), "hsm-pin", b"1234\n", 0o440);
        let locate = |spec: &str, dir: Option<&Path>| SecretFile::locate(Path::new(spec), dir);
        let found = locate("credential:hsm-pin", Some(dir.path())).unwrap();
        assert_eq!(found.read().unwrap().expose_str(), Some("1234"));
        assert!(SecretFile::locate(&path, Some(dir.path())).unwrap().read().is_ok());
        assert!(
            SecretFile::locate(&path, None).unwrap().read().is_err(),
            "0440 elsewhere is open to the group"
        );
        assert!(locate("credential:hsm-pin", None).is_err());
        for name in
            ["credential:", "credential:../x", "credential:/etc/passwd", "credential:a/b", "credential:.."]
        {
            assert!(
                matches!(locate(name, Some(dir.path())), Err(SecretError::NoCredential { .. })),
                "{name}"
            );
        }
    }
}
