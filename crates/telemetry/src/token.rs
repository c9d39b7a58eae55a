//! The key manager, watched: each operation is counted and timed, and what the last ones said of the token is kept
//! for health.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use hardroot_hsm_keymanager::{
    Custody, Digest, KeyError, KeyId, KeyInfo, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_runtime::chain;
use hardroot_runtime::clock::Clock;

use crate::{count, gauge, is_active, sample_with};

/// What is known of the token or chip from the operations that were made anyway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The last signature.
    pub last_signature: Option<SystemTime>,
    /// Since when operations fail, and what the last one said; `None` when the last one reached the token.
    pub failing: Option<(SystemTime, String)>,
}

/// Holds what is known.
#[derive(Debug, Default)]
pub struct TokenFacts {
    known: Mutex<Known>,
    waiting: AtomicUsize,
}

impl TokenFacts {
    /// What is known now.
    #[must_use]
    pub fn known(&self) -> Known {
        self.lock().clone()
    }

    /// Operations under way or waiting for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    // Whoever panicked with the lock held left whole values.
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key manager that is watched.
pub struct Watched {
    keys: Arc<dyn KeyManager>,
    facts: Arc<TokenFacts>,
    clock: Arc<dyn Clock>,
}

impl Watched {
    /// Watches `keys`.
    #[must_use]
    pub fn new(keys: Arc<dyn KeyManager>, clock: Arc<dyn Clock>) -> (Arc<Self>, Arc<TokenFacts>) {
        let facts = Arc::<TokenFacts>::default();
        (Arc::new(Self { keys, facts: Arc::clone(&facts), clock }), facts)
    }

    fn begin(&self, operation: &'static str) -> Operation<'_> {
        self.facts.waiting.fetch_add(1, Ordering::Relaxed);
        Operation { watched: self, operation, began: Instant::now(), result: "abandoned" }
    }
}

/// One operation; counted when it is dropped, which a caller's deadline may do first.
struct Operation<'a> {
    watched: &'a Watched,
    operation: &'static str,
    began: Instant,
    result: &'static str,
}

impl Operation<'_> {
    fn end<T>(mut self, outcome: Result<T, KeyError>) -> Result<T, KeyError> {
        let Watched { facts, clock, .. } = self.watched;
        match &outcome {
            Ok(_) => {
                self.result = "ok";
                let mut known = facts.lock();
                known.failing = None;
                if self.operation == "sign" {
                    known.last_signature = Some(clock.now());
                }
            }
            Err(error @ KeyError::Device { .. }) => {
                self.result = "device_error";
                let mut known = facts.lock();
                let since = known.failing.as_ref().map_or_else(|| clock.now(), |(since, _)| *since);
                known.failing = Some((since, chain(error)));
            }
            // The token answered, or was not asked: a key that is not there says nothing of the token.
            Err(_) => self.result = "refused",
        }
        outcome
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.watched.facts.waiting.fetch_sub(1, Ordering::Relaxed);
        if is_active() {
            let (operation, result) = (("operation", self.operation), ("result", self.result));
            count("hardroot.token.operations", &[operation, result]);
            let elapsed = self.began.elapsed().as_secs_f64() * 1000.0;
            sample_with("hardroot.token.operation_ms", elapsed, &[operation]);
        }
    }
}

#[async_trait]
impl KeyManager for Watched {
    fn custody(&self) -> Custody {
        self.keys.custody()
    }

    fn lanes(&self) -> usize {
        self.keys.lanes()
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        let operation = self.begin("generate");
        operation.end(self.keys.generate(id, kind).await)
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        let operation = self.begin("find");
        operation.end(self.keys.find(id).await)
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let operation = self.begin("list");
        operation.end(self.keys.list().await)
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        let operation = self.begin("sign");
        operation.end(self.keys.sign(id, scheme, digest).await)
    }

    async fn sign_unverified(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        digest: &Digest,
    ) -> Result<Vec<u8>, KeyError> {
        let operation = self.begin("sign");
        operation.end(self.keys.sign_unverified(id, scheme, digest).await)
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        let operation = self.begin("destroy");
        operation.end(self.keys.destroy(id).await)
    }
}

/// Tells the gauges of the token.
pub fn tell(facts: &TokenFacts, now: SystemTime) {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    gauge("hardroot.token.waiting", facts.waiting() as f64, &[]);
    let known = facts.known();
    gauge("hardroot.token.reachable", f64::from(u8::from(known.failing.is_none())), &[]);
    if let Some(age) = known.last_signature.and_then(|at| now.duration_since(at).ok()) {
        gauge("hardroot.signature.age_seconds", age.as_secs_f64(), &[]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::testing::Local;
    use hardroot_hsm_keymanager::HashAlgorithm;
    use hardroot_hsm_keymanager::memory::MemoryKeyManager;
    use hardroot_runtime::clock::ManualClock;

    use super::*;

    /// A token that is away.
    struct Away;

    fn away() -> KeyError {
        KeyError::Device { op: "sign", id: "*".to_owned(), retryable: true, cause: "unplugged".into() }
    }

    #[async_trait]
    impl KeyManager for Away {
        fn custody(&self) -> Custody {
            Custody { backend: "pkcs11", hardware: true, detail: String::new() }
        }
        async fn generate(&self, _: &KeyId, _: KeyType) -> Result<PublicKey, KeyError> {
            Err(away())
        }
        async fn find(&self, _: &KeyId) -> Result<Option<PublicKey>, KeyError> {
            std::future::pending().await
        }
        async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
            Err(away())
        }
        async fn sign(&self, _: &KeyId, _: SignatureScheme, _: &Digest) -> Result<Vec<u8>, KeyError> {
            Err(away())
        }
        async fn destroy(&self, _: &KeyId) -> Result<(), KeyError> {
            Err(away())
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key() -> KeyId {
        KeyId::new("key").unwrap()
    }

    #[tokio::test]
    async fn signatures_are_counted_timed_and_dated() {
        let (local, clock) = (Local::new(), ManualClock::new(at(100)));
        let (keys, facts) = Watched::new(Arc::new(MemoryKeyManager::new()), Arc::new(clock.clone()));
        keys.generate(&key(), KeyType::EcP256).await.unwrap();
        assert_eq!(facts.known().last_signature, None);
        clock.advance(Duration::from_secs(5));
        let digest = Digest::of(HashAlgorithm::Sha256, b"x");
        keys.sign(&key(), SignatureScheme::Ecdsa, &digest).await.unwrap();
        assert_eq!(facts.known(), Known { last_signature: Some(at(105)), failing: None });
        let missing = KeyId::new("missing").unwrap();
        keys.sign(&missing, SignatureScheme::Ecdsa, &digest).await.unwrap_err();
        assert_eq!(facts.known().failing, None, "a missing key says nothing of the token");
        tell(&facts, at(165));
        for (name, value) in [
            ("hardroot_token_operations{operation=\"sign\",result=\"ok\"}", 1.0),
            ("hardroot_token_operations{operation=\"sign\",result=\"refused\"}", 1.0),
            ("hardroot_token_operations{operation=\"generate\",result=\"ok\"}", 1.0),
            ("hardroot_token_operation_ms_count{operation=\"sign\"}", 2.0),
            ("hardroot_token_waiting", 0.0),
            ("hardroot_token_reachable", 1.0),
            ("hardroot_signature_age_seconds", 60.0),
        ] {
            assert_eq!(local.value(name), Some(value), "{name} in\n{}", local.render());
        }
    }

    #[tokio::test]
    async fn a_token_that_is_away_is_known_since_its_first_failure() {
        let (local, clock) = (Local::new(), ManualClock::new(at(100)));
        let (keys, facts) = Watched::new(Arc::new(Away), Arc::new(clock.clone()));
        keys.destroy(&key()).await.unwrap_err();
        clock.advance(Duration::from_secs(30));
        keys.list().await.unwrap_err();
        let (since, why) = facts.known().failing.unwrap();
        assert_eq!(since, at(100));
        assert!(why.contains("unplugged"), "{why}");
        // A caller that gives up leaves nothing waiting.
        let given_up = tokio::time::timeout(Duration::ZERO, keys.find(&key())).await;
        assert!(given_up.is_err());
        tell(&facts, at(200));
        assert_eq!(local.value("hardroot_token_waiting"), Some(0.0));
        assert_eq!(local.value("hardroot_token_reachable"), Some(0.0));
        let abandoned = "hardroot_token_operations{operation=\"find\",result=\"abandoned\"}";
        assert_eq!(local.value(abandoned), Some(1.0));
    }
}
