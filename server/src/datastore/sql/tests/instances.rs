//! Leases of server instances, and records of keys.

use super::*;
use crate::datastore::{KeyRecord, KeyRecords, KeyState, Lease};

pub(super) const INSTANCE: &str = "6b0f6a0e-0000-4000-8000-000000000001";

pub(super) fn lease(nonce: &str, expires_at: SystemTime) -> Lease {
    Lease {
        instance: INSTANCE.into(),
        nonce: nonce.into(),
        machine: "boot pid:[1]".into(),
        pid: u32::MAX,
        started: 7,
        token: "token \"a\" \u{1F511}".into(),
        authority_id: "a1".into(),
        expires_at,
    }
}

pub(super) fn record(key_id: &str) -> KeyRecord {
    KeyRecord {
        row: 0,
        instance: INSTANCE.into(),
        key_id: key_id.into(),
        kind: "ec-p384".into(),
        spki_sha256: String::new(),
        custody: "token \"a\" \u{1F511}".into(),
        created_at: at(50),
        state: KeyState::Intent,
    }
}

async fn a_lease_has_one_holder(on: On) {
    let mut f = Fixture::new(on).await;
    let first = lease("first", at(100));
    assert_eq!(f.store.take_lease(&first, None, at(70)).await.unwrap(), None);
    f.restart().await;
    let second = lease("second", at(129));
    assert_eq!(f.store.take_lease(&second, None, at(99)).await.unwrap(), Some(first), "whole, and not ended");
    let renewed = lease("first", at(110));
    let before = f.store.statements();
    assert_eq!(f.store.take_lease(&renewed, None, at(80)).await.unwrap(), None, "the holder renews it");
    assert_eq!(f.store.statements() - before, 1, "with one statement: idle servers do it for ever");
    assert_eq!(f.store.take_lease(&second, Some("other"), at(109)).await.unwrap(), Some(renewed));
    assert_eq!(f.store.take_lease(&second, None, at(110)).await.unwrap(), None, "it ended");
    assert_eq!(f.store.take_lease(&lease("first", at(150)), None, at(120)).await.unwrap(), Some(second));
    let third = lease("third", at(150));
    assert_eq!(f.store.take_lease(&third, Some("second"), at(120)).await.unwrap(), None, "known to be gone");
    f.store.release_lease(INSTANCE, "second").await.unwrap();
    let fourth = lease("fourth", at(150));
    assert_eq!(f.store.take_lease(&fourth, None, at(120)).await.unwrap(), Some(third), "not his to give");
    f.store.release_lease(INSTANCE, "third").await.unwrap();
    assert_eq!(f.store.take_lease(&fourth, None, at(120)).await.unwrap(), None);
    // Another instance has nothing to do with it.
    let other = Lease { instance: "another".into(), ..lease("else", at(150)) };
    assert_eq!(f.store.take_lease(&other, None, at(120)).await.unwrap(), None);
}

/// Two servers, many processes, all at once: where there is no row yet, and where the last one ended.
async fn of_many_processes_at_once_exactly_one_gets_the_lease(on: On) {
    let f = Fixture::new(on).await;
    let other = f.another().await;
    for round in 0..3_u64 {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..16 {
            let store = if n % 2 == 0 { f.store.clone() } else { other.clone() };
            let wanted = lease(&format!("process {n} of round {round}"), at(100 + 100 * round));
            tasks.spawn(async move {
                store.take_lease(&wanted, None, at(70 + 100 * round)).await.unwrap().is_none()
            });
        }
        let took = tasks.join_all().await;
        assert_eq!(took.iter().filter(|took| **took).count(), 1, "round {round}: {took:?}");
    }
}

async fn keys_are_recorded(on: On) {
    let mut f = Fixture::new(on).await;
    let first = f.store.intend_key(&record("x509-CA-A")).await.unwrap();
    let second = f.store.intend_key(&record("x509-CA-A")).await.unwrap();
    let third = f.store.intend_key(&record("JWT-Signer-A")).await.unwrap();
    let elsewhere = KeyRecord { instance: "another".into(), ..record("x509-CA-A") };
    let foreign = f.store.intend_key(&elsewhere).await.unwrap();
    f.store.key_made(first, &"1".repeat(64)).await.unwrap();
    f.store.key_made(second, &"2".repeat(64)).await.unwrap();
    f.store.key_made(foreign, &"3".repeat(64)).await.unwrap();
    f.restart().await;
    let expected = |row, key_id: &str, hash: &str, state| KeyRecord {
        row,
        spki_sha256: hash.repeat(64),
        state,
        ..record(key_id)
    };
    let found = f.store.key_records(INSTANCE).await.unwrap();
    assert_eq!(
        found,
        [
            expected(first, "x509-CA-A", "1", KeyState::Retired),
            expected(second, "x509-CA-A", "2", KeyState::Present),
            expected(third, "JWT-Signer-A", "", KeyState::Intent),
        ]
    );
    f.store.key_retired(INSTANCE, "JWT-Signer-A").await.unwrap();
    assert!(matches!(f.store.key_made(4711, "x").await, Err(StoreError::NotFound { .. })));
    f.store.prune_key_records(at(50)).await.unwrap();
    assert_eq!(f.store.key_records(INSTANCE).await.unwrap().len(), 3, "not older than that");
    f.store.take_lease(&lease("old", at(50)), None, at(20)).await.unwrap();
    f.store.prune_key_records(at(51)).await.unwrap();
    let found = f.store.key_records(INSTANCE).await.unwrap();
    assert_eq!(found, [expected(second, "x509-CA-A", "2", KeyState::Present)]);
    assert_eq!(f.number("SELECT count(*) AS n FROM server_leases").await, 0);
    assert_eq!(f.store.key_records("another").await.unwrap()[0].state, KeyState::Present);
}

on_every_engine! {
    a_lease_has_one_holder,
    of_many_processes_at_once_exactly_one_gets_the_lease,
    keys_are_recorded,
}
