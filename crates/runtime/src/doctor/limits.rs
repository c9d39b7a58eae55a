//! How many files a process may have open.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{Finding, fault, fine, warning};

const CHECK: &str = "limits";

/// Open files of the daemon that runs, or, when none does, what one that is started from here would get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The process, if it runs.
    pub pid: Option<i32>,
    /// Most files at once.
    pub most: u64,
    /// Files that are open, where that may be seen.
    pub open: Option<u64>,
}

/// The process that listens on a socket, as the kernel says.
#[must_use]
pub fn listener(socket: &Path) -> Option<i32> {
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    // A listener in another process namespace has none here.
    (peer.pid() > 0).then_some(peer.pid())
}

/// Looks at a process, or at this one.
#[must_use]
pub fn gather(pid: Option<i32>) -> Option<OpenFiles> {
    if let Some(pid) = pid
        && let Some(most) =
            fs::read_to_string(format!("/proc/{pid}/limits")).ok().and_then(|text| soft(&text))
    {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let open = open.map(|all| u64::try_from(all.count()).unwrap_or(u64::MAX));
        return Some(OpenFiles { pid: Some(pid), most, open });
    }
    // A daemon raises its soft limit to the hard one.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    Some(OpenFiles { pid: None, most, open: None })
}

/// The soft limit in a file of proc(5).
fn soft(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Whether it is enough; `needed` says for how many files, and what for.
#[must_use]
pub fn judge(facts: OpenFiles, needed: (u64, &str)) -> Finding {
    let OpenFiles { pid, most, open } = facts;
    let (enough, what_for) = needed;
    let whose = pid.map_or_else(String::new, |pid| format!("of process {pid} "));
    let now = open.map_or_else(String::new, |open| format!(", {open} are now"));
    if let Some(open) = open
        && open >= most - most / 10
    {
        return fault(
            CHECK,
            format!("{open} of at most {most} files {whose}are open: soon nobody can connect"),
            "raise LimitNOFILE= in the unit and restart; look for peers that open connections without end",
        );
    }
    if most < enough {
        return warning(
            CHECK,
            format!("at most {most} files {whose}can be open{now}; {what_for} need {enough}"),
            "LimitNOFILE= in the unit, or ulimit -Hn",
        );
    }
    fine(CHECK, format!("{most} files {whose}can be open{now}"))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::judged;
    use super::*;

    #[test]
    fn the_running_process_counts() {
        let of = |pid, most, open| [judge(OpenFiles { pid, most, open }, (10_200, "10,000 connections"))];
        judged(&of(None, 65_536, None), Level::Fine);
        judged(&of(Some(7), 65_536, Some(40)), Level::Fine);
        judged(&of(None, 1024, None), Level::Warning);
        judged(&of(Some(7), 1024, Some(40)), Level::Warning);
        judged(&of(Some(7), 65_536, Some(60_000)), Level::Fault);
    }

    #[test]
    fn a_listener_is_found_by_its_socket_with_its_own_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(listener(&path), None);
        let _listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        assert_eq!(listener(&path), Some(us));
        let facts = gather(Some(us)).unwrap();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((facts.pid, facts.most), (Some(us), soft));
        assert!(facts.open.is_some_and(|open| open > 2));
        assert_eq!(
            super::soft("Limit  Soft\nMax open files            1024                 4096   files\n"),
            Some(1024)
        );
    }
}
