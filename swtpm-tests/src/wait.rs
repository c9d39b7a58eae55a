//! Waiting for what must come true, with a deadline that says what did not.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest wait for anything in a test: generous, since tests share two cores.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Polls `condition` until it gives something.
///
/// # Errors
/// `condition` failed, or nothing came within `deadline`.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if begun.elapsed() > deadline {
            bail!("{what}: not within {} s", deadline.as_secs());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
