//! What a stream is told, and where one goes on that was away.

use super::*;
use hardroot_api::spire::api::types;

/// What an agent has, told as a stream tells it.
#[derive(Default)]
struct Told {
    entries: std::collections::BTreeMap<String, types::Entry>,
    token: Option<Token>,
}

impl Told {
    fn put(&mut self, held: &Held) {
        let entry = held.message();
        self.entries.insert(entry.id.clone(), entry);
    }

    /// Opens a stream and takes what comes first; how it began.
    fn open(&mut self, entries: &Arc<AuthorizedEntries>, agent: &SpiffeId) -> (Followed, &'static str) {
        let (followed, start) = entries.follow_agent(agent, self.token);
        let how = match start {
            Start::Current(token) => {
                self.token = Some(token);
                "current"
            }
            Start::Changes => {
                self.take(&followed);
                "changes"
            }
            Start::Everything(all, token) => {
                self.entries.clear();
                all.iter().for_each(|held| self.put(held));
                self.token = Some(token);
                "everything"
            }
        };
        (followed, how)
    }

    /// Takes what there is, little by little; how many changes.
    fn take(&mut self, followed: &Followed) -> usize {
        let mut count = 0;
        loop {
            let taken = followed.take(2).unwrap();
            count += taken.changed.len() + taken.removed.len();
            taken.changed.iter().for_each(|entry| self.put(entry));
            for id in &taken.removed {
                self.entries.remove(id);
            }
            if let Some(token) = taken.token {
                self.token = Some(token);
                return count;
            }
        }
    }

    fn ids(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }
}

fn is_right(told: &Told, entries: &AuthorizedEntries, agent: &SpiffeId) {
    let wanted: Vec<_> = entries.of(agent).iter().map(|held| held.message()).collect();
    assert_eq!(told.entries.values().cloned().collect::<Vec<_>>(), wanted);
}

#[tokio::test]
async fn changes_are_gathered_once_and_a_stream_goes_on_where_it_was() {
    let f = fixture().await;
    let (one, _) = f.store.create_entry(entry("1", "/w", A, &["unix:uid:1"])).await.unwrap();
    f.entries.current().await.unwrap();
    let mut told = Told::default();
    let (followed, how) = told.open(&f.entries, &id(A));
    assert_eq!((how, told.ids()), ("everything", vec!["1"]));
    for hint in ["a", "b"] {
        let changed = Entry { hint: hint.into(), ..one.clone() };
        f.store.update_entry(changed, &crate::datastore::EntryMask::ALL).await.unwrap();
    }
    f.store.create_entry(entry("2", "/w2", A, &["unix:uid:1"])).await.unwrap();
    f.entries.refresh().await.unwrap();
    f.store.delete_entry("2").await.unwrap();
    f.store.create_entry(entry("3", "/w3", B, &["unix:uid:1"])).await.unwrap();
    f.entries.refresh().await.unwrap();
    followed.woken().await;
    assert_eq!(told.take(&followed), 1, "what came and went is nothing, and another agent's is nothing");
    assert_eq!(told.entries["1"].hint, "b");
    drop(followed);
    assert_eq!(told.open(&f.entries, &id(A)).1, "current");
    f.store.delete_entry("1").await.unwrap();
    f.store.create_entry(entry("4", "/w4", A, &["unix:uid:1"])).await.unwrap();
    // Another server on the same database, which followed meanwhile.
    let (other, entries) = (f.store.clone(), &f.entries);
    entries.refresh().await.unwrap();
    let (_followed, how) = told.open(entries, &id(A));
    assert_eq!((how, told.ids()), ("changes", vec!["4"]));
    let fresh = AuthorizedEntries::load(other, TrustDomain::new("example.org").unwrap(), OUTAGE_STALENESS)
        .await
        .unwrap();
    assert_eq!(told.open(&fresh, &id(A)).1, "current", "a server that has just started knows what is equal");
}

#[tokio::test]
async fn a_newer_stream_ends_an_older_one() {
    let f = fixture().await;
    let (older, _) = f.entries.follow_agent(&id(A), None);
    let (newer, _) = f.entries.follow_agent(&id(A), None);
    older.woken().await;
    assert!(older.take(1).is_none() && newer.take(1).is_some());
    drop(older);
    assert_eq!(f.entries.followers(), 1, "the older one takes nothing away from the newer one");
    drop(newer);
    assert_eq!(f.entries.followers(), 0);
}

#[tokio::test]
async fn a_changed_row_of_the_agent_is_told() {
    let f = fixture().await;
    f.store.attested(node(A, &["t:1"]), None).await.unwrap();
    f.entries.refresh().await.unwrap();
    let (followed, _) = f.entries.follow_agent(&id(A), None);
    assert!(!followed.standing_changed());
    f.store.ban_node(&id(A)).await.unwrap();
    f.entries.refresh().await.unwrap();
    followed.woken().await;
    assert!(followed.standing_changed() && !followed.standing_changed());
    f.entries.recheck_all();
    assert!(followed.standing_changed());
}

#[test]
fn tokens_survive_the_trip_and_others_tell_nothing() {
    let token = Token { version: -5, digest: u64::MAX - 1 };
    assert_eq!(Token::from_bytes(&token.to_bytes()), Some(token));
    for bad in [&[][..], &[1], &[2; 17], &[1; 16], &[1; 18]] {
        assert_eq!(Token::from_bytes(bad), None);
    }
}

/// Two servers on one database; an agent moves between them, sometimes with a state that is wrong.
fn moves(steps: Vec<(Step, u8)>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let f = fixture().await;
        let other = Arc::new(SqlStore::open_file(f.dir.path().join("db")).await.unwrap());
        let own = TrustDomain::new("example.org").unwrap();
        let servers = [
            Arc::clone(&f.entries),
            AuthorizedEntries::load(other.clone(), own, OUTAGE_STALENESS).await.unwrap(),
        ];
        let mut told = Told::default();
        let mut open: Option<(usize, Followed)> = None;
        let agent = id(A);
        for (step, what) in steps {
            let store = if what & 1 == 0 { &f.store } else { &other };
            apply(store, step).await;
            let at = usize::from(what >> 1 & 1);
            match what >> 2 & 3 {
                0 => {
                    servers[at].refresh().await.unwrap();
                    open = Some((at, told.open(&servers[at], &agent).0));
                }
                1 => open = None,
                _ => {}
            }
            if let Some((at, followed)) = &open {
                servers[*at].refresh().await.unwrap();
                told.take(followed);
                is_right(&told, &servers[*at], &agent);
            }
        }
        for server in &servers {
            server.refresh().await.unwrap();
            let _followed = told.open(server, &agent);
            is_right(&told, server, &agent);
            assert_eq!(server.check().await.unwrap().unwrap().drift, [] as [String; 0]);
        }
        // What both hold is what the database says.
        let mut whole = crate::datastore::sql_tests::Whole::default();
        f.store.snapshot(&mut whole, 1).await.unwrap();
        let selectors =
            whole.nodes.iter().find(|n| n.id == agent).map(|n| n.selectors.clone()).unwrap_or_default();
        assert_eq!(told.ids(), naive(&whole.entries, &agent, &selectors));
    });
}

async fn apply(store: &SqlStore, step: Step) {
    match step {
        Step::Entry(n, Some(new)) => {
            let new = Entry { id: format!("e{n:02}"), ..new };
            if store.entry(&new.id).await.unwrap().is_some() {
                store.update_entry(new, &crate::datastore::EntryMask::ALL).await.unwrap();
            } else {
                store.create_entry(new).await.unwrap();
            }
        }
        Step::Entry(n, None) => drop(store.delete_entry(&format!("e{n:02}")).await),
        Step::Node(n, Some(with)) => {
            store.attested(Node { selectors: with, ..node([A, B][n], &[]) }, None).await.unwrap();
        }
        Step::Node(n, None) => drop(store.delete_node(&id([A, B][n])).await),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn an_agent_that_moves_between_two_servers_has_what_the_database_says(
        steps in proptest::collection::vec((step(), any::<u8>()), 1..40),
    ) {
        moves(steps);
    }
}
