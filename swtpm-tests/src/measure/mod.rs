//! Measurements beside raw limits in the same run (`make bench`). Each row is measured ÷ limit; nothing here
//! is asserted, because a busy machine is no bug.

pub mod agent;
pub mod issuance;
pub mod raw_token;
pub mod report;
pub mod tpm_commands;
pub mod wire;
