//! Quantiles of what was observed in the last one to two minutes, in bounded memory.
//!
//! Values fall into cells whose bounds grow by a sixteenth of a power of two, so a quantile is within 3.2 % of the
//! true one. Two windows of a minute take turns; nothing runs to turn them, the next reader or writer does.

use std::time::{Duration, Instant};

use crate::series::Summary;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(60);
/// Cells for each power of two.
const FINE: f64 = 16.0;
/// Powers of two below one and above it: about 1 µs to 17 minutes, in milliseconds.
const BELOW: f64 = 10.0;
const CELLS: usize = 480;
/// What a summary reports, as SPIRE's.
const REPORTED: [(&str, f64); 3] = [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)];

/// Counts by cell; empty until the first value.
#[derive(Debug, Default)]
struct Window {
    cells: Vec<u32>,
    count: u64,
}

impl Window {
    fn add(&mut self, cell: usize) {
        if self.cells.is_empty() {
            self.cells = vec![0; CELLS];
        }
        if let Some(count) = self.cells.get_mut(cell) {
            *count = count.saturating_add(1);
            self.count += 1;
        }
    }

    fn clear(&mut self) {
        self.cells.fill(0);
        self.count = 0;
    }
}

/// A summary's memory.
#[derive(Debug, Default)]
pub(crate) struct Quantiles {
    count: u64,
    sum: f64,
    current: Window,
    before: Window,
    since: Option<Instant>,
}

impl Quantiles {
    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }

    pub(crate) fn observe(&mut self, value: f64, now: Instant) {
        if !value.is_finite() {
            return;
        }
        self.turn(now);
        self.count += 1;
        self.sum += value;
        self.current.add(cell_of(value));
    }

    pub(crate) fn read(&mut self, now: Instant) -> Summary {
        self.turn(now);
        let seen = self.current.count + self.before.count;
        let quantiles = if seen == 0 {
            Vec::new()
        } else {
            REPORTED.iter().map(|(name, quantile)| (*name, self.value_at(*quantile, seen))).collect()
        };
        Summary { count: self.count, sum: self.sum, quantiles }
    }

    fn turn(&mut self, now: Instant) {
        let Some(since) = self.since else {
            self.since = Some(now);
            return;
        };
        let age = now.saturating_duration_since(since);
        if age < WINDOW {
            return;
        }
        std::mem::swap(&mut self.current, &mut self.before);
        self.current.clear();
        if age >= 2 * WINDOW {
            self.before.clear();
        }
        self.since = Some(now);
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among what two minutes can hold"
    )]
    fn value_at(&self, quantile: f64, seen: u64) -> f64 {
        let rank = (quantile * seen as f64).ceil().max(1.0) as u64;
        let mut passed = 0;
        for cell in 0..CELLS {
            let of = |window: &Window| u64::from(window.cells.get(cell).copied().unwrap_or(0));
            passed += of(&self.current) + of(&self.before);
            if passed >= rank {
                return middle(cell);
            }
        }
        middle(CELLS - 1)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the cells there are")]
fn cell_of(value: f64) -> usize {
    if value <= 0.0 {
        return 0;
    }
    let place = ((value.log2() + BELOW) * FINE).floor();
    place.clamp(0.0, 479.0) as usize
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn middle(cell: usize) -> f64 {
    if cell == 0 {
        return 0.0;
    }
    ((cell as f64 + 0.5) / FINE - BELOW).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_the_truth() {
        let (mut quantiles, now) = (Quantiles::default(), Instant::now());
        for value in 1..=1000 {
            quantiles.observe(f64::from(value), now);
        }
        let read = quantiles.read(now);
        assert_eq!((read.count, read.sum), (1000, 500_500.0));
        for ((name, value), truth) in read.quantiles.iter().zip([500.0, 900.0, 990.0]) {
            assert!((value / truth - 1.0).abs() < 0.04, "{name}: {value} is not {truth}");
        }
    }

    #[test]
    fn what_is_older_than_two_minutes_is_forgotten_and_the_totals_stay() {
        let (mut quantiles, now) = (Quantiles::default(), Instant::now());
        quantiles.observe(1000.0, now);
        quantiles.observe(1.0, now + Duration::from_secs(61));
        let read = quantiles.read(now + Duration::from_secs(61));
        assert!(read.quantiles.last().unwrap().1 > 900.0, "the window before still counts");
        let read = quantiles.read(now + Duration::from_secs(125));
        assert!(read.quantiles.last().unwrap().1 < 1.1);
        let read = quantiles.read(now + Duration::from_secs(500));
        assert!(read.quantiles.is_empty());
        assert_eq!((read.count, read.sum), (2, 1001.0));
    }

    #[test]
    fn odd_values_are_survived() {
        let (mut quantiles, now) = (Quantiles::default(), Instant::now());
        for value in [0.0, -1.0, f64::MAX, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY] {
            quantiles.observe(value, now);
        }
        assert_eq!(quantiles.read(now).count, 4);
    }
}
