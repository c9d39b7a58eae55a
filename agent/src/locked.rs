//! Pages that hold private keys stay out of swap.
//!
//! The kernel's locks do not nest: unlocking a page once unlocks it for every key on it. Small keys share
//! pages, so locks are counted here and a page is given back when its last key is gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

struct Held {
    keys: usize,
    // Unlocks the page when dropped.
    _guard: region::LockGuard,
}

fn pages() -> MutexGuard<'static, HashMap<usize, Held>> {
    static PAGES: OnceLock<Mutex<HashMap<usize, Held>>> = OnceLock::new();
    PAGES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// The locked pages under one buffer; given back on drop.
pub(crate) struct LockedPages {
    pages: Vec<usize>,
    complete: bool,
}

impl LockedPages {
    /// Locks the pages under `bytes`, which must not move or grow while the value lives.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let size = region::page::size();
        let start = bytes.as_ptr() as usize;
        let mut this = Self { pages: Vec::new(), complete: true };
        if bytes.is_empty() {
            return this;
        }
        let mut held = pages();
        for page in (start / size)..=((start + bytes.len() - 1) / size) {
            match held.entry(page) {
                Entry::Occupied(mut entry) => entry.get_mut().keys += 1,
                Entry::Vacant(slot) => match region::lock((page * size) as *const u8, 1) {
                    Ok(guard) => {
                        slot.insert(Held { keys: 1, _guard: guard });
                    }
                    Err(cause) => {
                        warn_once(&cause);
                        this.complete = false;
                        continue;
                    }
                },
            }
            this.pages.push(page);
        }
        this
    }

    /// Whether every page could be locked.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        let mut held = pages();
        for page in &self.pages {
            if let Entry::Occupied(mut entry) = held.entry(*page) {
                entry.get_mut().keys -= 1;
                if entry.get().keys == 0 {
                    entry.remove();
                }
            }
        }
    }
}

fn warn_once(cause: &region::Error) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            error = %cause,
            "workload keys cannot all be locked in memory and could be swapped out: raise the limit on locked \
             memory (LimitMEMLOCK= in the unit, ulimit -l) or use encrypted swap"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmLck:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn pages_are_locked_counted_and_given_back() {
        // One buffer, two keys on its second page: the page stays locked until both are gone.
        let size = region::page::size();
        let buffer = vec![1u8; size * 3];
        let offset = size - (buffer.as_ptr() as usize % size);
        let before = locked_kib();
        let first = LockedPages::of(&buffer[offset..offset + 100]);
        let second = LockedPages::of(&buffer[offset + 100..offset + 200]);
        assert!(first.is_complete() && second.is_complete());
        assert!(locked_kib() > before);
        let page = (buffer.as_ptr() as usize + offset) / size;
        assert_eq!(pages().get(&page).unwrap().keys, 2);
        drop(first);
        assert_eq!(pages().get(&page).unwrap().keys, 1);
        drop(second);
        assert!(!pages().contains_key(&page));
    }

    #[test]
    fn nothing_needs_no_page() {
        let none = LockedPages::of(&[]);
        assert!(none.is_complete() && none.pages.is_empty());
    }
}
