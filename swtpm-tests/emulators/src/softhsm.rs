//! SoftHSM: a token directory and a `SOFTHSM2_CONF` per test.
//!
//! A PKCS#11 module reads its configuration once per process, from the environment. So a test that loads the
//! module in its own process runs in a process of its own ([`isolated`]); a test that starts daemons gives
//! them [`SoftHsm::env`].

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The environment variable that names SoftHSM's configuration file.
pub const CONF_VARIABLE: &str = "SOFTHSM2_CONF";
/// Tells a child of [`isolated`] which directory is its own.
const DIRECTORY_VARIABLE: &str = "HARDROOT_TEST_SOFTHSM";
/// Where distributions put the module.
const MODULES: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];
/// Longest run of a test in a process of its own.
const LIMIT: Duration = Duration::from_secs(300);

/// What can go wrong with SoftHSM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoftHsmError {
    /// No module on this machine.
    #[error("libsofthsm2.so is not here; install softhsm2 (looked at {})", MODULES.join(", "))]
    NoModule,
    /// A file could not be made.
    #[error("cannot make {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// `softhsm2-util` could not be started.
    #[error("cannot run softhsm2-util; install softhsm2")]
    NoUtility(#[source] io::Error),
    /// `softhsm2-util` failed.
    #[error("softhsm2-util could not initialise the token \"{label}\": {output}")]
    Initialise {
        /// The token.
        label: String,
        /// What it printed.
        output: String,
    },
}

/// A directory with SoftHSM's configuration, its tokens and their PIN files.
pub struct SoftHsm {
    directory: PathBuf,
    module: PathBuf,
    /// Removes the directory on drop; absent in the child of [`isolated`], whose parent removes it.
    _owned: Option<TempDir>,
}

impl SoftHsm {
    /// The label of the token made by [`SoftHsm::start`].
    pub const TOKEN: &'static str = "hardroot";
    /// The user PIN of every token here.
    pub const PIN: &'static str = "4711-0815";
    /// The security officer's PIN of every token here.
    pub const SO_PIN: &'static str = "1234-5678";

    /// Makes a directory with one initialised token, [`SoftHsm::TOKEN`].
    ///
    /// # Errors
    /// SoftHSM is not installed, or failed.
    pub fn start() -> Result<Self, SoftHsmError> {
        let hsm = Self::empty()?;
        hsm.add_token(Self::TOKEN)?;
        Ok(hsm)
    }

    /// Makes a directory without any initialised token.
    ///
    /// # Errors
    /// SoftHSM is not installed, or files cannot be made.
    pub fn empty() -> Result<Self, SoftHsmError> {
        let cannot = |path: &Path| {
            let path = path.to_owned();
            move |cause| SoftHsmError::File { path, cause }
        };
        let owned =
            tempfile::Builder::new().prefix("softhsm-").tempdir().map_err(cannot(&std::env::temp_dir()))?;
        let directory = owned.path().to_owned();
        let tokens = directory.join("tokens");
        fs::create_dir(&tokens).map_err(cannot(&tokens))?;
        let hsm = Self { directory, module: module()?, _owned: Some(owned) };
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            tokens.display()
        );
        fs::write(hsm.conf(), text).map_err(cannot(&hsm.conf()))?;
        for (path, pin) in [(hsm.pin_file(), Self::PIN), (hsm.so_pin_file(), Self::SO_PIN)] {
            let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            written
                .and_then(|mut file| io::Write::write_all(&mut file, format!("{pin}\n").as_bytes()))
                .map_err(cannot(&path))?;
        }
        Ok(hsm)
    }

    /// Initialises one more token.
    ///
    /// # Errors
    /// `softhsm2-util` is missing or failed.
    pub fn add_token(&self, label: &str) -> Result<(), SoftHsmError> {
        let output = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label])
            .args(["--pin", Self::PIN, "--so-pin", Self::SO_PIN])
            .env(CONF_VARIABLE, self.conf())
            .stdin(Stdio::null())
            .output()
            .map_err(SoftHsmError::NoUtility)?;
        if output.status.success() {
            return Ok(());
        }
        let output = [output.stdout, output.stderr].concat();
        Err(SoftHsmError::Initialise {
            label: label.to_owned(),
            output: String::from_utf8_lossy(&output).trim().to_owned(),
        })
    }

    /// The directory: the place for a test's other files, too.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// SoftHSM's configuration file.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.directory.join("softhsm2.conf")
    }

    /// The variable to set for a process that shall use these tokens.
    #[must_use]
    pub fn env(&self) -> (&'static str, PathBuf) {
        (CONF_VARIABLE, self.conf())
    }

    /// The PKCS#11 module.
    #[must_use]
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// A file with the user PIN, mode 0600.
    #[must_use]
    pub fn pin_file(&self) -> PathBuf {
        self.directory.join("pin")
    }

    /// A file with the security officer's PIN, mode 0600.
    #[must_use]
    pub fn so_pin_file(&self) -> PathBuf {
        self.directory.join("so-pin")
    }
}

/// Finds SoftHSM's module.
///
/// # Errors
/// It is not installed.
pub fn module() -> Result<PathBuf, SoftHsmError> {
    let multiarch = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    MODULES
        .iter()
        .map(PathBuf::from)
        .chain(multiarch.map(|directory| directory.join("softhsm/libsofthsm2.so")))
        .find(|path| path.is_file())
        .ok_or(SoftHsmError::NoModule)
}

/// Runs the calling test in a process of its own that has a SoftHSM of its own with one token.
///
/// The first call starts this test binary again for this one test, with the environment that SoftHSM needs;
/// there the same call runs `body`. The test's name is taken from the closure, so call it directly in the
/// test function:
///
/// ```no_run
/// # use hardroot_emulators::softhsm;
/// #[test]
/// fn keys_are_found_again() {
///     softhsm::isolated(|hsm| { /* load hsm.module() */ });
/// }
/// ```
///
/// # Panics
/// When the test fails there, takes longer than five minutes, or SoftHSM is missing.
#[expect(clippy::panic, reason = "this is how a test fails")]
pub fn isolated<F: FnOnce(&SoftHsm)>(body: F) {
    if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
        match module() {
            Ok(module) => body(&SoftHsm { directory: directory.into(), module, _owned: None }),
            Err(error) => panic!("{error}"),
        }
        return;
    }
    if let Err(failure) = elsewhere(std::any::type_name::<F>()) {
        panic!("{failure}");
    }
}

fn elsewhere(closure: &str) -> Result<(), String> {
    // crate::module::test::{{closure}}: without the crate and the closures it is the test's name.
    let path = closure.trim_end_matches("::{{closure}}");
    let test = path.split_once("::").map_or(path, |(_crate, test)| test);
    let hsm = SoftHsm::start().map_err(|error| error.to_string())?;
    let log = hsm.directory().join("test.log");
    let out = File::create(&log).map_err(|error| error.to_string())?;
    let err = out.try_clone().map_err(|error| error.to_string())?;
    let mut child = Command::new(std::env::current_exe().map_err(|error| error.to_string())?)
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(CONF_VARIABLE, hsm.conf())
        .env(DIRECTORY_VARIABLE, hsm.directory())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|error| error.to_string())?;
    let started = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break Some(status),
            None if started.elapsed() > LIMIT => {
                drop(child.kill());
                drop(child.wait());
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let output = fs::read(&log).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    match status {
        None => Err(format!("{test} took longer than {LIMIT:?} in its own process:\n{output}")),
        Some(status) if !status.success() => Err(format!("{test} failed in its own process:\n{output}")),
        Some(_) if !output.contains("1 passed") => {
            Err(format!("\"{test}\" is not the name of the calling test:\n{output}"))
        }
        Some(_) => Ok(()),
    }
}

/// Writes a file of mode 0600: for tests that need a PIN file of another content.
///
/// # Errors
/// The file cannot be written.
pub fn private_file(path: &Path, content: impl AsRef<OsStr>) -> io::Result<()> {
    fs::write(path, content.as_ref().as_encoded_bytes())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_runs_alone_and_in_its_own_directory() {
        isolated(|hsm| {
            assert!(hsm.conf().is_file() && hsm.module().is_file());
            assert_eq!(std::env::var_os(CONF_VARIABLE), Some(hsm.conf().into()));
            hsm.add_token("second").unwrap();
        });
    }

    #[test]
    #[should_panic(expected = "failed in its own process")]
    fn a_failure_there_is_a_failure_here() {
        // There, libtest sees a test that should panic with this text, so "not panicking" is the failure.
        isolated(|_hsm| {});
    }
}
