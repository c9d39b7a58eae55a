//! The threads that speak to the token. A module blocks, sometimes for minutes: so each call is a job for one
//! of a few threads of our own, each with one session, and the caller waits no longer than its deadline.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use cryptoki::session::Session;
use cryptoki::slot::Slot;
use tokio::sync::{Semaphore, oneshot};

use super::breaker::{Admission, Breaker};
use super::error::{Class, Failure, Pkcs11Error};
use super::module::{Module, State};
use super::names::Names;
use super::objects::Key;
use super::sessions::{Access, Lease};
use super::token::{Life, Token};
use crate::types::KeyId;

/// Jobs that may wait per thread; more callers wait outside the queue, in order.
const WAITING_PER_THREAD: usize = 64;

/// Longest wait for the threads when the pool is dropped.
const LAST_WAIT: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// What all threads of one key manager share.
pub(super) struct Shared {
    pub(super) module: Arc<Module>,
    pub(super) token: Token,
    pub(super) names: Names,
    pub(super) tolerate_missing: Vec<String>,
    pub(super) verify_signatures: bool,
    /// Held by the one job that changes keys.
    pub(super) changing: Mutex<()>,
    cache: Mutex<HashMap<KeyId, Arc<Key>>>,
    breaker: Mutex<Breaker>,
}

impl Shared {
    pub(super) fn new(
        module: Arc<Module>,
        token: Token,
        names: Names,
        tolerate_missing: Vec<String>,
        verify_signatures: bool,
    ) -> Self {
        Self {
            module,
            token,
            names,
            tolerate_missing,
            verify_signatures,
            changing: Mutex::default(),
            cache: Mutex::default(),
            breaker: Mutex::default(),
        }
    }

    pub(super) fn cached(&self, id: &KeyId) -> Option<Arc<Key>> {
        lock(&self.cache).get(id).cloned()
    }

    pub(super) fn remember(&self, id: &KeyId, key: Arc<Key>) {
        lock(&self.cache).insert(id.clone(), key);
    }

    pub(super) fn forget(&self, id: &KeyId) {
        lock(&self.cache).remove(id);
    }
}

/// Locks what is whole after a panic, too: every holder only moves finished values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a job is: inside the module, logged in, with a session of its own.
pub(super) struct At<'a> {
    pub(super) shared: &'a Shared,
    pub(super) state: &'a State,
    pub(super) slot: Slot,
    pub(super) session: &'a Session,
    pub(super) life: Life,
    /// This is the second attempt: what is known of objects may be wrong.
    pub(super) again: bool,
}

/// The threads and their queue.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// Taken away when the pool is dropped, which ends the threads.
    jobs: Option<mpsc::Sender<Job>>,
    /// Disconnected when the last thread has closed its session.
    ended: Mutex<mpsc::Receiver<()>>,
    places: Semaphore,
}

impl Drop for Pool {
    /// Waits a moment for the threads to leave the module: a process that exits while a thread is inside one
    /// crashes in the destructors of some (SoftHSM among them). A hanging token is not waited for.
    fn drop(&mut self) {
        self.jobs = None;
        if let Err(mpsc::RecvTimeoutError::Timeout) = lock(&self.ended).recv_timeout(LAST_WAIT) {
            tracing::warn!("a thread is still waiting for the token");
        }
    }
}

impl Pool {
    /// Starts `threads` threads. They end when the pool is dropped and their last job is done.
    pub(super) fn start(shared: Arc<Shared>, threads: usize) -> Result<Self, Pkcs11Error> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let (ends, ended) = mpsc::channel();
        for number in 0..threads {
            let mut worker = Worker { shared: Arc::clone(&shared), session: None };
            let (queue, ends) = (Arc::clone(&queue), ends.clone());
            std::thread::Builder::new()
                .name(format!("pkcs11-{number}"))
                .spawn(move || {
                    loop {
                        let job = lock(&queue).recv();
                        let Ok(job) = job else { break };
                        // A panic costs the caller an error, not the pool a thread.
                        if catch_unwind(AssertUnwindSafe(|| job(&mut worker))).is_err() {
                            tracing::error!("a PKCS#11 call panicked");
                            worker.session = None;
                        }
                    }
                    worker.close();
                    drop(worker);
                    drop(ends);
                })
                .map_err(|_io| Pkcs11Error::Thread)?;
        }
        let places = Semaphore::new(threads * WAITING_PER_THREAD);
        Ok(Self { shared, jobs: Some(jobs), ended: Mutex::new(ended), places })
    }

    /// Runs a job on one of the threads, and once more when its session, or the device, had to be set up
    /// anew.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl Fn(&At<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let admission = lock(&self.shared.breaker).admit(Instant::now());
        let probe = match admission {
            Admission::Normal => false,
            Admission::Probe => true,
            Admission::Wait(next_try) => return Err(Pkcs11Error::Resting { next_try }.into()),
        };
        let result = match tokio::time::timeout(timeout, self.run(probe, work)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Pkcs11Error::Timeout { after: timeout }.into()),
        };
        let mut breaker = lock(&self.shared.breaker);
        match &result {
            Err(failure) if failure.class() == Class::Device => {
                let was_open = breaker.is_open();
                breaker.failed(Instant::now());
                if breaker.is_open() && !was_open {
                    tracing::error!("the token failed several times in a row and is left alone for a moment");
                }
            }
            _ => {
                if breaker.is_open() {
                    tracing::info!("the token answers again");
                }
                breaker.succeeded();
            }
        }
        result
    }

    async fn run<T: Send + 'static>(
        &self,
        probe: bool,
        work: impl Fn(&At<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let _place = self.places.acquire().await.map_err(|_closed| Pkcs11Error::Thread)?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            // A caller that gave up needs no signature, and the token has better things to do.
            if !reply.is_closed() {
                drop(reply.send(worker.attempt(probe, &work)));
            }
        });
        let jobs = self.jobs.as_ref().ok_or(Pkcs11Error::Thread)?;
        jobs.send(job).map_err(|_ended| Pkcs11Error::Thread)?;
        answer.await.map_err(|_panicked| Pkcs11Error::Thread)?
    }
}

/// One thread's side.
struct Worker {
    shared: Arc<Shared>,
    session: Option<Lease>,
}

impl Worker {
    fn attempt<T>(
        &mut self,
        probe: bool,
        work: &dyn Fn(&At<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if probe {
            let epoch = self.shared.module.read().epoch;
            self.shared.module.set_up_anew(epoch);
        }
        match self.once(false, work) {
            Err(failure) if matches!(failure.class(), Class::Session | Class::Device) => {
                tracing::info!(error = ?failure, "the token lost a session or failed; trying once more");
                self.repair();
                self.once(true, work)
            }
            other => other,
        }
    }

    fn once<T>(&mut self, again: bool, work: &dyn Fn(&At<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let shared = Arc::clone(&self.shared);
        let state = shared.module.read();
        let (slot, life) = shared.token.log_in(&state)?;
        let lease = match self.session.take() {
            Some(lease) if shared.token.sessions.is_held(&lease, &state) => lease,
            _ => shared.token.sessions.open(&state, slot, Access::Read)?,
        };
        let lease = self.session.insert(lease);
        work(&At { shared: &shared, state: &state, slot, session: &lease.session, life, again })
    }

    /// Gives the session up, and the login when it is gone too.
    fn repair(&mut self) {
        self.close();
        let shared = Arc::clone(&self.shared);
        shared.token.check_login(&shared.module.read());
    }

    fn close(&mut self) {
        if let Some(lease) = self.session.take() {
            self.shared.token.sessions.close(lease, &self.shared.module.read());
        }
    }
}
