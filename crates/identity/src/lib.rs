//! SPIFFE IDs, trust domains, selectors, bundles and SVIDs: parsing, building and judging.
//!
//! No I/O, no clock of its own, no async: time and keys are arguments. The rules come from the SPIFFE
//! standards (SPIFFE-ID, X509-SVID, JWT-SVID, Trust Domain and Bundle).

mod selector;
mod spiffe_id;

pub use selector::{BadSelector, Selector};
pub use spiffe_id::{BadSpiffeId, SpiffeId, TrustDomain};
