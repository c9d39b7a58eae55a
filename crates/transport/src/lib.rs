//! rustls and tonic glue: SPIFFE verifiers, keys that sign elsewhere, channels and listeners.
//!
//! TLS here is SPIFFE's: a certificate is judged by the bundle of the trust domain its ID names, never by its
//! DNS name, and the bundle is looked up anew at each handshake. There is no session resumption, which would
//! carry an old certificate past a changed bundle; connections are long-lived instead, and [`recheck`] judges
//! their certificate again at each RPC.

mod bundles;
mod config;
mod connect;
mod identity;
mod key;
mod listen;
mod peer;
mod through;
mod verify;

pub use bundles::{BundleSet, BundleSource};
pub use config::{
    ServerTrust, TlsOptions, TlsPolicy, client_config, client_config_with, server_config,
    server_config_showing, server_config_with,
};
pub use connect::{ConnectError, ConnectOptions, connect, refusal_of, uds_channel};
pub use identity::{BadTlsIdentity, IdentitySlot, TlsIdentity};
pub use key::RemoteKey;
pub use listen::{
    BadCidr, BadProxyHeader, BoundSocket, Cidr, ClientMessage, FirstCome, Flood, Guarded, Limits,
    ListenStats, LocalPeer, MendedAuthority, Parsed, Proxied, SigningOrder, SigningTurn, Throttle, TlsConn,
    TlsIncoming, UdsConn, UdsError, UdsIncoming, UdsLimits, bind_uds, client_message, client_of,
    parse_proxy_header, tls_incoming, tls_incoming_with, uds_incoming,
};
pub use peer::{PeerInfo, recheck};
pub use verify::TrustError;
