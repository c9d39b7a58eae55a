//! The device: one thread owns the TPM and does one thing after the other.
//!
//! ESAPI contexts cannot be shared, chips take tens to hundreds of milliseconds for a command, and most have three
//! object slots. So every operation is a job in a bounded queue; callers wait with a deadline. Keys are kept as blobs
//! ([`WrappedKey`]) that only this TPM loads, and nothing stays in it but the storage root key, the endorsement key
//! and the signing key used last.

mod auth;
mod chip;
mod config;
mod ek_template;
mod endorsement;
mod error;
mod info;
mod keys;
mod nv;
mod queue;
mod quiet;
mod quote;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use auth::Secrets;
use chip::Chip;
pub use config::{Config, Tcti};
pub use endorsement::{EkKind, EndorsementKey};
pub use error::{TpmError, TssFault};
pub use info::TpmProperties;
use queue::{Queue, Urgency};
pub use quiet::silence_libtss2;
pub use quote::{Certification, Proof, ProofRequest, Quote};

/// How long nothing that needs authorisation is tried after RC_LOCKOUT.
const LOCKOUT_PAUSE: Duration = Duration::from_secs(600);

/// A key that lives outside the TPM in a form that only this TPM can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// `TPMT_PUBLIC`.
    pub public: Vec<u8>,
    /// `TPM2B_PRIVATE` without its length: encrypted by the parent key.
    pub private: Vec<u8>,
}

/// Where wrapped keys are found by the name a key manager gave them.
#[async_trait::async_trait]
pub trait WrappedKeys: Send + Sync {
    /// The blob of the key with this `SubjectPublicKeyInfo` (DER), or `None` when there is no such key here.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn wrapped_by_spki(
        &self,
        spki_der: &[u8],
    ) -> Result<Option<WrappedKey>, Box<dyn std::error::Error + Send + Sync>>;
}

type Job = Box<dyn FnOnce(&mut Device) + Send>;

/// Longest wait for the thread when the TPM is not needed any more.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// A handle to the TPM; clones of the `Arc` share one device thread.
pub struct Tpm {
    queue: Arc<Queue<Job>>,
    /// Disconnected when the thread has closed the TPM.
    ended: Mutex<mpsc::Receiver<()>>,
    timeout: Duration,
    tcti: Tcti,
}

impl fmt::Debug for Tpm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tpm").field("tcti", &self.tcti).finish_non_exhaustive()
    }
}

impl Tpm {
    /// Opens the TPM, and finds or makes its storage root key, so that faults show at start.
    ///
    /// # Errors
    /// An auth file cannot be used, the TPM does not open, or there is no storage root key and none can be made.
    pub async fn open(config: Config) -> Result<Arc<Self>, TpmError> {
        let secrets = Secrets::read(&config)?;
        let queue = Arc::new(Queue::<Job>::new());
        let mut device = Device { tcti: config.tcti.clone(), secrets, chip: None, locked_until: None };
        let jobs = Arc::clone(&queue);
        let (ends, ended) = mpsc::channel();
        thread::Builder::new()
            .name("tpm".to_owned())
            .spawn(move || {
                let closes = CloseOnDrop(jobs);
                while let Some(job) = closes.0.pop() {
                    job(&mut device);
                }
                drop(device);
                drop(ends);
            })
            .map_err(|error| TpmError::Answer { op: "start the device thread", reason: error.to_string() })?;
        let tpm =
            Arc::new(Self { queue, ended: Mutex::new(ended), timeout: config.timeout, tcti: config.tcti });
        tpm.run("open", Urgency::Normal, config.timeout * 4, Chip::prepare_srk).await?;
        Ok(tpm)
    }

    /// Where the TPM is, for people.
    #[must_use]
    pub fn location(&self) -> String {
        self.tcti.to_string()
    }

    /// Hands a job to the thread and waits for its answer until the deadline.
    async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        urgency: Urgency,
        timeout: Duration,
        mut work: impl FnMut(&mut Chip) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |device| {
            // A caller that has given up does not wear the chip.
            if !reply.is_closed() {
                // The caller may have given up meanwhile: its answer is lost, as it should be.
                drop(reply.send(device.attempt(op, &mut work)));
            }
        });
        let whole = async {
            if !self.queue.push(urgency, job).await {
                return Err(TpmError::Gone { op });
            }
            answer.await.map_err(|_thread_ended| TpmError::Gone { op })?
        };
        tokio::time::timeout(timeout, whole)
            .await
            .map_err(|_elapsed| TpmError::Timeout { op, after: timeout })?
    }
}

impl Drop for Tpm {
    /// Waits a moment for the thread to leave the TPM's library: a process that exits while a thread is inside it crashes in
    /// libc. A hanging TPM is not waited for.
    fn drop(&mut self) {
        self.queue.close();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(LAST_WAIT) {
            tracing::warn!("the thread is still waiting for the TPM");
        }
    }
}

/// Closes the queue when the thread ends, also by a panic, so that callers get an error instead of silence.
struct CloseOnDrop(Arc<Queue<Job>>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The thread's own: the TPM as far as it is open.
struct Device {
    tcti: Tcti,
    secrets: Secrets,
    chip: Option<Chip>,
    locked_until: Option<Instant>,
}

impl Device {
    /// Does the work; once more on a newly opened TPM when handles or the connection went stale.
    fn attempt<T>(
        &mut self,
        op: &'static str,
        work: &mut impl FnMut(&mut Chip) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        if let Some(until) = self.locked_until {
            let wait = until.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                return Err(TpmError::LockedOut { wait });
            }
            self.locked_until = None;
        }
        let mut fresh = false;
        loop {
            let chip = match self.chip.as_mut() {
                Some(chip) => chip,
                None => {
                    fresh = true;
                    let mut chip = Chip::open(&self.tcti, &self.secrets)?;
                    chip.prepare_srk()?;
                    self.chip.insert(chip)
                }
            };
            let result = work(chip);
            chip.tidy();
            let Err(TpmError::Command { cause, .. }) = &result else { return result };
            match cause.class() {
                error::Class::Stale => {
                    tracing::warn!(op, error = %cause, reopened = !fresh, "the TPM lost our objects or its connection");
                    self.chip = None;
                    if fresh {
                        return result;
                    }
                }
                error::Class::Lockout => {
                    tracing::error!(op, "the TPM is in dictionary attack lockout");
                    self.locked_until = Some(Instant::now() + LOCKOUT_PAUSE);
                    return Err(TpmError::LockedOut { wait: LOCKOUT_PAUSE });
                }
                _ => return result,
            }
        }
    }
}
