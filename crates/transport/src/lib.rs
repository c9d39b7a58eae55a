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
mod verify;

pub use bundles::{BundleSet, BundleSource};
pub use config::{ServerTrust, client_config, client_config_at, server_config, server_config_at};
pub use connect::{ConnectError, ConnectOptions, connect, refusal_of, uds_channel};
pub use identity::{BadTlsIdentity, IdentitySlot, TlsIdentity};
pub use key::RemoteKey;
pub use listen::{
    BoundSocket, Limits, ListenStats, LocalPeer, MendedAuthority, TlsConn, TlsIncoming, UdsConn, UdsError,
    UdsIncoming, UdsLimits, bind_uds, tls_incoming, uds_incoming,
};
pub use peer::{PeerInfo, recheck};
pub use verify::TrustError;
