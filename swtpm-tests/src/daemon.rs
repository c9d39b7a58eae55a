//! Our daemons as child processes: started from the build folder, watched through their logs, stopped by
//! handle.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// Where cargo put a binary of this workspace.
///
/// # Errors
/// It was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    // A test runs from target/debug/deps, the demo from target/debug.
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not built: run `cargo build --workspace --bins` (make test does)")
    })
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a binary of this workspace; its output goes to `log`, which is appended to.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start<S: AsRef<OsStr>>(
        name: &str,
        arguments: &[S],
        environment: &[(String, PathBuf)],
        log: &Path,
    ) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = Command::new(binary(name)?)
            .args(arguments)
            .envs(environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// The daemon ended or was not ready in time; the error holds the end of its log.
    pub fn wait_ready(&mut self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let name = self.name.clone();
        let outcome = wait::until(&format!("{name} ready"), wait::DEADLINE, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("{name} ended early: {status}");
            }
            Ok(ready().then_some(()))
        });
        outcome.with_context(|| format!("log of {name}:\n{}", self.log_tail()))
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the daemon to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It did not end within ten seconds.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(Duration::from_secs(10))
    }

    /// Kills the daemon (SIGKILL), as a power cut would.
    ///
    /// # Errors
    /// The system refused.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The system refused.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Waits until the daemon ends by itself.
    ///
    /// # Errors
    /// It did not within `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let status = wait::until(&format!("{name} ends"), deadline, || Ok(self.child.try_wait()?));
        status.with_context(|| format!("log of {name}:\n{}", self.log_tail()))
    }

    /// Everything it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line in the log.
    ///
    /// # Errors
    /// It did not come in time.
    pub fn wait_log(&self, text: &str) -> Result<()> {
        let outcome = wait::until(&format!("\"{text}\" in the log of {}", self.name), wait::DEADLINE, || {
            Ok(self.log().contains(text).then_some(()))
        });
        outcome.with_context(|| format!("log:\n{}", self.log_tail()))
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Nothing more can be done about a failure here; the child dies with its folder anyway.
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            use std::io::Write as _;
            let text = format!("--- log of {} ---\n{}\n", self.name, self.log_tail());
            drop(std::io::stderr().write_all(text.as_bytes()));
        }
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
}

impl Ran {
    /// Takes over a finished process's output.
    #[must_use]
    pub fn of(output: &Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }

    /// Whether it ended with 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Itself, if it ended with 0.
    ///
    /// # Errors
    /// It did not; the error holds all it printed.
    pub fn success(self) -> Result<Self> {
        if self.ok() {
            return Ok(self);
        }
        bail!("ended with {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {}", self.stdout))
    }
}
