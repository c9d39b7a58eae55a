//! swtpm: a TPM 2.0 per test, manufactured like a real one, with endorsement keys and certificates.
//!
//! A [`Manufacturer`] is a certificate authority (a root and an issuing CA) that makes TPMs. Each [`Swtpm`] has its own
//! state folder and its own loopback address, is stopped on drop, and keeps its log when the test fails.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::address::{self, CONTROL_PORT, DATA_PORT};
use crate::error::{EmulatorError, io};

/// How long an emulator may take to answer its first command, on a machine that is busy with other tests.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// The manufacturer that all tests of this process share as long as one of its TPMs lives.
static SHARED: Mutex<Weak<Manufacturer>> = Mutex::new(Weak::new());

/// A TPM manufacturer: a self-signed root and a CA below it that signs EK certificates.
#[derive(Debug)]
pub struct Manufacturer {
    folder: TempDir,
    // swtpm_localca counts serial numbers in a file: one TPM at a time.
    line: Mutex<()>,
}

impl Manufacturer {
    /// A new manufacturer; its CA keys are made with its first TPM.
    ///
    /// # Errors
    /// The folder or its files cannot be written.
    pub fn new() -> Result<Arc<Self>, EmulatorError> {
        let folder = tempfile::Builder::new()
            .prefix("hardroot-manufacturer-")
            .tempdir()
            .map_err(io("make the manufacturer's folder"))?;
        let dir = folder.path().display();
        fs::write(
            folder.path().join("localca.conf"),
            format!(
                "statedir = {dir}\nsigningkey = {dir}/signkey.pem\nissuercert = {dir}/issuercert.pem\ncertserial = {dir}/certserial\n"
            ),
        )
        .map_err(io("write localca.conf"))?;
        fs::write(
            folder.path().join("localca.options"),
            "--platform-manufacturer Hardroot\n--platform-version 1.0\n--platform-model Emulator\n",
        )
        .map_err(io("write localca.options"))?;
        fs::write(
            folder.path().join("setup.conf"),
            format!(
                "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {dir}/localca.conf\n\
                 create_certs_tool_options = {dir}/localca.options\nactive_pcr_banks = sha256\n"
            ),
        )
        .map_err(io("write setup.conf"))?;
        Ok(Arc::new(Self { folder, line: Mutex::new(()) }))
    }

    /// The manufacturer shared by this process's tests.
    ///
    /// # Errors
    /// As [`Manufacturer::new`].
    pub fn shared() -> Result<Arc<Self>, EmulatorError> {
        let mut shared = lock(&SHARED);
        if let Some(manufacturer) = shared.upgrade() {
            return Ok(manufacturer);
        }
        let manufacturer = Self::new()?;
        *shared = Arc::downgrade(&manufacturer);
        Ok(manufacturer)
    }

    /// The root certificate, PEM. It exists once a TPM was made.
    #[must_use]
    pub fn root_path(&self) -> PathBuf {
        self.folder.path().join("swtpm-localca-rootca-cert.pem")
    }

    /// The issuing CA's certificate, PEM. It exists once a TPM was made.
    #[must_use]
    pub fn issuer_path(&self) -> PathBuf {
        self.folder.path().join("issuercert.pem")
    }

    /// Root and issuing CA in one PEM text, as an operator would configure them.
    ///
    /// # Errors
    /// No TPM was made yet.
    pub fn ca_pem(&self) -> Result<String, EmulatorError> {
        let read =
            |path: PathBuf| fs::read_to_string(path).map_err(io("read the manufacturer's certificates"));
        Ok(format!("{}{}", read(self.root_path())?, read(self.issuer_path())?))
    }

    /// Makes a TPM with fresh seeds, EKs and EK certificates (RSA-2048 and P-384), without starting it.
    fn make_state(&self, state: &Path) -> Result<(), EmulatorError> {
        let _one_at_a_time = lock(&self.line);
        let made = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--create-platform-cert", "--overwrite", "--tpmstate"])
            .arg(state)
            .arg("--config")
            .arg(self.folder.path().join("setup.conf"))
            // Its default log and CA folders are not ours to write.
            .env("XDG_CONFIG_HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .map_err(|cause| EmulatorError::Missing {
                program: "swtpm_setup",
                package: "swtpm-tools",
                cause,
            })?;
        if made.status.success() {
            return Ok(());
        }
        Err(EmulatorError::Failed {
            program: "swtpm_setup",
            reason: made.status.to_string(),
            log: [made.stdout, made.stderr].iter().map(|s| String::from_utf8_lossy(s)).collect(),
        })
    }

    /// Makes and starts a TPM.
    ///
    /// # Errors
    /// swtpm is not installed or does not start.
    pub fn make_tpm(self: &Arc<Self>) -> Result<Swtpm, EmulatorError> {
        let state = new_state_folder()?;
        self.make_state(state.path())?;
        Swtpm::run(Some(Arc::clone(self)), state)
    }
}

/// How a TPM goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// TPM2_Shutdown(CLEAR) first: the next start is a TPM Reset, the clock stays safe.
    Orderly,
    /// Power cut: the next start is a TPM Reset and the clock is unsafe until it has caught up.
    PowerCut,
}

/// A running swtpm, stopped on drop.
#[derive(Debug)]
pub struct Swtpm {
    child: Child,
    address: Ipv4Addr,
    state: TempDir,
    manufacturer: Option<Arc<Manufacturer>>,
}

impl Swtpm {
    /// A new TPM of the shared manufacturer.
    ///
    /// # Errors
    /// swtpm is not installed or does not start.
    pub fn start() -> Result<Self, EmulatorError> {
        Manufacturer::shared()?.make_tpm()
    }

    /// A new TPM without EK certificates, persistent keys or certificates in NV: as chips of little makers come.
    ///
    /// # Errors
    /// swtpm is not installed or does not start.
    pub fn start_blank() -> Result<Self, EmulatorError> {
        Self::run(None, new_state_folder()?)
    }

    /// A second chip with the same seeds and state: what cannot happen to real hardware.
    ///
    /// # Errors
    /// The state cannot be copied or swtpm does not start.
    pub fn duplicate(&self) -> Result<Self, EmulatorError> {
        let state = new_state_folder()?;
        copy_state(self.state.path(), state.path())?;
        Self::run(self.manufacturer.clone(), state)
    }

    /// Copies the state into `folder`, which exists.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn copy_state_to(&self, folder: &Path) -> Result<(), EmulatorError> {
        copy_state(self.state.path(), folder)
    }

    fn run(manufacturer: Option<Arc<Manufacturer>>, state: TempDir) -> Result<Self, EmulatorError> {
        let mut last = None;
        // Another process may take the address between the probe and swtpm's bind.
        for _ in 0..5 {
            let Some(address) = address::unused() else { break };
            match spawn(&state, address) {
                Ok(child) => return Ok(Self { child, address, state, manufacturer }),
                Err(fault @ EmulatorError::Missing { .. }) => return Err(fault),
                Err(fault) => last = Some(fault),
            }
        }
        Err(last.unwrap_or_else(|| EmulatorError::Failed {
            program: "swtpm",
            reason: "no free loopback address".to_owned(),
            log: String::new(),
        }))
    }

    /// Its own loopback address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What to put into `tcti`.
    #[must_use]
    pub fn tcti(&self) -> String {
        format!("swtpm:host={},port={DATA_PORT}", self.address)
    }

    /// Its state folder.
    #[must_use]
    pub fn state_path(&self) -> &Path {
        self.state.path()
    }

    /// Who made it, if it came from a manufacturer.
    #[must_use]
    pub fn manufacturer(&self) -> Option<&Arc<Manufacturer>> {
        self.manufacturer.as_ref()
    }

    /// The manufacturer's certificates, PEM: what goes into `endorsement_ca_path`.
    ///
    /// # Errors
    /// A blank TPM has no manufacturer.
    pub fn ca_pem(&self) -> Result<String, EmulatorError> {
        self.manufacturer.as_ref().map_or_else(
            || {
                Err(EmulatorError::Failed {
                    program: "swtpm",
                    reason: "a blank TPM has no manufacturer".to_owned(),
                    log: String::new(),
                })
            },
            |m| m.ca_pem(),
        )
    }

    /// Stops and starts it at the same address with the same state: a TPM Reset, which moves the reset counter.
    ///
    /// # Errors
    /// swtpm does not start again.
    pub fn restart(&mut self, how: Shutdown) -> Result<(), EmulatorError> {
        self.stop(how)?;
        self.child = spawn(&self.state, self.address)?;
        Ok(())
    }

    /// Stops it and leaves its address silent, as a chip that is gone.
    ///
    /// # Errors
    /// The shutdown command fails.
    pub fn stop(&mut self, how: Shutdown) -> Result<(), EmulatorError> {
        if how == Shutdown::Orderly {
            // TPM2_Shutdown(TPM_SU_CLEAR)
            self.command(&[0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0])?;
        }
        end(&mut self.child);
        Ok(())
    }

    /// Starts it again after [`Swtpm::stop`].
    ///
    /// # Errors
    /// swtpm does not start.
    pub fn start_again(&mut self) -> Result<(), EmulatorError> {
        self.child = spawn(&self.state, self.address)?;
        Ok(())
    }

    /// Sends one raw command and returns the raw answer.
    ///
    /// # Errors
    /// The connection fails.
    pub fn command(&self, bytes: &[u8]) -> Result<Vec<u8>, EmulatorError> {
        exchange(self.address, bytes).map_err(io("send a command to swtpm"))
    }

    /// Extends a PCR's SHA-256 bank, so that its value changes.
    ///
    /// # Errors
    /// The TPM refuses or the connection fails.
    pub fn extend_pcr(&self, pcr: u8, digest: [u8; 32]) -> Result<(), EmulatorError> {
        // TPM2_PCR_Extend with an empty password session.
        let mut body = vec![0, 0, 0, pcr, 0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x0b];
        body.extend_from_slice(&digest);
        let size = u32::try_from(body.len() + 10).unwrap_or(0).to_be_bytes();
        let command = [&[0x80, 0x02][..], &size, &0x0182_u32.to_be_bytes(), &body].concat();
        let answer = self.command(&command)?;
        if answer.get(6..10) == Some(&[0; 4]) {
            return Ok(());
        }
        Err(EmulatorError::Failed {
            program: "swtpm",
            reason: format!("PCR_Extend was refused: {answer:02x?}"),
            log: String::new(),
        })
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        end(&mut self.child);
        if thread::panicking() {
            let log = fs::read_to_string(self.state.path().join("swtpm.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let text: String = tail.iter().rev().map(|line| format!("  {line}\n")).collect();
            // The test has failed already; a closed stderr changes nothing about that.
            drop(writeln!(std::io::stderr(), "swtpm at {} wrote:\n{text}", self.address));
        }
    }
}

fn end(child: &mut Child) {
    // An error means that it has ended already.
    drop(child.kill());
    drop(child.wait());
}

fn new_state_folder() -> Result<TempDir, EmulatorError> {
    tempfile::Builder::new().prefix("hardroot-swtpm-").tempdir().map_err(io("make the TPM's state folder"))
}

fn copy_state(from: &Path, to: &Path) -> Result<(), EmulatorError> {
    for entry in fs::read_dir(from).map_err(io("list the TPM's state"))? {
        let entry = entry.map_err(io("list the TPM's state"))?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("tpm2-") {
            fs::copy(entry.path(), to.join(name)).map_err(io("copy the TPM's state"))?;
        }
    }
    Ok(())
}

fn spawn(state: &TempDir, address: Ipv4Addr) -> Result<Child, EmulatorError> {
    let log_path = state.path().join("swtpm.log");
    let log =
        fs::OpenOptions::new().create(true).append(true).open(&log_path).map_err(io("open swtpm's log"))?;
    let errors = log.try_clone().map_err(io("open swtpm's log"))?;
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", state.path().display()))
        .args(["--server", &format!("type=tcp,port={DATA_PORT},bindaddr={address}")])
        .args(["--ctrl", &format!("type=tcp,port={CONTROL_PORT},bindaddr={address}")])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|cause| EmulatorError::Missing { program: "swtpm", package: "swtpm", cause })?;
    let deadline = Instant::now() + READY_DEADLINE;
    let reason = loop {
        // TPM2_GetRandom(1): an answer means that the TPM was started up, not only that the port is open.
        if exchange(address, &[0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 1])
            .is_ok_and(|answer| answer.get(6..10) == Some(&[0; 4]))
        {
            return Ok(child);
        }
        match child.try_wait() {
            Ok(Some(status)) => break format!("ended at once: {status}"),
            Ok(None) => {}
            Err(cause) => break format!("cannot be waited for: {cause}"),
        }
        if Instant::now() > deadline {
            break format!("did not answer within {READY_DEADLINE:?}");
        }
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(2));
    };
    end(&mut child);
    Err(EmulatorError::Failed {
        program: "swtpm",
        reason,
        log: fs::read_to_string(log_path).unwrap_or_default(),
    })
}

fn exchange(address: Ipv4Addr, command: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((address, DATA_PORT))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READY_DEADLINE))?;
    stream.write_all(command)?;
    read_message(&mut stream)
}

/// Reads one TPM command or response: both begin with a tag (2 bytes) and the whole length (4 bytes).
pub(crate) fn read_message(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = [0; 6];
    stream.read_exact(&mut head)?;
    let [_, _, a, b, c, d] = head;
    let size = u32::from_be_bytes([a, b, c, d]);
    if !(10..=65536).contains(&size) {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("TPM message of {size} bytes"),
        ));
    }
    let mut message = head.to_vec();
    stream.take(u64::from(size) - 6).read_to_end(&mut message)?;
    if message.len() as u64 != u64::from(size) {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
