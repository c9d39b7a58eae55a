//! The bundles that peers' certificates are verified with, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use hardroot_api::spire::common;
use hardroot_identity::{Bundle, TrustDomain};
use hardroot_transport::BundleSource;
use tokio::sync::watch;
use tracing::error;

use crate::authority::published::{BundleError, decode, to_identity};
use crate::datastore::{Bundles, StoreError};
use crate::entries::AuthorizedEntries;

/// A bundle, as it is stored and as certificates are verified with it.
#[derive(Debug)]
struct Known {
    stored: Arc<common::Bundle>,
    bundle: Arc<Bundle>,
}

/// All stored bundles, our own and federated ones. Read again after each change that went through this
/// server, when the log of changes says that another one wrote, and every minute all the same.
pub struct BundleCache {
    store: Arc<dyn Bundles>,
    own: TrustDomain,
    current: ArcSwap<BTreeMap<TrustDomain, Arc<Known>>>,
    /// Which of the changes that [`AuthorizedEntries`] counts are in it.
    followed: AtomicU64,
    changed: watch::Sender<u64>,
}

impl BundleCache {
    /// An empty cache: nobody is trusted before the first [`BundleCache::refresh`].
    #[must_use]
    pub fn new(store: Arc<dyn Bundles>, own: TrustDomain) -> Self {
        let (followed, changed) = (AtomicU64::new(0), watch::Sender::new(0));
        Self { store, own, current: ArcSwap::default(), followed, changed }
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
            let fresh = match decode(&trust_domain, &data) {
                // The same content keeps the same pointer: verdicts on peers are cached by it.
                Ok(stored) if known.as_ref().is_some_and(|known| *known.stored == stored) => known,
                Ok(stored) => {
                    let bundle = to_identity(&trust_domain, &stored);
                    let same = known.map(|known| Arc::clone(&known.bundle)).filter(|old| **old == bundle);
                    let bundle = same.unwrap_or_else(|| Arc::new(bundle));
                    Some(Arc::new(Known { stored: Arc::new(stored), bundle }))
                }
                Err(damaged) => {
                    error!(error = %damaged, "a damaged bundle is not used");
                    known
                }
            };
            if let Some(fresh) = fresh {
                now.insert(trust_domain, fresh);
            }
        }
        let same = before.len() == now.len()
            && before.iter().zip(&now).all(|((a, x), (b, y))| a == b && Arc::ptr_eq(x, y));
        if !same {
            self.current.store(Arc::new(now));
            self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
        Ok(())
    }

    /// Reads the bundles if they changed in the database since they were read.
    ///
    /// # Errors
    /// The database failed.
    pub async fn follow(&self, entries: &AuthorizedEntries) -> Result<(), BundleError> {
        let count = *entries.bundles_changed().borrow();
        if self.followed.load(Ordering::Acquire) != count {
            self.refresh().await?;
            self.followed.store(count, Ordering::Release);
        }
        Ok(())
    }

    /// Wakes when a bundle changed, came or went.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A bundle as it is stored.
    #[must_use]
    pub fn stored(&self, trust_domain: &TrustDomain) -> Option<Arc<common::Bundle>> {
        self.current.load().get(trust_domain).map(|known| Arc::clone(&known.stored))
    }

    /// The server's own bundle.
    #[must_use]
    pub fn own(&self) -> Option<Arc<Bundle>> {
        self.bundle(&self.own)
    }
}

impl BundleSource for BundleCache {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.current.load().get(trust_domain).map(|known| Arc::clone(&known.bundle))
    }
}
