//! The bundles that peers' certificates are verified with, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hardroot_identity::{Bundle, TrustDomain};
use hardroot_transport::BundleSource;
use tracing::error;

use crate::authority::published::{BundleError, decode, to_identity};
use crate::datastore::{Bundles, StoreError};

/// All stored bundles, our own and federated ones. Read again after each change that went through this
/// server, and every ten seconds for what others wrote.
pub struct BundleCache {
    store: Arc<dyn Bundles>,
    own: TrustDomain,
    current: ArcSwap<BTreeMap<TrustDomain, Arc<Bundle>>>,
}

impl BundleCache {
    /// An empty cache: nobody is trusted before the first [`BundleCache::refresh`].
    #[must_use]
    pub fn new(store: Arc<dyn Bundles>, own: TrustDomain) -> Self {
        Self { store, own, current: ArcSwap::default() }
    }

    /// Reads all bundles. One that cannot be decoded keeps its last good content; one that is gone is
    /// trusted no more. On a database error everything stays as it was.
    ///
    /// # Errors
    /// The database failed.
    pub async fn refresh(&self) -> Result<(), BundleError> {
        let rows = self.store.list_bundles().await.map_err(|cause: StoreError| BundleError::Store {
            op: "read",
            trust_domain: self.own.clone(),
            cause,
        })?;
        let before = self.current.load_full();
        let mut now = BTreeMap::new();
        for (trust_domain, data) in rows {
            let known = before.get(&trust_domain).cloned();
            let bundle = match decode(&trust_domain, &data) {
                Ok(stored) => {
                    let fresh = to_identity(&trust_domain, &stored);
                    // The same content keeps the same pointer: verdicts on peers are cached by it.
                    known.filter(|known| **known == fresh).or_else(|| Some(Arc::new(fresh)))
                }
                Err(damaged) => {
                    error!(error = %damaged, "a damaged bundle is not used");
                    known
                }
            };
            if let Some(bundle) = bundle {
                now.insert(trust_domain, bundle);
            }
        }
        self.current.store(Arc::new(now));
        Ok(())
    }

    /// The server's own bundle.
    #[must_use]
    pub fn own(&self) -> Option<Arc<Bundle>> {
        self.bundle(&self.own)
    }
}

impl BundleSource for BundleCache {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.current.load().get(trust_domain).cloned()
    }
}
