//! The caller of one RPC, as authorisation found it.

use std::net::SocketAddr;

use hardroot_identity::SpiffeId;

/// Who made the call. Put into the request's extensions by authorisation; handlers read it and never judge
/// certificates themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this machine, through the admin socket. The ids are those of the kernel.
    Local {
        /// Effective user id at connect().
        uid: u32,
        /// Effective group id at connect().
        gid: u32,
        /// Process id, where the kernel told it.
        pid: Option<i32>,
    },
    /// An attested agent whose serial is valid.
    Agent {
        /// Its SPIFFE ID.
        id: SpiffeId,
        /// Where it calls from.
        addr: SocketAddr,
    },
    /// Somebody with an admin entry or listed in `admin_ids`.
    Admin {
        /// Its SPIFFE ID.
        id: SpiffeId,
        /// Where it calls from.
        addr: SocketAddr,
    },
    /// Somebody with a downstream entry.
    Downstream {
        /// Its SPIFFE ID.
        id: SpiffeId,
        /// Where it calls from.
        addr: SocketAddr,
    },
    /// Nobody in particular: no client certificate, or one that the method does not ask for.
    Anonymous {
        /// Where it calls from.
        addr: SocketAddr,
    },
}

impl Caller {
    /// The caller's SPIFFE ID, where it has one.
    #[must_use]
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Agent { id, .. } | Self::Admin { id, .. } | Self::Downstream { id, .. } => Some(id),
            Self::Local { .. } | Self::Anonymous { .. } => None,
        }
    }

    /// The caller's address, for the audit record.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Agent { addr, .. }
            | Self::Admin { addr, .. }
            | Self::Downstream { addr, .. }
            | Self::Anonymous { addr } => Some(*addr),
            Self::Local { .. } => None,
        }
    }
}
