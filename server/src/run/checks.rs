//! What is looked at once at the start, because it would only show later.

use tracing::warn;

use super::error::RunError;
use crate::authority::schedule::longest_unharmed_svid;
use crate::config::ServerConfig;
use crate::datastore::{Datastore, Entries, EntryFilter, Page};

/// The database must be of the configured trust domain.
pub(super) async fn trust_domain(config: &ServerConfig, store: &dyn Datastore) -> Result<(), RunError> {
    let page = Page { size: 1, token: String::new() };
    let (entries, _) =
        Entries::list_entries(store, &EntryFilter::default(), &page).await.map_err(RunError::Datastore)?;
    match entries.first().filter(|entry| !entry.spiffe_id.is_member_of(&config.trust_domain)) {
        None => Ok(()),
        Some(foreign) => Err(RunError::OtherTrustDomain {
            found: foreign.spiffe_id.trust_domain(),
            configured: config.trust_domain.clone(),
        }),
    }
}

/// Lifetimes that the end of an authority cuts short.
pub(super) fn warn_about_lifetimes(config: &ServerConfig) {
    let longest = longest_unharmed_svid(config.ca_ttl);
    let mut lifetimes =
        vec![("default_x509_svid_ttl", config.default_x509_svid_ttl), ("agent_ttl", config.agent_ttl)];
    lifetimes.extend(config.jwt.as_ref().map(|jwt| ("default_jwt_svid_ttl", jwt.default_ttl)));
    for (key, ttl) in lifetimes {
        if ttl > longest {
            warn!(
                key,
                seconds = ttl.as_secs(),
                longest_seconds = longest.as_secs(),
                "SVIDs may be cut short by the end of their authority: make this lifetime shorter or ca_ttl \
                 at least six times as long"
            );
        }
    }
}
