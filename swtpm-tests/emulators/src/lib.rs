//! swtpm and SoftHSM for tests: one per test, own address, gone on drop.

mod address;
mod error;
pub mod swtpm;
pub mod tpm_proxy;

pub use error::EmulatorError;
pub use swtpm::{Manufacturer, Shutdown, Swtpm};
pub use tpm_proxy::{Fault, TpmProxy, code};

pub mod softhsm;
