//! Listeners whose accept loops never wait for a peer and never end because of one.

mod accept;
mod authority;
mod tls;
mod uds;

pub use accept::ListenStats;
pub use authority::MendedAuthority;
pub use tls::{Limits, TlsConn, TlsIncoming, tls_incoming};
pub use uds::{BoundSocket, LocalPeer, UdsConn, UdsError, UdsIncoming, UdsLimits, bind_uds, uds_incoming};
