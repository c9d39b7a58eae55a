//! Malformed input: every decoder of bytes that a peer or a file controls, with inputs that look cheap and are not.
//!
//! `tests/malformed.rs` holds what they cost in memory and that the time grows no faster than the input; `make bench` says how
//! long the slowest takes (docs/decisions/0014).
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "inputs for tests and measurements fail loudly")]

mod decoders;
mod der;
mod file_shapes;
mod files;
mod shapes;

use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Makes an input of about a size, in bytes.
pub type Shape = fn(usize) -> Vec<u8>;

/// A decoder, what feeds it, and how much it may use.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// What it reads.
    pub name: &'static str,
    /// The fuzz target whose seeds are mutated.
    pub seeds: &'static str,
    /// Heavy inputs.
    pub shapes: &'static [Shape],
    /// What the decoder reads at most, in bytes; where it has no limit of its own, what is reasonable to try.
    pub largest: usize,
    /// The largest input that is tried for how its time grows, in bytes: below any limit on items, or what is refused early
    /// hides what is slow.
    pub timed: usize,
    /// Peak of live bytes above the constant, as a multiple of the input.
    pub limit: f64,
    /// What it may use however small the input is, in bytes: an error with its text, a few names.
    pub constant: u64,
    /// Whether it accepts an input.
    pub decode: fn(&[u8]) -> bool,
}

impl Decoder {
    /// One that keeps the promise: twice its input, and 4 KiB.
    fn new(
        name: &'static str,
        seeds: &'static str,
        largest: usize,
        shapes: &'static [Shape],
        decode: fn(&[u8]) -> bool,
    ) -> Self {
        Self {
            name,
            seeds,
            shapes,
            largest,
            timed: largest.min(512 << 10),
            limit: 2.0,
            constant: 4096,
            decode,
        }
    }

    /// The folder of its seeds.
    #[must_use]
    pub fn seeds_folder(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(self.seeds)
    }

    /// How long one run takes this thread, in processor time: the least of `runs` measurements, each of so many runs that
    /// reading the clock does not count.
    #[must_use]
    pub fn cpu_time(&self, input: &[u8], runs: usize) -> Duration {
        let mut times = 1_u32;
        let mut least = Duration::MAX;
        let mut measured = 0;
        while measured < runs {
            let before = thread_time();
            for _ in 0..times {
                std::hint::black_box((self.decode)(std::hint::black_box(input)));
            }
            let taken = thread_time().saturating_sub(before);
            if taken < Duration::from_micros(200) && times < 1 << 16 {
                times *= 2;
                continue;
            }
            least = least.min(taken / times);
            measured += 1;
        }
        least
    }
}

/// Processor time of this thread: what else runs on the machine does not count.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).expect("every Linux has this clock")
}

/// Every decoder.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    [decoders::decoders(), files::decoders()].concat()
}
