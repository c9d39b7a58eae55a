//! What malformed input costs, for decoders of bytes that a peer or a file controls.
//!
//! Memory is counted by an allocator, per thread, as the peak of live bytes while the decoder runs; the input itself is not in
//! it. Limits stand with the decoders (`hardroot_swtpm_tests::malformed`), and why some are wider than twice the input in
//! docs/decisions/0014. How long the slowest takes is measured by `make bench`, as a busy machine is no bug; here the time
//! only must not grow faster than the input.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail loudly"
)]

use std::fs;

use hardroot_swtpm_tests::malformed::{Decoder, decoders};

/// What one run did.
struct Run {
    accepted: bool,
    peak: u64,
}

fn run(decoder: &Decoder, input: &[u8]) -> Run {
    let mut accepted = false;
    let info = allocation_counter::measure(|| accepted = (decoder.decode)(input));
    Run { accepted, peak: info.bytes_max }
}

/// The committed seeds of the fuzz target that has the same decoder.
fn seeds(decoder: &Decoder) -> Vec<Vec<u8>> {
    let folder = decoder.seeds_folder();
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", decoder.name);
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Cut at every offset; lengths made huge at every offset; pieces repeated, left out and changed.
fn mutations(seed: &[u8], mut each: impl FnMut(&[u8])) {
    // Every offset of what is small; of what is larger, a hundred.
    let step = seed.len() / 100 + 1;
    for end in (0..seed.len()).step_by(step) {
        each(&seed[..end]);
    }
    for width in [1, 2, 4] {
        for at in (0..seed.len().saturating_sub(width)).step_by(step) {
            for byte in [0xff, 0x7f, 0x00] {
                let mut changed = seed.to_vec();
                changed[at..at + width].fill(byte);
                each(&changed);
            }
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below.max(1)).unwrap()).unwrap()
    };
    for _ in 0..100 {
        let (a, b) = (random(seed.len()), random(seed.len()));
        let (from, to) = (a.min(b), a.max(b));
        let piece = &seed[from..to];
        each(&[&seed[..from], &seed[to..]].concat());
        each(&[&seed[..to], &piece.repeat(1 + random(64)), &seed[to..]].concat());
        let mut changed = seed.to_vec();
        for _ in 0..random(6) {
            let at = random(changed.len());
            if let Some(byte) = changed.get_mut(at) {
                *byte = u8::try_from(random(256)).unwrap();
            }
        }
        each(&changed);
    }
    for times in [2, 16, 256] {
        each(&seed.repeat(times));
    }
}

/// The heaviest input of a decoder, by peak above the constant and size.
#[derive(Default)]
struct Worst {
    inputs: usize,
    ratio: f64,
    peak: u64,
    size: usize,
    /// Which input it was: a shape by its number, or a seed's mutation.
    what: String,
}

impl Worst {
    #[expect(clippy::cast_precision_loss, reason = "some MiB")]
    fn note(&mut self, size: usize, peak: u64, constant: u64, what: &str) {
        self.inputs += 1;
        let ratio = peak.saturating_sub(constant) as f64 / size.max(1) as f64;
        if ratio > self.ratio {
            *self = Self { inputs: self.inputs, ratio, peak, size, what: what.to_owned() };
        }
    }
}

#[test]
fn malformed_input_allocates_at_most_twice_its_size() {
    let mut over = Vec::new();
    println!("| decoder | malformed inputs | heaviest | bytes | peak | ratio | limit |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for decoder in decoders() {
        // Once, so that what is made lazily is not counted.
        run(&decoder, b"");
        let mut worst = Worst::default();
        let mut try_one = |input: &[u8], what: &str| {
            let run = run(&decoder, input);
            if !run.accepted {
                worst.note(input.len(), run.peak, decoder.constant, what);
            }
        };
        for seed in seeds(&decoder) {
            mutations(&seed, |input| try_one(input, "a seed"));
        }
        for (at, shape) in decoder.shapes.iter().enumerate() {
            for size in [64, 1000, 20_000, 300_000, decoder.largest + 1] {
                try_one(&shape(size.min(decoder.largest + 1)), &format!("shape {at}"));
            }
        }
        println!(
            "| {} | {} | {} | {} | {} | {:.2} | {} |",
            decoder.name, worst.inputs, worst.what, worst.size, worst.peak, worst.ratio, decoder.limit
        );
        if worst.ratio > decoder.limit {
            over.push(format!(
                "{}, {}: {} bytes cost {} bytes, {:.2} times (limit {})",
                decoder.name, worst.what, worst.size, worst.peak, worst.ratio, decoder.limit
            ));
        }
        assert!(worst.inputs > 0, "{} refuses nothing", decoder.name);
    }
    assert!(over.is_empty(), "\n{}", over.join("\n"));
}

/// How often a larger input is as large.
const FACTOR: u32 = 8;

#[test]
fn the_time_grows_no_faster_than_the_input() {
    let mut over = Vec::new();
    for decoder in decoders() {
        let large = decoder.timed;
        for (at, shape) in decoder.shapes.iter().enumerate() {
            let (small, large) = (shape(large / usize::try_from(FACTOR).unwrap()), shape(large));
            // A step that is quadratic takes 64 times as long, one of n log n some 10 times. What is between is for caches and
            // for a machine that does something else as well.
            let (before, after) = (decoder.cpu_time(&small, 3), decoder.cpu_time(&large, 2));
            let ratio = after.as_secs_f64() / before.as_secs_f64();
            println!("{:>7.1} {} {at}: {before:?}, {after:?}", ratio, decoder.name);
            if after > before * FACTOR * 4 {
                over.push(format!(
                    "{}, shape {at}: {} bytes take {before:?}, {} bytes {after:?}",
                    decoder.name,
                    small.len(),
                    large.len()
                ));
            }
        }
    }
    assert!(over.is_empty(), "\n{}", over.join("\n"));
}
