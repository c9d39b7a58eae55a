//! swtpm, SoftHSM and database servers for tests: own address, own directory, gone on drop.

mod address;
mod daemon;
mod error;
pub mod fill;
pub mod mysql;
pub mod postgres;
mod provision;
pub mod swtpm;
pub mod tcp_proxy;
pub mod tpm_proxy;

pub use daemon::ServerTls;
pub use error::EmulatorError;
pub use mysql::MySql;
pub use postgres::Postgres;
pub use provision::Hierarchy;
pub use swtpm::{Manufacturer, Shutdown, Swtpm};
pub use tcp_proxy::{Line, TcpProxy};
pub use tpm_proxy::{Fault, TpmProxy, code};

pub mod softhsm;
