//! Events that are lost, late, twice or out of order; a log that was cut; a database that was restored; rows that
//! somebody changed by hand.

use std::sync::Mutex;

use async_trait::async_trait;
use hardroot_node_attestors::{Enrolment, NodeRecord};

use super::*;
use crate::datastore::*;

/// What becomes of the next answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Lost,
    Twice,
    Reversed,
    /// An answer that was true some time ago.
    Late,
    /// The change is there, its row is not, and the count is right: as if it had been deleted.
    RowLost,
}

pub(super) struct Faulty {
    store: Arc<SqlStore>,
    faults: Mutex<Vec<Fault>>,
}

impl Faulty {
    /// Without a fault yet.
    pub(super) fn over(store: Arc<SqlStore>) -> Self {
        Self { store, faults: Mutex::default() }
    }
}

/// Passes calls on.
macro_rules! pass_on {
    ($trait:ident: $(async fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $out:ty;)*) => {
        #[async_trait]
        impl $trait for Faulty {
            $( async fn $name(&self $(, $arg: $type)*) -> $out { $trait::$name(&*self.store $(, $arg)*).await } )*
        }
    };
}

#[async_trait]
impl Entries for Faulty {
    async fn create_entry(&self, entry: Entry) -> Result<(Entry, bool), StoreError> {
        self.store.create_entry(entry).await
    }
    async fn create_entries(&self, entries: Vec<Entry>) -> Vec<Result<(Entry, bool), StoreError>> {
        self.store.create_entries(entries).await
    }
    async fn entry(&self, id: &str) -> Result<Option<Entry>, StoreError> {
        self.store.entry(id).await
    }
    async fn list_entries(
        &self,
        filter: &EntryFilter,
        page: &Page,
    ) -> Result<(Vec<Entry>, String), StoreError> {
        self.store.list_entries(filter, page).await
    }
    async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        self.store.count_entries(filter).await
    }
    async fn update_entry(&self, entry: Entry, mask: &EntryMask) -> Result<Entry, StoreError> {
        self.store.update_entry(entry, mask).await
    }
    async fn delete_entry(&self, id: &str) -> Result<(), StoreError> {
        self.store.delete_entry(id).await
    }
    async fn prune_entries(&self, now: std::time::SystemTime) -> Result<Vec<String>, StoreError> {
        self.store.prune_entries(now).await
    }
    async fn entries_version(&self) -> Result<i64, StoreError> {
        self.store.entries_version().await
    }
    async fn changes_since(&self, seen: i64) -> Result<Changes, StoreError> {
        let fault = self.faults.lock().unwrap().pop();
        let seen = if fault == Some(Fault::Late) { (seen - 2).max(0) } else { seen };
        let mut changes = self.store.changes_since(seen).await?;
        let Some(changed) = changes.changed.as_mut().filter(|changed| !changed.is_empty()) else {
            return Ok(changes);
        };
        match fault {
            Some(Fault::Lost) => drop(changed.pop()),
            Some(Fault::Twice) => changed.push(changed[0].clone()),
            Some(Fault::Reversed) => changed.reverse(),
            Some(Fault::Late) => {
                changed.truncate(1);
                changes.version = seen + 1;
            }
            Some(Fault::RowLost) => {
                changes.entries.clear();
                changes.nodes.clear();
            }
            None => {}
        }
        Ok(changes)
    }
    async fn snapshot(&self, reader: &mut dyn SnapshotReader, connections: usize) -> Result<(), StoreError> {
        // In small lots, so that there are some.
        self.store.read_in_lots(reader, connections, 7).await
    }
    fn subscribe(&self) -> watch::Receiver<i64> {
        self.store.subscribe()
    }
}

pass_on! { Nodes:
    async fn attested(&self, node: Node, record: Option<NodeRecord>) -> Result<(), StoreError>;
    async fn node(&self, id: &SpiffeId) -> Result<Option<Node>, StoreError>;
    async fn list_nodes(&self, filter: &NodeFilter, page: &Page) -> Result<(Vec<Node>, String), StoreError>;
    async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError>;
    async fn node_renewed(&self, id: &SpiffeId, current: &str, serial: &str, expires: std::time::SystemTime) -> Result<(), StoreError>;
    async fn promote_serial(&self, id: &SpiffeId, serial: &str) -> Result<(), StoreError>;
    async fn ban_node(&self, id: &SpiffeId) -> Result<(), StoreError>;
    async fn delete_node(&self, id: &SpiffeId) -> Result<(), StoreError>;
    async fn prune_nodes(&self, before: std::time::SystemTime, and_tofu: bool, batch: u32) -> Result<Vec<SpiffeId>, StoreError>;
    async fn set_agent_version(&self, id: &SpiffeId, version: &str) -> Result<(), StoreError>;
    async fn node_record(&self, attestor: &str, key: &str) -> Result<Option<NodeRecord>, StoreError>;
}
pass_on! { JoinTokens:
    async fn create_join_token(&self, token: &JoinToken) -> Result<(), StoreError>;
    async fn create_join_token_with_entry(&self, token: &JoinToken, entry: Entry) -> Result<(), StoreError>;
    async fn redeem_join_token(&self, token: &str, key: &str, now: std::time::SystemTime) -> Result<Redeemed, StoreError>;
    async fn prune_join_tokens(&self, now: std::time::SystemTime) -> Result<u64, StoreError>;
}
pass_on! { Bundles:
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<(Vec<u8>, i64)>, StoreError>;
    async fn put_bundle(&self, trust_domain: &TrustDomain, data: &[u8], expected: Option<i64>) -> Result<i64, StoreError>;
    async fn list_bundles(&self) -> Result<Vec<(TrustDomain, Vec<u8>)>, StoreError>;
    async fn delete_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError>;
}
pass_on! { FederationRelationships:
    async fn create_relationship(&self, relationship: &FederationRelationship, bundle: Option<&[u8]>) -> Result<(), StoreError>;
    async fn relationship(&self, trust_domain: &TrustDomain) -> Result<Option<(FederationRelationship, Option<Vec<u8>>)>, StoreError>;
    async fn list_relationships(&self, page: &Page) -> Result<(Vec<(FederationRelationship, Option<Vec<u8>>)>, String), StoreError>;
    async fn update_relationship(&self, relationship: &FederationRelationship, mask: RelationshipMask, bundle: Option<&[u8]>) -> Result<(FederationRelationship, Option<Vec<u8>>), StoreError>;
    async fn delete_relationship(&self, trust_domain: &TrustDomain) -> Result<(), StoreError>;
}
pass_on! { Journals:
    async fn find_journal(&self, authority_ids: &[String]) -> Result<Option<StoredJournal>, StoreError>;
    async fn put_journal(&self, before: Option<&StoredJournal>, data: &[u8], active: &str) -> Result<i64, StoreError>;
}
pass_on! { TpmEnrolments:
    async fn enrol(&self, enrolment: &Enrolment, now: std::time::SystemTime) -> Result<StoredEnrolment, StoreError>;
    async fn enrolment(&self, ek_hash: &str) -> Result<Option<StoredEnrolment>, StoreError>;
    async fn list_enrolments(&self) -> Result<Vec<StoredEnrolment>, StoreError>;
    async fn remove_enrolment(&self, ek_hash: &str) -> Result<(), StoreError>;
}
pass_on! { KeyRecords:
    async fn take_lease(&self, lease: &Lease, replacing: Option<&str>, now: std::time::SystemTime) -> Result<Option<Lease>, StoreError>;
    async fn release_lease(&self, instance: &str, nonce: &str) -> Result<(), StoreError>;
    async fn intend_key(&self, record: &KeyRecord) -> Result<i64, StoreError>;
    async fn key_made(&self, row: i64, spki_sha256: &str) -> Result<(), StoreError>;
    async fn key_retired(&self, instance: &str, key_id: &str) -> Result<(), StoreError>;
    async fn key_records(&self, instance: &str) -> Result<Vec<KeyRecord>, StoreError>;
    async fn prune_key_records(&self, before: std::time::SystemTime) -> Result<(), StoreError>;
}

async fn faulty() -> (Fixture, Arc<Faulty>, Arc<AuthorizedEntries>) {
    let f = fixture().await;
    let store = Arc::new(Faulty::over(f.store.clone()));
    let own = TrustDomain::new("example.org").unwrap();
    let entries = AuthorizedEntries::load(store.clone(), own, OUTAGE_STALENESS).await.unwrap();
    (f, store, entries)
}

#[tokio::test]
async fn lost_late_doubled_and_reversed_events_leave_no_trace() {
    for fault in [Fault::Lost, Fault::Twice, Fault::Reversed, Fault::Late] {
        let (f, store, entries) = faulty().await;
        for n in 0..3 {
            f.store
                .create_entry(entry(&format!("{n}"), &format!("/w{n}"), A, &["unix:uid:1"]))
                .await
                .unwrap();
        }
        f.store.delete_entry("1").await.unwrap();
        f.store.attested(node(A, &["t:1"]), None).await.unwrap();
        store.faults.lock().unwrap().push(fault);
        // The fault may strike once: the next look, at the latest, sees all.
        entries.refresh().await.unwrap();
        entries.refresh().await.unwrap();
        assert_eq!(names(&entries.of(&id(A))), ["0", "2"], "{fault:?}");
        assert_eq!(entries.version(), f.store.entries_version().await.unwrap(), "{fault:?}");
        assert_eq!(entries.check().await.unwrap().unwrap().drift, [] as [String; 0], "{fault:?}");
    }
}

#[tokio::test]
async fn the_check_of_the_whole_finds_and_mends_what_no_event_tells() {
    let (f, store, entries) = faulty().await;
    for n in 0..3 {
        f.store.create_entry(entry(&format!("{n}"), &format!("/w{n}"), A, &["unix:uid:1"])).await.unwrap();
    }
    f.store.attested(node(A, &["t:1"]), None).await.unwrap();
    store.faults.lock().unwrap().push(Fault::RowLost);
    entries.refresh().await.unwrap();
    assert!(entries.of(&id(A)).is_empty(), "the fault struck");
    let (followed, _) = entries.follow_agent(&id(A), None);
    let drift = entries.check().await.unwrap().unwrap().drift;
    assert_eq!(drift, ["0", "1", "2", id(A).as_str()]);
    assert_eq!(names(&entries.of(&id(A))), ["0", "1", "2"]);
    assert_eq!(followed.take(9).unwrap().changed.len(), 3, "open streams are told");
    assert_eq!(entries.last_check().unwrap().drift.len(), 4);
    assert_eq!(entries.check().await.unwrap().unwrap().drift, [] as [String; 0]);
    // Rows that somebody removed by hand.
    f.store.tamper("DELETE FROM entries WHERE entry_id = '1'").await;
    f.store.tamper("DELETE FROM nodes").await;
    assert_eq!(entries.check().await.unwrap().unwrap().drift, ["1", id(A).as_str()]);
    assert_eq!((names(&entries.of(&id(A))), entries.agents()), (vec!["0", "2"], 0));
}

#[tokio::test]
async fn a_server_that_stopped_for_an_hour_reads_everything() {
    let (f, _, entries) = faulty().await;
    f.store.create_entry(entry("old", "/old", A, &["unix:uid:1"])).await.unwrap();
    entries.refresh().await.unwrap();
    let (followed, _) = entries.follow_agent(&id(A), None);
    for n in 0..5 {
        f.store.create_entry(entry(&format!("{n}"), &format!("/w{n}"), A, &["unix:uid:1"])).await.unwrap();
    }
    f.store.delete_entry("old").await.unwrap();
    f.store.tamper("DELETE FROM changes WHERE seq < 5").await;
    entries.refresh().await.unwrap();
    assert_eq!(names(&entries.of(&id(A))), ["0", "1", "2", "3", "4"]);
    let taken = followed.take(100).unwrap();
    assert_eq!(
        (taken.changed.len(), taken.removed),
        (5, vec!["old".to_owned()]),
        "streams get the difference"
    );
}

#[tokio::test]
async fn a_database_that_was_restored_is_believed() {
    let (f, _, entries) = faulty().await;
    f.store.create_entry(entry("kept", "/kept", A, &["unix:uid:1"])).await.unwrap();
    entries.refresh().await.unwrap();
    let (_, Start::Everything(_, old)) = entries.follow_agent(&id(A), None) else { panic!() };
    f.store.create_entry(entry("lost", "/lost", A, &["unix:uid:1"])).await.unwrap();
    entries.refresh().await.unwrap();
    let (_, Start::Everything(_, newer)) = entries.follow_agent(&id(A), None) else { panic!() };
    // As it was after the first: the version goes back, and another entry makes the second change once more.
    f.store.tamper("DELETE FROM entries WHERE entry_id = 'lost'").await;
    f.store.tamper("DELETE FROM changes WHERE seq = 2").await;
    f.store.tamper("UPDATE counters SET value = 1 WHERE name = 'changes'").await;
    entries.refresh().await.unwrap();
    assert_eq!(names(&entries.of(&id(A))), ["kept"]);
    assert!(matches!(entries.follow_agent(&id(A), Some(old)).1, Start::Current(_)), "that is what it is now");
    f.store.create_entry(entry("other", "/other", A, &["unix:uid:1"])).await.unwrap();
    entries.refresh().await.unwrap();
    assert_eq!(entries.version(), newer.version, "the same number for another history");
    assert!(matches!(entries.follow_agent(&id(A), Some(newer)).1, Start::Everything(..)));
    assert!(matches!(entries.follow_agent(&id(A), Some(old)).1, Start::Changes));
}

#[tokio::test]
async fn an_entry_made_again_under_its_id_differs_for_agents() {
    let f = fixture().await;
    let version = |f: &Fixture| {
        let held = f.entries.of(&id(A));
        (held[0].revision(), held[0].created_at())
    };
    f.store.create_entry(entry("e", "/w", A, &["unix:uid:1"])).await.unwrap();
    f.entries.refresh().await.unwrap();
    let before = version(&f);
    f.store.delete_entry("e").await.unwrap();
    f.store.create_entry(entry("e", "/other", A, &["unix:uid:1"])).await.unwrap();
    f.entries.refresh().await.unwrap();
    assert_ne!(before, version(&f), "within the same second");
    assert_eq!(before.0, 0, "the first one begins at 0, as SPIRE's do");
}

#[tokio::test]
async fn unchanged_agents_and_changed_rows_cost_few_queries() {
    let f = fixture().await;
    for n in 0..50 {
        f.store.create_entry(entry(&format!("{n}"), &format!("/w{n}"), A, &["unix:uid:1"])).await.unwrap();
        f.store.attested(node(&format!("/spire/agent/{n}"), &["t:1"]), None).await.unwrap();
    }
    let before = f.store.statements();
    f.entries.refresh().await.unwrap();
    let read = f.store.statements() - before;
    assert!(read <= 8, "a hundred changed rows took {read} statements");
    let before = f.store.statements();
    for _ in 0..1000 {
        f.entries.current().await.unwrap();
        assert_eq!(f.entries.of(&id(A)).len(), 50);
        assert!(f.entries.find(&id(A), "7").is_some() && f.entries.serials(&id("/spire/agent/7")).is_some());
    }
    assert_eq!(f.store.statements(), before, "asking costs no query");
    f.entries.refresh().await.unwrap();
    assert_eq!(
        f.store.statements(),
        before + 1,
        "a poll that finds nothing is one, however many agents there are"
    );
}
