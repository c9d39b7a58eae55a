//! Real sockets and real processes.

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

fn pair() -> (tempfile::TempDir, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    (dir, listener)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// A process connects, then does what `then` says with the connected socket `$s`. Perl is on every Debian system.
fn process(dir: &tempfile::TempDir, then: &str) -> Child {
    let program = format!(
        "use Socket; use POSIX; $^F=1000; socket(my $s,PF_UNIX,SOCK_STREAM,0)||die; connect($s,pack_sockaddr_un($ARGV[0]))||die; {then}"
    );
    let mut command = Command::new("/usr/bin/perl");
    command.args(["-e", &program]).arg(dir.path().join("s")).stdin(Stdio::piped()).spawn().unwrap()
}

type Of = fn(&UnixStream) -> Result<Peer, PeerError>;

const BOTH: [Of; 2] = [|s| Peer::of(s), |s| Peer::of_without_pidfd(s)];

#[test]
fn the_process_at_the_other_end_is_known() {
    for of in BOTH {
        let (dir, listener) = pair();
        let _client = UnixStream::connect(dir.path().join("s")).unwrap();
        let peer = of(&listener.accept().unwrap().0).unwrap();
        assert_eq!(peer.pid(), i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid(), nix::unistd::geteuid().as_raw());
        let sample = peer.sample().unwrap();
        assert_eq!(sample, peer.sample().unwrap());
        let (name, program, state) = peer.program().unwrap();
        assert_eq!(name, std::env::current_exe().unwrap());
        assert_eq!((Some(state.id), path_state(&name).unwrap()), (sample.exe, state));
        assert_eq!(file_state(&program).unwrap(), state);
        peer.check_alive().unwrap();
    }
}

#[test]
fn a_process_that_ended_is_nobody() {
    for of in BOTH {
        let (dir, listener) = pair();
        let mut child = process(&dir, "<STDIN>");
        let peer = of(&listener.accept().unwrap().0).unwrap();
        peer.sample().unwrap();
        drop(child.stdin.take());
        // Also while it is a zombie: the handle must not wait for somebody to reap it.
        until("the end is seen", || peer.check_alive().is_err());
        assert!(matches!(peer.sample(), Err(PeerError::Gone { .. })));
        child.wait().unwrap();
        assert!(matches!(peer.sample(), Err(PeerError::Gone { .. })));
        assert!(peer.program().is_err());
    }
}

#[test]
fn whoever_inherited_the_socket_is_not_the_one_that_connected() {
    for of in BOTH {
        let (dir, listener) = pair();
        // The parent connects and ends; its child holds the socket and speaks.
        let mut child = process(&dir, "fork() && POSIX::_exit(0); <STDIN>");
        let (server, _) = listener.accept().unwrap();
        child.wait_with_stdin_open();
        match of(&server) {
            Ok(peer) => assert!(matches!(peer.sample(), Err(PeerError::Gone { .. }))),
            Err(error) => assert!(matches!(error, PeerError::Gone { .. }), "{error}"),
        }
    }
}

trait Reap {
    fn wait_with_stdin_open(&mut self);
}

impl Reap for Child {
    fn wait_with_stdin_open(&mut self) {
        until("the parent ends", || self.try_wait().unwrap().is_some());
    }
}

#[test]
fn a_process_that_runs_another_program_is_refused() {
    for of in BOTH {
        let (dir, listener) = pair();
        let mut child = process(&dir, "<STDIN>; exec '/bin/sleep','60'");
        let peer = of(&listener.accept().unwrap().0).unwrap();
        peer.sample().unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        until("the program changes", || peer.sample().is_err());
        assert!(matches!(peer.sample(), Err(PeerError::Changed { what: "its program", .. })));
        peer.check_alive().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_process_that_changes_its_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        // Without root nobody can change the user; what is compared is checked on ourselves.
        let (dir, listener) = pair();
        let _client = UnixStream::connect(dir.path().join("s")).unwrap();
        let (server, _) = listener.accept().unwrap();
        let handle = Handle::Pidfd(getsockopt(&server, sockopt::PeerPidfd).unwrap());
        let pid = i32::try_from(std::process::id()).unwrap();
        let wrong =
            Peer::hold(pid, nix::unistd::geteuid().as_raw() + 1, nix::unistd::getegid().as_raw(), handle);
        assert!(matches!(wrong, Err(PeerError::Changed { .. })));
        return;
    }
    for of in BOTH {
        let (dir, listener) = pair();
        let mut child = process(&dir, "<STDIN>; POSIX::setgid(4242); POSIX::setuid(4242); sleep 60");
        let (server, _) = listener.accept().unwrap();
        let peer = of(&server).unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        until("the user changes", || peer.sample().is_err());
        until("the user changes", || {
            matches!(peer.sample(), Err(PeerError::Changed { what: "its user or group", .. }))
        });
        // As well when it changed between connect(2) and accept(2).
        until("the user is set", || of(&server).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_stopped_process_is_still_itself() {
    for of in BOTH {
        let (dir, listener) = pair();
        let mut child = process(&dir, "sleep 60");
        let peer = of(&listener.accept().unwrap().0).unwrap();
        let pid = nix::unistd::Pid::from_raw(peer.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert_eq!(peer.sample().unwrap().uid, peer.uid());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn nothing_is_left_open() {
    let (dir, listener) = pair();
    let client = UnixStream::connect(dir.path().join("s")).unwrap();
    let (server, _) = listener.accept().unwrap();
    let peer = Peer::of(&server).unwrap();
    let links = |fd: &str| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
    // Other tests open files of their own in parallel: count those that point into our own /proc directory.
    let ours = || {
        let list = std::fs::read_dir("/proc/self/fd").unwrap();
        let names = list.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter_map(|n| links(&n)).filter(|l| l.ends_with("exe") || l.ends_with("status")).count()
    };
    for _ in 0..100 {
        drop((peer.sample().unwrap(), peer.program().unwrap()));
    }
    until("files are closed", || ours() == 0);
    drop(client);
}
