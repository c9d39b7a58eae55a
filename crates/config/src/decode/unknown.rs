//! Keys that nobody asked for, and what they were probably meant to be.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Block;
use crate::fault::{Fault, FaultKind, shown};

impl Block<'_> {
    /// Notes every key that nobody asked for, and every key that is assigned twice. Call it when all keys of the block have
    /// been read; once is enough.
    pub fn finish(&self) {
        if self.finished.replace(true) {
            return;
        }
        // Nobody asks any more, and a file may have thousands of blocks.
        let asked = self.asked.take();
        let mut assigned: HashMap<String, u32> = HashMap::new();
        for item in &self.items {
            let key = &item.key.text;
            if item.assigned {
                match assigned.entry(key.to_ascii_lowercase()) {
                    Entry::Occupied(first) => self.twice(item, *first.get()),
                    Entry::Vacant(free) => {
                        free.insert(item.key.pos.line);
                    }
                }
            }
            if self.free.get() || asked.iter().any(|known| known.eq_ignore_ascii_case(key)) {
                continue;
            }
            // Finding out what was meant is the slowest step of all: not for a fault that nobody will see.
            if !self.has_room() {
                continue;
            }
            let place = if self.path.is_empty() { String::new() } else { format!(" in {}", self.path) };
            let near = asked
                .iter()
                .filter(|known| distance(known, key) <= 2)
                .min_by_key(|known| distance(known, key));
            let hint = near.map_or_else(String::new, |known| format!("; did you mean `{known}`?"));
            let message = format!("unknown key `{}`{place}{hint}", shown(key));
            self.push(Fault::at(item.key.pos.line, message).of(FaultKind::Unknown));
        }
    }
}

/// How many single-letter edits lie between two words; words longer than 64 bytes are never near.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let substituted = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = *cell;
            left = substituted.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
