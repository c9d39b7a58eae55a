//! A proxy between a TPM's user and an emulated TPM: it counts commands, and can refuse, delay, hang or lose them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::address::{self, CONTROL_PORT, DATA_PORT};
use crate::error::{EmulatorError, io};
use crate::swtpm::{Swtpm, read_message};

/// TPM command codes that tests ask for (TPM 2.0 Library part 2, 6.5.2).
pub mod code {
    /// TPM2_EvictControl
    pub const EVICT_CONTROL: u32 = 0x120;
    /// TPM2_CreatePrimary
    pub const CREATE_PRIMARY: u32 = 0x131;
    /// TPM2_ActivateCredential
    pub const ACTIVATE_CREDENTIAL: u32 = 0x147;
    /// TPM2_Certify
    pub const CERTIFY: u32 = 0x148;
    /// TPM2_NV_Read
    pub const NV_READ: u32 = 0x14e;
    /// TPM2_Create
    pub const CREATE: u32 = 0x153;
    /// TPM2_ECDH_ZGen
    pub const ECDH_ZGEN: u32 = 0x154;
    /// TPM2_Load
    pub const LOAD: u32 = 0x157;
    /// TPM2_Quote
    pub const QUOTE: u32 = 0x158;
    /// TPM2_RSA_Decrypt
    pub const RSA_DECRYPT: u32 = 0x159;
    /// TPM2_Sign
    pub const SIGN: u32 = 0x15d;
    /// TPM2_FlushContext
    pub const FLUSH_CONTEXT: u32 = 0x165;
    /// TPM2_StartAuthSession
    pub const START_AUTH_SESSION: u32 = 0x176;
    /// TPM2_PCR_Read
    pub const PCR_READ: u32 = 0x17e;
    /// Commands that use a private key.
    pub const PRIVATE_KEY: [u32; 6] = [ACTIVATE_CREDENTIAL, CERTIFY, ECDH_ZGEN, QUOTE, RSA_DECRYPT, SIGN];
}

/// TPM_RH_NULL as the key of TPM2_StartAuthSession: no salt (part 3, 11.1).
const NO_KEY: [u8; 4] = 0x4000_0007_u32.to_be_bytes();

/// What happens to a command instead of reaching the TPM at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this response code.
    ResponseCode(u32),
    /// Passed on after this time.
    Delay(Duration),
    /// Held until [`TpmProxy::release`].
    Hang,
    /// The connection is closed without an answer.
    Disconnect,
    /// One bit of the answer is wrong, in the byte that stands so far before its end.
    FlipBit {
        /// 1 is the last byte.
        from_end: usize,
    },
}

#[derive(Debug)]
struct Rule {
    command: Option<u32>,
    fault: Fault,
    left: u32,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<BTreeMap<u32, u64>>,
    salted: AtomicU64,
    rules: Mutex<Vec<Rule>>,
    hanging: Mutex<bool>,
    released: Condvar,
    stopping: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// The proxy; it ends on drop.
#[derive(Debug)]
pub struct TpmProxy {
    address: Ipv4Addr,
    shared: Arc<Shared>,
    listeners: Vec<JoinHandle<()>>,
}

impl TpmProxy {
    /// Stands before `tpm`, at an address of its own.
    ///
    /// # Errors
    /// No address is free.
    pub fn before(tpm: &Swtpm) -> Result<Self, EmulatorError> {
        let address = address::unused().ok_or(EmulatorError::Failed {
            program: "tpm proxy",
            reason: "no free loopback address".to_owned(),
            log: String::new(),
        })?;
        let shared = Arc::new(Shared::default());
        let mut listeners = Vec::new();
        for (port, is_data) in [(DATA_PORT, true), (CONTROL_PORT, false)] {
            let listener = TcpListener::bind((address, port)).map_err(io("listen before swtpm"))?;
            let upstream = SocketAddr::from((tpm.address(), port));
            let shared = Arc::clone(&shared);
            listeners.push(thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if shared.stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        // A broken connection is what its user sees; the proxy goes on.
                        drop(if is_data {
                            pass_commands(client, upstream, &shared)
                        } else {
                            pass_bytes(client, upstream)
                        });
                    });
                }
            }));
        }
        Ok(Self { address, shared, listeners })
    }

    /// What to put into `tcti`.
    #[must_use]
    pub fn tcti(&self) -> String {
        format!("swtpm:host={},port={DATA_PORT}", self.address)
    }

    /// Commands seen so far, by command code.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<u32, u64> {
        lock(&self.shared.counts).clone()
    }

    /// How often one command was seen.
    #[must_use]
    pub fn count(&self, command: u32) -> u64 {
        lock(&self.shared.counts).get(&command).copied().unwrap_or(0)
    }

    /// How many commands of any kind were seen.
    #[must_use]
    pub fn total(&self) -> u64 {
        lock(&self.shared.counts).values().sum()
    }

    /// How many commands that use a private key were seen ([`code::PRIVATE_KEY`]).
    #[must_use]
    pub fn private_key_operations(&self) -> u64 {
        let counts = lock(&self.shared.counts);
        code::PRIVATE_KEY.iter().filter_map(|command| counts.get(command)).sum()
    }

    /// How many sessions were started with a salt, which the TPM decrypts with a private key. They are not among
    /// [`TpmProxy::private_key_operations`]: one serves for as long as the TPM is open.
    #[must_use]
    pub fn salted_sessions(&self) -> u64 {
        self.shared.salted.load(Ordering::Relaxed)
    }

    /// Counts from zero again.
    pub fn reset_counts(&self) {
        lock(&self.shared.counts).clear();
        self.shared.salted.store(0, Ordering::Relaxed);
    }

    /// Applies `fault` to the next `times` commands with this code, or to any command.
    pub fn inject(&self, command: Option<u32>, fault: Fault, times: u32) {
        if fault == Fault::Hang {
            *lock(&self.shared.hanging) = true;
        }
        lock(&self.shared.rules).push(Rule { command, fault, left: times });
    }

    /// Forgets all faults and lets held commands go on.
    pub fn release(&self) {
        lock(&self.shared.rules).clear();
        *lock(&self.shared.hanging) = false;
        self.shared.released.notify_all();
    }

    /// Closes every connection to the TPM.
    pub fn disconnect_all(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            // Closed already is as good.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for TpmProxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.release();
        self.disconnect_all();
        for port in [DATA_PORT, CONTROL_PORT] {
            // Wakes the listener so that it sees `stopping`.
            drop(TcpStream::connect((self.address, port)));
        }
        for listener in self.listeners.drain(..) {
            drop(listener.join());
        }
    }
}

fn pass_commands(mut client: TcpStream, upstream: SocketAddr, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    {
        let mut open = lock(&shared.open);
        open.retain(|stream| stream.peer_addr().is_ok());
        open.push(client.try_clone()?);
    }
    // swtpm serves one data connection at a time: connect when there is a command, not before.
    let mut server: Option<TcpStream> = None;
    while let Ok(command) = read_message(&mut client) {
        let command_code = command.get(6..10).and_then(|c| c.try_into().ok()).map_or(0, u32::from_be_bytes);
        *lock(&shared.counts).entry(command_code).or_default() += 1;
        if command_code == code::START_AUTH_SESSION && command.get(10..14).is_some_and(|key| *key != NO_KEY) {
            shared.salted.fetch_add(1, Ordering::Relaxed);
        }
        let fault = shared.fault_for(command_code);
        match fault {
            Some(Fault::ResponseCode(rc)) => {
                client.write_all(&[&[0x80, 0x01, 0, 0, 0, 10][..], &rc.to_be_bytes()].concat())?;
                continue;
            }
            Some(Fault::Delay(time)) => thread::sleep(time),
            Some(Fault::Hang) => {
                let mut hanging = lock(&shared.hanging);
                while *hanging {
                    hanging = shared.released.wait(hanging).unwrap_or_else(PoisonError::into_inner);
                }
            }
            Some(Fault::Disconnect) => break,
            Some(Fault::FlipBit { .. }) | None => {}
        }
        let stream = match server.as_mut() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(upstream)?;
                stream.set_nodelay(true)?;
                server.insert(stream)
            }
        };
        stream.write_all(&command)?;
        let mut answer = read_message(stream)?;
        if let Some(Fault::FlipBit { from_end }) = fault
            && let Some(byte) = answer.iter_mut().rev().nth(from_end.saturating_sub(1))
        {
            *byte ^= 1;
        }
        client.write_all(&answer)?;
    }
    client.shutdown(Shutdown::Both)
}

fn pass_bytes(mut client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream)?;
    let (mut client_read, mut server_write) = (client.try_clone()?, server.try_clone()?);
    let forward = thread::spawn(move || {
        copy(&mut client_read, &mut server_write).and_then(|()| server_write.shutdown(Shutdown::Both))
    });
    let back = copy(&mut server, &mut client).and_then(|()| client.shutdown(Shutdown::Both));
    drop(forward.join());
    back
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..n).unwrap_or_default())?;
    }
}

impl Shared {
    fn fault_for(&self, code: u32) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| rule.left > 0 && rule.command.is_none_or(|c| c == code))?;
        rule.left -= 1;
        Some(rule.fault)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
