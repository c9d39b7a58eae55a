//! Reading everything: the same rows as one by one, in whatever lots and however many connections.

use super::*;
use crate::datastore::DeleteMode;

/// One with everything that an entry may have.
fn full(n: usize) -> Entry {
    Entry {
        id: format!("full-{n}"),
        dns_names: vec!["z.example.org".into(), "a.example.org".into(), "m.example.org".into()],
        federates_with: vec![td("a.test"), td("b.test")],
        hint: format!("\"quoted\" \\ {{[n: 1]}} 'x' \u{1}\t\n\u{7f} h\u{e9} \u{6f22}\u{1f980} {n}"),
        x509_svid_ttl: 60,
        jwt_svid_ttl: i32::MAX,
        expires_at: 4_000_000_000,
        admin: n.is_multiple_of(2),
        downstream: !n.is_multiple_of(2),
        store_svid: n.is_multiple_of(4),
        disable_x509_svid_prefetch: !n.is_multiple_of(4),
        jwt_svid_include_jti: n.is_multiple_of(3),
        ..entry(&format!("/full/{n}"), "/p", &["unix:label:\"a\":\\b", "unix:path:/h\u{e9}", "unix:uid:1"])
    }
}

async fn lots_and_connections_change_nothing(on: On) {
    let f = Fixture::new(on).await;
    for name in ["a.test", "b.test"] {
        f.store.put_bundle(&td(name), b"x", None).await.unwrap();
    }
    let mut ids = Vec::new();
    for n in 0..11 {
        let made = if n % 2 == 0 { full(n) } else { entry(&format!("/{n}"), "/p", &["unix:uid:7"]) };
        ids.push(f.store.create_entry(made).await.unwrap().0.id);
        let with: &[&str] = if n % 2 == 0 { &[] } else { &["t:b", "t:a"] };
        let agent = node(&format!("/spire/agent/{n}"), "7", with);
        f.store.attested(Node { agent_version: "1 \"x\"".into(), ..agent }, None).await.unwrap();
    }
    // Ids with a gap, in which members are left that belong to nobody.
    f.store.delete_entry(&ids.remove(5)).await.unwrap();
    let (from, to) = ("entry_selectors", "(SELECT min(id) + 5 FROM entries)");
    f.sql(&format!("INSERT INTO {from} SELECT {to}, 'of', 'nobody' FROM entries WHERE id = 1")).await;
    let mut expected = Vec::new();
    for id in &ids {
        expected.push(f.store.entry(id).await.unwrap().unwrap());
    }
    for (connections, lot) in [(1, 100), (1, 1), (1, 10), (2, 3), (5, 2), (3, 11), (100, 1)] {
        let mut found = Whole::default();
        f.store.read_in_lots(&mut found, connections, lot).await.unwrap();
        found.entries.sort_by_key(|entry| ids.iter().position(|id| *id == entry.id));
        assert_eq!(found.entries, expected, "{connections} connections, lots of {lot}");
        assert_eq!(
            (found.damaged.len(), found.nodes.len()),
            (0, 11),
            "{connections} connections, lots of {lot}"
        );
        for node in &found.nodes {
            assert_eq!(f.store.node(&node.id).await.unwrap().as_ref(), Some(node));
        }
        assert_eq!(found.version, f.store.version().await.unwrap());
    }
    f.store.delete_bundle(&td("a.test"), DeleteMode::Dissociate).await.unwrap();
    let federates = |found: Whole| found.entries.iter().map(|e| e.federates_with.len()).collect::<Vec<_>>();
    assert_eq!(federates(whole(&f.store).await).iter().sum::<usize>(), 6, "sets are read anew");
}

on_every_engine! {
    lots_and_connections_change_nothing,
}

/// SQLite takes any bytes for a text; PostgreSQL does not, and MariaDB's rows are read one by one.
#[tokio::test]
async fn a_text_that_is_none_damages_one_row() {
    let f = Fixture::new(On::Sqlite).await;
    for n in 0..5 {
        f.store.create_entry(entry(&format!("/{n}"), "/p", &["unix:uid:7"])).await.unwrap();
    }
    f.sql("UPDATE entries SET hint = cast(x'61ff' AS TEXT) WHERE spiffe_id LIKE '%/3'").await;
    let found = whole(&f.store).await;
    assert_eq!((found.entries.len(), found.damaged.len()), (4, 1));
    f.sql("UPDATE entry_selectors SET value = cast(x'61ff' AS TEXT) WHERE entry = 2").await;
    let found = whole(&f.store).await;
    assert_eq!((found.entries.len(), found.damaged.len()), (3, 2));
    f.sql("UPDATE entries SET hint = cast(x'620063' AS TEXT) WHERE id = 1").await;
    let alone = f.store.entry(&found.entries[0].id).await.unwrap().unwrap();
    assert_eq!(whole(&f.store).await.entries[0].hint, alone.hint, "a NUL ends no text");
}

/// A connection that cannot be had is done without.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn few_connections_suffice() {
    let f = Fixture::new(On::Postgres).await;
    let Place::Server(server) = &f.config.place else { panic!() };
    let pooling = Pooling { max_open_conns: 1, ..server.pooling };
    let server = ServerDatabase { pooling, ..(**server).clone() };
    let config = DatabaseConfig { place: Place::Server(Box::new(server)), ..f.config.clone() };
    let store = SqlStore::open(&config).await.unwrap();
    store.create_entry(entry("/a", "/p", &["unix:uid:7"])).await.unwrap();
    let mut found = Whole::default();
    store.read_in_lots(&mut found, 4, 1).await.unwrap();
    assert_eq!(found.entries.len(), 1);
}
