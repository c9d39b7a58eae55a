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

use super::{Authority, AuthorityConfig, AuthorityError, JWT_KEYS, JwtConfig};
use crate::datastore::{Bundles, DeleteMode, Journals, SqlStore, StoreError, StoredJournal};

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
    /// The ids of the keys that were asked for, in order.
    pub(crate) generated: Mutex<Vec<String>>,
    pub(crate) signed: AtomicUsize,
    /// Signatures are made over something else.
    pub(crate) lies: AtomicBool,
    /// No key can be made whose id begins so.
    pub(crate) full_for: Mutex<Option<&'static str>>,
    /// Signatures with keys whose id begins so never come.
    pub(crate) hangs_for: Mutex<Option<&'static str>>,
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
            if self.token.full_for.lock().unwrap().is_some_and(|prefix| id.as_str().starts_with(prefix)) {
                return Err(dead_key());
            }
            self.token.generated.lock().unwrap().push(id.to_string());
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
            let hangs = *self.token.hangs_for.lock().unwrap();
            if hangs.is_some_and(|prefix| id.as_str().starts_with(prefix)) {
                return std::future::pending().await;
            }
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
    pub(crate) store: SqlStore,
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
    async fn find_journal(&self, authority_ids: &[String]) -> Result<Option<StoredJournal>, StoreError> {
        self.step("read journal", self.store.find_journal(authority_ids)).await
    }

    async fn put_journal(
        &self,
        before: Option<&StoredJournal>,
        data: &[u8],
        active: &str,
    ) -> Result<i64, StoreError> {
        self.step("write journal", self.store.put_journal(before, data, active)).await
    }
}

/// A token and a database that outlive the servers using them.
pub(crate) struct Site {
    pub(crate) token: Arc<Token>,
    pub(crate) store: SqlStore,
    pub(crate) clock: ManualClock,
    directory: tempfile::TempDir,
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
        jwt: Some(JwtConfig { key_type: KeyType::EcP256, issuer: None }),
    }
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with_token(Arc::default()).await
    }

    /// Another server's view of the database.
    pub(crate) async fn another_store(&self) -> SqlStore {
        SqlStore::open_file(self.directory.path().join("server.sqlite3")).await.unwrap()
    }

    /// Another server, with a token of its own, on the same database.
    pub(crate) fn neighbour(&self) -> Self {
        Self {
            token: Arc::default(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A new database beside an old token.
    pub(crate) async fn with_token(token: Arc<Token>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open_file(directory.path().join("server.sqlite3")).await.unwrap();
        Self { token, store, clock: ManualClock::new(noon()), directory }
    }

    /// The token itself, as a server of an earlier version sees it.
    pub(crate) fn token_keys(&self) -> &MemoryKeyManager {
        &self.token.keys
    }

    pub(crate) fn keys(&self, steps: &Arc<Steps>) -> Arc<TokenSession> {
        Arc::new(TokenSession { token: Arc::clone(&self.token), steps: Arc::clone(steps) })
    }

    pub(crate) async fn start_with(&self, steps: &Arc<Steps>) -> Result<Authority, AuthorityError> {
        self.start_as(config(), steps).await
    }

    pub(crate) async fn start_as(
        &self,
        config: AuthorityConfig,
        steps: &Arc<Steps>,
    ) -> Result<Authority, AuthorityError> {
        let store =
            StoreSession { store: self.store.clone(), steps: Arc::clone(steps), forgets_bundles: false };
        Authority::start(config, self.keys(steps), Arc::new(store), Arc::new(self.clock.clone())).await
    }

    pub(crate) async fn start(&self) -> Authority {
        self.start_with(&Steps::immortal()).await.unwrap()
    }

    /// The journal of a server of this site, as it is stored.
    pub(crate) async fn journal_of(&self, authority: &Authority) -> Option<StoredJournal> {
        let ids: Vec<_> = authority.slots().await.into_iter().map(|slot| slot.authority_id).collect();
        self.store.find_journal(&ids).await.unwrap()
    }

    /// The journal's row becomes another server's: ours cannot be found any more.
    pub(crate) async fn lose_journal(&self, authority: &Authority) {
        let stored = self.journal_of(authority).await.unwrap();
        self.store.put_journal(Some(&stored), b"", "somebody else").await.unwrap();
    }

    /// How many keys were made for certificates and TLS.
    pub(crate) fn generated(&self) -> usize {
        self.count(|id| !id.starts_with(JWT_KEYS))
    }

    /// How many keys were made for tokens.
    pub(crate) fn generated_jwt(&self) -> usize {
        self.count(|id| id.starts_with(JWT_KEYS))
    }

    fn count(&self, which: impl Fn(&str) -> bool) -> usize {
        self.token.generated.lock().unwrap().iter().filter(|id| which(id)).count()
    }
}
