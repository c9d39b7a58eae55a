//! The selectors of real processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use hardroot_config::{Decoder, Document};
use hardroot_runtime::clock::ManualClock;

use super::*;
use crate::attestors::attest;

const CONNECT: &str = "use Socket; socket(my $s,PF_UNIX,SOCK_STREAM,0)||die; connect($s,pack_sockaddr_un($ARGV[0]))||die; sleep 60";
const PERL: &str = "/usr/bin/perl";

/// A process that has connected, with a program of its own.
struct Workload {
    dir: tempfile::TempDir,
    child: Child,
    peer: Peer,
    program: PathBuf,
}

impl Drop for Workload {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Copies by another process: a child that a test of another thread starts meanwhile would hold our writing handle for an instant,
/// and a program that is open for writing cannot be started.
fn copy(from: &str, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

/// A copy of perl connects and waits; `prepare` may set its user. `program` is where the copy lies, below the directory.
fn workload(prepare: impl FnOnce(&mut Command)) -> Workload {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("app");
    copy(PERL, &program);
    let mut command = Command::new(&program);
    command.args(["-e", CONNECT]).arg(&socket).stdin(Stdio::null());
    prepare(&mut command);
    let child = command.spawn().unwrap();
    let (stream, _) = listener.accept().unwrap();
    Workload { peer: Peer::of(&stream).unwrap(), dir, child, program }
}

fn attestor(discover: bool, limit: i64) -> UnixAttestor {
    // Late enough that every file here counts as settled.
    let clock = ManualClock::new(SystemTime::now() + Duration::from_secs(3600));
    let config = UnixConfig { discover_workload_path: discover, workload_size_limit: limit };
    UnixAttestor::new(config, Arc::new(clock))
}

async fn found(attestor: &UnixAttestor, peer: &Peer) -> Vec<String> {
    attestor.attest(peer).await.unwrap().iter().map(ToString::to_string).collect()
}

fn sha256(path: &Path) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &fs::read(path).unwrap()))
}

fn has(found: &[String], selector: &str) -> bool {
    found.iter().any(|f| f == selector)
}

#[tokio::test]
async fn user_groups_path_and_hash() {
    let work = workload(|_| {});
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let plain = found(&attestor(false, 0), &work.peer).await;
    assert!(has(&plain, &format!("unix:uid:{uid}")) && has(&plain, &format!("unix:gid:{gid}")), "{plain:?}");
    if let Ok(Some(user)) = nix::unistd::User::from_uid(uid) {
        assert!(has(&plain, &format!("unix:user:{}", user.name)));
    }
    if let Ok(Some(group)) = nix::unistd::Group::from_gid(gid) {
        assert!(has(&plain, &format!("unix:group:{}", group.name)));
    }
    assert!(!plain.iter().any(|f| f.contains("path:") || f.contains("sha256:")));
    let full = found(&attestor(true, 0), &work.peer).await;
    assert!(has(&full, &format!("unix:path:{}", work.program.display())), "{full:?}");
    assert!(has(&full, &format!("unix:sha256:{}", sha256(&work.program))));
    let no_hash = found(&attestor(true, -1), &work.peer).await;
    assert!(has(&no_hash, &format!("unix:path:{}", work.program.display())));
    assert!(!no_hash.iter().any(|f| f.contains("sha256:")));
}

#[tokio::test]
async fn another_user_with_supplementary_groups() {
    if !nix::unistd::geteuid().is_root() {
        // Only our own groups can be had: they must all be there.
        let work = workload(|_| {});
        let plain = found(&attestor(false, 0), &work.peer).await;
        for gid in nix::unistd::getgroups().unwrap() {
            assert!(has(&plain, &format!("unix:supplementary_gid:{gid}")), "{plain:?}");
        }
        return;
    }
    // setpriv gives what std cannot without unsafe code: exact supplementary groups.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let mut child = Command::new("setpriv")
        .args(["--reuid=4242", "--regid=4343", "--groups=4444,12", PERL, "-e", CONNECT])
        .arg(&socket)
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    let peer = Peer::of(&stream).unwrap();
    let full = found(&attestor(true, 0), &peer).await;
    for expected in
        ["uid:4242", "gid:4343", "supplementary_gid:4444", "supplementary_gid:12", "supplementary_group:man"]
    {
        assert!(has(&full, &format!("unix:{expected}")), "{expected}: {full:?}");
    }
    assert!(
        !full.iter().any(|f| f.starts_with("unix:user:") || f.starts_with("unix:group:")),
        "these ids have no names"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_copy_at_another_path_has_the_hash_and_not_the_path() {
    let (one, two) = (workload(|_| {}), workload(|_| {}));
    let attestor = attestor(true, 0);
    let (first, second) = (found(&attestor, &one.peer).await, found(&attestor, &two.peer).await);
    let path = format!("unix:path:{}", one.program.display());
    assert!(has(&first, &path) && !has(&second, &path));
    let hash = format!("unix:sha256:{}", sha256(&one.program));
    assert!(has(&first, &hash) && has(&second, &hash));
}

#[tokio::test]
async fn a_deleted_program_keeps_its_name_and_a_replaced_one_gives_nobody_elses_hash() {
    let work = workload(|_| {});
    let (path, hash) =
        (format!("unix:path:{}", work.program.display()), format!("unix:sha256:{}", sha256(&work.program)));
    fs::remove_file(&work.program).unwrap();
    fs::write(&work.program, "another program").unwrap();
    let attestor = attestor(true, 0);
    let full = found(&attestor, &work.peer).await;
    assert!(has(&full, &hash), "the hash is of what runs: {full:?}");
    assert!(has(&full, &path), "{full:?}");
    // Renamed: the kernel knows the new name, and it leads to the file.
    let work = workload(|_| {});
    let moved = work.dir.path().join("moved (deleted)");
    fs::rename(&work.program, &moved).unwrap();
    let full = found(&attestor, &work.peer).await;
    assert!(has(&full, &format!("unix:path:{}", moved.display())), "{full:?}");
}

#[tokio::test]
async fn a_private_mount_cannot_lend_a_path() {
    // In a mount namespace of its own, a process covers a directory with another: the kernel then names its program by a path that
    // is somebody else's on this machine.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["trusted", "mine"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let victim = dir.path().join("trusted/app");
    copy("/bin/true", &victim);
    copy(PERL, &dir.path().join("mine/app"));
    let (mine, trusted) = (dir.path().join("mine"), dir.path().join("trusted"));
    let shell = format!(
        "mount --bind {} {} && exec {} -e \"$0\" \"$1\"",
        mine.display(),
        trusted.display(),
        victim.display()
    );
    let root = nix::unistd::geteuid().is_root();
    let flags: &[&str] = if root { &["-m"] } else { &["-m", "-U", "-r"] };
    let child =
        Command::new("unshare").args(flags).args(["sh", "-c", &shell, CONNECT]).arg(&socket).spawn().unwrap();
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
    let mut child = Killed(child);
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let stream = loop {
        if let Ok((stream, _)) = listener.accept() {
            break stream;
        }
        assert!(Instant::now() < end, "the workload connects");
        if child.0.try_wait().unwrap().is_some() {
            assert!(!root, "root can make mount namespaces");
            // Where users may not make namespaces, they cannot try this either.
            return;
        }
        std::thread::yield_now();
    };
    let peer = Peer::of(&stream).unwrap();
    assert_eq!(peer.program().unwrap().0, victim, "the kernel is fooled");
    let full = found(&attestor(true, 0), &peer).await;
    assert!(!full.iter().any(|f| f.starts_with("unix:path:")), "{full:?}");
    assert!(has(&full, &format!("unix:sha256:{}", sha256(&dir.path().join("mine/app")))));
}

#[tokio::test]
async fn the_size_limit_and_the_cache() {
    let work = workload(|_| {});
    let size = i64::try_from(fs::metadata(&work.program).unwrap().len()).unwrap();
    let error = attestor(true, size - 1).attest(&work.peer).await.unwrap_err();
    assert!(error.to_string().contains("workload_size_limit"), "{error}");
    let attestor = attestor(true, size);
    for _ in 0..5 {
        found(&attestor, &work.peer).await;
    }
    let computed = |a: &UnixAttestor| a.digests.computed.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(computed(&attestor), 1, "hashed once");
    // Anything that changes the file's times makes the hash be taken anew.
    fs::set_permissions(&work.program, fs::Permissions::from_mode(0o700)).unwrap();
    found(&attestor, &work.peer).await;
    assert_eq!(computed(&attestor), 2);
    // A file that changed just now is not remembered at all.
    let clock = ManualClock::new(SystemTime::now());
    fs::set_permissions(&work.program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = UnixConfig { discover_workload_path: true, workload_size_limit: 0 };
    let young = UnixAttestor::new(config, Arc::new(clock));
    for _ in 0..2 {
        found(&young, &work.peer).await;
    }
    assert_eq!(computed(&young), 2);
}

struct Fixed(Result<&'static str, ()>);

#[async_trait]
impl WorkloadAttestor for Fixed {
    fn name(&self) -> &str {
        "fixed"
    }
    async fn attest(&self, _peer: &Peer) -> Result<Vec<Selector>, WorkloadAttestError> {
        let one =
            |value| vec![Selector::new("fixed", value).unwrap(), Selector::new("fixed", value).unwrap()];
        self.0.map(one).map_err(|()| WorkloadAttestError::Broken)
    }
}

struct Stuck;

#[async_trait]
impl WorkloadAttestor for Stuck {
    fn name(&self) -> &str {
        "stuck"
    }
    async fn attest(&self, _peer: &Peer) -> Result<Vec<Selector>, WorkloadAttestError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn attestors_together() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let _client = UnixStream::connect(dir.path().join("s")).unwrap();
    let peer = Peer::of(&listener.accept().unwrap().0).unwrap();
    let all = |list: Vec<Arc<dyn WorkloadAttestor>>| {
        let peer = peer.clone();
        async move { attest(&peer, &list, Duration::from_millis(200)).await.map(|s| s.len()) }
    };
    assert_eq!(all(vec![]).await.unwrap(), 0);
    assert_eq!(all(vec![Arc::new(Fixed(Ok("b"))), Arc::new(Fixed(Ok("a")))]).await.unwrap(), 2);
    assert_eq!(
        all(vec![Arc::new(Fixed(Err(()))), Arc::new(Fixed(Ok("a")))]).await.unwrap(),
        1,
        "one may fail"
    );
    assert!(matches!(all(vec![Arc::new(Fixed(Err(())))]).await, Err(WorkloadAttestError::Broken)));
    assert!(matches!(all(vec![Arc::new(Stuck)]).await, Err(WorkloadAttestError::TooLong { .. })));
}

#[test]
fn options() {
    let decode = |text: &str| {
        let doc = Document::parse(text).unwrap();
        let decoder = Decoder::new(&doc, "f");
        let config = UnixConfig::decode(decoder.root());
        decoder.into_result().map(|()| config).map_err(|faults| faults.to_string())
    };
    assert_eq!(decode("").unwrap(), UnixConfig::default());
    let full = decode("discover_workload_path = true workload_size_limit = -1").unwrap();
    assert_eq!(full, UnixConfig { discover_workload_path: true, workload_size_limit: -1 });
    assert!(decode("discover_path = true").unwrap_err().contains("unknown key"));
}
