//! How agents get and renew their SVIDs.

mod seam;

pub use seam::{AgentSvids, AttestStream};
