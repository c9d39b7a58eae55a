//! What both daemons share below the protocols: clock, state files, secrets, logs, command-line habits.

mod chain;
pub mod cli;
pub mod clock;
pub mod doctor;
pub mod logs;
pub mod process;
pub mod secret;
pub mod shutdown;
pub mod state;

pub use chain::chain;
/// Durations as Go writes them (`1h30m`, `500ms`).
pub use hardroot_config::duration;
pub use process::umask;
