//! What a process of this machine uses (proc(5)): the server under load, and the load generator itself.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

/// Processor time and memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time so far.
    pub cpu: Duration,
    /// Resident memory, bytes.
    pub resident: u64,
}

/// Reads them of process `pid`; `None` when there is none.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse(&stat, &status)
}

fn parse(stat: &str, status: &str) -> Option<Usage> {
    // The name, in brackets, may hold anything; user and system time are fields 14 and 15, in ticks of which Linux shows
    // 100 a second.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    let ticks = ticks.next()??.checked_add(ticks.next()??)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Usage { cpu: Duration::from_millis(ticks.checked_mul(10)?), resident: kib.checked_mul(1024)? })
}

/// What a process used while it was watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Processor time.
    pub cpu: Duration,
    /// Resident memory at the beginning, bytes.
    pub resident_first: u64,
    /// At the end.
    pub resident_last: u64,
    /// The most that was seen, once a second.
    pub resident_most: u64,
}

/// Watches a process once a second until dropped.
pub struct Watch {
    pid: u32,
    seen: Arc<Mutex<Option<(Usage, u64)>>>,
    /// Ends with this.
    _sampler: JoinSet<()>,
}

impl Watch {
    /// Begins; `None` when there is no such process.
    #[must_use]
    pub fn begin(pid: u32) -> Option<Self> {
        let first = usage(pid)?;
        let seen = Arc::new(Mutex::new(Some((first, first.resident))));
        let sampled = Arc::clone(&seen);
        let mut sampler = JoinSet::new();
        sampler.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(now) = usage(pid) else { return };
                if let Some((_, most)) = &mut *sampled.lock().unwrap_or_else(PoisonError::into_inner) {
                    *most = now.resident.max(*most);
                }
            }
        });
        Some(Self { pid, seen, _sampler: sampler })
    }

    /// Counts from now on.
    pub fn restart(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
            usage(self.pid).map(|now| (now, now.resident));
    }

    /// What it used so far; `None` when it has ended.
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        let now = usage(self.pid)?;
        let (first, most) = (*self.seen.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(Span {
            cpu: now.cpu.saturating_sub(first.cpu),
            resident_first: first.resident,
            resident_last: now.resident,
            resident_most: most.max(now.resident),
        })
    }
}

/// Lets this process have as many open files as it may: each simulated agent is a connection. Says how many that is.
#[must_use]
pub fn raise_open_files() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_proc_are_read_whatever_the_name() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let usage = parse(stat, "Name:\tx\nVmRSS:\t  2048 kB\n").unwrap();
        assert_eq!(usage, Usage { cpu: Duration::from_secs(3), resident: 2 << 20 });
        assert_eq!(parse(stat, "Name:\tkthread\n"), None);
        assert_eq!(parse("42 (x) S 1", "VmRSS: 1 kB"), None);
    }

    #[tokio::test]
    async fn this_process_is_watched_and_no_other() {
        let span = Watch::begin(std::process::id()).unwrap().span().unwrap();
        assert!(span.resident_most >= span.resident_last && span.resident_last > 1 << 20);
        assert!(Watch::begin(u32::MAX).is_none());
    }
}
