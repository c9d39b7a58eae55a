//! The `NodeAttestor` plugins, checked as far as can be without a node: files are read, templates parsed.

use std::fs;
use std::path::PathBuf;

use hardroot_config::Block;
use hardroot_node_attestors::tpm_quote::{Enrolling, TpmQuoteServerConfig};
use hardroot_tpm_attestor::verify::{EkAnchors, HashAlg, PcrPolicy};

use super::plugins::enabled;
use super::x509pop::{X509PopConfig, x509pop};

/// The node attestors of the configuration. What is not named here does not let anybody in.
#[derive(Debug, Clone, Default)]
pub struct AttestorConfigs {
    /// `tpm_quote`.
    pub tpm_quote: Option<TpmQuoteServerConfig>,
    /// `x509pop`.
    pub x509pop: Option<X509PopConfig>,
    /// `join_token`.
    pub join_token: bool,
}

pub(super) fn decode(plugins: &Block<'_>) -> AttestorConfigs {
    let mut configs = AttestorConfigs::default();
    for (name, block, data) in enabled(plugins, "NodeAttestor") {
        let twice = match name {
            "tpm_quote" => tpm_quote(&data).is_some_and(|c| configs.tpm_quote.replace(c).is_some()),
            "x509pop" => x509pop(&data).is_some_and(|c| configs.x509pop.replace(c).is_some()),
            "join_token" => std::mem::replace(&mut configs.join_token, true),
            _ => {
                block.fault_here(
                    "is no node attestor of this server: choose tpm_quote, x509pop or join_token",
                );
                continue;
            }
        };
        if twice {
            block.fault_here("is configured twice");
        }
        data.finish();
    }
    configs
}

fn tpm_quote(data: &Block<'_>) -> Option<TpmQuoteServerConfig> {
    let words = [("required", Enrolling::Required), ("endorsement", Enrolling::Endorsement)];
    let enrolment = data.one_of("enrolment", &words).unwrap_or(Enrolling::Required);
    let require_certificate = data.bool_or("require_certificate", false);
    let path = data.path("endorsement_ca_path");
    if path.is_none() && enrolment == Enrolling::Endorsement {
        data.fault("enrolment", "= \"endorsement\" needs endorsement_ca_path: the manufacturers to trust");
    }
    if path.is_none() && require_certificate {
        data.fault("require_certificate", "needs endorsement_ca_path: the manufacturers to trust");
    }
    let anchors = match &path {
        None => EkAnchors::default(),
        Some(path) => anchors(data, path)?,
    };
    Some(TpmQuoteServerConfig { anchors, enrolment, require_certificate, pcrs: pcrs(data)? })
}

fn anchors(data: &Block<'_>, path: &PathBuf) -> Option<EkAnchors> {
    let read = fs::read(path).map_err(|error| format!("cannot be read: {error}"));
    let parsed =
        read.and_then(|text| EkAnchors::from_pem([text.as_slice()]).map_err(|error| error.to_string()));
    parsed.map_err(|why| data.fault("endorsement_ca_path", why)).ok()
}

fn pcrs(data: &Block<'_>) -> Option<PcrPolicy> {
    let numbers = match data.string_list("pcrs") {
        None => (0..=7).collect(),
        Some(texts) => {
            let mut numbers: Vec<u8> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            if numbers.len() != texts.len() {
                data.fault("pcrs", "holds numbers from 0 to 23");
                return None;
            }
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        }
    };
    let policy = PcrPolicy::new(HashAlg::Sha256, &numbers);
    if policy.is_none() {
        data.fault("pcrs", "holds at least one number, from 0 to 23");
    }
    policy
}
