//! The queue before the device thread: bounded, urgent jobs first.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// Jobs that may wait; callers beyond that wait at the door until their deadline.
const CAPACITY: usize = 64;

/// What the thread is to do before something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Somebody's handshake or request waits for this signature.
    Urgent,
    /// Everything else.
    Normal,
}

#[derive(Debug)]
struct Jobs<T> {
    urgent: VecDeque<T>,
    normal: VecDeque<T>,
    closed: bool,
}

/// A bounded queue with two priorities between async callers and one blocking thread.
#[derive(Debug)]
pub(super) struct Queue<T> {
    jobs: Mutex<Jobs<T>>,
    changed: Condvar,
    places: Semaphore,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            jobs: Mutex::new(Jobs { urgent: VecDeque::new(), normal: VecDeque::new(), closed: false }),
            changed: Condvar::new(),
            places: Semaphore::new(CAPACITY),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Jobs<T>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place and adds a job; `false` when the queue is closed.
    pub(super) async fn push(&self, urgency: Urgency, job: T) -> bool {
        let Ok(place) = self.places.acquire().await else { return false };
        place.forget();
        let mut jobs = self.lock();
        if jobs.closed {
            return false;
        }
        match urgency {
            Urgency::Urgent => jobs.urgent.push_back(job),
            Urgency::Normal => jobs.normal.push_back(job),
        }
        self.changed.notify_one();
        true
    }

    /// Waits for the next job; `None` when the queue is closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut jobs = self.lock();
        loop {
            if jobs.closed {
                return None;
            }
            let next = jobs.urgent.pop_front();
            if let Some(job) = next.or_else(|| jobs.normal.pop_front()) {
                self.places.add_permits(1);
                return Some(job);
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Drops what waits and lets nothing in any more.
    pub(super) fn close(&self) {
        let mut jobs = self.lock();
        jobs.closed = true;
        jobs.urgent.clear();
        jobs.normal.clear();
        drop(jobs);
        self.places.close();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn urgent_jobs_pass_and_the_queue_is_bounded() {
        let queue = Arc::new(Queue::new());
        for n in 0..CAPACITY - 1 {
            assert!(queue.push(Urgency::Normal, n).await);
        }
        assert!(queue.push(Urgency::Urgent, 1000).await);
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.push(Urgency::Normal, 2000).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "no place is left");
        assert_eq!(queue.pop(), Some(1000));
        assert_eq!(queue.pop(), Some(0));
        assert!(waiting.await.unwrap());
        queue.close();
        assert_eq!(queue.pop(), None);
        assert!(!queue.push(Urgency::Normal, 3000).await);
    }
}
