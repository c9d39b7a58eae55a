//! The lease of a server instance: one process at a time.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use hardroot_runtime::clock::Clock;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::datastore::{KeyRecords, Lease, StoreError};

/// How long a lease holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(30);

/// How often it is renewed.
pub const RENEW_LEASE: Duration = Duration::from_secs(10);

/// A stop does not wait longer for the database: the lease runs out anyway.
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);

/// Why this process must not be the instance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Another process is.
    #[error(
        "another server runs with the instance id {instance} (process {pid} on {machine}), and renews its lease: this one \
         is a copy and would share its keys. Stop the other one, or make this one an instance of its own: delete the file \
         server-id from its data directory and give it a token, or an `instance` on the token, of its own"
    )]
    Held {
        /// The instance id.
        instance: String,
        /// The other process.
        pid: u32,
        /// Where it runs.
        machine: String,
    },
    /// Another process took the lease while this one did not renew it.
    #[error(
        "process {pid} on {machine} took over the server instance {instance} while this one was asleep or its clock stood \
         behind: nothing is signed here any more. Stop one of the two, or make one an instance of its own: delete the file \
         server-id from its data directory and give it a token, or an `instance` on the token, of its own"
    )]
    Lost {
        /// The instance id.
        instance: String,
        /// The other process.
        pid: u32,
        /// Where it runs.
        machine: String,
    },
    /// The database failed.
    #[error("the lease of the server instance cannot be taken")]
    Store(#[source] StoreError),
}

/// This process, as others can tell it apart.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) nonce: String,
    pub(super) machine: String,
    pub(super) pid: u32,
    pub(super) started: u64,
}

impl Process {
    fn this() -> Self {
        let pid = std::process::id();
        Self {
            nonce: uuid::Uuid::new_v4().to_string(),
            machine: machine(),
            pid,
            started: started(pid).unwrap_or_default(),
        }
    }
}

/// This boot of this machine, and the namespace in which process ids count: containers on one machine do not
/// see each other's processes. Empty where the system does not say, and then nobody is known to be gone.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    match boot.trim() {
        "" => String::new(),
        boot => format!("{boot} {}", space.display()),
    }
}

/// When a process started, in clock ticks since boot (proc(5), field 22 of `stat`); `None` when it is gone, or dead
/// and not yet reaped (field 3).
pub(super) fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let alive = fields.next().is_some_and(|state| !matches!(state, "Z" | "X"));
    fields.nth(18).filter(|_| alive)?.parse().ok()
}

/// Whether the holder of a lease is a process of this machine that is gone, or this process itself, which starts
/// the server anew.
fn is_gone(holder: &Lease, here: &Process) -> bool {
    let same = (holder.pid, holder.started) == (here.pid, here.started);
    let here = !here.machine.is_empty() && holder.machine == here.machine;
    here && (same || started(holder.pid) != Some(holder.started))
}

/// Who holds a lease, as seen from this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A process that runs here.
    Here {
        /// Since when.
        running_for: Duration,
    },
    /// A process of this boot of this machine that has ended.
    Gone,
    /// A process of another machine, another boot of this one, or another process namespace.
    Elsewhere,
}

/// Who holds a lease.
#[must_use]
pub fn holder(lease: &Lease) -> Holder {
    let here = machine();
    if here.is_empty() || lease.machine != here {
        return Holder::Elsewhere;
    }
    if started(lease.pid) != Some(lease.started) {
        return Holder::Gone;
    }
    Holder::Here { running_for: age(lease.started).unwrap_or_default() }
}

/// How long ago a moment in clock ticks since boot was.
fn age(ticks: u64) -> Option<Duration> {
    let uptime: f64 =
        std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let begun =
        Duration::from_millis(ticks.saturating_mul(1000).checked_div(u64::try_from(per_second).ok()?)?);
    Some(Duration::try_from_secs_f64(uptime).ok()?.saturating_sub(begun))
}

fn place(holder: &Lease) -> String {
    if holder.machine.is_empty() { "an unknown machine".to_owned() } else { holder.machine.clone() }
}

/// The lease of this process.
pub struct Tenancy {
    store: Arc<dyn KeyRecords>,
    clock: Arc<dyn Clock>,
    instance: String,
    token: String,
    process: Process,
    held: watch::Sender<bool>,
    /// Who took it.
    taken: OnceLock<Lease>,
}

impl Tenancy {
    /// Takes the lease of `instance`; `token` says where its keys are. When another process holds it, this waits
    /// until it runs out; when it is renewed meanwhile, that process is alive.
    ///
    /// # Errors
    /// [`LeaseError`]: this process must not sign.
    pub async fn take(
        store: Arc<dyn KeyRecords>,
        clock: Arc<dyn Clock>,
        instance: String,
        token: String,
    ) -> Result<Self, LeaseError> {
        Self::take_as(store, clock, instance, token, Process::this()).await
    }

    pub(super) async fn take_as(
        store: Arc<dyn KeyRecords>,
        clock: Arc<dyn Clock>,
        instance: String,
        token: String,
        process: Process,
    ) -> Result<Self, LeaseError> {
        let held = watch::Sender::new(false);
        let tenancy = Self { store, clock, instance, token, process, held, taken: OnceLock::new() };
        let mut replacing: Option<String> = None;
        let mut waited_for: Option<String> = None;
        loop {
            let now = tenancy.clock.now();
            let holder = tenancy.ask(now, "", replacing.as_deref()).await.map_err(LeaseError::Store)?;
            let Some(holder) = holder else {
                tenancy.held.send_replace(true);
                return Ok(tenancy);
            };
            if replacing.as_ref() != Some(&holder.nonce) && is_gone(&holder, &tenancy.process) {
                info!(
                    pid = holder.pid,
                    "the process that held this instance's lease is gone; the lease is taken over"
                );
                replacing = Some(holder.nonce);
                continue;
            }
            if waited_for.as_ref() == Some(&holder.nonce) {
                return Err(LeaseError::Held {
                    instance: tenancy.instance,
                    pid: holder.pid,
                    machine: place(&holder),
                });
            }
            let wait = holder.expires_at.duration_since(now).unwrap_or_default().min(LEASE);
            warn!(
                seconds = wait.as_secs(), pid = holder.pid, machine = %holder.machine,
                "another process holds the lease of this server instance; waiting for it to run out"
            );
            waited_for = Some(holder.nonce);
            tenancy.clock.sleep(wait + Duration::from_secs(1)).await;
        }
    }

    async fn ask(
        &self,
        now: SystemTime,
        authority_id: &str,
        replacing: Option<&str>,
    ) -> Result<Option<Lease>, StoreError> {
        let lease = Lease {
            instance: self.instance.clone(),
            nonce: self.process.nonce.clone(),
            machine: self.process.machine.clone(),
            pid: self.process.pid,
            started: self.process.started,
            token: self.token.clone(),
            authority_id: authority_id.to_owned(),
            expires_at: now + LEASE,
        };
        self.store.take_lease(&lease, replacing, now).await
    }

    /// Renews the lease. While the database is away it counts as held, also when it has ended: nobody else can take
    /// it there either. A lease that another process took is lost for good: what this process knows of keys and
    /// journal may be old, and only a new start reads it again.
    pub async fn renew(&self, authority_id: &str) {
        if !self.is_held() {
            return;
        }
        match self.ask(self.clock.now(), authority_id, None).await {
            Ok(None) => {}
            Ok(Some(holder)) => {
                error!(
                    pid = holder.pid, machine = %holder.machine, instance = %self.instance,
                    "another process took over this server instance: nothing is signed here any more"
                );
                // Only one ever comes here: the lease is held no more.
                drop(self.taken.set(holder));
                self.held.send_replace(false);
            }
            Err(cause) => {
                warn!(
                    error = &cause as &dyn std::error::Error,
                    "the lease of this server instance could not be renewed"
                );
            }
        }
    }

    /// Whether this process is the instance, as a value to watch.
    #[must_use]
    pub fn held(&self) -> watch::Receiver<bool> {
        self.held.subscribe()
    }

    /// Whether this process is the instance.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Waits until another process has taken the lease, and says which.
    pub async fn lost(&self) -> LeaseError {
        let mut held = self.held();
        // The sender is in `self`.
        drop(held.wait_for(|held| !held).await);
        let holder = self.taken.get();
        LeaseError::Lost {
            instance: self.instance.clone(),
            pid: holder.map(|holder| holder.pid).unwrap_or_default(),
            machine: holder.map(place).unwrap_or_default(),
        }
    }

    /// Gives the lease back, so that the next process need not wait.
    pub async fn release(&self) {
        let given = self.store.release_lease(&self.instance, &self.process.nonce);
        match tokio::time::timeout(RELEASE_DEADLINE, given).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => warn!(
                error = &cause as &dyn std::error::Error,
                "the lease of this server instance could not be given back"
            ),
            Err(_elapsed) => {
                warn!("the lease of this server instance could not be given back: no answer in time");
            }
        }
    }
}

#[cfg(test)]
impl Process {
    pub(super) fn made_up(nonce: &str, machine: &str, pid: u32, started: u64) -> Self {
        Self { nonce: nonce.to_owned(), machine: machine.to_owned(), pid, started }
    }

    pub(super) fn real() -> Self {
        Self::this()
    }
}
