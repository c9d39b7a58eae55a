//! Bounds: what one caller, and all of them, may use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bounds of the Workload API. Whoever goes beyond one gets Unavailable (or a closed connection), nobody else notices.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections in all; also kept below what the limit of open files leaves room for.
    pub max_connections: usize,
    /// Open connections of one user.
    pub max_connections_per_uid: usize,
    /// Open calls on one connection.
    pub max_calls_per_connection: u32,
    /// Open calls in all.
    pub max_calls: usize,
    /// Open calls of one user.
    pub max_calls_per_uid: usize,
    /// Calls one user may start per second, on average; twice as many at once after a quiet second, and never fewer than 1,000.
    pub calls_per_second_per_uid: u32,
    /// Bytes of one call's headers: more is ResourceExhausted, twice as many end the stream before they are kept.
    pub max_header_bytes: u32,
    /// Bytes of one request message.
    pub max_message_bytes: usize,
    /// From accept(2) to the first byte.
    pub first_byte: Duration,
    /// From accept(2) to the first call, and without any open call later: then the connection is closed. Open streams never idle.
    pub idle: Duration,
    /// From a call's headers to the start of its answer, attestation included. A half-open call ends here.
    pub answer: Duration,
    /// All attestors of one process together.
    pub attestation: Duration,
    /// Processes attested at once.
    pub attestations_at_once: usize,
    /// How often the process behind an open stream is looked at when nothing is to be sent.
    pub look_again: Duration,
    /// How long streams may take to end after a shutdown was requested.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 8_192,
            max_connections_per_uid: 4_096,
            max_calls_per_connection: 64,
            max_calls: 16_384,
            max_calls_per_uid: 8_192,
            calls_per_second_per_uid: 1_000,
            max_header_bytes: 8 << 10,
            max_message_bytes: 64 << 10,
            first_byte: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            answer: Duration::from_secs(30),
            attestation: Duration::from_secs(25),
            attestations_at_once: 16,
            look_again: Duration::from_secs(60),
            drain: Duration::from_secs(2),
        }
    }
}

#[derive(Debug, Default)]
struct User {
    connections: usize,
    calls: usize,
    /// Calls that may start, and as of when.
    tokens: Option<(f64, Instant)>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    calls: usize,
    users: HashMap<u32, User>,
}

/// Counts what is open.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<Counts>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connection,
    Call,
}

/// A place taken; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    uid: u32,
    kind: Kind,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connection(&self, uid: u32, limits: &Limits) -> Option<Place> {
        let mut counts = self.lock();
        let used = counts.users.get(&uid).map_or(0, |user| user.connections);
        if counts.connections >= limits.max_connections || used >= limits.max_connections_per_uid {
            return None;
        }
        counts.connections += 1;
        counts.users.entry(uid).or_default().connections += 1;
        Some(Place { places: self.clone(), uid, kind: Kind::Connection })
    }

    pub(super) fn call(&self, uid: u32, limits: &Limits, now: Instant) -> Option<Place> {
        let mut counts = self.lock();
        let full = counts.calls >= limits.max_calls;
        let user = counts.users.entry(uid).or_default();
        let rate = f64::from(limits.calls_per_second_per_uid);
        let most = (rate * 2.0).max(1_000.0);
        let (tokens, since) = user.tokens.unwrap_or((most, now));
        let tokens = (tokens + rate * now.saturating_duration_since(since).as_secs_f64()).min(most);
        user.tokens = Some((tokens, now));
        if full || user.calls >= limits.max_calls_per_uid || tokens < 1.0 {
            return None;
        }
        user.tokens = Some((tokens - 1.0, now));
        user.calls += 1;
        counts.calls += 1;
        Some(Place { places: self.clone(), uid, kind: Kind::Call })
    }

    /// Whether anybody is connected.
    pub(super) fn is_open(&self) -> bool {
        self.lock().connections > 0
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> (usize, usize) {
        let counts = self.lock();
        (counts.connections, counts.calls)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.lock();
        match self.kind {
            Kind::Connection => counts.connections = counts.connections.saturating_sub(1),
            Kind::Call => counts.calls = counts.calls.saturating_sub(1),
        }
        let Some(user) = counts.users.get_mut(&self.uid) else { return };
        match self.kind {
            Kind::Connection => user.connections = user.connections.saturating_sub(1),
            Kind::Call => user.calls = user.calls.saturating_sub(1),
        }
        // A user that comes back at once finds its tokens; the table cannot grow with users that are gone.
        if user.connections == 0 && user.calls == 0 && counts.users.len() > 1_024 {
            counts.users.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_cannot_take_the_places_of_another() {
        let limits = Limits { max_connections: 3, max_connections_per_uid: 2, ..Limits::default() };
        let places = Places::default();
        let held: Vec<Place> = (0..2).map(|_| places.connection(1, &limits).unwrap()).collect();
        assert!(places.connection(1, &limits).is_none());
        let other = places.connection(2, &limits).unwrap();
        assert!(places.connection(3, &limits).is_none(), "all places are taken");
        drop(other);
        assert!(places.connection(3, &limits).is_some());
        drop(held);
        assert_eq!(places.open(), (0, 0));
    }

    #[tokio::test]
    async fn calls_are_bounded_in_number_and_rate() {
        let limits = Limits { max_calls_per_uid: 1, calls_per_second_per_uid: 600, ..Limits::default() };
        let places = Places::default();
        let start = Instant::now();
        let call = places.call(1, &limits, start).unwrap();
        assert!(places.call(1, &limits, start).is_none());
        assert!(places.call(2, &limits, start).is_some());
        drop(call);
        let allowed = (0..5_000).filter(|_| places.call(3, &limits, start).is_some()).count();
        assert_eq!(allowed, 1_200);
        assert!(places.call(3, &limits, start + Duration::from_millis(10)).is_some());
        assert_eq!(places.open(), (0, 0));
    }
}
