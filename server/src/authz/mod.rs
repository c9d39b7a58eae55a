//! Who calls, and what they may do.

mod caller;
mod judge;
mod layer;
mod rules;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod wanted;

pub use caller::Caller;
pub use judge::{Authorizer, Peer};
pub use layer::{AuthzLayer, AuthzService, Gate, Turns};
pub use rules::{Limit, RULES, Rule, is_known, rule};

use crate::authority::slots::unix_seconds;
