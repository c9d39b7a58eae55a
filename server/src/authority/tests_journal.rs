//! The journal when the database was away, forgot something, or was written by somebody else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hardroot_api::spire::server::journal::{self, Status, X509caEntry};
use prost::Message as _;

use super::testing::{DAY, Site, Steps, StoreSession, config};
use super::tests::issue;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A server whose database can go away without its token.
async fn server(site: &Site, database: &Arc<Steps>) -> Authority {
    let store =
        StoreSession { store: site.store.clone(), steps: Arc::clone(database), forgets_bundles: false };
    let clock = Arc::new(site.clock.clone());
    Authority::start(config(), site.keys(&Steps::immortal()), Arc::new(store), clock).await.unwrap()
}

/// From now on, after `more` calls that still succeed.
fn away_after(database: &Steps, more: usize) {
    let taken = database.log.lock().unwrap().len();
    database.dies_at.store(taken + more, Ordering::SeqCst);
}

async fn stored(site: &Site, authority: &Authority) -> journal::Entries {
    let stored = site.journal_of(authority).await.unwrap();
    journal::Entries::decode(stored.data.as_slice()).unwrap()
}

fn active(journal: &journal::Entries) -> &str {
    let mut active = journal.x509_c_as.iter().filter(|entry| entry.status == Status::Active as i32);
    &active.next_back().unwrap().authority_id
}

/// Fault 6: three hours without a database around a rotation, wherever in it they begin. The old authority signs on, no
/// key is made for each try, and the first check afterwards writes the journal before the new one signs.
#[tokio::test]
async fn the_journal_is_written_when_the_database_is_back() {
    for (prepared_after, activated_after) in [(DAY / 2, None), (DAY / 2, Some(DAY / 3))] {
        for calls in 0.. {
            let site = Site::new().await;
            let database = Steps::immortal();
            let authority = server(&site, &database).await;
            let first = authority.signer().authority_id();
            site.clock.advance(prepared_after);
            if let Some(more) = activated_after {
                authority.check().await.unwrap();
                site.clock.advance(more);
            }
            away_after(&database, calls);
            let done = authority.check().await.is_ok();
            if !done {
                // Unless the answer alone was lost, nothing that is not written down signs.
                assert_eq!(authority.signer().authority_id(), first, "away after {calls} calls");
                for _ in 0..180 {
                    site.clock.advance(MINUTE);
                    authority.check().await.unwrap_err();
                    assert_eq!(authority.signer().authority_id(), first);
                }
                issue(&authority).await.unwrap();
                database.dies_at.store(usize::MAX, Ordering::SeqCst);
                authority.check().await.unwrap();
            }
            assert_eq!((site.generated(), site.generated_jwt()), (2, 2), "away after {calls} calls");
            let journal = stored(&site, &authority).await;
            assert_eq!(Some(active(&journal)), authority.signer().authority_id().as_deref());
            if activated_after.is_some() {
                assert_ne!(authority.signer().authority_id(), first);
            }
            issue(&authority).await.unwrap();
            if done {
                break;
            }
        }
    }
}

/// Fault 7: the database is set back to before the last write, or lost the row. The server knows better.
#[tokio::test]
async fn a_journal_that_a_failover_set_back_is_written_again() {
    for lost_altogether in [false, true] {
        let site = Site::new().await;
        let authority = site.start().await;
        let before = site.journal_of(&authority).await.unwrap();
        site.clock.advance(DAY / 2);
        authority.check().await.unwrap();
        if lost_altogether {
            site.lose_journal(&authority).await;
            assert_eq!(site.journal_of(&authority).await, None);
        } else {
            let now = site.journal_of(&authority).await.unwrap();
            let id = authority.signer().authority_id().unwrap();
            site.store.put_journal(Some(&now), &before.data, &id).await.unwrap();
        }
        site.clock.advance(DAY / 3);
        authority.check().await.unwrap();
        let journal = stored(&site, &authority).await;
        assert_eq!(Some(active(&journal)), authority.signer().authority_id().as_deref());
        assert_eq!(journal.x509_c_as.len(), 2, "the one of before, too");
    }
}

/// A lost bundle tells that the database is of an earlier moment: the journal does not wait for the next rotation.
#[tokio::test]
async fn with_the_bundle_the_journal_is_written_again() {
    let site = Site::new().await;
    let authority = site.start().await;
    site.lose_journal(&authority).await;
    published::update(&site.store, &testing::trust_domain(), |bundle| {
        bundle.root_cas.clear();
        true
    })
    .await
    .unwrap();
    authority.check().await.unwrap();
    assert!(site.journal_of(&authority).await.is_some());
}

/// Two processes with the same keys (a copy of the data directory): the second writer is told, and goes no further.
#[tokio::test]
async fn a_journal_that_somebody_else_wrote_is_not_written_over() {
    let site = Site::new().await;
    let authority = site.start().await;
    let first = authority.signer().authority_id().unwrap();
    site.clock.advance(DAY / 2);
    authority.check().await.unwrap();
    let now = site.journal_of(&authority).await.unwrap();
    let mut theirs = journal::Entries::decode(now.data.as_slice()).unwrap();
    let later = theirs.x509_c_as.last().unwrap().issued_at + 1;
    theirs.x509_c_as.push(X509caEntry {
        authority_id: "of another process".into(),
        issued_at: later,
        ..X509caEntry::default()
    });
    let theirs = theirs.encode_to_vec();
    site.store.put_journal(Some(&now), &theirs, &first).await.unwrap();
    site.clock.advance(DAY / 3);
    let refused = authority.check().await.unwrap_err();
    assert!(matches!(refused, AuthorityError::ForeignJournal { .. }), "{refused}");
    assert!(refused.to_string().contains("another server runs with the same keys"), "{refused}");
    assert_eq!(authority.signer().authority_id(), Some(first));
    assert_eq!(site.journal_of(&authority).await.unwrap().data, theirs);
}
