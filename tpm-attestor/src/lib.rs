//! The TPM: one thread that owns it, evidence collected from it, and pure functions that judge evidence.
//!
//! - [`verify`] judges bytes and needs no TPM and no libtss2; the server uses it alone.
//! - `device` (feature `device`) owns the TPM and is the only user of tss-esapi.
//! - `evidence` (feature `device`) collects what an operator or a server wants to see of a node.

mod der;
#[cfg(feature = "device")]
pub mod device;
#[cfg(feature = "device")]
pub mod evidence;
#[cfg(feature = "device")]
mod templates;
pub mod verify;
pub mod wire;
