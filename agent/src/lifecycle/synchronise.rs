//! Entries and bundles from the server, and SVIDs for workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hardroot_identity::{Bundle, TrustDomain};
use hardroot_telemetry::Call;
use tokio::time::Instant;

use super::identity::chain_of;
use super::{ASK_PUSH, Ended, Lifecycle, MAX_BATCH, jitter, refresh_at};
use crate::cache::{EntryChanges, Wanted};
use crate::sync::{
    BadIssue, Hint, IssueRequest, Pushed, Resume, Server, ServerError, WorkloadKey, check_workload_svid,
};

impl<S: Server> Lifecycle<S> {
    /// One synchronisation: the server pushes, or is polled when it does not.
    pub(super) async fn synchronise(&mut self) -> Result<(), Ended> {
        let done = match self.follow().await {
            // What it lacks comes by the stream.
            Ok(true) => return Ok(()),
            Ok(false) => self.poll().await,
            Err(error) => Err(error),
        };
        match done {
            Ok(entries) => {
                self.in_step(entries);
                self.next_sync = Instant::now() + self.settings.sync_interval;
                self.post_status().await;
                Ok(())
            }
            Err(error) => self.not_in_step(&error).await,
        }
    }

    /// Opens a stream, if the server has such a thing.
    async fn follow(&mut self) -> Result<bool, ServerError> {
        let now = Instant::now();
        if now < self.ask_push_at {
            return Ok(false);
        }
        self.followed = self.server.follow(self.resume.clone()).await?;
        if !self.followed {
            tracing::debug!("the server does not push changes; it is polled");
            self.ask_push_at = now + ASK_PUSH;
        }
        Ok(self.followed)
    }

    async fn poll(&mut self) -> Result<usize, ServerError> {
        // The cache will hold what no stream knows of.
        self.resume = Resume::default();
        let call = Call::start("manager.sync.fetch_entries_updates");
        let fetched = self.fetch().await;
        call.done(fetched.as_ref().err().map_or("OK", ServerError::status_name));
        let changes = fetched?;
        let entries = changes.upserts.len() + changes.unchanged.len();
        self.cache.apply(changes);
        Ok(entries)
    }

    /// Takes what came by the stream.
    pub(super) async fn take_pushed(&mut self, pushed: Result<Pushed, ServerError>) -> Result<(), Ended> {
        // Nobody waited for an answer: the time told is what taking it in needs.
        let call = Call::start("manager.sync.fetch_entries_updates");
        let pushed = match pushed {
            Ok(pushed) => pushed,
            Err(error) => {
                call.done(error.status_name());
                self.followed = false;
                self.next_sync = Instant::now();
                return self.not_in_step(&error).await;
            }
        };
        // Bundles first: a workload's first answer shall be whole.
        let mut federated = self.cache.bundles();
        federated.remove(&self.settings.trust_domain);
        for trust_domain in &pushed.removed_bundles {
            federated.remove(trust_domain);
        }
        for bundle in pushed.bundles {
            if bundle.trust_domain == self.settings.trust_domain {
                self.take_own_bundle(bundle);
            } else {
                federated.insert(bundle.trust_domain.clone(), Arc::new(bundle));
            }
        }
        self.publish_bundles(federated);
        if pushed.everything {
            self.cache.apply(EntryChanges { upserts: pushed.upserts, ..EntryChanges::default() });
        } else {
            self.cache.patch(pushed.upserts, &pushed.removed);
        }
        call.done("OK");
        self.resume = pushed.resume;
        if pushed.number != 0 {
            self.server.acknowledge(pushed.number).await;
        }
        self.in_step(self.cache.counts().entries);
        self.post_status().await;
        Ok(())
    }

    fn in_step(&mut self, entries: usize) {
        if !self.synced || self.sync_retry.failures() > 0 {
            tracing::info!(entries, pushed = self.followed, "synchronised with the server");
        }
        self.synced = true;
        self.status.synchronised(self.clock.now());
        self.sync_retry.succeeded();
    }

    async fn not_in_step(&mut self, error: &ServerError) -> Result<(), Ended> {
        self.judge(error).await?;
        if let Some(why) = self.must_attest {
            tracing::warn!(error = %error, reason = why, "synchronisation was refused; attesting anew");
            return Ok(());
        }
        let pause = self.sync_retry.after(Instant::now(), error.hint(), jitter());
        tracing::warn!(
            error = %error,
            cause = %chain_of(error),
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "synchronisation failed; workloads are served what is still valid"
        );
        Ok(())
    }

    async fn fetch(&mut self) -> Result<EntryChanges, ServerError> {
        let changes = self.server.entries(&self.cache).await?;
        let bundle = self.server.bundle().await?;
        self.take_own_bundle(bundle);
        // Bundles first: a workload's first answer shall be whole.
        let mut domains: BTreeSet<TrustDomain> = self.cache.federated();
        domains.extend(changes.upserts.iter().flat_map(|entry| entry.federates_with.iter().cloned()));
        let federated = self.federated(domains).await;
        self.publish_bundles(federated);
        Ok(changes)
    }

    /// The bundles of these trust domains; one that cannot be had now stays as it was.
    async fn federated(&self, domains: BTreeSet<TrustDomain>) -> BTreeMap<TrustDomain, Arc<Bundle>> {
        let held = self.cache.bundles();
        let mut bundles = BTreeMap::new();
        for domain in domains {
            match self.server.federated_bundle(&domain).await {
                Ok(Some(bundle)) => {
                    bundles.insert(domain, Arc::new(bundle));
                }
                Ok(None) => {
                    tracing::debug!(trust_domain_id = %domain.id(), "the server has no bundle of this trust domain")
                }
                Err(error) => {
                    tracing::warn!(trust_domain_id = %domain.id(), error = %error, "federated bundle cannot be had; the last one is kept");
                    if let Some(old) = held.get(&domain) {
                        bundles.insert(domain, Arc::clone(old));
                    }
                }
            }
        }
        bundles
    }

    async fn post_status(&mut self) {
        if self.status_posted {
            return;
        }
        let sequence = self.own_bundle().map_or(0, |bundle| bundle.sequence_number);
        match self.server.post_status(sequence).await {
            Ok(()) => self.status_posted = true,
            // Old servers do not have it, and nothing depends on it.
            Err(error) => {
                tracing::debug!(error = %error, "the agent's status cannot be posted");
                self.status_posted = matches!(&error, ServerError::Call { status, .. } if status.code() == tonic::Code::Unimplemented);
            }
        }
    }

    /// Asks for the SVIDs that are wanted most, one call's worth.
    pub(super) async fn issue_one_batch(&mut self) -> Result<(), Ended> {
        let wanted = self.cache.wanted(self.batch);
        if wanted.is_empty() {
            return Ok(());
        }
        let kind = self.settings.workload_key_type;
        let ids: Vec<_> = wanted.iter().map(|w| w.entry.spiffe_id.clone()).collect();
        let made = tokio::task::spawn_blocking(move || {
            ids.iter().map(|id| WorkloadKey::make(kind, id)).collect::<Result<Vec<_>, _>>()
        })
        .await;
        let keys = match made {
            Ok(Ok(keys)) => keys,
            Ok(Err(error)) => {
                self.issuing_failed(&error, Hint::Nothing);
                return Ok(());
            }
            Err(error) => {
                self.issuing_failed(&error, Hint::Nothing);
                return Ok(());
            }
        };
        let requests = wanted
            .iter()
            .zip(&keys)
            .map(|(w, key)| IssueRequest { entry_id: w.entry.id.clone(), csr: key.csr().to_vec() })
            .collect();
        let call = Call::start("manager.sync.fetch_svids_updates");
        let issued = self.server.issue(requests).await;
        call.done(issued.as_ref().err().map_or("OK", ServerError::status_name));
        match issued {
            Ok(outcomes) => {
                self.issue_retry.succeeded();
                self.batch = (self.batch * 2).min(MAX_BATCH);
                for ((wish, key), outcome) in wanted.iter().zip(keys).zip(outcomes) {
                    match outcome {
                        Ok(chain) => self.take_issued(wish, key, &chain),
                        Err(refused) => self.refuse(wish, &refused),
                    }
                }
                self.cache.settle();
            }
            Err(error) => {
                self.judge(&error).await?;
                // A server under pressure, or a link too slow for so much at once.
                self.batch = (self.batch / 2).max(1);
                self.issuing_failed(&error, error.hint());
            }
        }
        Ok(())
    }

    fn take_issued(&self, wish: &Wanted, key: WorkloadKey, chain: &[Vec<u8>]) {
        let now = self.clock.now();
        let Some(bundle) = self.own_bundle() else { return };
        match check_workload_svid(&wish.entry, key, chain, &bundle, now) {
            Ok((svid, parsed)) => {
                let refresh = refresh_at(parsed.not_before, parsed.not_after, jitter());
                tracing::debug!(
                    spiffe_id = %wish.entry.spiffe_id,
                    entry_id = %wish.entry.id,
                    serial_number = %parsed.serial,
                    expires_at = %super::show_time(parsed.not_after),
                    "workload SVID issued"
                );
                self.cache.store(wish, svid, refresh);
            }
            Err(bad) => {
                let clock = matches!(
                    &bad,
                    BadIssue::Svid(
                        hardroot_identity::BadX509Svid::NotYetValid { .. }
                            | hardroot_identity::BadX509Svid::Expired { .. }
                    )
                );
                let hint = if clock { "is this machine's clock right?" } else { "" };
                tracing::error!(spiffe_id = %wish.entry.spiffe_id, entry_id = %wish.entry.id, error = %bad, hint, "issued SVID is not used");
                self.cache.failed(wish);
            }
        }
    }

    fn refuse(&self, wish: &Wanted, refused: &crate::sync::Refused) {
        tracing::warn!(spiffe_id = %wish.entry.spiffe_id, entry_id = %wish.entry.id, error = %refused, "no SVID for this entry");
        self.cache.failed(wish);
    }

    fn issuing_failed(&mut self, error: &(dyn std::error::Error + 'static), hint: Hint) {
        let pause = self.issue_retry.after(Instant::now(), hint, jitter());
        tracing::warn!(
            error = %error,
            cause = %chain_of(error),
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "workload SVIDs cannot be had; those held are served until they expire"
        );
    }
}
