//! Files and directories: who owns them and who may do what.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Finding, fault, fine, warning};

/// What a file is to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Holds a secret: for its owner alone.
    Secret,
    /// The daemon's state, a directory: for its owner alone.
    State,
    /// Decides what the daemon does: others must not write it.
    Trusted,
    /// A directory with a socket in it: others must not put theirs in its place.
    Socket,
}

/// One file.
#[derive(Debug, Clone)]
pub struct FileFacts {
    /// Where.
    pub path: PathBuf,
    /// What it is.
    pub role: Role,
    /// Mode and owner, or why they cannot be told.
    pub found: Result<Found, String>,
    /// A directory on the way to it that others may write, so that they can put another file in its place.
    pub open_directory: Option<PathBuf>,
}

/// Mode and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// Who runs this program.
    pub us: u32,
}

/// Looks at a file.
#[must_use]
pub fn gather(path: &Path, role: Role) -> FileFacts {
    let us = nix::unistd::geteuid().as_raw();
    let found = fs::metadata(path)
        .map(|data| Found { mode: data.mode() & 0o7777, uid: data.uid(), us })
        .map_err(|error| error.to_string());
    FileFacts { path: path.to_owned(), role, found, open_directory: open_directory(path) }
}

fn open_directory(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let open = |directory: &&Path| {
        fs::metadata(directory).is_ok_and(|data| {
            // A sticky directory such as /tmp lets nobody replace another's file.
            data.mode() & 0o022 != 0 && data.mode() & 0o1000 == 0
        })
    };
    path.ancestors().skip(1).find(open).map(Path::to_owned)
}

/// What it means.
#[must_use]
pub fn judge(facts: &FileFacts) -> Finding {
    const CHECK: &str = "files";
    let place = facts.path.display();
    let found = match (&facts.found, facts.role) {
        (Ok(found), _) => *found,
        (Err(why), Role::State | Role::Socket) => {
            return warning(CHECK, format!("{place}: {why}"), "it is made at the first start");
        }
        (Err(why), _) => {
            return fault(CHECK, format!("{place}: {why}"), "it is needed, and must be readable");
        }
    };
    let mode = found.mode & 0o777;
    if found.uid != found.us && found.uid != 0 {
        return warning(
            CHECK,
            format!("{place} belongs to user {}, not to {} or root", found.uid, found.us),
            "run doctor as the daemon's user; if you did, change the owner",
        );
    }
    let (forbidden, right) = match facts.role {
        Role::Secret => (0o077, "chmod 0600"),
        Role::State => (0o077, "chmod 0700"),
        Role::Trusted => (0o022, "chmod go-w"),
        Role::Socket => (0o002, "chmod o-w"),
    };
    if mode & forbidden != 0 {
        let who = match facts.role {
            Role::Secret | Role::State => "others than its owner may use it",
            Role::Trusted | Role::Socket => "others than its owner may write it",
        };
        return fault(CHECK, format!("{place} has mode {mode:04o}: {who}"), format!("{right} {place}"));
    }
    if let Some(open) = &facts.open_directory {
        return warning(
            CHECK,
            format!("{place} lies below {}, which others may write", open.display()),
            format!("chmod go-w {}", open.display()),
        );
    }
    fine(CHECK, format!("{place} has mode {mode:04o}"))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::judged;
    use super::*;

    #[test]
    fn modes_and_owners() {
        let of = |role, mode, uid| {
            let found = Ok(Found { mode, uid, us: 1000 });
            [judge(&FileFacts { path: PathBuf::from("/f"), role, found, open_directory: None })]
        };
        for (role, mode, uid, expected) in [
            (Role::Secret, 0o600, 1000, Level::Fine),
            (Role::Secret, 0o400, 0, Level::Fine),
            (Role::Secret, 0o640, 1000, Level::Fault),
            (Role::State, 0o700, 1000, Level::Fine),
            (Role::State, 0o750, 1000, Level::Fault),
            (Role::Trusted, 0o644, 0, Level::Fine),
            (Role::Trusted, 0o664, 0, Level::Fault),
            (Role::Trusted, 0o644, 33, Level::Warning),
            (Role::Socket, 0o755, 1000, Level::Fine),
            (Role::Socket, 0o777, 1000, Level::Fault),
        ] {
            judged(&of(role, mode, uid), expected);
        }
        let missing = |role| {
            let found = Err("not there".to_owned());
            [judge(&FileFacts { path: PathBuf::from("/f"), role, found, open_directory: None })]
        };
        judged(&missing(Role::State), Level::Warning);
        judged(&missing(Role::Secret), Level::Fault);
        let found = Ok(Found { mode: 0o600, uid: 0, us: 0 });
        let below = Some(PathBuf::from("/open"));
        let facts =
            FileFacts { path: PathBuf::from("/open/f"), role: Role::Secret, found, open_directory: below };
        judged(&[judge(&facts)], Level::Warning);
    }
}
