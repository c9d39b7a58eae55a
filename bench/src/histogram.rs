//! Counts of latencies in buckets that are as fine as the value is small: percentiles of any number of samples in fixed
//! memory.
//!
//! Within each power of two there are `2^bits` buckets of equal width, so a value is known to a part in `2^bits`
//! (the layout of HdrHistogram, by Gil Tene). A crate for it has had no release for years; this is all of it that is needed.

use std::time::Duration;

/// A histogram of durations, to the microsecond.
#[derive(Debug, Clone)]
pub struct Histogram {
    bits: u32,
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    /// An empty one: values are known to a part in `2^bits` (`bits` from 1 to 14).
    #[must_use]
    pub fn new(bits: u32) -> Self {
        Self { bits: bits.clamp(1, 14), counts: Vec::new(), total: 0, sum: 0, max: 0 }
    }

    /// Adds a value.
    pub fn record(&mut self, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let index = self.index(micros);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
        }
        self.total += 1;
        self.sum += u128::from(micros);
        self.max = self.max.max(micros);
    }

    /// Adds another one's values. Both must have the same `bits`; otherwise nothing is added and the answer is `false`.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.bits != other.bits {
            return false;
        }
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        true
    }

    /// How many values.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The largest value, exactly; zero without values.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }

    /// The mean, exactly; zero without values.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let mean = self.sum.checked_div(u128::from(self.total)).unwrap_or(0);
        Duration::from_micros(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// The smallest value that at least the share `q` (0 to 1) of all values do not exceed, rounded up to the end of its
    /// bucket and never above the largest value; zero without values.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank from 1 to the number of samples, which is far below 2^53"
    )]
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = ((self.total as f64 * q.clamp(0.0, 1.0)).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(self.last_of(index).min(self.max));
            }
        }
        self.max()
    }

    /// The bucket of a value.
    fn index(&self, value: u64) -> usize {
        let fine = 1_u64 << self.bits;
        if value < fine {
            return usize::try_from(value).unwrap_or(usize::MAX);
        }
        let shift = value.ilog2() - self.bits;
        let within = (value >> shift) - fine;
        let index = (u64::from(shift) + 1) * fine + within;
        usize::try_from(index).unwrap_or(usize::MAX)
    }

    /// The largest value of a bucket.
    fn last_of(&self, index: usize) -> u64 {
        let index = index as u64;
        let fine = 1_u64 << self.bits;
        if index < fine {
            return index;
        }
        let shift = u32::try_from(index / fine - 1).unwrap_or(u32::MAX);
        let first = u128::from(fine + index % fine) << shift.min(64);
        u64::try_from(first + (1_u128 << shift.min(64)) - 1).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_is_zero() {
        let empty = Histogram::new(7);
        assert_eq!((empty.quantile(0.5), empty.max(), empty.mean()), Default::default());
    }

    #[test]
    fn a_rank_is_rounded_up() {
        let mut histogram = Histogram::new(7);
        for micros in 1..=100 {
            histogram.record(Duration::from_micros(micros));
        }
        let at = |q| histogram.quantile(q).as_micros();
        assert_eq!(
            [at(0.0), at(0.001), at(0.5), at(0.501), at(0.99), at(0.991), at(1.0)],
            [1, 1, 50, 51, 99, 100, 100]
        );
        assert_eq!(histogram.mean(), Duration::from_micros(50));
    }

    #[test]
    fn histograms_of_another_fineness_are_not_mixed() {
        let mut fine = Histogram::new(7);
        let mut coarse = Histogram::new(4);
        coarse.record(Duration::from_secs(1));
        assert!(!fine.merge(&coarse) && fine.is_empty());
    }

    proptest::proptest! {
        /// Against the definition: sort, take the value at the rank.
        #[test]
        fn quantiles_are_right_to_a_bucket(
            mut values in proptest::collection::vec(0u64..=u64::MAX / 2, 1..300),
            small in proptest::collection::vec(0u64..5_000_000, 1..300),
            q in 0.0f64..=1.0,
            bits in 1u32..=14,
        ) {
            values.extend(small);
            let mut histogram = Histogram::new(bits);
            for value in &values {
                histogram.record(Duration::from_micros(*value));
            }
            values.sort_unstable();
            let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let got = u64::try_from(histogram.quantile(q).as_micros()).unwrap();
            proptest::prop_assert!(got >= exact, "{got} < {exact}");
            proptest::prop_assert!(got - exact <= exact >> bits, "{got} is too far above {exact}");
            proptest::prop_assert_eq!(histogram.max().as_micros(), u128::from(*values.last().unwrap()));
        }

        /// Any way to split the values over histograms gives the same.
        #[test]
        fn merging_loses_nothing(values in proptest::collection::vec(0u64..u64::MAX / 2, 0..200), at in 0usize..200) {
            let of = |values: &[u64]| {
                let mut histogram = Histogram::new(5);
                values.iter().for_each(|value| histogram.record(Duration::from_micros(*value)));
                histogram
            };
            let (left, right) = values.split_at(at.min(values.len()));
            let mut merged = of(left);
            proptest::prop_assert!(merged.merge(&of(right)));
            let whole = of(&values);
            for q in [0.0, 0.3, 0.5, 0.99, 1.0] {
                proptest::prop_assert_eq!(merged.quantile(q), whole.quantile(q));
            }
            proptest::prop_assert_eq!((merged.len(), merged.mean()), (whole.len(), whole.mean()));
        }

        /// Each value lies in its bucket and behind the one before.
        #[test]
        fn buckets_are_in_order(value: u64, bits in 1u32..=14) {
            let histogram = Histogram::new(bits);
            let index = histogram.index(value);
            proptest::prop_assert!(histogram.last_of(index) >= value);
            proptest::prop_assert!(index == 0 || histogram.last_of(index - 1) < value);
        }
    }
}
