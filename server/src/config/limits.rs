//! The `limits` block, `proxy_protocol_trusted_cidrs` and `experimental` of the `server` block.

use std::time::Duration;

use hardroot_config::Block;
use hardroot_transport::{Cidr, TlsPolicy};

use crate::endpoints::EndpointLimits;

/// No count may be larger: a million connections are a million files.
const MOST: i64 = 1_000_000;

pub(super) fn decode(server: &Block<'_>) -> EndpointLimits {
    let usual = EndpointLimits::default();
    let block = server.block("limits");
    let count = |key: &str, usual: usize| {
        block.int_in(key, 1..=MOST).and_then(|n| usize::try_from(n).ok()).unwrap_or(usual)
    };
    let time = |key: &str, usual: Duration| {
        let Some(time) = block.duration(key) else { return usual };
        if time < Duration::from_secs(1) {
            block.fault(key, "must be at least one second");
        }
        time
    };
    let mebibytes = block.int_in("max_request_memory_mib", 8..=65_536).and_then(|n| usize::try_from(n).ok());
    let limits = EndpointLimits {
        max_connections: count("max_connections", usual.max_connections),
        max_connections_per_address: count("max_connections_per_address", usual.max_connections_per_address),
        max_anonymous_connections: count("max_anonymous_connections", usual.max_anonymous_connections),
        max_handshakes: count("max_handshakes", usual.max_handshakes),
        max_handshakes_per_address: count("max_handshakes_per_address", usual.max_handshakes_per_address),
        handshake_timeout: time("handshake_timeout", usual.handshake_timeout),
        first_call_timeout: time("first_call_timeout", usual.first_call_timeout),
        idle_timeout: time("idle_timeout", usual.idle_timeout),
        max_anonymous_age: time("max_anonymous_age", usual.max_anonymous_age),
        message_timeout: time("message_timeout", usual.message_timeout),
        call_timeout: time("call_timeout", usual.call_timeout),
        batch_timeout: time("batch_timeout", usual.batch_timeout),
        send_timeout: time("send_timeout", usual.send_timeout),
        max_request_bytes: mebibytes.map_or(usual.max_request_bytes, |n| n << 20),
        proxies: proxies(server),
        tls: tls(server),
    };
    block.finish();
    limits
}

fn proxies(server: &Block<'_>) -> Vec<Cidr> {
    let key = "proxy_protocol_trusted_cidrs";
    let mut proxies = Vec::new();
    for text in server.string_list(key).unwrap_or_default() {
        match text.parse::<Cidr>() {
            Ok(cidr) => proxies.push(cidr),
            Err(error) => server.fault(key, error),
        }
    }
    proxies
}

fn tls(server: &Block<'_>) -> TlsPolicy {
    let block = server.block("experimental");
    let required = block.bool_or("require_pq_kem", false);
    for key in [
        "cache_reload_interval",
        "full_cache_reload_interval",
        "events_based_cache",
        "prune_events_older_than",
        "event_timeout",
        "sql_transaction_timeout",
        "auth_opa_policy_engine",
        "feature_flags",
        "named_pipe_name",
    ] {
        block.unsupported(key, "is not an experimental setting of this server; remove it");
    }
    block.finish();
    if required { TlsPolicy::RequirePqKem } else { TlsPolicy::Usual }
}

#[cfg(test)]
mod tests {
    use hardroot_config::{Decoder, Document};

    use super::*;

    fn decoded(text: &str) -> Result<EndpointLimits, String> {
        let document = Document::parse(&format!("server {{\n{text}\n}}\n")).unwrap();
        let decoder = Decoder::new(&document, "server.conf");
        let block = decoder.root().required_block("server");
        let limits = decode(&block);
        block.finish();
        decoder.into_result().map(|()| limits).map_err(|faults| faults.to_string())
    }

    #[test]
    fn without_a_block_the_defaults_count() {
        let limits = decoded("").unwrap();
        assert_eq!(limits.max_connections, 10_000);
        assert_eq!(limits.handshake_timeout, Duration::from_secs(10));
        assert!(limits.proxies.is_empty());
        assert_eq!(limits.tls, TlsPolicy::Usual);
    }

    #[test]
    fn every_key_counts() {
        let limits = decoded(
            "limits {\n max_connections = 1\n max_connections_per_address = 2\n max_anonymous_connections = 3\n \
             max_handshakes = 4\n max_handshakes_per_address = 5\n handshake_timeout = \"6s\"\n \
             first_call_timeout = \"7s\"\n idle_timeout = \"8s\"\n max_anonymous_age = \"9s\"\n \
             message_timeout = \"10s\"\n call_timeout = \"11s\"\n batch_timeout = \"12s\"\n \
             send_timeout = \"13s\"\n max_request_memory_mib = 14\n}\n\
             proxy_protocol_trusted_cidrs = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n\
             experimental { require_pq_kem = true }",
        )
        .unwrap();
        let counts = [
            limits.max_connections,
            limits.max_connections_per_address,
            limits.max_anonymous_connections,
            limits.max_handshakes,
            limits.max_handshakes_per_address,
        ];
        assert_eq!(counts, [1, 2, 3, 4, 5]);
        let times = [
            limits.handshake_timeout,
            limits.first_call_timeout,
            limits.idle_timeout,
            limits.max_anonymous_age,
            limits.message_timeout,
            limits.call_timeout,
            limits.batch_timeout,
            limits.send_timeout,
        ];
        assert_eq!(times.map(|time| time.as_secs()), [6, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(limits.max_request_bytes, 14 << 20);
        assert_eq!(limits.proxies.len(), 2);
        assert_eq!(limits.tls, TlsPolicy::RequirePqKem);
    }

    #[test]
    fn every_fault_is_told_with_its_line() {
        let faults = decoded(
            "limits {\n max_connections = 0\n idle_timeout = \"1ms\"\n max_conections = 5\n \
             max_request_memory_mib = 1\n}\nproxy_protocol_trusted_cidrs = [\"10.0.0.1\"]\n\
             experimental { require_pq_kem = \"yes\" }",
        )
        .unwrap_err();
        for expected in [
            "server.conf:3",
            "server.conf:4",
            "max_conections",
            "max_request_memory_mib",
            "\"10.0.0.1\" is no block of addresses",
            "require_pq_kem",
        ] {
            assert!(faults.contains(expected), "{expected} is missing in:\n{faults}");
        }
    }
}
