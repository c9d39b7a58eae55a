//! What both daemons share below the protocols: clock, state files, secrets, logs, command-line habits.

pub mod cli;
pub mod clock;
pub mod logs;
pub mod process;
pub mod secret;
pub mod shutdown;
pub mod state;

/// Durations as Go writes them (`1h30m`, `500ms`).
pub use hardroot_config::duration;
pub use process::umask;
