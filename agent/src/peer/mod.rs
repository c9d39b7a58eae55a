//! Who is at the other end of a local connection: the process that called connect(2), held so that it cannot be mistaken for
//! another one.
//!
//! The kernel names the process (`SO_PEERCRED`) and gives a handle to it (`SO_PEERPIDFD`, Linux 6.5). While the handle says
//! "alive" the process id belongs to that process, so everything read under `/proc/PID` before a check that passes was read of
//! that process. Where the kernel is older, an open `/proc/PID` directory takes the handle's place: it never shows a later
//! process of the same id.

pub mod proc;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

/// The largest `/proc/PID/status` that is read, in bytes: room for the kernel's 65536 supplementary groups.
const MAX_PROC_FILE: u64 = 1 << 20;

/// Why a peer is not known, or no longer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The kernel gives no process id: the peer lives in a PID namespace that is not below ours.
    #[error("the caller has no process id here; run the agent in the host's PID namespace")]
    NoPid,
    /// The process that connected is gone. Whoever holds its socket now is somebody else.
    #[error("the process that connected (pid {pid}) has ended")]
    Gone {
        /// The process id it had.
        pid: i32,
    },
    /// The process is not what it was when it connected.
    #[error("the process that connected (pid {pid}) has changed: {what}")]
    Changed {
        /// The process id.
        pid: i32,
        /// What differs.
        what: &'static str,
    },
    /// The kernel's answer could not be had or read.
    #[error("cannot {op} of pid {pid}: {cause}")]
    Unreadable {
        /// What was tried.
        op: &'static str,
        /// The process id.
        pid: i32,
        /// What the system said.
        cause: Errno,
    },
    /// A file under `/proc` does not look as it should.
    #[error("/proc/{pid}/{file} cannot be understood: {cause}")]
    Format {
        /// The process id.
        pid: i32,
        /// The file.
        file: &'static str,
        /// What is wrong.
        cause: proc::BadProc,
    },
}

/// A file that is told apart from every other on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device, major and minor.
    pub device: (u32, u32),
    /// Inode on that device.
    pub inode: u64,
}

/// What a file is and when it changed; differs whenever its content may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileState {
    /// Which file.
    pub id: FileId,
    /// Bytes.
    pub size: u64,
    /// Modification time: seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
    /// Change time, which only the kernel sets.
    pub changed: (i64, u32),
    /// Names the file still has.
    pub links: u32,
    /// Whether it is a regular file.
    pub regular: bool,
}

/// What the kernel says about a process at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Start time in clock ticks after boot.
    pub start_time: u64,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Real user id.
    pub real_uid: u32,
    /// Supplementary group ids, in the kernel's order.
    pub groups: Vec<u32>,
    /// The program file; none when the agent may not look (no `CAP_SYS_PTRACE` and another user's process).
    pub exe: Option<FileId>,
    /// The mount namespace; none when the agent may not look.
    pub mount_namespace: Option<FileId>,
}

enum Handle {
    /// Readable when the process has ended.
    Pidfd(OwnedFd),
    /// Fails to be read when the process has ended.
    Directory(OwnedFd),
}

struct Held {
    pid: i32,
    uid: u32,
    gid: u32,
    handle: Handle,
    first: Sample,
}

/// The process at the other end, and what it was when its connection was accepted. Clones share one handle.
#[derive(Clone)]
pub struct Peer(Arc<Held>);

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("pid", &self.0.pid)
            .field("uid", &self.0.uid)
            .field("gid", &self.0.gid)
            .finish_non_exhaustive()
    }
}

/// Where the kernel shows processes: `/proc`, or what `HOST_PROC` says (an agent in a container that sees the host's).
#[must_use]
pub fn proc_root() -> &'static std::path::Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        std::env::var_os("HOST_PROC").filter(|v| !v.is_empty()).map_or_else(|| "/proc".into(), PathBuf::from)
    })
}

impl Peer {
    /// Takes hold of the process that connected and samples it at once.
    ///
    /// # Errors
    /// The process has ended or changed its user since connect(2), has no id here, or `/proc` cannot be read.
    pub fn of(socket: &impl AsFd) -> Result<Self, PeerError> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)
            .map_err(|cause| PeerError::Unreadable { op: "read the credentials", pid: 0, cause })?;
        let pid = credentials.pid();
        if pid <= 0 {
            return Err(PeerError::NoPid);
        }
        let handle = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => Handle::Pidfd(pidfd),
            Err(Errno::ENOPROTOOPT) => Handle::by_directory(pid)?,
            // Kernels before 6.16 say so when the process has been reaped.
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENODATA) => return Err(PeerError::Gone { pid }),
            Err(cause) => return Err(PeerError::Unreadable { op: "get a handle", pid, cause }),
        };
        Self::hold(pid, credentials.uid(), credentials.gid(), handle)
    }

    /// As [`Peer::of`] on a kernel without `SO_PEERPIDFD`.
    #[cfg(test)]
    fn of_without_pidfd(socket: &impl AsFd) -> Result<Self, PeerError> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials).unwrap();
        let pid = credentials.pid();
        Self::hold(pid, credentials.uid(), credentials.gid(), Handle::Directory(open_directory(pid)?))
    }

    fn hold(pid: i32, uid: u32, gid: u32, handle: Handle) -> Result<Self, PeerError> {
        let first = sample(pid, &handle)?;
        if (first.uid, first.gid) != (uid, gid) {
            return Err(PeerError::Changed { pid, what: "its user or group" });
        }
        Ok(Self(Arc::new(Held { pid, uid, gid, handle, first })))
    }

    /// Process id in the agent's namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Effective user id at connect(2), and (checked with every sample) now.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Effective group id at connect(2), and (checked with every sample) now.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.0.gid
    }

    /// Whether the process that connected is alive.
    ///
    /// # Errors
    /// [`PeerError::Gone`].
    pub fn check_alive(&self) -> Result<(), PeerError> {
        self.0.handle.check_alive(self.0.pid)
    }

    /// Looks at the process again. The kernel answers from memory and asks no file system, so that this may be done
    /// where nothing may block.
    ///
    /// # Errors
    /// It has ended, runs another program, or has another effective user or group than when it connected: such a process may not
    /// be the one that asks, because a socket survives exec(2), setuid programs included.
    pub fn sample(&self) -> Result<Sample, PeerError> {
        let pid = self.0.pid;
        let now = sample(pid, &self.0.handle)?;
        let changed = |what| Err(PeerError::Changed { pid, what });
        if now.start_time != self.0.first.start_time {
            return changed("its start time");
        }
        if (now.uid, now.gid) != (self.0.uid, self.0.gid) {
            return changed("its user or group");
        }
        if now.exe != self.0.first.exe {
            return changed("its program");
        }
        Ok(now)
    }

    /// The program as the kernel names it, and a handle to it that opens nothing (`O_PATH`): the handle works for deleted files and
    /// those of other mount namespaces, the name need not. Compare [`FileState::id`] with the samples around.
    ///
    /// # Errors
    /// The agent may not look, or the process has no program (any more).
    pub fn program(&self) -> Result<(PathBuf, OwnedFd, FileState), PeerError> {
        let pid = self.0.pid;
        let directory = self.0.handle.directory(pid)?;
        let failed = |op| move |cause: rustix::io::Errno| unreadable(op, pid, cause);
        let program = rustix::fs::openat(&*directory, "exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open the program"))?;
        let name = rustix::fs::readlinkat(&*directory, "exe", Vec::new())
            .map_err(failed("read the program's name"))?;
        let state = file_state(&program).map_err(failed("examine the program"))?;
        self.check_alive()?;
        let name = PathBuf::from(std::ffi::OsString::from_vec(name.into_bytes()));
        Ok((name, program, state))
    }
}

fn unreadable(op: &'static str, pid: i32, cause: rustix::io::Errno) -> PeerError {
    match Errno::from_raw(cause.raw_os_error()) {
        Errno::ESRCH => PeerError::Gone { pid },
        cause => PeerError::Unreadable { op, pid, cause },
    }
}

/// A directory that is held, or opened for one look.
enum Directory<'a> {
    Held(&'a OwnedFd),
    Opened(OwnedFd),
}

impl std::ops::Deref for Directory<'_> {
    type Target = OwnedFd;
    fn deref(&self) -> &OwnedFd {
        match self {
            Self::Held(fd) => fd,
            Self::Opened(fd) => fd,
        }
    }
}

impl Handle {
    /// For kernels without `SO_PEERPIDFD`: the directory first, then a pidfd that is known to be of the same process because the
    /// directory still answers.
    fn by_directory(pid: i32) -> Result<Self, PeerError> {
        let directory = open_directory(pid)?;
        let pidfd = rustix::process::Pid::from_raw(pid)
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
        match pidfd {
            Some(pidfd) => {
                read_file(&directory, "stat", pid)?;
                Ok(Self::Pidfd(pidfd))
            }
            None => Ok(Self::Directory(directory)),
        }
    }

    fn directory(&self, pid: i32) -> Result<Directory<'_>, PeerError> {
        match self {
            Self::Pidfd(_) => open_directory(pid).map(Directory::Opened),
            Self::Directory(fd) => Ok(Directory::Held(fd)),
        }
    }

    fn check_alive(&self, pid: i32) -> Result<(), PeerError> {
        match self {
            Self::Pidfd(fd) => {
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::ZERO) {
                    Ok(0) => Ok(()),
                    Ok(_) => Err(PeerError::Gone { pid }),
                    Err(cause) => Err(PeerError::Unreadable { op: "ask for the end", pid, cause }),
                }
            }
            Self::Directory(fd) => {
                let stat = read_stat(fd, pid)?;
                if stat.is_ended() { Err(PeerError::Gone { pid }) } else { Ok(()) }
            }
        }
    }
}

fn open_directory(pid: i32) -> Result<OwnedFd, PeerError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(proc_root().join(pid.to_string()), flags, Mode::empty()).map_err(|cause| match cause {
        rustix::io::Errno::NOENT => PeerError::Gone { pid },
        cause => unreadable("open the /proc directory", pid, cause),
    })
}

fn read_file(directory: &OwnedFd, name: &'static str, pid: i32) -> Result<Vec<u8>, PeerError> {
    let fd = rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(
        |cause| match cause {
            // An open directory of a process that has ended shows no files.
            rustix::io::Errno::NOENT => PeerError::Gone { pid },
            cause => unreadable("open a /proc file", pid, cause),
        },
    )?;
    let mut bytes = Vec::with_capacity(2048);
    match File::from(fd).take(MAX_PROC_FILE).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) => match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ESRCH) | None => Err(PeerError::Gone { pid }),
            Some(cause) => Err(PeerError::Unreadable { op: "read a /proc file", pid, cause }),
        },
    }
}

fn read_stat(directory: &OwnedFd, pid: i32) -> Result<proc::Stat, PeerError> {
    let bytes = read_file(directory, "stat", pid)?;
    proc::parse_stat(&bytes).map_err(|cause| PeerError::Format { pid, file: "stat", cause })
}

fn sample(pid: i32, handle: &Handle) -> Result<Sample, PeerError> {
    let directory = handle.directory(pid)?;
    let stat = read_stat(&directory, pid)?;
    if stat.is_ended() {
        return Err(PeerError::Gone { pid });
    }
    let bytes = read_file(&directory, "status", pid)?;
    let status =
        proc::parse_status(&bytes).map_err(|cause| PeerError::Format { pid, file: "status", cause })?;
    let look = |name: &'static str| match statx(&directory, name) {
        Ok(state) => Ok(Some(state.id)),
        // Another user's process and no right to look: known as unknown, which is the same at every sample.
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Ok(None),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(cause) => Err(unreadable("examine the program", pid, cause)),
    };
    let exe = look("exe")?;
    let mount_namespace = look("ns/mnt")?;
    // Last: what was read belongs to the process that connected only if it has not ended by now.
    handle.check_alive(pid)?;
    Ok(Sample {
        start_time: stat.start_time,
        uid: status.effective_uid(),
        gid: status.effective_gid(),
        real_uid: status.real_uid(),
        groups: status.groups,
        exe,
        mount_namespace,
    })
}

/// Follows the name from a directory and looks without asking a network or user-space file system anew, which could stall.
fn statx(directory: &OwnedFd, name: &str) -> Result<FileState, rustix::io::Errno> {
    let flags = AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS).map(|s| state_of(&s))
}

/// The state of an open file, as the kernel knows it.
pub(crate) fn file_state(file: &impl AsFd) -> Result<FileState, rustix::io::Errno> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
    rustix::fs::statx(file, "", flags, StatxFlags::BASIC_STATS).map(|s| state_of(&s))
}

/// The state of the file that a path names for the agent.
pub(crate) fn path_state(path: &std::path::Path) -> io::Result<FileState> {
    Ok(rustix::fs::statx(rustix::fs::CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)
        .map(|s| state_of(&s))?)
}

fn state_of(s: &rustix::fs::Statx) -> FileState {
    FileState {
        id: FileId { device: (s.stx_dev_major, s.stx_dev_minor), inode: s.stx_ino },
        size: s.stx_size,
        modified: (s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec),
        changed: (s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec),
        links: s.stx_nlink,
        regular: u32::from(s.stx_mode) & nix::libc::S_IFMT == nix::libc::S_IFREG,
    }
}

/// The mount namespaces whose paths mean what they say to the agent's operator: the agent's own and that of pid 1.
#[must_use]
pub fn host_mount_namespaces() -> Vec<FileId> {
    ["self/ns/mnt", "1/ns/mnt"]
        .iter()
        .filter_map(|n| path_state(&proc_root().join(n)).ok())
        .map(|s| s.id)
        .collect()
}

/// Whether every id of the kernel has its own number here. If not, ids that have none all look like 65534.
#[must_use]
pub fn all_ids_are_mapped() -> bool {
    ["uid_map", "gid_map"].iter().all(|name| {
        let map = std::fs::read_to_string(proc_root().join("self").join(name)).unwrap_or_default();
        map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
    })
}

#[cfg(test)]
mod tests;
