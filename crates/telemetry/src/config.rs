//! The `telemetry` block, with SPIRE's keys.

use std::fmt;
use std::path::PathBuf;

use hardroot_config::Block;
use hardroot_identity::SpiffeId;

/// Port of the Prometheus listener when none is configured; SPIRE's documentation uses it.
pub const PROMETHEUS_PORT: u16 = 9988;

/// The block's values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// The listener that Prometheus scrapes.
    pub prometheus: Option<PrometheusConfig>,
    /// Collectors of plain StatsD.
    pub statsd: Vec<Address>,
    /// Collectors of DogStatsD.
    pub dog_statsd: Vec<Address>,
    /// Whether SIGUSR1 writes every metric to the log.
    pub in_mem: bool,
    /// Stands before every metric of SPIRE's names; the daemon has a default.
    pub prefix: Option<String>,
    /// Whether metrics carry the trust domain.
    pub trust_domain_label: bool,
    /// Whether metrics carry the host's name.
    pub host_label: bool,
    /// Prefixes that are told although a shorter one is blocked.
    pub allowed_prefixes: Vec<String>,
    /// Prefixes that are not told.
    pub blocked_prefixes: Vec<String>,
    /// If not empty, the only labels.
    pub allowed_labels: Vec<String>,
    /// Labels that are left out.
    pub blocked_labels: Vec<String>,
}

/// `Prometheus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrometheusConfig {
    /// Host or address to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system choose (for tests).
    pub port: u16,
    /// TLS, if it is wanted.
    pub tls: Option<TlsConfig>,
}

/// `Prometheus.tls`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificate chain and key, PEM; `None` means the daemon's own SVID.
    pub files: Option<(PathBuf, PathBuf)>,
    /// Roots of clients, PEM: a client must show a certificate of one of them.
    pub client_ca_file: Option<PathBuf>,
    /// Clients by SPIFFE ID: one must show an SVID with one of them.
    pub authorized_spiffe_ids: Vec<SpiffeId>,
}

/// A collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address, an IPv6 one without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TelemetryConfig {
    /// Whether metrics go anywhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.prometheus.is_some() || self.in_mem || !self.statsd.is_empty() || !self.dog_statsd.is_empty()
    }

    /// Reads the block `telemetry` of `root`; one that is absent says nothing is to be told.
    #[must_use]
    pub fn decode(root: &Block<'_>) -> Self {
        let Some(block) = root.opt_block("telemetry") else { return Self::default() };
        let list = |key| block.string_list(key).unwrap_or_default();
        let config = Self {
            prometheus: prometheus(&block),
            statsd: collectors(&block, "Statsd"),
            dog_statsd: collectors(&block, "DogStatsd"),
            in_mem: in_mem(&block),
            prefix: block.string("MetricPrefix").filter(|prefix| !prefix.is_empty()),
            trust_domain_label: block.bool_or("EnableTrustDomainLabel", false),
            host_label: block.bool_or("EnableHostnameLabel", true),
            allowed_prefixes: list("AllowedPrefixes"),
            blocked_prefixes: list("BlockedPrefixes"),
            allowed_labels: list("AllowedLabels"),
            blocked_labels: list("BlockedLabels"),
        };
        block.unsupported("M3", "its collector is not developed any more; use Prometheus or Statsd");
        block.finish();
        config
    }
}

fn in_mem(block: &Block<'_>) -> bool {
    let Some(in_mem) = block.opt_block("InMem") else { return false };
    in_mem.finish();
    true
}

fn prometheus(block: &Block<'_>) -> Option<PrometheusConfig> {
    let prometheus = block.opt_block("Prometheus")?;
    let config = PrometheusConfig {
        host: prometheus
            .string("host")
            .filter(|host| !host.is_empty())
            .unwrap_or_else(|| "localhost".to_owned()),
        port: prometheus
            .int_in("port", 0..=i64::from(u16::MAX))
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(PROMETHEUS_PORT),
        tls: prometheus.opt_block("tls").map(|tls| tls_of(&tls)),
    };
    prometheus.finish();
    Some(config)
}

fn tls_of(tls: &Block<'_>) -> TlsConfig {
    let own = tls.bool_or("use_spire_svid", false);
    let (cert, key) = (tls.path("cert_file"), tls.path("key_file"));
    let files = match (cert, key) {
        (None, None) if own => None,
        (Some(cert), Some(key)) if !own => Some((cert, key)),
        _ if own => {
            tls.fault("use_spire_svid", "= true excludes cert_file and key_file");
            None
        }
        _ => {
            tls.fault_here("needs cert_file and key_file, or use_spire_svid = true");
            None
        }
    };
    let mut ids = Vec::new();
    for text in tls.string_list("authorized_spiffe_ids").unwrap_or_default() {
        match text.parse::<SpiffeId>() {
            Ok(id) => ids.push(id),
            Err(error) => {
                tls.fault("authorized_spiffe_ids", format_args!("holds what is no SPIFFE ID: {error}"));
            }
        }
    }
    let client_ca_file = tls.path("client_ca_file");
    if client_ca_file.is_some() && own {
        tls.fault("client_ca_file", "does not go with use_spire_svid: name clients in authorized_spiffe_ids");
    }
    if client_ca_file.is_some() && !ids.is_empty() {
        tls.fault("client_ca_file", "and authorized_spiffe_ids exclude each other");
    }
    for (name, path) in [
        ("cert_file", files.as_ref().map(|(cert, _)| cert)),
        ("key_file", files.as_ref().map(|(_, key)| key)),
        ("client_ca_file", client_ca_file.as_ref()),
    ] {
        if let Some(path) = path
            && let Err(error) = std::fs::File::open(path)
        {
            tls.fault(name, format_args!("cannot be read: {error}"));
        }
    }
    tls.finish();
    TlsConfig { files, client_ca_file, authorized_spiffe_ids: ids }
}

fn collectors(block: &Block<'_>, key: &str) -> Vec<Address> {
    let mut all = Vec::new();
    for collector in block.blocks(key) {
        let text = collector.required_string("address");
        if !text.is_empty() {
            match address(&text) {
                Some(address) => all.push(address),
                None => collector.fault("address", "must be host:port"),
            }
        }
        collector.finish();
    }
    all
}

fn address(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return None;
    }
    let host = bracketed.unwrap_or(host);
    // As in Go, an address without a host is this machine.
    let host = if host.is_empty() { "localhost" } else { host };
    Some(Address { host: host.to_owned(), port: port.parse().ok().filter(|port| *port != 0)? })
}

#[cfg(test)]
mod tests {
    use hardroot_config::{Decoder, Document};

    use super::*;

    fn read(text: &str) -> Result<TelemetryConfig, Vec<String>> {
        let document = Document::parse(text).unwrap();
        let decoder = Decoder::new(&document, "x.conf");
        let config = TelemetryConfig::decode(decoder.root());
        decoder
            .into_result()
            .map(|()| config)
            .map_err(|faults| faults.to_string().lines().map(ToOwned::to_owned).collect())
    }

    #[test]
    fn spires_sample_is_read() {
        let text = r#"
            telemetry {
                Prometheus { host = "0.0.0.0" port = 9988
                    tls { use_spire_svid = true authorized_spiffe_ids = ["spiffe://example.org/monitoring/prometheus"] } }
                DogStatsd = [ { address = "localhost:8125" }, ]
                Statsd = [ { address = "localhost:1337" }, { address = "[::1]:8125" }, ]
                InMem {}
                MetricPrefix = "fleet"
                EnableTrustDomainLabel = true
                EnableHostnameLabel = false
                AllowedLabels = [] BlockedLabels = ["host"] AllowedPrefixes = [] BlockedPrefixes = ["fleet.rpc"]
            }"#;
        let config = read(text).unwrap();
        let prometheus = config.prometheus.clone().unwrap();
        assert_eq!((prometheus.host.as_str(), prometheus.port), ("0.0.0.0", 9988));
        assert_eq!(prometheus.tls.unwrap().authorized_spiffe_ids.len(), 1);
        let told: Vec<String> = config.statsd.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["localhost:1337", "[::1]:8125"]);
        assert_eq!(config.dog_statsd.len(), 1);
        assert!(config.in_mem && config.trust_domain_label && !config.host_label && config.is_on());
        assert_eq!((config.prefix.as_deref(), config.blocked_prefixes.len()), (Some("fleet"), 1));
    }

    #[test]
    fn defaults_are_spires() {
        assert!(!read("").unwrap().is_on());
        let config = read("telemetry { Prometheus {} }").unwrap();
        let prometheus = config.prometheus.unwrap();
        assert_eq!((prometheus.host.as_str(), prometheus.port, prometheus.tls), ("localhost", 9988, None));
        assert!(config.host_label && !config.trust_domain_label);
    }

    #[test]
    fn every_fault_is_told_with_its_line() {
        let told = read(
            "telemetry {\n M3 = [ { address = \"a:1\" env = \"x\" } ]\n Statsd = [ { address = \"nothing\" } ]\n \
             Prometheus {\n port = 70000\n tls { use_spire_svid = true cert_file = \"/no/cert\" }\n Host2 = 1 }\n \
             DogStatsd = [ { addr = \"x\" } ] }",
        )
        .unwrap_err();
        for (line, about) in [
            (2, "M3"),
            (3, "address"),
            (5, "port"),
            (6, "use_spire_svid"),
            (7, "Host2"),
            (8, "address"),
            (8, "addr"),
        ] {
            let prefix = format!("x.conf:{line}:");
            assert!(told.iter().any(|f| f.starts_with(&prefix) && f.contains(about)), "{about}: {told:#?}");
        }
        for bad in ["cert_file = \"/no/c\"", "", "use_spire_svid = true client_ca_file = \"/no/ca\""] {
            assert!(read(&format!("telemetry {{ Prometheus {{ tls {{ {bad} }} }} }}")).is_err(), "{bad}");
        }
    }
}
