//! What a subscriber sees: the identities of its selectors, or why there are none yet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use hardroot_identity::{Bundle, Selector, TrustDomain};
use tokio::sync::watch;

use super::table::Record;
use super::{Cache, Inner};
use crate::source::{Availability, Identity, IdentitySource, JwtSubject, WorkloadUpdate};
use crate::workload_api::Encoded;

impl IdentitySource for Cache {
    fn subscribe(&self, mut selectors: Vec<Selector>) -> watch::Receiver<Availability> {
        selectors.sort();
        selectors.dedup();
        let now = self.now();
        let mut inner = self.lock();
        inner.touch(&selectors);
        if let Some(sender) = inner.subscriptions.get(selectors.as_slice()).cloned() {
            // Nobody may have listened for a while, and then nobody was told.
            let fresh = inner.availability(&selectors, &self.trust_domain, now, &sender.borrow());
            self.wake_if_waiting(&fresh);
            replace_if_other(&sender, fresh);
            return sender.subscribe();
        }
        let fresh = inner.availability(&selectors, &self.trust_domain, now, &Availability::Starting);
        self.wake_if_waiting(&fresh);
        let (sender, receiver) = watch::channel(fresh);
        // Sets nobody listens to any more are dropped here, so that churn alone cannot fill the map.
        if inner.subscriptions.len() >= 64 {
            inner.subscriptions.retain(|_, sender| sender.receiver_count() > 0);
        }
        inner.subscriptions.insert(selectors.into(), sender);
        receiver
    }

    fn jwt_subjects(&self, selectors: &[Selector]) -> Option<Vec<JwtSubject>> {
        let inner = self.lock();
        let subject = |id: &String| {
            let entry = &inner.table.get(id)?.entry;
            Some(JwtSubject {
                entry_id: entry.id.clone(),
                spiffe_id: entry.spiffe_id.clone(),
                hint: entry.hint.clone(),
                include_jti: entry.jwt_include_jti,
            })
        };
        inner.ready.then(|| inner.table.matching(selectors).iter().filter_map(subject).collect())
    }

    fn own_bundle(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.own.subscribe()
    }

    fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

impl Inner {
    pub(super) fn availability(
        &self,
        selectors: &[Selector],
        own: &TrustDomain,
        now: SystemTime,
        before: &Availability,
    ) -> Availability {
        if !self.ready {
            return Availability::Starting;
        }
        let records: Vec<&Record> =
            self.table.matching(selectors).iter().filter_map(|id| self.table.get(id)).collect();
        if records.is_empty() {
            return Availability::None;
        }
        let identities: Vec<Identity> = records
            .iter()
            .filter_map(|record| {
                let svid = Arc::clone(record.servable(now)?);
                Some(Identity {
                    entry_id: record.entry.id.clone(),
                    spiffe_id: record.entry.spiffe_id.clone(),
                    hint: record.entry.hint.clone(),
                    created_at: record.entry.created_at,
                    svid,
                    federates_with: record.entry.federates_with.clone(),
                })
            })
            .collect();
        // A first answer waits for all SVIDs, except those the server has refused so far: one entry that cannot
        // be issued must not starve the others. Later answers never wait, so that what is withdrawn goes at once.
        let waiting = records.iter().any(|r| r.servable(now).is_none() && r.failures == 0);
        if identities.is_empty() || (waiting && !matches!(before, Availability::Ready(_))) {
            return Availability::Pending;
        }
        let federated: BTreeSet<&TrustDomain> = identities.iter().flat_map(|i| &i.federates_with).collect();
        let bundles = self
            .bundles
            .iter()
            .filter(|(td, _)| *td == own || federated.contains(td))
            .map(|(td, bundle)| (td.clone(), Arc::clone(bundle)))
            .collect();
        Availability::Ready(Arc::new(WorkloadUpdate {
            identities,
            bundles: Arc::new(bundles),
            trust_domain: own.clone(),
            encoded: Encoded::default(),
        }))
    }
}

/// Tells the subscribers, unless it is what they know.
pub(super) fn replace_if_other(sender: &watch::Sender<Availability>, fresh: Availability) {
    sender.send_if_modified(|current| {
        let changed = !same(current, &fresh);
        if changed {
            *current = fresh;
        }
        changed
    });
}

fn same(a: &Availability, b: &Availability) -> bool {
    match (a, b) {
        (Availability::Starting, Availability::Starting)
        | (Availability::Pending, Availability::Pending)
        | (Availability::None, Availability::None) => true,
        (Availability::Ready(a), Availability::Ready(b)) => {
            let identity = |(x, y): (&Identity, &Identity)| {
                x.entry_id == y.entry_id
                    && x.spiffe_id == y.spiffe_id
                    && x.hint == y.hint
                    && x.created_at == y.created_at
                    && x.federates_with == y.federates_with
                    && Arc::ptr_eq(&x.svid, &y.svid)
            };
            a.identities.len() == b.identities.len()
                && a.identities.iter().zip(&b.identities).all(identity)
                && a.bundles.len() == b.bundles.len()
                && a.bundles.iter().zip(b.bundles.iter()).all(|((t, x), (u, y))| t == u && Arc::ptr_eq(x, y))
        }
        _ => false,
    }
}
