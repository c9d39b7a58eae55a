//! The line that tells, on standard error, how the run goes.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::meter::{Glance, Meter};

/// How often a terminal's line is written anew, and how often a log gets a line.
const TERMINAL: Duration = Duration::from_millis(500);
const LOG: Duration = Duration::from_secs(5);

/// Tells until dropped, when `wanted` or standard error is a terminal.
#[must_use]
pub fn begin(meter: Arc<Meter>, wanted: bool) -> Option<Progress> {
    let terminal = io::stderr().is_terminal();
    if !terminal && !wanted {
        return None;
    }
    let mut task = JoinSet::new();
    task.spawn(async move {
        let every = if terminal { TERMINAL } else { LOG };
        let mut before = 0;
        loop {
            tokio::time::sleep(every).await;
            let glance = meter.glance();
            // Counts begin anew when measuring does.
            let rate = u32::try_from(glance.done.saturating_sub(before))
                .map_or(f64::from(u32::MAX), f64::from)
                / every.as_secs_f64();
            before = glance.done;
            let text = line(&glance, rate);
            let text = if terminal { format!("\r\u{1b}[K{text}") } else { format!("{text}\n") };
            // Nobody to tell it to is no reason to stop.
            drop(io::stderr().write_all(text.as_bytes()));
        }
    });
    Some(Progress { _task: task, terminal })
}

/// See [`begin`].
pub struct Progress {
    _task: JoinSet<()>,
    terminal: bool,
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            drop(io::stderr().write_all(b"\r\x1b[K"));
        }
    }
}

fn line(glance: &Glance, rate: f64) -> String {
    format!(
        "{} {:>5.0} s | agents {} | {rate:.0}/s | under way {} | done {} | failed {}",
        glance.phase,
        glance.elapsed.as_secs_f64(),
        glance.agents,
        glance.in_flight,
        glance.done,
        glance.failed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line() {
        let glance = Glance {
            phase: "steady",
            elapsed: Duration::from_secs(12),
            agents: 100,
            in_flight: 3,
            done: 2400,
            failed: 1,
        };
        assert_eq!(
            line(&glance, 20.0),
            "steady    12 s | agents 100 | 20/s | under way 3 | done 2400 | failed 1"
        );
    }
}
