//! How long malformed input takes: the slowest decoder on its slowest input, in processor time.

use anyhow::{Context as _, Result};

use super::report::Row;
use crate::malformed::{Decoder, decoders};

/// The promise, in milliseconds; for input over [`PLAIN`] for each MiB of it.
const PROMISE: f64 = 5.0;
/// Input up to which the promise is one for all of it, in bytes. Only bundles, state and data of entries may be larger.
const PLAIN: usize = 1 << 20;
/// Measurements of which the least counts.
const RUNS: usize = 3;

/// Slowest of all inputs up to a MiB, and slowest by the MiB of what may be larger.
///
/// # Errors
/// There is no decoder.
pub fn measure() -> Result<Vec<Row>> {
    let all = decoders();
    let plain = slowest(all.iter().map(|decoder| (decoder, decoder.largest.min(PLAIN))))?;
    let large = all.iter().filter(|decoder| decoder.largest > PLAIN);
    let large = slowest(large.map(|decoder| (decoder, decoder.largest)))?;
    let row = |what: String, measured, limit_is: &str, unit| Row {
        what,
        measured,
        limit: PROMISE,
        limit_is: limit_is.to_owned(),
        unit,
    };
    Ok(vec![
        row(
            format!("malformed input up to 1 MiB: {}", plain.name),
            plain.milliseconds,
            "promise, processor time",
            "ms",
        ),
        row(
            format!("malformed input over 1 MiB, each MiB: {}", large.name),
            large.milliseconds / large.mib,
            "promise, processor time",
            "ms",
        ),
    ])
}

struct Slowest {
    name: String,
    milliseconds: f64,
    mib: f64,
}

/// The slowest input of all shapes of these decoders, by time for each MiB, or for less.
fn slowest<'a>(decoders: impl Iterator<Item = (&'a Decoder, usize)>) -> Result<Slowest> {
    let mut slowest: Option<Slowest> = None;
    for (decoder, size) in decoders {
        for (at, shape) in decoder.shapes.iter().enumerate() {
            let input = shape(size);
            let milliseconds = decoder.cpu_time(&input, RUNS).as_secs_f64() * 1000.0;
            #[expect(clippy::cast_precision_loss, reason = "some MiB")]
            let mib = (input.len() as f64 / PLAIN as f64).max(1.0);
            if slowest.as_ref().is_none_or(|known| milliseconds / mib > known.milliseconds / known.mib) {
                slowest = Some(Slowest { name: format!("{}, shape {at}", decoder.name), milliseconds, mib });
            }
        }
    }
    slowest.context("there is no decoder")
}
