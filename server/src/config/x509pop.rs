//! The node attestor `x509pop`.

use std::path::PathBuf;

use hardroot_config::Block;
use hardroot_node_attestors::template::Template;
use hardroot_node_attestors::x509pop::X509popPolicy;

use super::plugins::readable;

/// Settings of `x509pop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509PopConfig {
    /// What nodes show.
    pub mode: X509PopMode,
    /// What is asked of it beyond trust.
    pub policy: X509popPolicy,
}

/// What nodes show to `x509pop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum X509PopMode {
    /// Certificates of an outside PKI, with these root files (PEM).
    ExternalPki {
        /// The files.
        ca_bundle_paths: Vec<PathBuf>,
    },
    /// X.509-SVIDs of this trust domain.
    Spiffe {
        /// Path prefix of IDs that are taken.
        svid_prefix: String,
    },
}

/// Reads the plugin's data.
pub(super) fn x509pop(data: &Block<'_>) -> Option<X509PopConfig> {
    let spiffe = data.one_of("mode", &[("external_pki", false), ("spiffe", true)]).unwrap_or(false);
    let mode = if spiffe { spiffe_mode(data) } else { external_pki(data) };
    let usual = X509popPolicy::default();
    let number = |key, range, default| {
        data.int_in(key, range).and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
    };
    let template =
        data.parsed_by("agent_path_template", |text| Template::parse(text).map(|_| text.to_owned()));
    Some(X509PopConfig {
        mode,
        policy: X509popPolicy {
            agent_path_template: template.filter(|text| !text.is_empty()),
            max_intermediates: number("max_intermediates", 1..=31, usual.max_intermediates),
            max_rsa_key_size: number("max_rsa_key_size", 2_048..=8_192, usual.max_rsa_key_size),
            verify_client_ip: data.bool_or("verify_client_ip", usual.verify_client_ip),
        },
    })
}

/// SPIRE's documentation says `svid_prefix`, its code reads `spiffe_prefix`.
fn prefix(data: &Block<'_>) -> Option<String> {
    let (ours, theirs) = (data.string("svid_prefix"), data.string("spiffe_prefix"));
    if ours.is_some() && theirs.is_some() {
        data.fault("spiffe_prefix", "and svid_prefix are the same: set one of them");
    }
    ours.or(theirs)
}

fn spiffe_mode(data: &Block<'_>) -> X509PopMode {
    for key in ["ca_bundle_path", "ca_bundle_paths"] {
        if data.has(key) {
            data.fault(key, "has no place in mode = \"spiffe\": the server's own bundle is used");
            data.ignore(key);
        }
    }
    X509PopMode::Spiffe { svid_prefix: prefix(data).unwrap_or_else(|| "/spire-exchange/".to_owned()) }
}

fn external_pki(data: &Block<'_>) -> X509PopMode {
    if prefix(data).is_some() {
        data.fault_here("svid_prefix belongs to mode = \"spiffe\"");
    }
    let one = data.path("ca_bundle_path");
    let many = data.string_list("ca_bundle_paths").unwrap_or_default();
    let ca_bundle_paths: Vec<PathBuf> = match one {
        Some(_) if !many.is_empty() => {
            data.fault("ca_bundle_paths", "ca_bundle_path and ca_bundle_paths exclude each other");
            Vec::new()
        }
        Some(path) => vec![path],
        None if many.is_empty() => {
            data.fault_here("needs ca_bundle_path or ca_bundle_paths: the roots of the nodes' certificates");
            Vec::new()
        }
        None => many.into_iter().map(PathBuf::from).collect(),
    };
    for path in &ca_bundle_paths {
        readable(data, "ca_bundle_path", path);
    }
    X509PopMode::ExternalPki { ca_bundle_paths }
}
