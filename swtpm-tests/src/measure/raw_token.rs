//! The raw limit of issuance: `C_Sign` in a loop, straight on the module, in a process of its own.

use std::path::Path;
use std::process::Command;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use hardroot_bench::histogram::Histogram;
use hardroot_bench::schedule::{Arrivals, plan};
use hardroot_identity::Csr;
use nix::time::{ClockId, clock_gettime};

use crate::site::Site;

/// DER of the object identifier of P-256 (RFC 5480 2.1.1.1).
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// What signing on a token costs.
#[derive(Debug, Clone, Copy)]
pub struct Raw {
    /// Signatures a second.
    pub rate: f64,
    /// Processor time of one signature, seconds: what a software token takes from its host.
    pub cpu: f64,
}

impl Raw {
    /// The mean of two measurements.
    #[must_use]
    pub fn between(self, other: Self) -> Self {
        Self { rate: f64::midpoint(self.rate, other.rate), cpu: f64::midpoint(self.cpu, other.cpu) }
    }
}

/// What the raw loop does besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Nothing.
    Alone,
    /// Each signature comes with the two verifications that issuing needs at least (of a CSR, and of the signature), on threads
    /// beside: what token and cores do at most when they share the machine.
    Verifying,
}

/// Signs on the site's token with this many threads, in a child process.
///
/// # Errors
/// The child failed.
pub fn measure(site: &Site, threads: u32, load: Load) -> Result<Raw> {
    let verifying = if load == Load::Verifying { "1" } else { "0" };
    let text = ask(site, &["raw-sign", &threads.to_string(), verifying])?;
    let parse = || -> Option<Raw> {
        let (rate, cpu) = text.trim().split_once(' ')?;
        Some(Raw { rate: rate.parse().ok()?, cpu: cpu.parse().ok()? })
    };
    parse().with_context(|| format!("the raw loop said {text}"))
}

/// Latencies of the token itself, milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Signs on the site's token at `rate` a second, arrivals planned in advance as the load generator plans them.
///
/// # Errors
/// The child failed.
pub fn latency(site: &Site, threads: u32, rate: f64) -> Result<Latency> {
    let text = ask(site, &["raw-latency", &threads.to_string(), &rate.to_string()])?;
    let parse = || -> Option<Latency> {
        let (p50, p99) = text.trim().split_once(' ')?;
        Some(Latency { p50: p50.parse().ok()?, p99: p99.parse().ok()? })
    };
    parse().with_context(|| format!("the raw loop said {text}"))
}

fn ask(site: &Site, arguments: &[&str]) -> Result<String> {
    let (command, rest) = arguments.split_first().context("no command")?;
    let output = Command::new(std::env::current_exe()?)
        .arg(command)
        .arg(site.module())
        .arg(site.hsm().pin_file())
        .args(rest)
        .envs(site.environment())
        .output()
        .context("starting the raw loop")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Processor time of this process.
fn process_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// A token with a key.
struct Open {
    pkcs11: Pkcs11,
    slot: Slot,
    key: ObjectHandle,
    /// Keeps the login.
    _anchor: Session,
}

impl Open {
    fn new(module: &Path, pin_file: &Path) -> Result<Self> {
        let pkcs11 = Pkcs11::new(module)?;
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let slot =
            pkcs11.get_slots_with_initialized_token()?.into_iter().next().context("no initialised token")?;
        let pin = std::fs::read_to_string(pin_file)?;
        let anchor = pkcs11.open_rw_session(slot)?;
        anchor.login(UserType::User, Some(&AuthPin::new(pin.trim().to_owned().into())))?;
        let (_, key) = anchor.generate_key_pair(
            &Mechanism::EccKeyPairGen,
            &[Attribute::Token(false), Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)],
            &[
                Attribute::Token(false),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Sign(true),
            ],
        )?;
        Ok(Self { pkcs11, slot, key, _anchor: anchor })
    }

    /// For a thread, which may not share the anchor's session.
    fn parts(&self) -> (Pkcs11, Slot, ObjectHandle) {
        (self.pkcs11.clone(), self.slot, self.key)
    }
}

/// The child: signs for two seconds.
///
/// # Errors
/// The token failed.
pub fn child(module: &Path, pin_file: &Path, threads: u32, verifying: bool) -> Result<Raw> {
    let token = Open::new(module, pin_file)?;
    let csr = hardroot_bench::key::SharedKey::make()?.csr().to_vec();
    let (begun, busy) = (Instant::now(), process_time()?);
    let end = begun + Duration::from_secs(2);
    // As in the server: whoever asks for a signature verifies beside the lanes, not in them.
    let askers = if verifying { threads * 2 + 2 } else { threads };
    let lanes = Lanes::new(threads);
    let signed: u32 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..askers)
            .map(|_| {
                let (pkcs11, slot, key) = token.parts();
                let (lanes, csr) = (&lanes, &csr);
                scope.spawn(move || -> Result<u32> {
                    let session = pkcs11.open_rw_session(slot)?;
                    let mut count = 0;
                    while Instant::now() < end {
                        if verifying {
                            anyhow::ensure!(Csr::parse(csr)?.signature_valid, "the CSR does not verify");
                        }
                        let lane = lanes.take();
                        session.sign(&Mechanism::Ecdsa, key, &[7; 32])?;
                        drop(lane);
                        if verifying {
                            // Of the same cost as the one that the server makes of the signature.
                            anyhow::ensure!(Csr::parse(csr)?.signature_valid, "the CSR does not verify");
                        }
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_panic| anyhow::anyhow!("a signing thread died"))?)
            .sum::<Result<u32>>()
    })?;
    let busy = process_time()?.saturating_sub(busy);
    Ok(Raw {
        rate: f64::from(signed) / begun.elapsed().as_secs_f64(),
        cpu: busy.as_secs_f64() / f64::from(signed.max(1)),
    })
}

/// So many may sign at a time.
struct Lanes(Mutex<u32>, Condvar);

struct Lane<'a>(&'a Lanes);

impl Lanes {
    fn new(count: u32) -> Self {
        Self(Mutex::new(count), Condvar::new())
    }

    fn take(&self) -> Lane<'_> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.1.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Lane(self)
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.1.notify_one();
    }
}

/// The child: signs at a rate for ten seconds; latencies count from the planned arrivals.
///
/// # Errors
/// The token failed.
pub fn latency_child(module: &Path, pin_file: &Path, threads: u32, rate: f64) -> Result<Latency> {
    let token = Open::new(module, pin_file)?;
    let (send, queue) = mpsc::channel::<Instant>();
    let queue = Mutex::new(queue);
    let latency = Mutex::new(Histogram::new(7));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (pkcs11, slot, key) = token.parts();
                let (queue, latency) = (&queue, &latency);
                scope.spawn(move || -> Result<()> {
                    let session = pkcs11.open_rw_session(slot)?;
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(intended) = next else { return Ok(()) };
                        session.sign(&Mechanism::Ecdsa, key, &[7; 32])?;
                        latency.lock().unwrap_or_else(PoisonError::into_inner).record(intended.elapsed());
                    }
                })
            })
            .collect();
        let begun = Instant::now();
        for at in plan(Arrivals::Poisson, rate, Duration::from_secs(10), 1) {
            let intended = begun + at;
            std::thread::sleep(intended.saturating_duration_since(Instant::now()));
            send.send(intended)?;
        }
        drop(send);
        for worker in workers {
            worker.join().map_err(|_panic| anyhow::anyhow!("a signing thread died"))??;
        }
        anyhow::Ok(())
    })?;
    let latency = latency.into_inner().unwrap_or_else(PoisonError::into_inner);
    let ms = |q| latency.quantile(q).as_secs_f64() * 1000.0;
    Ok(Latency { p50: ms(0.5), p99: ms(0.99) })
}
