//! SHA-256 of programs: bounded while reading, few at a time, remembered by everything that changes when the content does.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use hardroot_runtime::clock::Clock;
use nix::libc;
use tokio::sync::Semaphore;

use crate::peer::{FileState, file_state};

/// How many programs are hashed at once, and how many of one user's.
const AT_ONCE: usize = 3;
const AT_ONCE_PER_USER: usize = 1;
/// How many hashes are remembered.
const REMEMBERED: usize = 1024;
/// A file that changed this recently may change again within one tick of its time stamps.
const SETTLED: Duration = Duration::from_secs(2);
const FUSE: i64 = 0x6573_5546;

pub(super) type Digest = [u8; 32];

#[derive(Debug, Default)]
struct Cache {
    known: HashMap<FileState, Digest>,
    order: VecDeque<FileState>,
}

#[derive(Debug)]
pub(super) struct Digests {
    clock: Arc<dyn Clock>,
    cache: Mutex<Cache>,
    at_once: Arc<Semaphore>,
    users: Mutex<HashMap<u32, Weak<Semaphore>>>,
    #[cfg(test)]
    pub(super) computed: std::sync::atomic::AtomicUsize,
}

/// Tells the reading thread that nobody waits any more.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Digests {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            cache: Mutex::default(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            users: Mutex::default(),
            #[cfg(test)]
            computed: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// The hash of a program that `uid` runs. `limit` is in bytes; 0 is no limit. Dropping the future ends the reading.
    pub(super) async fn of(
        &self,
        program: OwnedFd,
        state: FileState,
        uid: u32,
        limit: u64,
    ) -> Result<Digest, String> {
        if !state.regular {
            return Err("it is not a regular file".to_owned());
        }
        if limit > 0 && state.size > limit {
            return Err(too_large(limit));
        }
        if let Some(digest) = self.cached(&state) {
            return Ok(digest);
        }
        // One user's programs wait for each other, so that nobody else waits for them.
        let user = self.user(uid).acquire_owned().await.map_err(|e| e.to_string())?;
        if let Some(digest) = self.cached(&state) {
            return Ok(digest);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let _waiting = Waiting(Arc::clone(&stop));
        // On a user-space file system every call is answered by a process that may be the caller's friend, or never. Looked at
        // before a common slot is taken: even this question is one the file system may leave unanswered.
        let (program, user) = tokio::task::spawn_blocking(move || {
            let fs =
                rustix::fs::fstatfs(&program).map_err(|e| format!("its file system does not answer: {e}"))?;
            // The field's type differs between architectures.
            if fs.f_type as i64 == FUSE {
                return Err(
                    "it lies on a user-space (FUSE) file system, whose answers prove nothing".to_owned()
                );
            }
            Ok((program, user))
        })
        .await
        .map_err(|e| e.to_string())??;
        let slot = Arc::clone(&self.at_once).acquire_owned().await.map_err(|e| e.to_string())?;
        let now = self.clock.now();
        let digest = tokio::task::spawn_blocking(move || {
            let _held = (user, slot);
            hash(&program, &state, limit, &stop)
        })
        .await
        .map_err(|e| e.to_string())??;
        #[cfg(test)]
        self.computed.fetch_add(1, Ordering::Relaxed);
        self.remember(state, digest, now);
        Ok(digest)
    }

    fn user(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, slots| slots.strong_count() > 0);
        if let Some(slots) = users.get(&uid).and_then(Weak::upgrade) {
            return slots;
        }
        let slots = Arc::new(Semaphore::new(AT_ONCE_PER_USER));
        users.insert(uid, Arc::downgrade(&slots));
        slots
    }

    fn cached(&self, state: &FileState) -> Option<Digest> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).known.get(state).copied()
    }

    fn remember(&self, state: FileState, digest: Digest, now: SystemTime) {
        let settled = [state.changed, state.modified].into_iter().all(|(seconds, nanoseconds)| {
            let since =
                u64::try_from(seconds).ok().map(|s| SystemTime::UNIX_EPOCH + Duration::new(s, nanoseconds));
            since.and_then(|since| now.duration_since(since).ok()).is_some_and(|age| age >= SETTLED)
        });
        if !settled {
            return;
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.known.insert(state, digest).is_none() {
            cache.order.push_back(state);
        }
        if cache.order.len() > REMEMBERED
            && let Some(oldest) = cache.order.pop_front()
        {
            cache.known.remove(&oldest);
        }
    }
}

fn too_large(limit: u64) -> String {
    format!("it is larger than workload_size_limit ({limit} bytes)")
}

fn hash(program: &OwnedFd, before: &FileState, limit: u64, stop: &AtomicBool) -> Result<Digest, String> {
    // The handle opens nothing by itself; this opens the very file it names, whatever its path shows by now.
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY,
    );
    let mut file: File = options.read(true).open(path).map_err(|e| format!("it cannot be opened: {e}"))?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0_u8; 64 << 10];
    let mut total = 0_u64;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err("nobody waits for it any more".to_owned());
        }
        let read = file.read(&mut buffer).map_err(|e| format!("it cannot be read: {e}"))?;
        if read == 0 {
            break;
        }
        total = total.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if limit > 0 && total > limit {
            return Err(too_large(limit));
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
    let after = file_state(&file).map_err(|e| format!("it cannot be examined: {e}"))?;
    if after != *before || total != before.size {
        return Err("it changed while it was read".to_owned());
    }
    Digest::try_from(context.finish().as_ref()).map_err(|e| e.to_string())
}
