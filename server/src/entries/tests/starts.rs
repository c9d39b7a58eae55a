//! A start while another server writes: whatever was read before or after a change, the index shows the database as it
//! is in the end, before anybody asks.

use super::faults::Faulty;
use super::*;
use crate::datastore::sql_tests::{On, Whole};
use crate::datastore::{DatabaseConfig, EntryMask};

const ENTRIES: usize = 60;
const NODES: usize = 20;
/// In lots of seven: statements that read entries and their sets, and some of those that read nodes and theirs.
const STOPS: [u32; 9] = [1, 2, 4, 6, 13, 22, 35, 37, 40];

struct Servers {
    starting: Arc<SqlStore>,
    other: SqlStore,
    _dir: tempfile::TempDir,
}

async fn servers(on: On) -> Servers {
    let dir = tempfile::tempdir().unwrap();
    let config: DatabaseConfig = on.database(dir.path());
    let starting = Arc::new(SqlStore::open(&config).await.unwrap());
    let other = SqlStore::open(&config).await.unwrap();
    let made = (0..ENTRIES).map(|n| entry(&format!("e{n:02}"), &format!("/w{n}"), A, &["unix:uid:1"]));
    assert!(other.create_entries(made.collect()).await.iter().all(Result::is_ok));
    for n in 0..NODES {
        other.attested(node(&format!("/spire/agent/{n}"), &["t:1"]), None).await.unwrap();
    }
    Servers { starting, other, _dir: dir }
}

impl Servers {
    /// A start that stops after so many reads, while the other server writes.
    async fn start(&self, reads: u32, writes: impl AsyncFnOnce(&SqlStore)) -> Arc<AuthorizedEntries> {
        let (reached, go) = self.starting.stop_after("read all entries", reads);
        let store = Arc::new(Faulty::over(self.starting.clone()));
        let own = TrustDomain::new("example.org").unwrap();
        let start = tokio::spawn(AuthorizedEntries::load(store, own, OUTAGE_STALENESS));
        reached.await.expect("so many statements read");
        writes(&self.other).await;
        go.send(()).expect("it waits");
        start.await.unwrap().unwrap()
    }

    /// The index is what the database says, without another look at it.
    async fn agree(&self, started: &AuthorizedEntries, what: &str) {
        let mut whole = Whole::default();
        self.other.snapshot(&mut whole, 1).await.unwrap();
        whole.entries.sort_by(|a, b| a.id.cmp(&b.id));
        let index = started.read();
        let mut held: Vec<Entry> = index.entries().map(|held| held.entry().unwrap()).collect();
        held.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(held, whole.entries, "{what}");
        assert_eq!(index.nodes(), whole.nodes.len(), "{what}");
        for node in &whole.nodes {
            assert!(index.shows(node), "{what}: {}", node.id);
        }
        assert_eq!(started.version(), whole.version, "{what}");
    }
}

/// Changes of every kind, to the first rows, those in the middle and the last.
async fn changes(round: usize, other: &SqlStore) {
    let name = |n: usize| format!("e{:02}", n % ENTRIES);
    for place in [0, 20, 44] {
        let at = place + 4 * (round % 4);
        other.delete_entry(&name(at)).await.unwrap();
        let moved = entry(&name(at), &format!("/again/{round}/{at}"), B, &["unix:uid:2"]);
        other.create_entry(moved).await.unwrap();
        let update = entry(&name(at + 1), &format!("/new/{round}/{at}"), B, &["unix:uid:3", "unix:uid:4"]);
        other.update_entry(update, &EntryMask::ALL).await.unwrap();
        other.delete_entry(&name(at + 2)).await.unwrap();
        let back = entry(&name(at + 2), &format!("/w{round}/{at}"), A, &["unix:uid:1"]);
        other.create_entry(back).await.unwrap();
        if round < 4 {
            other.delete_entry(&name(at + 3)).await.unwrap();
        }
    }
    other.create_entry(entry("", &format!("/added/{round}"), A, &["unix:uid:9"])).await.unwrap();
    let agent = |n: usize| format!("/spire/agent/{n}");
    other.ban_node(&id(&agent(round))).await.unwrap();
    other.attested(node(&agent(19 - round), &["t:2", "t:3"]), None).await.unwrap();
    other.attested(node(&agent(100 + round), &["t:2"]), None).await.unwrap();
}

async fn a_start_while_another_server_writes(on: On) {
    let servers = servers(on).await;
    for (round, reads) in STOPS.into_iter().enumerate() {
        let started = servers.start(reads, async |other| changes(round, other).await).await;
        servers.agree(&started, &format!("stopped after read {reads}")).await;
        // It goes on from there, and what agents were told before is not explained by what this server did not see.
        let (_, start) =
            started.follow_agent(&id(A), Some(Token { version: started.version() - 1, digest: 7 }));
        assert!(matches!(start, Start::Everything(..)));
        servers.other.create_entry(entry("", &format!("/later/{round}"), A, &["unix:uid:9"])).await.unwrap();
        started.refresh().await.unwrap();
        servers.agree(&started, "after another change").await;
        assert_eq!(started.check().await.unwrap().unwrap().drift, [] as [String; 0]);
    }
}

/// The log does not reach back to where the start began.
async fn a_start_while_the_log_is_cut(on: On) {
    let servers = servers(on).await;
    let cut = async |other: &SqlStore| {
        changes(0, other).await;
        other.tamper("DELETE FROM changes").await;
    };
    let started = servers.start(22, cut).await;
    servers.agree(&started, "read again").await;
}

macro_rules! on {
    ($($engine:ident: $on:expr,)*) => { $(
        mod $engine {
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn a_start_while_another_server_writes() {
                super::a_start_while_another_server_writes($on).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn a_start_while_the_log_is_cut() {
                super::a_start_while_the_log_is_cut($on).await;
            }
        }
    )* };
}

on! {
    sqlite: super::On::Sqlite,
    postgres: super::On::Postgres,
    mariadb: super::On::MariaDb,
}
