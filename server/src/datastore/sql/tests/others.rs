//! Join tokens, bundles, journals, enrolments.

use hardroot_node_attestors::Enrolment;

use super::*;
use crate::datastore::{Bundles, JoinToken, JoinTokens, Journals, Redeemed, StoredJournal, TpmEnrolments};

async fn a_join_token_belongs_to_the_first_key_that_shows_it(on: On) {
    let mut f = Fixture::new(on).await;
    let token = JoinToken { value: "t".into(), expires_at: at(100) };
    f.store.create_join_token(&token).await.unwrap();
    assert!(matches!(f.store.create_join_token(&token).await, Err(StoreError::Exists { .. })));
    assert_eq!(f.store.redeem_join_token("other", "k1", at(1)).await.unwrap(), Redeemed::Unknown);
    assert_eq!(f.store.redeem_join_token("t", "k1", at(1)).await.unwrap(), Redeemed::First);
    f.restart().await;
    assert_eq!(f.store.redeem_join_token("t", "k1", at(100)).await.unwrap(), Redeemed::Again);
    assert_eq!(f.store.redeem_join_token("t", "k2", at(50)).await.unwrap(), Redeemed::ByAnother);
    assert_eq!(f.store.redeem_join_token("t", "k1", at(101)).await.unwrap(), Redeemed::Expired);
    assert_eq!(f.store.prune_join_tokens(at(100)).await.unwrap(), 0);
    assert_eq!(f.store.prune_join_tokens(at(101)).await.unwrap(), 1);
    assert_eq!(f.store.redeem_join_token("t", "k1", at(1)).await.unwrap(), Redeemed::Unknown);
}

#[tokio::test]
async fn the_token_itself_is_not_in_the_file() {
    let mut f = Fixture::new(On::Sqlite).await;
    let token = JoinToken { value: "canary-of-a-token".into(), expires_at: at(100) };
    f.store.create_join_token(&token).await.unwrap();
    f.restart().await;
    f.store.close().await;
    let bytes = std::fs::read(f.path()).unwrap();
    assert!(!bytes.windows(17).any(|w| w == b"canary-of-a-token"));
}

async fn of_many_keys_at_once_exactly_one_gets_the_token(on: On) {
    let f = Fixture::new(on).await;
    let other = f.another().await;
    let token = JoinToken { value: "t".into(), expires_at: at(100) };
    f.store.create_join_token(&token).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = if n % 2 == 0 { f.store.clone() } else { other.clone() };
        tasks.spawn(async move { store.redeem_join_token("t", &format!("k{n}"), at(1)).await.unwrap() });
    }
    let got = tasks.join_all().await;
    assert_eq!(got.iter().filter(|r| **r == Redeemed::First).count(), 1, "{got:?}");
    assert_eq!(got.iter().filter(|r| **r == Redeemed::ByAnother).count(), 15, "{got:?}");
}

async fn bundle_rows_have_revisions(on: On) {
    let f = Fixture::new(on).await;
    let a = td("a.test");
    assert_eq!(f.store.bundle(&a).await.unwrap(), None);
    assert!(matches!(f.store.put_bundle(&a, b"0", Some(1)).await, Err(StoreError::Conflict { .. })));
    assert_eq!(f.store.put_bundle(&a, b"1", None).await.unwrap(), 1);
    assert!(matches!(f.store.put_bundle(&a, b"2", None).await, Err(StoreError::Exists { .. })));
    assert_eq!(f.store.put_bundle(&a, b"2", Some(1)).await.unwrap(), 2);
    assert!(matches!(f.store.put_bundle(&a, b"3", Some(1)).await, Err(StoreError::Conflict { .. })));
    assert_eq!(f.store.bundle(&a).await.unwrap(), Some((b"2".to_vec(), 2)));
    f.store.put_bundle(&td("A".to_lowercase().as_str()), b"x", None).await.unwrap();
    let names: Vec<_> = f.store.list_bundles().await.unwrap().into_iter().map(|b| b.0.to_string()).collect();
    assert_eq!(names, ["a", "a.test"]);
}

async fn two_processes_appending_to_a_bundle_lose_nothing(on: On) {
    let f = Fixture::new(on).await;
    let other = f.another().await;
    let a = td("a.test");
    f.store.put_bundle(&a, b"", None).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16_u8 {
        let (store, a) = (if n % 2 == 0 { f.store.clone() } else { other.clone() }, a.clone());
        tasks.spawn(async move {
            loop {
                let (mut data, revision) = store.bundle(&a).await.unwrap().unwrap();
                data.push(n);
                match store.put_bundle(&a, &data, Some(revision)).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    tasks.join_all().await;
    let (mut data, revision) = f.store.bundle(&a).await.unwrap().unwrap();
    data.sort_unstable();
    assert_eq!((data, revision), ((0..16).collect::<Vec<u8>>(), 17));
}

async fn journals_are_found_by_the_active_authority(on: On) {
    let mut f = Fixture::new(on).await;
    assert_eq!(f.store.find_journal(&["a".into()]).await.unwrap(), None);
    assert_eq!(f.store.find_journal(&[]).await.unwrap(), None);
    let row = f.store.put_journal(None, b"one", "a").await.unwrap();
    let other = f.store.put_journal(None, b"two", "b").await.unwrap();
    assert_ne!(row, other);
    let one = StoredJournal { row, data: b"one".to_vec() };
    assert_eq!(f.store.put_journal(Some(&one), b"three", "c").await.unwrap(), row);
    let late = f.store.put_journal(Some(&one), b"four", "d").await;
    assert!(matches!(late, Err(StoreError::Conflict { what: "journal", .. })), "{late:?}");
    f.restart().await;
    assert_eq!(
        f.store.find_journal(&["x".into(), "c".into()]).await.unwrap(),
        Some(StoredJournal { row, data: b"three".to_vec() })
    );
    assert_eq!(f.store.find_journal(&["a".into()]).await.unwrap(), None);
    let gone = StoredJournal { row: 99, data: b"one".to_vec() };
    assert!(matches!(f.store.put_journal(Some(&gone), b"", "z").await, Err(StoreError::NotFound { .. })));
}

async fn enrolments(on: On) {
    let mut f = Fixture::new(on).await;
    let enrolment = |c: char, path: Option<&str>| Enrolment {
        ek_hash: c.to_string().repeat(64),
        agent_path: path.map(str::to_owned),
        note: "rack 4".into(),
    };
    let a = enrolment('a', Some("/spire/agent/box-a"));
    let stored = f.store.enrol(&a, at(77)).await.unwrap();
    assert_eq!((stored.enrolment, stored.created_at), (a.clone(), at(77)));
    f.store.enrol(&enrolment('b', None), at(78)).await.unwrap();
    f.store.enrol(&enrolment('c', None), at(79)).await.unwrap();
    assert!(matches!(
        f.store.enrol(&a, at(80)).await,
        Err(StoreError::Exists { key, .. }) if key == a.ek_hash
    ));
    assert!(matches!(
        f.store.enrol(&enrolment('d', Some("/spire/agent/box-a")), at(80)).await,
        Err(StoreError::Exists { key, .. }) if key == "with agent path /spire/agent/box-a"
    ));
    for bad in ["", "ab", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65)] {
        let bad = Enrolment { ek_hash: bad.into(), ..enrolment('a', None) };
        assert!(matches!(f.store.enrol(&bad, at(80)).await, Err(StoreError::Invalid { .. })));
    }
    f.restart().await;
    let all = f.store.list_enrolments().await.unwrap();
    assert_eq!(all.iter().map(|e| &e.enrolment.ek_hash[..1]).collect::<String>(), "abc");
    f.store.remove_enrolment(&a.ek_hash).await.unwrap();
    assert!(matches!(f.store.remove_enrolment(&a.ek_hash).await, Err(StoreError::NotFound { .. })));
    assert_eq!(f.store.enrolment(&a.ek_hash).await.unwrap(), None);
}

on_every_engine! {
    a_join_token_belongs_to_the_first_key_that_shows_it,
    of_many_keys_at_once_exactly_one_gets_the_token,
    bundle_rows_have_revisions,
    two_processes_appending_to_a_bundle_lose_nothing,
    journals_are_found_by_the_active_authority,
    enrolments,
}
