//! Who calls, and what they may do.

mod caller;
mod judge;
mod layer;
mod rules;
#[cfg(test)]
mod tests;

pub use caller::Caller;
pub use judge::{Authorizer, AuthzStore, Peer};
pub use layer::{AuthzLayer, Gate, Turns};
pub use rules::{Limit, RULES, Rule, is_audited, rule};

use crate::authority::slots::unix_seconds;
