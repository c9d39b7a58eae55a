//! Two servers in the middle of the same read and write: one has read, the other does all it can, then the first goes
//! on. Whatever either wrote is still there at the end, or was refused.

use std::future::Future;

use hardroot_api::spire::common;
use hardroot_node_attestors::Enrolment;
use prost::Message as _;
use tokio::task::JoinHandle;

use super::*;
use crate::authority::published;
use crate::datastore::{
    BundleEndpointProfile, DeleteMode, FederationRelationship, FederationRelationships, JoinToken,
    JoinTokens, Journals, KeyRecords, KeyState, Redeemed, RelationshipMask, TpmEnrolments,
};

/// How long the second server gets where the engine does not tell, or not soon, who waits for a lock. One that does
/// not wait is done long before.
const CHANCE: Duration = Duration::from_millis(200);

/// Until the task has ended or waits for the other's lock.
async fn done_or_waiting<T>(watcher: &SqlStore, task: &JoinHandle<T>) {
    let look = async {
        while !task.is_finished() {
            if watcher.engine() == Engine::Postgres {
                let waiting = "SELECT count(*) AS n FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
                let mut session = watcher.pools.reader("watch").await.unwrap();
                if session.number("watch", sql(waiting)).await.unwrap() > 0 {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    if watcher.engine() == Engine::Postgres {
        look.await;
    } else {
        drop(tokio::time::timeout(CHANCE, look).await);
    }
}

/// `first` on the fixture's store up to its `reads`th read of `op`, then `second` as far as it gets, then both.
async fn interleave<A, B>(
    f: &Fixture,
    (op, reads): (&'static str, u32),
    first: impl Future<Output = A> + Send + 'static,
    second: impl Future<Output = B> + Send + 'static,
) -> (A, B)
where
    A: Send + 'static,
    B: Send + 'static,
{
    let watcher = f.another().await;
    let (reached, go) = f.store.pools.pause().after(op, reads);
    let first = tokio::spawn(first);
    reached.await.expect("the first one reads");
    let second = tokio::spawn(second);
    done_or_waiting(&watcher, &second).await;
    go.send(()).expect("the first one waits");
    (first.await.unwrap(), second.await.unwrap())
}

/// A fixture, and both servers' stores.
async fn two(on: On) -> (Fixture, SqlStore, SqlStore) {
    let f = Fixture::new(on).await;
    let (first, second) = (f.store.clone(), f.another().await);
    (f, first, second)
}

const NOTHING: EntryMask = EntryMask {
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

async fn masked_updates_of_an_entry_keep_each_others_fields(on: On) {
    let (f, first, second) = two(on).await;
    let (made, _) = f.store.create_entry(entry("/a", "/p", &["unix:uid:1"])).await.unwrap();
    let hinted = Entry { hint: "external".into(), ..made.clone() };
    let other = Entry { admin: true, selectors: selectors(&["unix:uid:2"]), ..made.clone() };
    let (one, two) =
        interleave(
            &f,
            ("read entry", 1),
            async move { first.update_entry(hinted, &EntryMask { hint: true, ..NOTHING }).await },
            async move {
                second.update_entry(other, &EntryMask { admin: true, selectors: true, ..NOTHING }).await
            },
        )
        .await;
    one.unwrap();
    two.unwrap();
    let read = f.store.entry(&made.id).await.unwrap().unwrap();
    assert_eq!((read.hint.as_str(), read.admin, read.revision_number), ("external", true, 2));
    assert_eq!(read.selectors, selectors(&["unix:uid:2"]));
}

async fn masked_updates_of_a_relationship_keep_each_others_fields(on: On) {
    let (f, first, second) = two(on).await;
    let made = FederationRelationship {
        trust_domain: td("a.test"),
        bundle_endpoint_url: "https://a.test/1".into(),
        profile: BundleEndpointProfile::HttpsWeb,
    };
    f.store.create_relationship(&made, None).await.unwrap();
    let profile = BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id: id("/bundle") };
    let moved = FederationRelationship { bundle_endpoint_url: "https://a.test/2".into(), ..made.clone() };
    let proven = FederationRelationship { profile: profile.clone(), ..made.clone() };
    let mask = |url| RelationshipMask { bundle_endpoint_url: url, bundle_endpoint_profile: !url };
    let (one, two) = interleave(
        &f,
        ("update federation relationship", 2),
        async move { first.update_relationship(&moved, mask(true), None).await },
        async move { second.update_relationship(&proven, mask(false), None).await },
    )
    .await;
    one.unwrap();
    two.unwrap();
    let (read, _) = f.store.relationship(&made.trust_domain).await.unwrap().unwrap();
    assert_eq!((read.bundle_endpoint_url.as_str(), read.profile), ("https://a.test/2", profile));
}

fn with_root(root: &'static [u8]) -> impl FnMut(&mut common::Bundle) -> bool + Send {
    move |bundle| {
        let der_bytes = root.to_vec();
        bundle.root_cas.push(common::Certificate { der_bytes, ..common::Certificate::default() });
        true
    }
}

async fn roots(store: &SqlStore, of: &TrustDomain) -> Vec<Vec<u8>> {
    let (bundle, _) = published::read(store, of).await.unwrap();
    let mut roots: Vec<_> = bundle.root_cas.into_iter().map(|root| root.der_bytes).collect();
    roots.sort();
    roots
}

async fn what_two_servers_append_to_a_bundle_is_all_there(on: On) {
    let (f, first, second) = two(on).await;
    let own = td("example.org");
    published::update(&f.store, &own, with_root(b"0")).await.unwrap();
    let of = own.clone();
    let (one, two) = interleave(
        &f,
        ("read bundle", 1),
        async move { published::update(&first, &of, with_root(b"1")).await.map(drop) },
        async move { published::update(&second, &td("example.org"), with_root(b"2")).await.map(drop) },
    )
    .await;
    one.unwrap();
    two.unwrap();
    assert_eq!(roots(&f.store, &own).await, [b"0", b"1", b"2"]);
}

/// The new row has other content than the one that was read, whatever its revision would be by itself.
async fn a_bundle_that_was_deleted_and_made_again_is_another_one(on: On) {
    let (f, first, second) = two(on).await;
    let name = td("a.test");
    published::update(&f.store, &name, with_root(b"0")).await.unwrap();
    let of = name.clone();
    let (one, ()) = interleave(
        &f,
        ("read bundle", 1),
        async move { published::update(&first, &of, with_root(b"1")).await.map(drop) },
        async move {
            second.delete_bundle(&td("a.test"), DeleteMode::Restrict).await.unwrap();
            let mut anew = common::Bundle::default();
            with_root(b"9")(&mut anew);
            second.put_bundle(&td("a.test"), &anew.encode_to_vec(), None).await.unwrap();
        },
    )
    .await;
    one.unwrap();
    assert_eq!(roots(&f.store, &name).await, [b"1", b"9"]);
}

async fn a_ban_during_an_attestation_stays(on: On) {
    let (f, first, second) = two(on).await;
    let n = node("/spire/agent/a", "1", &["tpm_quote:a"]);
    f.store.attested(n.clone(), None).await.unwrap();
    let (again, who) = (Node { serial_number: "2".into(), ..n.clone() }, n.id.clone());
    let (attested, banned) = interleave(
        &f,
        ("store attested agent", 2),
        async move { first.attested(again, None).await },
        async move { second.ban_node(&who).await },
    )
    .await;
    attested.unwrap();
    banned.unwrap();
    assert!(f.store.node(&n.id).await.unwrap().unwrap().is_banned());
}

async fn a_renewal_during_an_attestation_leaves_no_third_serial(on: On) {
    let (f, first, second) = two(on).await;
    let n = node("/spire/agent/a", "1", &[]);
    f.store.attested(n.clone(), None).await.unwrap();
    let (again, who) = (Node { serial_number: "3".into(), ..n.clone() }, n.id.clone());
    let (renewed, attested) = interleave(
        &f,
        ("store renewed serial", 1),
        async move { first.node_renewed(&who, "1", "2", at(50)).await },
        async move { second.attested(again, None).await },
    )
    .await;
    renewed.unwrap();
    attested.unwrap();
    let read = f.store.node(&n.id).await.unwrap().unwrap();
    assert_eq!((read.serial_number.as_str(), read.new_serial_number.as_str()), ("3", ""));
}

async fn an_agent_that_attests_while_it_is_pruned_stays(on: On) {
    let (f, first, second) = two(on).await;
    let n = Node { expires_at: at(10), ..node("/spire/agent/a", "1", &[]) };
    f.store.attested(n.clone(), None).await.unwrap();
    let again = Node { expires_at: at(1_000), serial_number: "2".into(), ..n.clone() };
    let (pruned, attested) = interleave(
        &f,
        ("prune agents", 1),
        async move { first.prune_nodes(at(100), true, 10).await },
        async move { second.attested(again, None).await },
    )
    .await;
    assert_eq!(pruned.unwrap(), []);
    attested.unwrap();
    assert_eq!(f.store.node(&n.id).await.unwrap().unwrap().serial_number, "2");
}

async fn a_join_token_has_one_owner(on: On) {
    let (f, first, second) = two(on).await;
    f.store.create_join_token(&JoinToken { value: "t".into(), expires_at: at(100) }).await.unwrap();
    let got = interleave(
        &f,
        ("redeem join token", 1),
        async move { first.redeem_join_token("t", "k1", at(1)).await.unwrap() },
        async move { second.redeem_join_token("t", "k2", at(1)).await.unwrap() },
    )
    .await;
    assert_eq!(got, (Redeemed::First, Redeemed::ByAnother));
}

async fn of_two_processes_with_one_journal_one_is_told(on: On) {
    let (f, first, second) = two(on).await;
    f.store.put_journal(None, b"before", "a").await.unwrap();
    async fn write(store: SqlStore, data: &'static [u8]) -> Result<i64, StoreError> {
        let found = store.find_journal(&["a".into()]).await?;
        store.put_journal(found.as_ref(), data, "a").await
    }
    let (one, two) = interleave(&f, ("find journal", 1), write(first, b"one"), write(second, b"two")).await;
    assert!(matches!(one, Err(StoreError::Conflict { what: "journal", .. })), "{one:?}");
    two.unwrap();
    assert_eq!(f.store.find_journal(&["a".into()]).await.unwrap().unwrap().data, b"two");
}

async fn a_lease_has_one_holder(on: On) {
    let (f, first, second) = two(on).await;
    f.store.take_lease(&instances::lease("of before", at(10)), None, at(1)).await.unwrap();
    let (one, two) = interleave(
        &f,
        ("take lease", 1),
        async move { first.take_lease(&instances::lease("one", at(100)), None, at(50)).await.unwrap() },
        async move { second.take_lease(&instances::lease("two", at(100)), None, at(50)).await.unwrap() },
    )
    .await;
    assert_eq!((one, two.map(|holder| holder.nonce)), (None, Some("one".to_owned())));
}

async fn a_key_id_has_one_key(on: On) {
    let (f, first, second) = two(on).await;
    let one = f.store.intend_key(&instances::record("x509-CA-A")).await.unwrap();
    let two = f.store.intend_key(&instances::record("x509-CA-A")).await.unwrap();
    let (made, again) = interleave(
        &f,
        ("record key", 1),
        async move { first.key_made(one, &"1".repeat(64)).await },
        async move { second.key_made(two, &"2".repeat(64)).await },
    )
    .await;
    made.unwrap();
    again.unwrap();
    let records = f.store.key_records(instances::INSTANCE).await.unwrap();
    let present = records.iter().filter(|record| record.state == KeyState::Present).count();
    assert_eq!(present, 1, "{records:?}");
}

/// Nothing is read before an enrolment is written: the database's own rules decide.
async fn an_agent_path_is_given_to_one_tpm(on: On) {
    let (f, first, second) = two(on).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8_u8 {
        let store = if n % 2 == 0 { first.clone() } else { second.clone() };
        let enrolment = Enrolment {
            ek_hash: n.to_string().repeat(64),
            agent_path: Some("/spire/agent/box".into()),
            note: String::new(),
        };
        tasks.spawn(async move { store.enrol(&enrolment, at(1)).await });
    }
    let done = tasks.join_all().await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
    assert!(done.iter().all(|done| matches!(done, Ok(_) | Err(StoreError::Exists { .. }))), "{done:?}");
    assert_eq!(f.store.list_enrolments().await.unwrap().len(), 1);
}

on_every_engine! {
    masked_updates_of_an_entry_keep_each_others_fields,
    masked_updates_of_a_relationship_keep_each_others_fields,
    what_two_servers_append_to_a_bundle_is_all_there,
    a_bundle_that_was_deleted_and_made_again_is_another_one,
    a_ban_during_an_attestation_stays,
    a_renewal_during_an_attestation_leaves_no_third_serial,
    an_agent_that_attests_while_it_is_pruned_stays,
    a_join_token_has_one_owner,
    of_two_processes_with_one_journal_one_is_told,
    a_lease_has_one_holder,
    a_key_id_has_one_key,
    an_agent_path_is_given_to_one_tpm,
}
