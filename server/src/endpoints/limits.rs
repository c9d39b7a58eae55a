//! Bounds of both endpoints, and what a call may cost.

use std::time::Duration;

use hardroot_transport::{Cidr, Limits, TlsPolicy, UdsLimits};

/// Files kept free for the server itself: database, token, logs, the admin socket's connections.
const RESERVED_FILES: u64 = 512;

/// Largest message of a call, in bytes (gRPC's own default, and SPIRE's).
pub(super) const MAX_MESSAGE: usize = 4 << 20;
/// Largest message of a method that is open to everybody: a mask of an answer.
const MAX_PUBLIC_MESSAGE: usize = 64 << 10;
/// Largest message of an attestation: its evidence is at most 512 KiB.
const MAX_EVIDENCE_MESSAGE: usize = 1 << 20;

/// Streams of one connection at once. An agent uses a handful.
pub(super) const MAX_STREAMS: u32 = 128;
/// Handlers of one connection at work at once; further calls wait.
pub(super) const MAX_HANDLERS: usize = 32;
/// All headers of a call together, in bytes, as HTTP/2 counts them.
pub(super) const MAX_HEADER_LIST: usize = 16 << 10;
/// Streams that a peer may open and reset before they are accepted (HTTP/2 rapid reset).
pub(super) const MAX_PENDING_RESETS: usize = 20;
/// Streams that are reset for a peer's errors before the connection is closed.
pub(super) const MAX_LOCAL_RESETS: usize = 256;
/// A connection is asked this often whether somebody is there; agents keep theirs for hours.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// Time to answer that.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time that a connection has to end after it was told to.
pub(super) const GOING: Duration = Duration::from_secs(10);
/// Answers of one connection that its peer has not taken yet, in bytes; beyond it, further calls are refused.
pub(super) const MAX_UNSENT: usize = 64 << 20;
/// What `h2` buffers of one answer.
pub(super) const SEND_BUFFER: usize = 64 << 10;

/// Bounds of the endpoints: the `limits` block. docs/guide/limits.md describes each.
#[derive(Debug, Clone)]
pub struct EndpointLimits {
    /// Open connections on the TLS port.
    pub max_connections: usize,
    /// Open connections per client address (IPv6: per /64).
    pub max_connections_per_address: usize,
    /// Open connections without a client certificate.
    pub max_anonymous_connections: usize,
    /// TLS handshakes under way.
    pub max_handshakes: usize,
    /// TLS handshakes under way per client address.
    pub max_handshakes_per_address: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the end of the handshake to the first call: the HTTP/2 preface and headers are in it.
    pub first_call_timeout: Duration,
    /// A connection without calls is told to go after this. Without a client certificate: a tenth of it.
    pub idle_timeout: Duration,
    /// Longest life of a connection without a client certificate.
    pub max_anonymous_age: Duration,
    /// For one message of a request to arrive.
    pub message_timeout: Duration,
    /// For a call to be answered, or its stream to begin.
    pub call_timeout: Duration,
    /// As `call_timeout`, for batches of entries and bundles.
    pub batch_timeout: Duration,
    /// A peer that takes nothing of an answer for this long is cut off.
    pub send_timeout: Duration,
    /// Bytes of requests in memory, of all connections together.
    pub max_request_bytes: usize,
    /// Who may send PROXY headers.
    pub proxies: Vec<Cidr>,
    /// TLS versions and key exchanges.
    pub tls: TlsPolicy,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 5_000,
            max_anonymous_connections: 2_000,
            max_handshakes: 2_000,
            max_handshakes_per_address: 1_000,
            handshake_timeout: Duration::from_secs(10),
            first_call_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            max_anonymous_age: Duration::from_secs(180),
            message_timeout: Duration::from_secs(60),
            call_timeout: Duration::from_secs(120),
            batch_timeout: Duration::from_secs(600),
            send_timeout: Duration::from_secs(30),
            max_request_bytes: 64 << 20,
            proxies: Vec::new(),
            tls: TlsPolicy::default(),
        }
    }
}

impl EndpointLimits {
    /// Those of the TLS listener, with no more connections than this process may have open files.
    pub(super) fn listener(&self, open_files: u64) -> Limits {
        let room = usize::try_from(open_files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX).max(1);
        Limits {
            max_connections: self.max_connections.min(room),
            max_per_ip: self.max_connections_per_address,
            max_anonymous: self.max_anonymous_connections,
            max_handshakes: self.max_handshakes,
            max_handshakes_per_ip: self.max_handshakes_per_address,
            handshake_timeout: self.handshake_timeout,
            proxies: self.proxies.clone(),
        }
    }

    /// Those of the admin socket's listener: a part of the reserved files.
    pub(super) fn admin() -> UdsLimits {
        UdsLimits { max_connections: 256, max_per_uid: 192 }
    }

    /// What a call of this method may cost.
    pub(super) fn of_call(&self, path: &str) -> CallLimits {
        let name = path.rsplit('/').next().unwrap_or(path);
        let batch = name.starts_with("Batch") && !name.starts_with("BatchNew");
        let max_message = match name {
            "AttestAgent" => MAX_EVIDENCE_MESSAGE,
            "GetBundle" => MAX_PUBLIC_MESSAGE,
            _ => MAX_MESSAGE,
        };
        CallLimits { max_message, answer: if batch { self.batch_timeout } else { self.call_timeout } }
    }
}

/// What one call may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallLimits {
    /// Largest message, in bytes.
    pub(super) max_message: usize,
    /// From its headers to its answer's.
    pub(super) answer: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::RULES;

    #[test]
    fn what_everybody_may_call_takes_no_large_message() {
        let limits = EndpointLimits::default();
        for (path, rule) in RULES {
            let of_call = limits.of_call(path);
            assert!(!rule.any || of_call.max_message <= MAX_EVIDENCE_MESSAGE, "{path}");
            assert!(of_call.answer >= limits.call_timeout, "{path}");
        }
        let create = "/spire.api.server.entry.v1.Entry/BatchCreateEntry";
        assert_eq!(limits.of_call(create).answer, limits.batch_timeout);
        let sign = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID";
        assert_eq!(limits.of_call(sign).answer, limits.call_timeout);
    }

    #[test]
    fn there_are_never_more_connections_than_files() {
        let limits = EndpointLimits::default();
        assert_eq!(limits.listener(1_024).max_connections, 512);
        assert_eq!(limits.listener(1 << 20).max_connections, 10_000);
        assert_eq!(limits.listener(10).max_connections, 1);
    }
}
