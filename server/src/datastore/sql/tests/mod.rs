//! The store's suite: each trait, restart, several writers, damaged rows.

/// Runs each of some tests on every engine.
macro_rules! on_every_engine {
    ($($name:ident,)*) => {
        mod sqlite {
            $( #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() { super::$name(super::On::Sqlite).await; } )*
        }
        mod postgres {
            $( #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() { super::$name(super::On::Postgres).await; } )*
        }
        mod mariadb {
            $( #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() { super::$name(super::On::MariaDb).await; } )*
        }
    };
}

mod admin;
mod bulk;
mod damage;
mod entries;
mod faults;
mod federation;
mod filters;
mod instances;
mod interleaved;
mod nodes;
mod opening;
mod others;
mod replica;
mod snapshot;
mod tls;
mod two_servers;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_emulators::{MySql, Postgres};
use hardroot_identity::{Selector, SpiffeId, TrustDomain};
use hardroot_runtime::secret::Secret;

use super::access::sql;
use super::*;
use crate::datastore::{Bundles, Entries, Entry, EntryMask, Node, Nodes, SnapshotReader};

/// Everything of a store at once.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub(crate) version: i64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) damaged: Vec<StoreError>,
}

impl SnapshotReader for Whole {
    fn version(&mut self, version: i64) {
        self.version = version;
    }

    fn entry(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    fn node(&mut self, node: Node) {
        self.nodes.push(node);
    }

    fn damaged(&mut self, damage: StoreError) {
        self.damaged.push(damage);
    }
}

async fn whole(store: &SqlStore) -> Whole {
    let mut whole = Whole::default();
    store.snapshot(&mut whole, 1).await.unwrap();
    whole
}

/// Where a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Sqlite,
    Postgres,
    MariaDb,
}

/// One server of each kind for all tests of this process; each test has its own database in it.
fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start().unwrap())
}

fn mariadb() -> &'static MySql {
    static SERVER: OnceLock<MySql> = OnceLock::new();
    SERVER.get_or_init(|| MySql::start().unwrap())
}

fn endpoint(address: std::net::SocketAddr, user: &str, password: &str, database: String) -> Endpoint {
    Endpoint {
        host: Host::Tcp { name: address.ip().to_string(), port: address.port() },
        user: Some(user.to_owned()),
        password: Some(Secret::new(password.into())),
        password_in_config: false,
        password_file: None,
        database,
        tls: Tls::Prefer,
        root_ca: None,
        client: None,
    }
}

fn server(engine: Engine, primary: Endpoint) -> DatabaseConfig {
    let pooling = Pooling { max_open_conns: 6, ..Pooling::default() };
    let server = ServerDatabase { engine, primary, replica: None, pooling };
    DatabaseConfig {
        place: Place::Server(Box::new(server)),
        disable_migration: false,
        outage_staleness: OUTAGE_STALENESS,
    }
}

impl On {
    /// A new and empty database.
    pub(crate) fn database(self, dir: &std::path::Path) -> DatabaseConfig {
        match self {
            Self::Sqlite => DatabaseConfig::file(dir.join("datastore.sqlite3")),
            Self::Postgres => {
                let name = postgres().create_database().unwrap();
                let address = postgres().address();
                server(Engine::Postgres, endpoint(address, Postgres::USER, Postgres::PASSWORD, name))
            }
            Self::MariaDb => {
                let name = mariadb().create_database().unwrap();
                let address = mariadb().address();
                server(Engine::MySql, endpoint(address, MySql::USER, MySql::PASSWORD, name))
            }
        }
    }
}

pub(super) struct Fixture {
    pub(super) store: SqlStore,
    pub(super) config: DatabaseConfig,
    dir: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn new(on: On) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = on.database(dir.path());
        let store = SqlStore::open(&config).await.unwrap();
        Self { store, config, dir }
    }

    /// The file, on SQLite.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("datastore.sqlite3")
    }

    /// Closes the store and opens the database anew, as a restart does.
    pub(super) async fn restart(&mut self) {
        self.store.close().await;
        self.store = SqlStore::open(&self.config).await.unwrap();
    }

    /// A second store on the same database, as another process would have it.
    pub(super) async fn another(&self) -> SqlStore {
        SqlStore::open(&self.config).await.unwrap()
    }

    /// See [`SqlStore::tamper`].
    pub(super) async fn sql(&self, text: &str) {
        self.store.tamper(text).await;
    }

    /// The number `n` that a query tells.
    pub(super) async fn number(&self, text: &'static str) -> i64 {
        self.store.pools.reader("look").await.unwrap().number("look", sql(text)).await.unwrap()
    }

    /// Removes every row but the count of changes.
    pub(super) async fn clear(&self) {
        for table in ["entries", "nodes", "bundles", "join_tokens", "journals", "tpm_enrolments"] {
            let mut session = self.store.pools.writer("clear").await.unwrap();
            session.script("clear", &format!("DELETE FROM {table}")).await.unwrap();
        }
    }
}

pub(super) fn id(text: &str) -> SpiffeId {
    format!("spiffe://example.org{text}").parse().unwrap()
}

pub(super) fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(super) fn selectors(texts: &[&str]) -> Vec<Selector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn entry(path: &str, parent: &str, with: &[&str]) -> Entry {
    Entry {
        id: String::new(),
        spiffe_id: id(path),
        parent_id: id(parent),
        selectors: selectors(with),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: vec![],
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: vec![],
        revision_number: 0,
        store_svid: false,
        hint: String::new(),
        created_at: 1_700_000_000,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

pub(super) fn node(path: &str, serial: &str, with: &[&str]) -> Node {
    Node {
        id: id(path),
        attestation_type: "tpm_quote".into(),
        serial_number: serial.into(),
        expires_at: at(2_000_000_000),
        new_serial_number: String::new(),
        new_expires_at: None,
        can_reattest: true,
        agent_version: String::new(),
        selectors: selectors(with),
    }
}

impl SqlStore {
    /// Stops the `reads`th statement of `op` that reads, once: the receiver hears of it, the sender lets it go on.
    pub(crate) fn stop_after(
        &self,
        op: &'static str,
        reads: u32,
    ) -> (tokio::sync::oneshot::Receiver<()>, tokio::sync::oneshot::Sender<()>) {
        self.pools.pause().after(op, reads)
    }

    /// Runs SQL behind the store's back, with foreign keys off.
    pub(crate) async fn tamper(&self, text: &str) {
        let mut session = self.pools.writer("tamper").await.unwrap();
        session.patient();
        let (off, on) = match self.engine() {
            Engine::Sqlite => ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON"),
            Engine::Postgres => {
                ("SET session_replication_role = replica", "SET session_replication_role = DEFAULT")
            }
            Engine::MySql => ("SET foreign_key_checks = 0", "SET foreign_key_checks = 1"),
        };
        for text in [off, text, on] {
            session.script("tamper", text).await.unwrap();
        }
    }
}
