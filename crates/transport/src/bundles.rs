//! Where verifiers find the bundle of a trust domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hardroot_identity::{Bundle, TrustDomain};

/// Looks up the current bundle of a trust domain.
///
/// Asked at every handshake and every [`crate::recheck`]: it must answer from memory. A bundle that has not
/// changed must be the same `Arc`, for the recheck compares pointers before it does any cryptography.
pub trait BundleSource: Send + Sync {
    /// The bundle with every authority that is still trusted, tainted ones included; `None` when the trust
    /// domain is not known, which means "not trusted".
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>>;
}

/// A set of bundles that can be replaced at any time.
#[derive(Debug, Default)]
pub struct BundleSet {
    bundles: ArcSwap<BTreeMap<TrustDomain, Arc<Bundle>>>,
}

impl BundleSet {
    /// Begins with these.
    #[must_use]
    pub fn new(bundles: impl IntoIterator<Item = Bundle>) -> Self {
        let set = Self::default();
        for bundle in bundles {
            set.put(bundle);
        }
        set
    }

    /// Adds a bundle, or replaces the one of the same trust domain; the others keep their `Arc`.
    pub fn put(&self, bundle: Bundle) {
        let bundle = Arc::new(bundle);
        self.bundles.rcu(|old| {
            let mut new = BTreeMap::clone(old);
            new.insert(bundle.trust_domain.clone(), Arc::clone(&bundle));
            new
        });
    }

    /// Forgets the bundle of a trust domain.
    pub fn remove(&self, trust_domain: &TrustDomain) {
        self.bundles.rcu(|old| {
            let mut new = BTreeMap::clone(old);
            new.remove(trust_domain);
            new
        });
    }

    /// Replaces the whole set.
    pub fn replace(&self, bundles: BTreeMap<TrustDomain, Arc<Bundle>>) {
        self.bundles.store(Arc::new(bundles));
    }
}

impl BundleSource for BundleSet {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.bundles.load().get(trust_domain).cloned()
    }
}
