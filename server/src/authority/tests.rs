use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hardroot_api::spire::common;
use hardroot_api::spire::server::journal::{JwtKeyEntry, Status, X509caEntry};
use hardroot_hsm_keymanager::KeyId;
use hardroot_identity::{SpiffeId, Template, verify_jwt_svid, verify_x509_svid};
use hardroot_transport::IdentitySlot;

use super::published::{self, read, to_identity};
use super::slots::{Slot, SlotId, X509Slot};
use super::testing::{DAY, HOUR, Site, Steps, StoreSession, config, noon, trust_domain};
use super::*;
use crate::datastore::Journals;

pub(super) fn workload() -> SpiffeId {
    "spiffe://example.org/workload".parse().unwrap()
}

async fn workload_key() -> Vec<u8> {
    let keys = hardroot_hsm_keymanager::memory::MemoryKeyManager::new();
    keys.generate(&KeyId::new("w").unwrap(), KeyType::EcP256).await.unwrap().spki_der
}

pub(crate) async fn issue(authority: &Authority) -> Result<Issued, IssueError> {
    let spki = workload_key().await;
    authority.signer().sign_x509(Template::Workload { dns_names: &[] }, &workload(), &spki, HOUR).await
}

pub(crate) async fn issue_jwt(authority: &Authority, ttl: Duration) -> Result<IssuedJwt, JwtIssueError> {
    let audience = ["db".to_owned()];
    let request = JwtRequest { id: &workload(), audience: &audience, ttl, with_token_id: false };
    authority.signer().sign_jwt(request, None).await
}

/// Both kinds sign, and what they sign verifies with what is published now (I2, I3).
async fn sound(site: &Site, authority: &Authority) {
    let (bundle, now) = (published_bundle(site).await, site.clock.now());
    let issued = issue(authority).await.unwrap();
    verify_x509_svid(&issued.chain, &bundle, now).unwrap();
    let issued = issue_jwt(authority, HOUR / 12).await.unwrap();
    let svid = verify_jwt_svid(&issued.token, &["db"], |_| Some(&bundle), now, Duration::ZERO).unwrap();
    assert_eq!(svid.key_id, issued.key_id);
}

pub(super) async fn published_bundle(site: &Site) -> hardroot_identity::Bundle {
    let (stored, _) = read(&site.store, &trust_domain()).await.unwrap();
    to_identity(&trust_domain(), &stored)
}

pub(super) fn by_status<C>(slots: &[Slot<C>], status: Status) -> Option<&Slot<C>> {
    slots.iter().find(|slot| slot.status == status)
}

#[tokio::test]
async fn what_is_signed_verifies_with_what_is_published() {
    let site = Site::new().await;
    let authority = site.start().await;
    let issued = issue(&authority).await.unwrap();
    let svid = verify_x509_svid(&issued.chain, &published_bundle(&site).await, noon()).unwrap();
    assert_eq!((svid.id, svid.serial), (workload(), issued.serial));
    assert_eq!(issued.not_after, noon() + HOUR);
    assert_eq!(issued.not_before, noon() - Duration::from_secs(10));
}

#[tokio::test]
async fn the_order_is_key_certificate_bundle_read_back_journal() {
    let site = Site::new().await;
    let steps = Steps::immortal();
    site.start_with(&steps).await.unwrap();
    let log = steps.log.lock().unwrap().clone();
    let at = |what: &str| log.iter().position(|step| step == what).unwrap();
    let last = |what: &str| log.iter().rposition(|step| step == what).unwrap();
    assert!(at("generate x509-CA-A") < at("sign x509-CA-A"));
    assert!(at("sign x509-CA-A") < at("write bundle"));
    assert!(at("write bundle") < last("read bundle"), "{log:?}");
    assert!(last("read bundle") < at("write journal"), "{log:?}");
}

#[tokio::test]
async fn a_restart_at_any_step_makes_no_second_key() {
    for takes_effect in [false, true] {
        for died_at in 0.. {
            let site = Site::new().await;
            let first = site.start_with(&Steps::dying(died_at, takes_effect)).await;
            let done = first.is_ok();
            drop(first);
            let authority = site.start().await;
            let made = (site.generated(), site.generated_jwt());
            assert_eq!(made, (1, 1), "died at step {died_at}, effect {takes_effect}");
            sound(&site, &authority).await;
            let bundle = published_bundle(&site).await;
            assert!(bundle.x509_authorities.len() <= 2, "died at step {died_at}");
            assert_eq!(bundle.jwt_authorities.len(), 1, "died at step {died_at}");
            if done {
                assert!(died_at > 16, "the start has more steps than {died_at}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_restart_at_any_step_of_a_rotation_makes_no_third_key() {
    for takes_effect in [false, true] {
        for died_at in 0.. {
            let site = Site::new().await;
            let signer = site.start().await.signer();
            let active = (signer.authority_id(), signer.jwt_key_id());
            site.clock.advance(DAY / 2);
            let steps = Steps::dying(usize::MAX, takes_effect);
            let running = site.start_with(&steps).await;
            // Preparation happened within that start; die in the activation and what follows it.
            let authority = running.unwrap();
            assert_eq!((site.generated(), site.generated_jwt()), (2, 2));
            assert_eq!(authority.signer().authority_id(), active.0);
            assert_eq!(authority.signer().jwt_key_id(), active.1);
            site.clock.advance(DAY / 3);
            let taken = steps.log.lock().unwrap().len();
            steps.dies_at.store(taken + died_at, Ordering::SeqCst);
            let done = authority.check().await.is_ok();
            drop(authority);
            let again = site.start().await;
            let made = (site.generated(), site.generated_jwt());
            assert_eq!(made, (2, 2), "died at step {died_at}, effect {takes_effect}");
            assert_ne!(again.signer().authority_id(), active.0);
            assert_ne!(again.signer().jwt_key_id(), active.1);
            sound(&site, &again).await;
            if done {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_death_while_preparing_is_continued() {
    for takes_effect in [false, true] {
        for died_at in 0.. {
            let site = Site::new().await;
            let steps = Steps::dying(usize::MAX, takes_effect);
            let authority = site.start_with(&steps).await.unwrap();
            let active = authority.signer().authority_id();
            let active_jwt = authority.signer().jwt_key_id();
            site.clock.advance(DAY / 2);
            let taken = steps.log.lock().unwrap().len();
            steps.dies_at.store(taken + died_at, Ordering::SeqCst);
            let done = authority.check().await.is_ok();
            // It goes on signing whatever happened to its successor.
            assert_eq!(authority.signer().authority_id(), active);
            assert_eq!(authority.signer().jwt_key_id(), active_jwt);
            drop(authority);
            let again = site.start().await;
            let made = (site.generated(), site.generated_jwt());
            assert_eq!(made, (2, 2), "died at step {died_at}, effect {takes_effect}");
            sound(&site, &again).await;
            let slots = again.jwt_slots().await;
            assert_eq!(by_status(&slots, Status::Active).map(|s| &s.authority_id), active_jwt.as_ref());
            assert!(by_status(&slots, Status::Prepared).is_some());
            let slots = again.slots().await;
            assert_eq!(by_status(&slots, Status::Active).map(|s| &s.authority_id), active.as_ref());
            assert!(by_status(&slots, Status::Prepared).is_some());
            if done {
                break;
            }
        }
    }
}

#[tokio::test]
async fn authorities_take_turns() {
    let site = Site::new().await;
    let authority = site.start().await;
    let first = authority.signer().authority_id();

    site.clock.advance(DAY / 2 - Duration::from_secs(1));
    authority.check().await.unwrap();
    assert_eq!(authority.slots().await.len(), 1, "a second too early");

    site.clock.advance(Duration::from_secs(1));
    authority.check().await.unwrap();
    let slots = authority.slots().await;
    let prepared = by_status(&slots, Status::Prepared).unwrap();
    assert_eq!(prepared.slot, SlotId::B);
    assert_eq!(published_bundle(&site).await.x509_authorities.len(), 2);
    assert_eq!(authority.signer().authority_id(), first, "published, not signing");

    site.clock.advance(DAY / 3);
    authority.check().await.unwrap();
    let slots = authority.slots().await;
    assert_eq!(by_status(&slots, Status::Active).unwrap().slot, SlotId::B);
    assert_eq!(by_status(&slots, Status::Old).unwrap().slot, SlotId::A);
    assert_ne!(authority.signer().authority_id(), first);
    let issued = issue(&authority).await.unwrap();
    let bundle = published_bundle(&site).await;
    verify_x509_svid(&issued.chain, &bundle, site.clock.now()).unwrap();

    // And back to slot A, whose old key is replaced.
    site.clock.advance(DAY / 6);
    authority.check().await.unwrap();
    let slots = authority.slots().await;
    assert_eq!(by_status(&slots, Status::Prepared).unwrap().slot, SlotId::A);
    assert_eq!(site.generated(), 3);
}

#[tokio::test]
async fn a_prepared_authority_survives_a_restart() {
    let site = Site::new().await;
    let authority = site.start().await;
    site.clock.advance(DAY / 2);
    authority.check().await.unwrap();
    let before = authority.slots().await;
    drop(authority);
    assert_eq!(site.start().await.slots().await, before);
    assert_eq!(site.generated(), 2);
}

#[tokio::test]
async fn a_lost_journal_is_rebuilt_from_keys_and_bundle() {
    let site = Site::new().await;
    let first = site.start().await;
    let id = first.signer().authority_id();
    site.lose_journal(&first).await;
    let authority = site.start().await;
    assert_eq!(authority.signer().authority_id(), id);
    assert_eq!(published_bundle(&site).await.x509_authorities.len(), 1);
    assert_eq!(site.generated(), 1);
}

#[tokio::test]
async fn the_wrong_database_costs_no_key() {
    let site = Site::new().await;
    let id = site.start().await.signer().authority_id();
    let before = published_bundle(&site).await;
    // Somebody starts the server with an empty database by mistake, then corrects it.
    let mistaken = Site::with_token(Arc::clone(&site.token)).await;
    mistaken.start().await;
    assert_eq!(site.generated(), 1);
    let authority = site.start().await;
    assert_eq!(authority.signer().authority_id(), id);
    assert_eq!(published_bundle(&site).await, before);
}

#[tokio::test]
async fn an_authority_missing_from_the_bundle_is_published_again_before_it_signs() {
    let site = Site::new().await;
    let authority = site.start().await;
    let lose = || async {
        published::update(&site.store, &trust_domain(), |bundle| {
            bundle.root_cas.clear();
            true
        })
        .await
        .unwrap();
    };
    lose().await;
    authority.check().await.unwrap();
    assert_eq!(published_bundle(&site).await.x509_authorities.len(), 1);
    drop(authority);
    lose().await;
    site.start().await;
    assert_eq!(published_bundle(&site).await.x509_authorities.len(), 1);
}

#[tokio::test]
async fn a_token_that_signs_wrongly_gets_nothing_published() {
    let site = Site::new().await;
    site.token.lies.store(true, Ordering::SeqCst);
    let refused = site.start_with(&Steps::immortal()).await.err().unwrap();
    assert!(matches!(refused, AuthorityError::Certificate(IssueError::Sign(SignError::Wrong { .. }))));
    assert!(published_bundle(&site).await.is_empty());
}

#[tokio::test]
async fn a_wrong_signature_never_becomes_an_svid() {
    let site = Site::new().await;
    let authority = site.start().await;
    let working = authority.signer().working();
    assert!(*working.borrow());
    site.token.lies.store(true, Ordering::SeqCst);
    let refused = issue(&authority).await.unwrap_err();
    assert!(matches!(refused, IssueError::Sign(SignError::Wrong { .. })), "{refused}");
    assert!(!*working.borrow(), "readiness sees it");
    site.token.lies.store(false, Ordering::SeqCst);
    issue(&authority).await.unwrap();
    assert!(*working.borrow());
}

#[tokio::test]
async fn a_database_that_forgets_is_noticed_before_anything_is_signed() {
    let site = Site::new().await;
    let steps = Steps::immortal();
    let store = StoreSession { store: site.store.clone(), steps: Arc::clone(&steps), forgets_bundles: true };
    let refused =
        Authority::start(config(), site.keys(&steps), Arc::new(store), Arc::new(site.clock.clone()))
            .await
            .err()
            .unwrap();
    assert!(matches!(refused, AuthorityError::Bundle(BundleError::NotReadBack { .. })), "{refused}");
}

#[tokio::test]
async fn nothing_is_signed_past_the_end_of_the_authority() {
    let site = Site::new().await;
    let authority = site.start().await;
    site.clock.advance(DAY - HOUR / 2);
    let cut = issue(&authority).await.unwrap();
    assert_eq!(cut.not_after, noon() + DAY, "an SVID ends with its authority");
    site.clock.advance(HOUR);
    assert!(matches!(issue(&authority).await, Err(IssueError::Expired { .. })));
    // The next check makes a new one, even after all is over.
    authority.check().await.unwrap();
    issue(&authority).await.unwrap();
}

#[tokio::test]
async fn ended_authorities_leave_the_bundle_a_day_later_and_never_all_of_them() {
    let site = Site::new().await;
    let authority = site.start().await;
    let sequence = published_bundle(&site).await.sequence_number;
    site.clock.advance(DAY * 10);
    authority.prune().await.unwrap();
    let bundle = published_bundle(&site).await;
    assert_eq!(bundle.x509_authorities.len(), 1, "the last one stays");
    assert_eq!(bundle.sequence_number, sequence, "nothing changed");

    authority.check().await.unwrap();
    assert_eq!(published_bundle(&site).await.x509_authorities.len(), 2);
    authority.prune().await.unwrap();
    let bundle = published_bundle(&site).await;
    assert_eq!(bundle.x509_authorities.len(), 1);
    assert_eq!(bundle.jwt_authorities.len(), 1);
    assert_eq!(bundle.sequence_number, sequence + 3, "two published, then pruned");
    issue(&authority).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_ended_less_than_a_day_ago_stays() {
    let site = Site::new().await;
    let authority = site.start().await;
    site.clock.advance(DAY * 2);
    authority.check().await.unwrap();
    authority.prune().await.unwrap();
    assert_eq!(published_bundle(&site).await.x509_authorities.len(), 2, "exactly a day: not more than a day");
    site.clock.advance(Duration::from_secs(1));
    authority.prune().await.unwrap();
    assert_eq!(published_bundle(&site).await.x509_authorities.len(), 1);
}

#[tokio::test]
async fn concurrent_servers_lose_no_authority() {
    let one = Site::new().await;
    let mut servers = Vec::new();
    for _ in 0..6 {
        let site = one.neighbour();
        servers.push(tokio::spawn(async move {
            let authority = site.start().await;
            (site, authority)
        }));
    }
    let mut ids = Vec::new();
    for server in servers {
        let (_, authority) = server.await.unwrap();
        let root = authority.slots().await.first().unwrap().credential.clone();
        ids.push((root, authority.signer().jwt_key_id().unwrap()));
    }
    let bundle = published_bundle(&one).await;
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (6, 6));
    assert!(ids.iter().all(|(der, kid)| bundle.contains_x509_authority(der) && bundle.contains_jwt_key(kid)));
    assert_eq!(bundle.sequence_number, 12);
}

#[tokio::test]
async fn the_journal_keeps_ten_entries() {
    let site = Site::new().await;
    let authority = site.start().await;
    for _ in 0..30 {
        site.clock.advance(HOUR * 10);
        authority.check().await.unwrap();
    }
    let ids = vec![authority.signer().authority_id().unwrap()];
    let stored = site.store.find_journal(&ids).await.unwrap().unwrap();
    let journal = journal::Entries::decode(stored.data.as_slice()).unwrap();
    assert_eq!(journal.x509_c_as.len(), slots::JOURNAL_CAP);
    assert_eq!(journal.jwt_keys.len(), slots::JOURNAL_CAP);
}

async fn server_svid(site: &Site, signer: Arc<Signer>) -> (ServerSvid, IdentitySlot) {
    let identity = IdentitySlot::default();
    let svid = ServerSvid::start(
        "spiffe://example.org/spire/server".parse().unwrap(),
        KeyType::EcP256,
        HOUR,
        site.keys(&Steps::immortal()),
        Arc::new(site.clock.clone()),
        signer,
        IdentitySlot::clone(&identity),
    )
    .await
    .unwrap();
    (svid, identity)
}

#[tokio::test]
async fn the_server_svid_is_renewed_at_half_life_with_the_same_key() {
    let site = Site::new().await;
    let authority = site.start().await;
    let (svid, identity) = server_svid(&site, authority.signer()).await;
    let keys = site.generated();
    let first = identity.load_full().unwrap();
    // Valid from ten seconds before now, for 3610 s in all.
    site.clock.advance(Duration::from_secs(1794));
    svid.check().await.unwrap();
    assert!(Arc::ptr_eq(&first, &identity.load_full().unwrap()), "a second too early");
    site.clock.advance(Duration::from_secs(1));
    svid.check().await.unwrap();
    let second = identity.load_full().unwrap();
    assert_ne!(first.chain, second.chain);
    assert_eq!(site.generated(), keys);
    svid.check().await.unwrap();
    assert!(Arc::ptr_eq(&second, &identity.load_full().unwrap()), "nothing is due");
}

#[tokio::test]
async fn the_server_key_follows_the_authority_and_the_old_one_is_destroyed() {
    let site = Site::new().await;
    let authority = site.start().await;
    let (svid, identity) = server_svid(&site, authority.signer()).await;
    site.clock.advance(DAY - HOUR);
    authority.check().await.unwrap();
    svid.check().await.unwrap();
    let bundle = published_bundle(&site).await;
    verify_x509_svid(&identity.load_full().unwrap().chain, &bundle, site.clock.now()).unwrap();
    let find = async |name: &str| {
        let keys = site.keys(&Steps::immortal());
        keys.find(&KeyId::new(name).unwrap()).await.unwrap()
    };
    assert!(find("server-svid-A").await.is_some(), "a handshake under way may still need it");
    assert!(find("server-svid-B").await.is_some());
    svid.check().await.unwrap();
    assert!(find("server-svid-A").await.is_none());
}

#[tokio::test]
async fn a_restart_reuses_the_server_key() {
    let site = Site::new().await;
    let authority = site.start().await;
    let (_, identity) = server_svid(&site, authority.signer()).await;
    let key = identity.load_full().unwrap().key.public_key().unwrap().to_vec();
    let made = site.generated();
    let (_, identity) = server_svid(&site, authority.signer()).await;
    assert_eq!(identity.load_full().unwrap().key.public_key().unwrap().to_vec(), key);
    assert_eq!(site.generated(), made);
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_old_svid() {
    let site = Site::new().await;
    let authority = site.start().await;
    let (svid, identity) = server_svid(&site, authority.signer()).await;
    let before = identity.load_full().unwrap();
    site.clock.advance(HOUR * 3 / 4);
    site.token.lies.store(true, Ordering::SeqCst);
    svid.check().await.unwrap_err();
    assert!(Arc::ptr_eq(&before, &identity.load_full().unwrap()));
    site.token.lies.store(false, Ordering::SeqCst);
    svid.check().await.unwrap();
    assert!(!Arc::ptr_eq(&before, &identity.load_full().unwrap()));
}

#[tokio::test]
async fn a_probe_finds_out_that_the_key_manager_works_again() {
    let site = Site::new().await;
    let authority = site.start().await;
    let (svid, identity) = server_svid(&site, authority.signer()).await;
    let (before, working) = (identity.load_full().unwrap(), authority.signer().working());
    site.token.lies.store(true, Ordering::SeqCst);
    svid.probe().await.unwrap_err();
    assert!(!*working.borrow());
    site.token.lies.store(false, Ordering::SeqCst);
    svid.probe().await.unwrap();
    assert!(*working.borrow());
    assert!(Arc::ptr_eq(&before, &identity.load_full().unwrap()), "nobody gets the certificate");
}

mod damaged {
    use super::*;

    #[test]
    fn two_active_slots_become_one() {
        // What a half-written change-over could look like; the younger one won.
        let slot = |slot, issued: u64| X509Slot {
            slot,
            public: hardroot_hsm_keymanager::PublicKey { kind: KeyType::EcP256, spki_der: vec![] },
            credential: vec![],
            authority_id: String::new(),
            issued_at: noon() + Duration::from_secs(issued),
            not_after: noon() + DAY,
            status: Status::Active,
        };
        let settled = slots::settle(vec![slot(SlotId::A, 0), slot(SlotId::B, 5)]);
        assert_eq!(by_status(&settled, Status::Active).unwrap().slot, SlotId::B);
        assert_eq!(by_status(&settled, Status::Old).unwrap().slot, SlotId::A);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_journal_and_bundle_are_survived(
            der in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            status in 0..6i32,
        ) {
            let x509 = X509caEntry { slot_id: "A".into(), certificate: der.clone(), status, ..Default::default() };
            let jwt = JwtKeyEntry { slot_id: "A".into(), public_key: der.clone(), status, ..Default::default() };
            let journal = journal::Entries { x509_c_as: vec![x509], jwt_keys: vec![jwt], wit_keys: vec![] };
            let bundle = common::Bundle {
                root_cas: vec![common::Certificate { der_bytes: der.clone(), tainted_key: false }],
                jwt_signing_keys: vec![common::PublicKey { pkix_bytes: der, ..Default::default() }],
                ..Default::default()
            };
            let public = hardroot_hsm_keymanager::PublicKey { kind: KeyType::EcP256, spki_der: vec![1] };
            let keys = [(SlotId::A, public)];
            let x509 = kind::X509 {
                trust_domain: trust_domain(),
                ttl: DAY,
                key_type: KeyType::EcP256,
                subject: DistinguishedName::default_ca(),
            };
            proptest::prop_assert!(slots::reconcile(&x509, noon(), &keys, &journal, &bundle).is_empty());
            let jwt = kind::Jwt { ttl: DAY, key_type: KeyType::EcP256 };
            proptest::prop_assert!(slots::reconcile(&jwt, noon(), &keys, &journal, &bundle).is_empty());
        }
    }
}
