//! A database server as a child process that ends with the test, however the test ends.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{EmulatorError, io};

/// How long a server may take to get ready, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the server; `stop` on standard input ends it in order, the end of standard input (the test process is
/// gone) ends it at once and removes its directory.
const KEEPER: &str = r#"
directory=$1; log=$2; shift 2
"$@" </dev/null >>"$log" 2>&1 &
server=$!
if read -r order; then kill -INT "$server" 2>/dev/null || kill -TERM "$server"; wait "$server"; exit 0; fi
kill -QUIT "$server" 2>/dev/null
( sleep 5; kill -KILL "$server" 2>/dev/null ) &
wait "$server"
rm -rf "$directory"
"#;

/// What a server needs for TLS, each in PEM.
#[derive(Clone)]
pub struct ServerTls {
    /// The authority that clients' certificates come from.
    pub client_ca: String,
    /// The server's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// A directory of a server and the process that keeps it running.
pub(crate) struct Daemon {
    program: &'static str,
    directory: PathBuf,
    command: Vec<String>,
    keeper: Option<Child>,
}

/// How to become somebody who may run a database server: PostgreSQL refuses to be root.
pub(crate) struct Identity {
    prefix: Vec<String>,
    owner: Option<(nix::unistd::Uid, nix::unistd::Gid)>,
}

impl Identity {
    /// `user` when this is root, else whoever this is.
    pub(crate) fn of(user: &str) -> Self {
        let found = nix::unistd::User::from_name(user).ok().flatten();
        match found {
            Some(found) if nix::unistd::geteuid().is_root() => Self {
                prefix: [
                    "setpriv".to_owned(),
                    format!("--reuid={}", found.uid),
                    format!("--regid={}", found.gid),
                    "--clear-groups".to_owned(),
                ]
                .into(),
                owner: Some((found.uid, found.gid)),
            },
            _ => Self { prefix: Vec::new(), owner: None },
        }
    }

    pub(crate) fn own(&self, path: &Path) -> Result<(), EmulatorError> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        nix::unistd::chown(path, Some(uid), Some(gid))
            .map_err(|cause| io("give a file to the database's user")(cause.into()))
    }

    /// The words that run `program` as this user.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Vec<String> {
        let words = self.prefix.iter().map(String::as_str).chain([program]).chain(arguments.iter().copied());
        words.map(str::to_owned).collect()
    }
}

/// Makes a directory for a server, in which its user may make files.
pub(crate) fn directory(name: &str, identity: &Identity) -> Result<PathBuf, EmulatorError> {
    let made =
        tempfile::Builder::new().prefix(name).tempdir().map_err(io("make a directory for a database"))?;
    let path = made.keep();
    identity.own(&path)?;
    Ok(path)
}

/// Runs a program to its end.
pub(crate) fn run(
    program: &'static str,
    package: &'static str,
    words: &[String],
) -> Result<String, EmulatorError> {
    let Some((first, rest)) = words.split_first() else { return Ok(String::new()) };
    let output = Command::new(first)
        .args(rest)
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| EmulatorError::Missing { program, package, cause })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(EmulatorError::Failed {
        program,
        reason: format!("ended with {}", output.status),
        log: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    })
}

/// Writes the files of TLS beside the data; the key as the server insists, for its user alone.
pub(crate) fn write_tls(
    directory: &Path,
    identity: &Identity,
    tls: &ServerTls,
) -> Result<[PathBuf; 3], EmulatorError> {
    use std::os::unix::fs::PermissionsExt as _;
    let files =
        [("client-ca.pem", &tls.client_ca), ("server.pem", &tls.certificate), ("server.key", &tls.key)];
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, content).map_err(io("write a file for TLS"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(io("write a file for TLS"))?;
        identity.own(&path)?;
    }
    Ok(files.map(|(name, _)| directory.join(name)))
}

/// An address on which `port` is free.
pub(crate) fn address(program: &'static str, port: u16) -> Result<Ipv4Addr, EmulatorError> {
    crate::address::unused_for(&[port]).ok_or(EmulatorError::Failed {
        program,
        reason: "no address on which its port is free".to_owned(),
        log: String::new(),
    })
}

impl Daemon {
    pub(crate) fn new(program: &'static str, directory: PathBuf, command: Vec<String>) -> Self {
        Self { program, directory, command, keeper: None }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts the server and waits until `ready` says so.
    pub(crate) fn start(&mut self, ready: impl Fn() -> bool) -> Result<(), EmulatorError> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(io("make a database's log"))?;
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&self.directory)
            .arg(self.log_path())
            .args(&self.command)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(io("run sh"))?;
        self.keeper = Some(keeper);
        let started = Instant::now();
        while !ready() {
            if started.elapsed() > PATIENCE {
                return Err(EmulatorError::Failed {
                    program: self.program,
                    reason: format!("was not ready within {PATIENCE:?}"),
                    log: self.log(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends the server in order; its data stay.
    pub(crate) fn stop(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        if let Some(mut stdin) = keeper.stdin.take() {
            drop(stdin.write_all(b"stop\n"));
        }
        drop(keeper.wait());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The log of a failed test is worth more than the space.
            let kept =
                std::env::temp_dir().join(format!("{}-failed-{}.log", self.program, std::process::id()));
            drop(fs::copy(self.log_path(), kept));
        }
        match self.keeper.take() {
            Some(mut keeper) => {
                drop(keeper.stdin.take());
                drop(keeper.wait());
            }
            None => drop(fs::remove_dir_all(&self.directory)),
        }
    }
}
