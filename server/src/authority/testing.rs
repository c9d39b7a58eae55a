//! Key managers and stores that count, fail and lie, for the tests of the authority.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{
    Custody, Digest, KeyError, KeyId, KeyInfo, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_identity::{DistinguishedName, TrustDomain};
use hardroot_runtime::clock::ManualClock;

use super::{Authority, AuthorityConfig, AuthorityError};
use crate::datastore::sqlite::SqliteStore;
use crate::datastore::{Bundles, DeleteMode, Journals, StoreError};

/// One counter for everything the authority asks of the outside, so that each step can be made the last.
#[derive(Default)]
pub(crate) struct Steps {
    taken: AtomicUsize,
    /// The step at which the process dies, counted from 0.
    pub(crate) dies_at: AtomicUsize,
    /// Whether the step still takes effect.
    pub(crate) takes_effect: AtomicBool,
    pub(crate) log: Mutex<Vec<String>>,
}

impl Steps {
    pub(crate) fn immortal() -> Arc<Self> {
        Self::dying(usize::MAX, false)
    }

    pub(crate) fn dying(at: usize, takes_effect: bool) -> Arc<Self> {
        let steps = Self::default();
        steps.dies_at.store(at, Ordering::SeqCst);
        steps.takes_effect.store(takes_effect, Ordering::SeqCst);
        Arc::new(steps)
    }

    /// Whether the process dies now; after its death every step fails without effect.
    fn next(&self, what: &str) -> Fate {
        let now = self.taken.fetch_add(1, Ordering::SeqCst);
        self.log.lock().unwrap().push(what.to_owned());
        match now.cmp(&self.dies_at.load(Ordering::SeqCst)) {
            std::cmp::Ordering::Less => Fate::Lives,
            std::cmp::Ordering::Equal if self.takes_effect.load(Ordering::SeqCst) => Fate::DiesAfter,
            _ => Fate::DiesBefore,
        }
    }
}

#[derive(PartialEq)]
enum Fate {
    Lives,
    DiesBefore,
    DiesAfter,
}

fn dead_key() -> KeyError {
    KeyError::Device { op: "anything", id: "*".to_owned(), retryable: false, cause: "dead".into() }
}

fn dead_store() -> StoreError {
    StoreError::Database { op: "anything", cause: "dead".into() }
}

/// Keys that survive their users.
#[derive(Default)]
pub(crate) struct Token {
    keys: MemoryKeyManager,
    pub(crate) generated: AtomicUsize,
    pub(crate) signed: AtomicUsize,
    /// Signatures are made over something else.
    pub(crate) lies: AtomicBool,
}

/// A process's view of the token.
pub(crate) struct TokenSession {
    pub(crate) token: Arc<Token>,
    pub(crate) steps: Arc<Steps>,
}

impl TokenSession {
    async fn step<T>(
        &self,
        what: String,
        effect: impl Future<Output = Result<T, KeyError>> + Send,
    ) -> Result<T, KeyError> {
        match self.steps.next(&what) {
            Fate::Lives => effect.await,
            Fate::DiesBefore => Err(dead_key()),
            Fate::DiesAfter => effect.await.and(Err(dead_key())),
        }
    }
}

#[async_trait::async_trait]
impl KeyManager for TokenSession {
    fn custody(&self) -> Custody {
        self.token.keys.custody()
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        self.step(format!("generate {id}"), async {
            self.token.generated.fetch_add(1, Ordering::SeqCst);
            self.token.keys.generate(id, kind).await
        })
        .await
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        self.step(format!("find {id}"), self.token.keys.find(id)).await
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        self.token.keys.list().await
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        self.step(format!("sign {id}"), async {
            self.token.signed.fetch_add(1, Ordering::SeqCst);
            if self.token.lies.load(Ordering::SeqCst) {
                let other = Digest::of(digest.algorithm(), b"something else");
                return self.token.keys.sign(id, scheme, &other).await;
            }
            self.token.keys.sign(id, scheme, digest).await
        })
        .await
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        self.step(format!("destroy {id}"), self.token.keys.destroy(id)).await
    }
}

/// A process's view of the database.
pub(crate) struct StoreSession {
    pub(crate) store: SqliteStore,
    pub(crate) steps: Arc<Steps>,
    /// Bundles are accepted and forgotten.
    pub(crate) forgets_bundles: bool,
}

impl StoreSession {
    async fn step<T>(
        &self,
        what: &str,
        effect: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match self.steps.next(what) {
            Fate::Lives => effect.await,
            Fate::DiesBefore => Err(dead_store()),
            Fate::DiesAfter => effect.await.and(Err(dead_store())),
        }
    }
}

#[async_trait::async_trait]
impl Bundles for StoreSession {
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<(Vec<u8>, i64)>, StoreError> {
        self.step("read bundle", self.store.bundle(trust_domain)).await
    }

    async fn put_bundle(
        &self,
        trust_domain: &TrustDomain,
        data: &[u8],
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        if self.forgets_bundles {
            return Ok(1);
        }
        self.step("write bundle", self.store.put_bundle(trust_domain, data, expected)).await
    }

    async fn list_bundles(&self) -> Result<Vec<(TrustDomain, Vec<u8>)>, StoreError> {
        self.store.list_bundles().await
    }

    async fn delete_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError> {
        self.store.delete_bundle(trust_domain, mode).await
    }
}

#[async_trait::async_trait]
impl Journals for StoreSession {
    async fn find_journal(&self, authority_ids: &[String]) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        self.step("read journal", self.store.find_journal(authority_ids)).await
    }

    async fn put_journal(&self, row: Option<i64>, data: &[u8], active: &str) -> Result<i64, StoreError> {
        self.step("write journal", self.store.put_journal(row, data, active)).await
    }
}

/// A token and a database that outlive the servers using them.
pub(crate) struct Site {
    pub(crate) token: Arc<Token>,
    pub(crate) store: SqliteStore,
    pub(crate) clock: ManualClock,
    _directory: tempfile::TempDir,
}

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn config() -> AuthorityConfig {
    AuthorityConfig {
        trust_domain: trust_domain(),
        ca_ttl: DAY,
        ca_key_type: KeyType::EcP256,
        ca_subject: DistinguishedName::default_ca(),
    }
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with_token(Arc::default()).await
    }

    /// Another server, with a token of its own, on the same database.
    pub(crate) fn neighbour(&self) -> Self {
        Self {
            token: Arc::default(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            _directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A new database beside an old token.
    pub(crate) async fn with_token(token: Arc<Token>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("server.sqlite3")).await.unwrap();
        Self { token, store, clock: ManualClock::new(noon()), _directory: directory }
    }

    pub(crate) fn keys(&self, steps: &Arc<Steps>) -> Arc<TokenSession> {
        Arc::new(TokenSession { token: Arc::clone(&self.token), steps: Arc::clone(steps) })
    }

    pub(crate) async fn start_with(&self, steps: &Arc<Steps>) -> Result<Authority, AuthorityError> {
        let store =
            StoreSession { store: self.store.clone(), steps: Arc::clone(steps), forgets_bundles: false };
        Authority::start(config(), self.keys(steps), Arc::new(store), Arc::new(self.clock.clone())).await
    }

    pub(crate) async fn start(&self) -> Authority {
        self.start_with(&Steps::immortal()).await.unwrap()
    }

    pub(crate) fn generated(&self) -> usize {
        self.token.generated.load(Ordering::SeqCst)
    }
}
