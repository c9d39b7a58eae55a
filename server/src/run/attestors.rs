//! Making the configured node attestors.

use std::sync::Arc;

use hardroot_node_attestors::ServerAttestor;
use hardroot_node_attestors::join_token::JoinTokenServer;
use hardroot_transport::BundleSource;

use super::error::RunError;
use crate::attest::StoredTokens;
use crate::config::ServerConfig;
use crate::datastore::sqlite::SqliteStore;

pub(super) fn build(
    config: &ServerConfig,
    store: &SqliteStore,
    bundles: &Arc<dyn BundleSource>,
) -> Result<Vec<Arc<dyn ServerAttestor>>, RunError> {
    let mut all: Vec<Arc<dyn ServerAttestor>> = Vec::new();
    if config.attestors.join_token {
        all.push(Arc::new(JoinTokenServer::new(Arc::new(StoredTokens(Arc::new(store.clone()))))));
    }
    Ok(all)
}
