//! Turning a SPIRE configuration into one of ours, with a report of what changes and why.
//!
//! The old file's tree is edited and printed anew, and the new text is judged by the same code that reads it at
//! start: what that code says it does not support goes away with the reason it gives, so that this tool never
//! knows less than the daemon. What only a person can decide stays in the report until the text is right.

mod daemon;
mod draft;
mod edit;
mod report;

pub use daemon::Daemon;
pub use draft::Draft;
pub use edit::Step;
pub use report::{Action, Change, Report};
