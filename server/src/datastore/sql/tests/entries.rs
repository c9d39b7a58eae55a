use super::*;
use crate::datastore::{Change, DeleteMode, EntryFilter, Page};

fn full() -> Entry {
    Entry {
        x509_svid_ttl: 3600,
        jwt_svid_ttl: 300,
        federates_with: vec![td("b.test"), td("a.test")],
        admin: true,
        downstream: true,
        expires_at: 4_000_000_000,
        dns_names: vec!["z.example".into(), "a.example".into()],
        hint: "internal".into(),
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
        ..entry("/db", "/spire/agent/x", &["unix:uid:7", "unix:gid:7", "unix:uid:7"])
    }
}

async fn with_bundles(on: On) -> Fixture {
    let fixture = Fixture::new(on).await;
    for name in ["a.test", "b.test"] {
        fixture.store.put_bundle(&td(name), b"x", None).await.unwrap();
    }
    fixture
}

async fn every_field_survives_a_restart(on: On) {
    let mut f = with_bundles(on).await;
    let (made, existed) = f.store.create_entry(full()).await.unwrap();
    assert!(!existed);
    assert_eq!(made.selectors, selectors(&["unix:gid:7", "unix:uid:7"]), "sorted, no duplicates");
    assert_eq!(made.federates_with, vec![td("a.test"), td("b.test")]);
    assert_eq!(made.id.len(), 36, "a UUID");
    f.restart().await;
    let read = f.store.entry(&made.id).await.unwrap().unwrap();
    assert_eq!(read, made);
    assert_eq!(read.dns_names, ["z.example", "a.example"], "in the order given");
    assert_eq!(f.store.entry("other").await.unwrap(), None);
}

async fn a_similar_entry_is_returned_and_not_made_twice(on: On) {
    let f = Fixture::new(on).await;
    let (first, _) = f.store.create_entry(entry("/a", "/p", &["unix:uid:1", "unix:gid:1"])).await.unwrap();
    let again = Entry { hint: "other".into(), ..entry("/a", "/p", &["unix:gid:1", "unix:uid:1"]) };
    assert_eq!(f.store.create_entry(again).await.unwrap(), (first, true));
    for different in [
        entry("/a", "/p", &["unix:uid:1"]),
        entry("/a", "/p", &["unix:uid:1", "unix:gid:1", "unix:user:a"]),
        entry("/a", "/q", &["unix:uid:1", "unix:gid:1"]),
        entry("/b", "/p", &["unix:uid:1", "unix:gid:1"]),
    ] {
        assert!(!f.store.create_entry(different).await.unwrap().1);
    }
    assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), 5);
}

async fn an_id_of_the_client_is_kept_and_unique(on: On) {
    let f = Fixture::new(on).await;
    let mine = Entry { id: "mine.1_A-z".into(), ..entry("/a", "/p", &["unix:uid:1"]) };
    assert_eq!(f.store.create_entry(mine).await.unwrap().0.id, "mine.1_A-z");
    let other = Entry { id: "mine.1_A-z".into(), ..entry("/b", "/p", &["unix:uid:1"]) };
    assert!(matches!(f.store.create_entry(other).await, Err(StoreError::Exists { what: "entry", .. })));
}

async fn what_breaks_a_rule_is_refused(on: On) {
    let f = Fixture::new(on).await;
    let base = || entry("/a", "/p", &["unix:uid:1"]);
    for (bad, why) in [
        (Entry { selectors: vec![], ..base() }, "invalid registration entry: missing selector list"),
        (Entry { id: "x".repeat(256), ..base() }, "invalid registration entry: entry ID too long"),
        (
            Entry { id: "a b".into(), ..base() },
            "invalid registration entry: entry ID contains invalid characters",
        ),
        (Entry { x509_svid_ttl: -1, ..base() }, "invalid registration entry: X509SvidTtl is not set"),
        (Entry { jwt_svid_ttl: -1, ..base() }, "invalid registration entry: JwtSvidTtl is not set"),
        (
            Entry { store_svid: true, disable_x509_svid_prefetch: true, ..base() },
            "specifying cache behaviour is incompatible with storable SVIDs",
        ),
        (
            Entry { store_svid: true, ..entry("/a", "/p", &["unix:uid:1", "k8s:ns:a"]) },
            "invalid registration entry: selector types must be the same when store SVID is enabled",
        ),
    ] {
        match f.store.create_entry(bad).await {
            Err(StoreError::Invalid { reason }) => assert_eq!(reason, why),
            other => panic!("{why}: {other:?}"),
        }
    }
    assert_eq!(f.store.entries_version().await.unwrap(), 0, "a refused write leaves no trace");
}

async fn federation_needs_the_bundle_and_a_failed_write_leaves_nothing(on: On) {
    let f = Fixture::new(on).await;
    let foreign = Entry { federates_with: vec![td("a.test")], ..entry("/a", "/p", &["unix:uid:1"]) };
    let error = f.store.create_entry(foreign).await.unwrap_err();
    assert_eq!(error.to_string(), "unable to find federated bundle \"spiffe://a.test\"");
    assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), 0);
    let (made, _) = f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let update = Entry { federates_with: vec![td("a.test")], hint: "new".into(), ..made.clone() };
    assert!(f.store.update_entry(update, &EntryMask::ALL).await.is_err());
    assert_eq!(f.store.entry(&made.id).await.unwrap(), Some(made));
}

async fn an_update_replaces_masked_fields_only_and_counts(on: On) {
    let f = with_bundles(on).await;
    let (made, _) = f.store.create_entry(full()).await.unwrap();
    let none = EntryMask {
        spiffe_id: false,
        parent_id: false,
        selectors: false,
        x509_svid_ttl: false,
        jwt_svid_ttl: false,
        federates_with: false,
        admin: false,
        downstream: false,
        expires_at: false,
        dns_names: false,
        store_svid: false,
        hint: false,
        additional_attributes: false,
    };
    let blank = Entry {
        id: made.id.clone(),
        selectors: vec![],
        created_at: 1,
        ..entry("/new", "/new-parent", &["a:b"])
    };
    let same = f.store.update_entry(blank.clone(), &none).await.unwrap();
    assert_eq!(same, Entry { revision_number: 1, ..made.clone() }, "the revision grows even so");
    let hint = Entry { hint: "h2".into(), ..blank.clone() };
    let updated = f.store.update_entry(hint, &EntryMask { hint: true, ..none }).await.unwrap();
    assert_eq!(updated, Entry { revision_number: 2, hint: "h2".into(), ..made.clone() });
    let all = Entry { selectors: selectors(&["unix:uid:9"]), ..blank };
    let updated = f.store.update_entry(all, &EntryMask::ALL).await.unwrap();
    assert_eq!(updated.revision_number, 3);
    assert_eq!(updated.created_at, made.created_at, "belongs to the server");
    assert!(updated.federates_with.is_empty() && updated.dns_names.is_empty() && !updated.admin);
    assert_eq!(f.store.entry(&made.id).await.unwrap(), Some(updated));
    let gone = Entry { id: "none".into(), ..entry("/a", "/p", &["a:b"]) };
    assert!(matches!(
        f.store.update_entry(gone, &EntryMask::ALL).await,
        Err(StoreError::NotFound { what: "entry", .. })
    ));
    let no_selectors = Entry { id: made.id, ..entry("/a", "/p", &[]) };
    assert!(matches!(
        f.store.update_entry(no_selectors, &EntryMask::ALL).await,
        Err(StoreError::Invalid { .. })
    ));
}

async fn delete_and_prune(on: On) {
    let f = with_bundles(on).await;
    let (kept, _) = f.store.create_entry(entry("/kept", "/p", &["unix:uid:1"])).await.unwrap();
    let (gone, _) = f.store.create_entry(full()).await.unwrap();
    f.store.delete_entry(&gone.id).await.unwrap();
    assert!(matches!(f.store.delete_entry(&gone.id).await, Err(StoreError::NotFound { .. })));
    let old = Entry { expires_at: 100, ..entry("/old", "/p", &["unix:uid:1"]) };
    let (old, _) = f.store.create_entry(old).await.unwrap();
    assert!(f.store.prune_entries(at(100)).await.unwrap().is_empty(), "not before its end");
    assert_eq!(f.store.prune_entries(at(101)).await.unwrap(), [old.id]);
    let (left, _) = f.store.list_entries(&EntryFilter::default(), &Page::default()).await.unwrap();
    assert_eq!(left, [kept]);
    let orphans = f.number("SELECT count(*) AS n FROM entry_selectors").await;
    assert_eq!(orphans, 1, "selectors go with their entry");
}

async fn pages_hold_everything_once(on: On) {
    let f = Fixture::new(on).await;
    for n in 0..7 {
        f.store.create_entry(entry(&format!("/e{n}"), "/p", &["unix:uid:1"])).await.unwrap();
    }
    for size in 1..9 {
        let (mut seen, mut token) = (vec![], String::new());
        loop {
            let page = Page { size, token: token.clone() };
            let (entries, next) = f.store.list_entries(&EntryFilter::default(), &page).await.unwrap();
            assert!(entries.len() <= size as usize);
            seen.extend(entries.into_iter().map(|e| e.spiffe_id.path().to_owned()));
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, ["/e0", "/e1", "/e2", "/e3", "/e4", "/e5", "/e6"], "size {size}");
    }
    let bad = Page { size: 1, token: "x' OR 1".into() };
    assert!(matches!(
        f.store.list_entries(&EntryFilter::default(), &bad).await,
        Err(StoreError::PageToken { .. })
    ));
}

async fn bundle_deletion_respects_entries(on: On) {
    let f = with_bundles(on).await;
    let (made, _) = f.store.create_entry(full()).await.unwrap();
    let error = f.store.delete_bundle(&td("a.test"), DeleteMode::Restrict).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot delete bundle; federated with 1 registration entries");
    f.store.delete_bundle(&td("a.test"), DeleteMode::Dissociate).await.unwrap();
    let read = f.store.entry(&made.id).await.unwrap().unwrap();
    assert_eq!((read.federates_with, read.revision_number), (vec![td("b.test")], 1));
    f.store.delete_bundle(&td("b.test"), DeleteMode::Delete).await.unwrap();
    assert_eq!(f.store.entry(&made.id).await.unwrap(), None);
    assert!(matches!(
        f.store.delete_bundle(&td("b.test"), DeleteMode::Restrict).await,
        Err(StoreError::NotFound { what: "bundle", .. })
    ));
}

async fn changes_tell_what_to_look_at(on: On) {
    let f = Fixture::new(on).await;
    let mut wake = f.store.subscribe();
    let before = f.store.entries_version().await.unwrap();
    let (made, _) = f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    assert!(wake.has_changed().unwrap());
    f.store.attested(node("/spire/agent/n", "1", &[]), None).await.unwrap();
    f.store.node_renewed(&id("/spire/agent/n"), "1", "2", at(9)).await.unwrap();
    f.store.delete_entry(&made.id).await.unwrap();
    f.store.put_bundle(&td("b.test"), b"x", None).await.unwrap();
    let changes = f.store.changes_since(before).await.unwrap();
    assert_eq!(
        changes.changed,
        Some(vec![
            Change::Entry(made.id.clone()),
            Change::Node("spiffe://example.org/spire/agent/n".into()),
            Change::Node("spiffe://example.org/spire/agent/n".into()),
            Change::Entry(made.id),
            Change::Bundle("b.test".into()),
        ])
    );
    assert!(changes.entries.is_empty() && changes.damaged.is_empty());
    assert_eq!(changes.nodes.iter().map(|n| n.new_serial_number.as_str()).collect::<Vec<_>>(), ["2"]);
    assert_eq!(changes.version, *wake.borrow_and_update());
    assert_eq!(f.store.changes_since(changes.version).await.unwrap().changed, Some(vec![]));
    // Another process's write is seen by the version alone.
    let other = f.another().await;
    other.create_entry(entry("/b", "/p", &["unix:uid:1"])).await.unwrap();
    assert_eq!(f.store.entries_version().await.unwrap(), changes.version + 1);
    // A reader whose past is cut off, or who comes from another database, reads everything again.
    f.sql("DELETE FROM changes WHERE seq < 3").await;
    assert_eq!(f.store.changes_since(0).await.unwrap().changed, None);
    assert_eq!(f.store.changes_since(1000).await.unwrap().changed, None);
}

async fn the_log_of_changes_stays_bounded(on: On) {
    let f = Fixture::new(on).await;
    for from in (1..12_000).step_by(1_000) {
        let rows: Vec<_> = (from..from + 1_000).map(|seq| format!("({seq}, 0, 'x')")).collect();
        f.sql(&format!("INSERT INTO changes (seq, kind, object) VALUES {}", rows.join(", "))).await;
    }
    f.sql("UPDATE counters SET value = 12000 WHERE name = 'changes'").await;
    f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let rows = f.number("SELECT count(*) AS n FROM changes").await;
    let newest = f.number("SELECT max(seq) AS n FROM changes").await;
    assert_eq!((rows, newest), (10_000, 12_001));
}

async fn writers_of_two_processes_make_a_similar_entry_once(on: On) {
    let f = Fixture::new(on).await;
    let other = f.another().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..24 {
        let store = if n % 2 == 0 { f.store.clone() } else { other.clone() };
        tasks.spawn(async move {
            store.create_entry(entry(&format!("/e{}", n % 3), "/p", &["unix:uid:1", "unix:gid:1"])).await
        });
    }
    let mut made = 0;
    while let Some(done) = tasks.join_next().await {
        made += u32::from(!done.unwrap().unwrap().1);
    }
    assert_eq!(made, 3);
    assert_eq!(f.store.count_entries(&EntryFilter::default()).await.unwrap(), 3);
}

async fn updates_at_once_each_count(on: On) {
    let f = Fixture::new(on).await;
    let other = f.another().await;
    let (made, _) = f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = if n % 2 == 0 { f.store.clone() } else { other.clone() };
        let entry = Entry { hint: n.to_string(), ..made.clone() };
        tasks.spawn(async move { store.update_entry(entry, &EntryMask::ALL).await.unwrap() });
    }
    let mut revisions: Vec<_> = tasks.join_all().await.into_iter().map(|e| e.revision_number).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=20).collect::<Vec<_>>());
}

on_every_engine! {
    every_field_survives_a_restart,
    a_similar_entry_is_returned_and_not_made_twice,
    an_id_of_the_client_is_kept_and_unique,
    what_breaks_a_rule_is_refused,
    federation_needs_the_bundle_and_a_failed_write_leaves_nothing,
    an_update_replaces_masked_fields_only_and_counts,
    delete_and_prune,
    pages_hold_everything_once,
    bundle_deletion_respects_entries,
    changes_tell_what_to_look_at,
    the_log_of_changes_stays_bounded,
    writers_of_two_processes_make_a_similar_entry_once,
    updates_at_once_each_count,
}
