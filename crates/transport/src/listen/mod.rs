//! Listeners whose accept loops never wait for a peer and never end because of one.

mod accept;
mod authority;
mod guard;
mod hello;
mod order;
mod proxy;
mod tls;
mod uds;

pub use accept::{ListenStats, Throttle};
pub use authority::MendedAuthority;
pub use guard::{Flood, Guarded};
pub use hello::{ClientMessage, client_message};
pub use order::{FirstCome, SigningOrder, SigningTurn};
pub use proxy::{BadCidr, BadProxyHeader, Cidr, Parsed, Proxied, parse as parse_proxy_header};
pub use tls::{Limits, TlsConn, TlsIncoming, client_of, tls_incoming, tls_incoming_with};
pub use uds::{BoundSocket, LocalPeer, UdsConn, UdsError, UdsIncoming, UdsLimits, bind_uds, uds_incoming};
