//! State files: written by rename after fsync, checked when read, set aside when damaged.
//!
//! A checked file is one header line and the payload:
//! `hardroot-state 1 sha256=<hex> length=<bytes>\n`. A reader sees the old content or the new, never a mixture.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::digest;
use nix::libc;
use zeroize::{Zeroize as _, Zeroizing};

/// The largest state file that is read, in bytes.
pub const MAX_BYTES: u64 = 64 << 20;

/// How many damaged copies of one file are kept.
const MAX_QUARANTINED: u32 = 20;

const MAGIC: &str = "hardroot-state 1 ";

/// Why a state file could not be used or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The system refused.
    #[error("cannot {op} {path}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The content is not what was once written; [`quarantine`] it.
    #[error("the state file {path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: &'static str,
    },
    /// Others than the owner may write it, or it belongs to somebody else, so its content proves nothing.
    #[error("the state file {path} is not ours alone: {why}; fix its owner and mode (0600)", path = path.display())]
    Insecure {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |cause| StateError::Io { op, path: path.to_owned(), cause }
}

/// Makes a directory (and its parents) of a mode if it is not there.
///
/// # Errors
/// The system refuses, or something else than a directory is in the way.
pub fn ensure_dir(path: &Path, mode: u32) -> Result<(), StateError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(io_error("create the directory", path))
}

/// Replaces a file: a new one is written beside it, synced, and renamed over it; then the directory is synced.
///
/// After an error the old file is untouched (or, if only the last sync failed, the new one is in place). `mode` is exact, whatever
/// the umask.
///
/// # Errors
/// Any step fails, such as a full disk.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StateError> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let dir = parent(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let temporary = dir.join(format!(".{name}.{}-{serial}.tmp", std::process::id()));
    let written = write_new(&temporary, bytes, mode)
        // The file that was wanted, not the one beside it that nobody knows.
        .map_err(io_error("write", path))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(io_error("replace", path)));
    if let Err(error) = written {
        // The first error is the one to tell; a leftover is overwritten by the next try of this name.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync the directory of", path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let mut file = match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            // Left by a process of the same id that died in between.
            std::fs::remove_file(path)?;
            options.open(path)?
        }
        other => other?,
    };
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// As [`write_atomic`], with a header that lets [`read_checked`] know damage.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_checked(path: &Path, payload: &[u8], mode: u32) -> Result<(), StateError> {
    write_atomic(path, &seal(payload), mode)
}

/// The bytes [`write_checked`] writes for a payload.
#[must_use]
pub fn seal(payload: &[u8]) -> Zeroizing<Vec<u8>> {
    let sum = hex::encode(digest::digest(&digest::SHA256, payload));
    let header = format!("{MAGIC}sha256={sum} length={}\n", payload.len());
    let mut bytes = Zeroizing::new(Vec::with_capacity(header.len() + payload.len()));
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload in the bytes of a checked file.
///
/// # Errors
/// What does not fit, in words.
pub fn unseal(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let head = bytes.get(..bytes.len().min(256)).unwrap_or_default();
    let end = head.iter().position(|b| *b == b'\n').ok_or("it has no header")?;
    let (header, payload) = bytes.split_at(end);
    let payload = payload.get(1..).unwrap_or_default();
    let header =
        std::str::from_utf8(header).ok().and_then(|h| h.strip_prefix(MAGIC)).ok_or("it has no header")?;
    let (sum, length) = header.split_once(' ').ok_or("its header is incomplete")?;
    let sum = sum.strip_prefix("sha256=").ok_or("its header names no checksum")?;
    let length = length.strip_prefix("length=").ok_or("its header names no length")?;
    if length != payload.len().to_string() {
        return Err("its length is not the one in its header");
    }
    if sum != hex::encode(digest::digest(&digest::SHA256, payload)) {
        return Err("its checksum is not the one in its header");
    }
    Ok(payload)
}

/// Reads a file that [`write_checked`] wrote; `None` when there is none.
///
/// # Errors
/// [`StateError::Damaged`] when header, length or checksum do not fit, [`StateError::Insecure`] when group or others may write the
/// file or it belongs neither to this process' user nor to root, [`StateError::Io`] for the rest.
pub fn read_checked(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let mut options = OpenOptions::new();
    // Without O_NONBLOCK a FIFO of this name would hang the start.
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("open", path)(e)),
    };
    let data = file.metadata().map_err(io_error("examine", path))?;
    let insecure = |why| StateError::Insecure { path: path.to_owned(), why };
    let damaged = |why| StateError::Damaged { path: path.to_owned(), why };
    if !data.is_file() {
        return Err(damaged("it is not a regular file"));
    }
    let uid = nix::unistd::geteuid().as_raw();
    if data.uid() != uid && data.uid() != 0 {
        return Err(insecure("another user owns it"));
    }
    if data.mode() & 0o022 != 0 {
        return Err(insecure("group or others may write it"));
    }
    if data.len() > MAX_BYTES {
        return Err(damaged("it is larger than 64 MiB"));
    }
    let mut bytes = read_whole(file, data.len(), MAX_BYTES).map_err(io_error("read", path))?;
    let header = bytes.len() - unseal(&bytes).map_err(damaged)?.len();
    // In place, and the last copy of the payload's end that this leaves behind is wiped with the rest.
    bytes.copy_within(header.., 0);
    let payload = bytes.len() - header;
    bytes.get_mut(payload..).unwrap_or_default().zeroize();
    bytes.truncate(payload);
    Ok(Some(bytes))
}

/// Reads a file of a known size into memory that never moves: a buffer that grows would leave copies behind that nobody wipes,
/// and cost several times the file. A file that has grown meanwhile is read up to `largest` and one byte more.
///
/// # Errors
/// The system refuses.
pub fn read_whole(file: impl Read, size: u64, largest: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let room = usize::try_from(size.min(largest)).unwrap_or(usize::MAX).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(largest.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Sets a damaged file aside as `<name>.damaged-<n>` with the first free number, and returns that path for the log. At most 20 are
/// kept; the last is replaced after that.
///
/// # Errors
/// The file cannot be renamed.
pub fn quarantine(path: &Path) -> Result<PathBuf, StateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = (1..MAX_QUARANTINED)
        .map(|n| path.with_file_name(format!("{name}.damaged-{n}")))
        .find(|candidate| candidate.symlink_metadata().is_err())
        .unwrap_or_else(|| path.with_file_name(format!("{name}.damaged-{MAX_QUARANTINED}")));
    std::fs::rename(path, &aside).map_err(io_error("set aside", path))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_and_only_the_owner_may() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.state");
        assert!(read_checked(&path).unwrap().is_none());
        for payload in [&b""[..], b"one", b"two\nlines\n"] {
            write_checked(&path, payload, 0o600).unwrap();
            assert_eq!(&**read_checked(&path).unwrap().unwrap(), payload);
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        write_atomic(&path, b"plain", 0o644).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    fn damage_is_known_and_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.state");
        write_checked(&path, b"payload", 0o600).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(read_checked(&path), Err(StateError::Damaged { .. })), "bit {at}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(matches!(read_checked(&path), Err(StateError::Damaged { .. })), "length {length}");
        }
        assert_eq!(quarantine(&path).unwrap(), dir.path().join("agent.state.damaged-1"));
        assert!(read_checked(&path).unwrap().is_none());
        for _ in 0..30 {
            std::fs::write(&path, b"x").unwrap();
            quarantine(&path).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), MAX_QUARANTINED as usize);
    }

    #[test]
    fn files_of_others_and_odd_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_checked(&path, b"x", 0o620).unwrap();
        assert!(matches!(read_checked(&path), Err(StateError::Insecure { .. })));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_checked(&link), Err(StateError::Io { .. })));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read_checked(&fifo), Err(StateError::Damaged { .. })));
        if nix::unistd::geteuid().is_root() {
            write_checked(&path, b"x", 0o600).unwrap();
            std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
            // Root reads what belongs to another user only by mistake.
            assert!(matches!(read_checked(&path), Err(StateError::Insecure { .. })));
        }
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::create_dir(&path).unwrap();
        let error = write_atomic(&path, b"x", 0o600).unwrap_err();
        assert!(error.to_string().starts_with("cannot replace"), "{error}");
        assert!(path.is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomic(&dir.path().join("no/such/dir"), b"x", 0o600).is_err());
    }

    #[test]
    fn a_directory_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        ensure_dir(&path, 0o700).unwrap();
        ensure_dir(&path, 0o700).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(unseal(&bytes).is_err());
            let sealed = seal(&bytes);
            prop_assert_eq!(unseal(&sealed), Ok(&bytes[..]));
        }
    }
}
