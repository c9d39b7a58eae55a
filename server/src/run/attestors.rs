//! Making the configured node attestors.

use std::sync::Arc;

use hardroot_node_attestors::ServerAttestor;
use hardroot_node_attestors::join_token::JoinTokenServer;
use hardroot_node_attestors::tpm_quote::TpmQuoteServer;
use hardroot_node_attestors::x509pop::{self, BadX509popConfig, X509popServer, X509popTrust, read_roots};
use hardroot_transport::BundleSource;
use tracing::warn;

use super::error::RunError;
use crate::attest::{StoredEnrolments, StoredRecords, StoredTokens};
use crate::config::{ServerConfig, X509PopConfig, X509PopMode};
use crate::datastore::SqlStore;

pub(super) fn build(
    config: &ServerConfig,
    store: &SqlStore,
    bundles: &Arc<dyn BundleSource>,
) -> Result<Vec<Arc<dyn ServerAttestor>>, RunError> {
    let mut all: Vec<Arc<dyn ServerAttestor>> = Vec::new();
    if let Some(settings) = &config.attestors.tpm_quote {
        all.push(Arc::new(TpmQuoteServer::new(
            settings.clone(),
            Arc::new(StoredEnrolments(Arc::new(store.clone()))),
            Arc::new(StoredRecords(Arc::new(store.clone()))),
        )));
    }
    if config.attestors.join_token {
        all.push(Arc::new(JoinTokenServer::new(Arc::new(StoredTokens(Arc::new(store.clone()))))));
    }
    if let Some(settings) = &config.attestors.x509pop {
        let attestor = x509pop(settings, config, bundles)
            .map_err(|cause| RunError::Attestor { name: x509pop::NAME, cause: Box::new(cause) })?;
        all.push(Arc::new(attestor));
    }
    if all.is_empty() {
        warn!("no NodeAttestor is configured: no agent can join");
    }
    Ok(all)
}

fn x509pop(
    settings: &X509PopConfig,
    config: &ServerConfig,
    bundles: &Arc<dyn BundleSource>,
) -> Result<X509popServer, BadX509popConfig> {
    let trust = match &settings.mode {
        X509PopMode::ExternalPki { ca_bundle_paths } => {
            X509popTrust::ExternalPki { roots: read_roots(ca_bundle_paths)? }
        }
        X509PopMode::Spiffe { svid_prefix } => {
            let (bundles, own) = (Arc::clone(bundles), config.trust_domain.clone());
            X509popTrust::Spiffe {
                bundle: Arc::new(move || bundles.bundle(&own)),
                prefix: svid_prefix.clone(),
            }
        }
    };
    X509popServer::new(settings.policy.clone(), trust)
}
