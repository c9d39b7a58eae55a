//! What both listeners share: places for connections, surviving accept errors, counters.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

/// First wait after an accept error such as "too many open files"; doubled up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// A line about refused peers at most this often; a hostile caller must not fill the log.
const QUIET: Duration = Duration::from_secs(5);

/// Counters of a listener since it was opened.
#[derive(Debug, Default)]
pub struct ListenStats {
    /// Connections handed over.
    pub accepted: AtomicU64,
    /// Connections closed at once because a limit was reached.
    pub refused: AtomicU64,
    /// TLS handshakes (PROXY headers included) that failed or timed out.
    pub failed_handshakes: AtomicU64,
    /// Errors of `accept(2)` itself.
    pub accept_errors: AtomicU64,
}

impl ListenStats {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Places for connections: so many in all, so many per peer.
#[derive(Debug)]
pub(crate) struct Places<K: Eq + Hash> {
    total: usize,
    per_peer: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    total: usize,
    by_peer: HashMap<K, usize>,
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub(crate) fn new(total: usize, per_peer: usize) -> Arc<Self> {
        Arc::new(Self { total, per_peer, taken: Mutex::new(Taken { total: 0, by_peer: HashMap::new() }) })
    }

    /// A place for `peer`, given back on drop; `None` when there is none.
    pub(crate) fn take(self: &Arc<Self>, peer: K) -> Option<Place<K>> {
        let mut place = self.take_unnamed()?;
        place.name(peer).then_some(place)
    }

    /// A place for somebody who is not known yet.
    pub(crate) fn take_unnamed(self: &Arc<Self>) -> Option<Place<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.total >= self.total {
            return None;
        }
        taken.total += 1;
        Some(Place { places: Arc::clone(self), peer: None })
    }
}

/// One place among [`Places`].
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash + Clone> {
    places: Arc<Places<K>>,
    peer: Option<K>,
}

impl<K: Eq + Hash + Clone> Place<K> {
    /// Says whose place it is; `false` when that peer has all its places already. To be asked once.
    pub(crate) fn name(&mut self, peer: K) -> bool {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = taken.by_peer.get(&peer).copied().unwrap_or(0);
        if of_peer >= self.places.per_peer {
            return false;
        }
        taken.by_peer.insert(peer.clone(), of_peer + 1);
        drop(taken);
        self.peer = Some(peer);
        true
    }
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total = taken.total.saturating_sub(1);
        let Some(peer) = &self.peer else { return };
        let left = taken.by_peer.get(peer).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            taken.by_peer.remove(peer);
        } else {
            taken.by_peer.insert(peer.clone(), left);
        }
    }
}

/// How long to wait after an accept error, if at all.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST_BACKOFF)
    }
}

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.0 = FIRST_BACKOFF;
    }

    /// `None`: the error was of one connection alone (accept(2), "Error handling"); accept the next at once.
    pub(crate) fn after(&mut self, error: &io::Error) -> Option<Duration> {
        let of_one_connection = error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| {
            matches!(
                errno,
                Errno::ECONNABORTED
                    | Errno::ECONNRESET
                    | Errno::EINTR
                    | Errno::EPROTO
                    | Errno::ENOPROTOOPT
                    | Errno::EPERM
                    | Errno::ENETDOWN
                    | Errno::ENETUNREACH
                    | Errno::EHOSTDOWN
                    | Errno::EHOSTUNREACH
                    | Errno::ENONET
                    | Errno::EOPNOTSUPP
            )
        });
        if of_one_connection {
            return None;
        }
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST_BACKOFF);
        Some(wait)
    }
}

/// Lets a line into the log every five seconds and counts the others: hostile peers must not fill it.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// `Some(n)`: speak now; `n` lines were held back since the last one.
    pub fn speak(&self) -> Option<u64> {
        self.speak_at(Instant::now())
    }

    fn speak_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| now.duration_since(last) < QUIET) {
            state.1 += 1;
            return None;
        }
        let held_back = std::mem::take(&mut state.1);
        state.0 = Some(now);
        Some(held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_per_peer_and_come_back() {
        let places = Places::new(3, 2);
        let a1 = places.take("a").unwrap();
        let _a2 = places.take("a").unwrap();
        assert!(places.take("a").is_none(), "a has two");
        let _b1 = places.take("b").unwrap();
        assert!(places.take("c").is_none(), "three in all");
        drop(a1);
        let _c1 = places.take("c").unwrap();
        assert!(places.take("a").is_none(), "three in all again");
    }

    #[test]
    fn somebody_unnamed_counts_in_all_until_it_has_a_name() {
        let places = Places::new(2, 1);
        let mut first = places.take_unnamed().unwrap();
        let mut second = places.take_unnamed().unwrap();
        assert!(places.take_unnamed().is_none());
        assert!(first.name("a"));
        assert!(!second.name("a"), "a has one");
        drop((first, second));
        assert!(places.take("a").is_some());
    }

    #[test]
    fn a_peer_that_left_is_forgotten() {
        let places = Places::new(3, 2);
        drop(places.take("a"));
        assert!(places.taken.lock().unwrap().by_peer.is_empty());
    }

    #[test]
    fn backoff_grows_for_exhaustion_and_not_for_one_bad_connection() {
        let mut backoff = Backoff::default();
        let aborted = io::Error::from_raw_os_error(Errno::ECONNABORTED as i32);
        assert_eq!(backoff.after(&aborted), None);
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
            assert!(backoff.after(&io::Error::from_raw_os_error(errno as i32)).is_some(), "{errno}");
        }
        for _ in 0..20 {
            backoff.after(&io::Error::from_raw_os_error(Errno::EMFILE as i32));
        }
        assert_eq!(backoff.after(&io::Error::from_raw_os_error(Errno::EMFILE as i32)), Some(LONGEST_BACKOFF));
        backoff.reset();
        assert_eq!(backoff.after(&io::Error::from_raw_os_error(Errno::EMFILE as i32)), Some(FIRST_BACKOFF));
    }

    #[test]
    fn the_throttle_speaks_once_and_says_how_much_it_held_back() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.speak_at(now), Some(0));
        assert_eq!(throttle.speak_at(now), None);
        assert_eq!(throttle.speak_at(now + QUIET / 2), None);
        assert_eq!(throttle.speak_at(now + QUIET), Some(2));
    }
}
