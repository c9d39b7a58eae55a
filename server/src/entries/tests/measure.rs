//! What a start reads, whole, from a database filled by hand. With more entries it also measures time and memory:
//!
//! `ENTRIES=1000000 AGENTS=100000 cargo test --release -p hardroot-server --lib entries::tests::measure -- --nocapture`

use std::time::Instant;

use hardroot_emulators::fill::{self, Dialect};

use super::*;
use crate::datastore::sql_tests::On;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

async fn measure(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqlStore::open(&on.database(dir.path())).await.unwrap());
    let (entries, agents) = (number("ENTRIES", 2_000), number("AGENTS", 200));
    let dialect = if on == On::Sqlite { Dialect::Sqlite } else { Dialect::Postgres };
    for text in fill::statements(dialect, "example.org", entries, agents) {
        store.tamper(&text).await;
    }
    let (before, began) = (resident(), Instant::now());
    let own = TrustDomain::new("example.org").unwrap();
    let held = AuthorizedEntries::load(store.clone(), own, OUTAGE_STALENESS).await.unwrap();
    let (took, grown) = (began.elapsed(), resident().saturating_sub(before));
    assert_eq!((held.len() as u64, held.agents() as u64), (entries, agents));
    println!(
        "{on:?}: {entries} entries and {agents} agents in {took:?}, {} bytes resident an entry",
        grown / entries
    );
    let agent: SpiffeId = "spiffe://example.org/spire/agent/join_token/7".parse().unwrap();
    assert_eq!(held.of(&agent).len() as u64, entries / agents, "each agent has as many");
    let (statements, began) = (store.statements(), Instant::now());
    for _ in 0..10_000 {
        held.current().await.unwrap();
        assert!(!held.of(&agent).is_empty() && held.serials(&agent).is_some());
    }
    println!("{on:?}: an unchanged agent's question {:?}", began.elapsed() / 10_000);
    assert_eq!(store.statements(), statements, "an unchanged agent's question reads the database");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_sqlite() {
    measure(On::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_postgres() {
    measure(On::Postgres).await;
}
