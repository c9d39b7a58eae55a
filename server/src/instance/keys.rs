//! Every key is written down before it is made: who made it, what for, where, and what became of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hardroot_hsm_keymanager::{
    Custody, Digest, HashAlgorithm, KeyError, KeyId, KeyInfo, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_runtime::clock::Clock;
use tracing::{error, info, warn};

use crate::authority::Authority;
use crate::datastore::{KeyRecord, KeyRecords, KeyState, StoreError};

const HOUR: Duration = Duration::from_secs(3600);

/// Records of retired keys are kept this long.
const KEEP_RECORDS: Duration = Duration::from_secs(90 * 24 * 3600);

/// How many keys a server with this `ca_ttl` may make within an hour: twice what rotation needs (three keys each
/// half lifetime), and twelve more for starts, taints and trials. More mean that something makes keys in a loop.
#[must_use]
pub fn keys_per_hour(ca_ttl: Duration) -> usize {
    let half = (ca_ttl / 2).as_secs().max(1);
    let rotations = usize::try_from(HOUR.as_secs().div_ceil(half)).unwrap_or(usize::MAX);
    rotations.saturating_mul(6).saturating_add(12)
}

/// A key manager whose keys are recorded.
pub struct RecordedKeys {
    keys: Arc<dyn KeyManager>,
    records: Arc<dyn KeyRecords>,
    clock: Arc<dyn Clock>,
    instance: String,
    per_hour: usize,
}

fn unrecorded(id: &KeyId, cause: StoreError) -> KeyError {
    KeyError::Device { op: "recording", id: id.to_string(), retryable: true, cause: Box::new(cause) }
}

fn spki_hash(public: &PublicKey) -> String {
    hex::encode(Digest::of(HashAlgorithm::Sha256, &public.spki_der).as_bytes())
}

impl RecordedKeys {
    /// Wraps a key manager and settles what an earlier process left: an intent with an object becomes a record, a
    /// key without one gets one. Nothing is forgotten because a key cannot be seen now.
    ///
    /// # Errors
    /// The key manager or the database failed.
    pub async fn open(
        keys: Arc<dyn KeyManager>,
        records: Arc<dyn KeyRecords>,
        clock: Arc<dyn Clock>,
        instance: String,
        per_hour: usize,
    ) -> Result<Self, KeyError> {
        let recorded = Self { keys, records, clock, instance, per_hour };
        recorded.settle().await?;
        Ok(recorded)
    }

    async fn settle(&self) -> Result<(), KeyError> {
        let all = KeyId::new("all")?;
        let fault = |cause| unrecorded(&all, cause);
        let now = self.clock.now();
        let records = self.records.key_records(&self.instance).await.map_err(fault)?;
        let found = self.keys.list().await?;
        for KeyInfo { id, public } in &found {
            let hash = spki_hash(public);
            let of_id = || records.iter().filter(|record| record.key_id == id.as_str());
            if of_id().any(|record| record.state == KeyState::Present && record.spki_sha256 == hash) {
                continue;
            }
            // The newest intent is the one whose key replaced what was there before.
            let intent =
                of_id().filter(|record| record.state == KeyState::Intent).max_by_key(|record| record.row);
            let row = match intent {
                Some(intent) => intent.row,
                None => {
                    warn!(key = %id, "a key without a record was found; it is recorded now");
                    self.records.intend_key(&self.record(id, public.kind, now)).await.map_err(fault)?
                }
            };
            self.records.key_made(row, &hash).await.map_err(fault)?;
            info!(key = %id, spki_sha256 = %hash, "a key that an earlier process made is adopted");
        }
        for record in records.iter().filter(|record| record.state == KeyState::Present) {
            if found.iter().all(|key| key.id.as_str() != record.key_id) {
                warn!(
                    key = %record.key_id, spki_sha256 = %record.spki_sha256, custody = %record.custody,
                    "a recorded key is not seen in the key manager; its record stays"
                );
            }
        }
        let before = now.checked_sub(KEEP_RECORDS).unwrap_or(SystemTime::UNIX_EPOCH);
        self.records.prune_key_records(before).await.map_err(fault)
    }

    fn record(&self, id: &KeyId, kind: KeyType, now: SystemTime) -> KeyRecord {
        KeyRecord {
            row: 0,
            instance: self.instance.clone(),
            key_id: id.to_string(),
            kind: kind.as_str().to_owned(),
            spki_sha256: String::new(),
            custody: self.keys.custody().detail,
            created_at: now,
            state: KeyState::Intent,
        }
    }

    /// Destroys keys that this instance made, that neither journal nor bundle knows, and that are older than
    /// `age`: what a killed process left in a slot that is used no more.
    ///
    /// # Errors
    /// The key manager or the database failed.
    pub async fn reap(&self, authority: &Authority, age: Duration) -> Result<(), KeyError> {
        let now = self.clock.now();
        for KeyInfo { id, public } in self.keys.list().await? {
            let records =
                self.records.key_records(&self.instance).await.map_err(|cause| unrecorded(&id, cause))?;
            let hash = spki_hash(&public);
            let record = records.iter().find(|record| {
                record.key_id == id.as_str()
                    && record.state == KeyState::Present
                    && record.spki_sha256 == hash
            });
            let old =
                record.is_some_and(|record| record.created_at.checked_add(age).is_some_and(|end| end < now));
            if !old || !Authority::is_signing_key(&id) {
                continue;
            }
            match authority.refers_to(&public).await {
                Ok(false) => {
                    warn!(key = %id, spki_sha256 = %hash, "a key that nothing refers to is destroyed");
                    self.destroy(&id).await?;
                }
                Ok(true) => {}
                Err(cause) => {
                    error!(error = &cause as &dyn std::error::Error, key = %id, "whether a key is needed cannot be told; it stays");
                }
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl KeyManager for RecordedKeys {
    fn custody(&self) -> Custody {
        self.keys.custody()
    }

    fn lanes(&self) -> usize {
        self.keys.lanes()
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        let fault = |cause| unrecorded(id, cause);
        let now = self.clock.now();
        let records = self.records.key_records(&self.instance).await.map_err(fault)?;
        let since = now.checked_sub(HOUR).unwrap_or(SystemTime::UNIX_EPOCH);
        let made = records.iter().filter(|record| record.created_at > since).count();
        if made >= self.per_hour {
            return Err(KeyError::Refused {
                id: id.clone(),
                reason: format!(
                    "{made} keys were made within the last hour, and at most {} are: something makes keys again and again. \
                     Look for the reason in the log; the next one can be made when the hour is over",
                    self.per_hour
                ),
            });
        }
        let row = self.records.intend_key(&self.record(id, kind, now)).await.map_err(fault)?;
        let public = self.keys.generate(id, kind).await?;
        self.records.key_made(row, &spki_hash(&public)).await.map_err(fault)?;
        info!(key = %id, spki_sha256 = %spki_hash(&public), "a key was made");
        Ok(public)
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        self.keys.find(id).await
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        self.keys.list().await
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        self.keys.sign(id, scheme, digest).await
    }

    async fn sign_unverified(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        digest: &Digest,
    ) -> Result<Vec<u8>, KeyError> {
        self.keys.sign_unverified(id, scheme, digest).await
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        self.keys.destroy(id).await?;
        info!(key = %id, "a key was destroyed");
        self.records.key_retired(&self.instance, id.as_str()).await.map_err(|cause| unrecorded(id, cause))
    }
}
