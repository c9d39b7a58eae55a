//! The JWT authority: its life beside the X.509 one, and what it signs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hardroot_api::spire::common;
use hardroot_api::spire::server::journal::Status;
use hardroot_identity::{CannotSignJwt, verify_jwt_svid};
use serde_json::{Value, json};

use super::published::{self, read};
use super::slots::SlotId;
use super::testing::{DAY, HOUR, Site, Steps, config, noon, trust_domain};
use super::tests::{by_status, issue, issue_jwt, published_bundle, workload};
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Header and claims of a token.
fn parts(token: &str) -> (Value, Value) {
    let mut parts = token
        .split('.')
        .take(2)
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

fn jwt_config(key_type: KeyType, issuer: Option<&str>) -> AuthorityConfig {
    let jwt = JwtConfig { key_type, issuer: issuer.map(str::to_owned) };
    AuthorityConfig { jwt: Some(jwt), ..config() }
}

#[tokio::test]
async fn a_token_says_what_it_must_and_no_more() {
    for (kind, algorithm) in
        [(KeyType::EcP256, "ES256"), (KeyType::EcP384, "ES384"), (KeyType::Rsa2048, "RS256")]
    {
        let site = Site::new().await;
        let authority = site.start_as(jwt_config(kind, None), &Steps::immortal()).await.unwrap();
        let issued = issue_jwt(&authority, 5 * MINUTE).await.unwrap();
        let now = slots::unix_seconds(noon());
        let (header, claims) = parts(&issued.token);
        assert_eq!(header, json!({"alg": algorithm, "kid": issued.key_id, "typ": "JWT"}));
        let wanted = json!({
            "sub": "spiffe://example.org/workload", "aud": ["db"], "iat": now, "exp": now + 300
        });
        assert_eq!(claims, wanted);
        assert_eq!((issued.issued_at, issued.expires_at), (noon(), noon() + 5 * MINUTE));
        let bundle = published_bundle(&site).await;
        verify_jwt_svid(&issued.token, &["db"], |_| Some(&bundle), noon(), Duration::ZERO).unwrap();
    }
}

#[tokio::test]
async fn issuer_and_token_id_come_when_wanted() {
    let site = Site::new().await;
    let configured = jwt_config(KeyType::EcP256, Some("https://issuer.example.org"));
    let authority = site.start_as(configured, &Steps::immortal()).await.unwrap();
    let audience = ["a".to_owned(), String::new(), "b".to_owned()];
    let mut ids = BTreeSet::new();
    for _ in 0..20 {
        let request = JwtRequest { id: &workload(), audience: &audience, ttl: MINUTE, with_token_id: true };
        let issued = authority.signer().sign_jwt(request, None).await.unwrap();
        let (_, claims) = parts(&issued.token);
        assert_eq!(claims["iss"], "https://issuer.example.org");
        assert_eq!(claims["aud"], json!(["a", "b"]));
        let id = claims["jti"].as_str().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(id).unwrap().len(), 16);
        ids.insert(id.to_owned());
    }
    assert_eq!(ids.len(), 20);
}

#[tokio::test]
async fn a_key_signs_tokens_only_after_it_was_published_read_back_and_journaled() {
    let site = Site::new().await;
    let steps = Steps::immortal();
    site.start_with(&steps).await.unwrap();
    let log = steps.log.lock().unwrap().clone();
    let last = |what: &str| log.iter().rposition(|step| step == what).unwrap();
    assert!(last("generate JWT-Signer-A") < last("write bundle"), "{log:?}");
    assert!(last("write bundle") < last("read bundle"), "{log:?}");
    assert!(last("read bundle") < last("write journal"), "{log:?}");
    assert!(!log.iter().any(|step| step == "sign JWT-Signer-A"));
}

#[tokio::test]
async fn both_kinds_rotate_and_a_restart_at_each_stage_changes_nothing() {
    let site = Site::new().await;
    let mut authority = site.start().await;
    let mut tokens = Vec::new();
    for round in 0..8 {
        for stage in [DAY / 2, DAY / 3, DAY / 6] {
            let before = authority.signer().jwt_key_id().unwrap();
            let issued = issue_jwt(&authority, 5 * MINUTE).await.unwrap();
            assert_eq!(issued.key_id, before);
            tokens.push((issued, site.clock.now()));
            site.clock.advance(stage);
            authority.check().await.unwrap();
            let (x509, jwt) = (authority.slots().await, authority.jwt_slots().await);
            let made = (site.generated(), site.generated_jwt());
            let id = authority.signer().jwt_key_id();
            drop(authority);
            authority = site.start().await;
            assert_eq!(authority.slots().await, x509, "round {round}");
            assert_eq!(authority.jwt_slots().await, jwt, "round {round}");
            assert_eq!((site.generated(), site.generated_jwt()), made, "round {round}");
            assert_eq!(authority.signer().jwt_key_id(), id);
        }
    }
    // Every token was verifiable while it lived: its key was in the bundle before, and is there still or left
    // a day after its end.
    let bundle = published_bundle(&site).await;
    let now = site.clock.now();
    let keys: BTreeSet<&str> = tokens.iter().map(|(issued, _)| issued.key_id.as_str()).collect();
    assert!(keys.len() >= 8, "{keys:?}");
    for (issued, at) in &tokens {
        if at.checked_add(DAY).unwrap() > now {
            verify_jwt_svid(&issued.token, &["db"], |_| Some(&bundle), *at, Duration::ZERO).unwrap();
        }
    }
}

#[tokio::test]
async fn slots_take_turns_at_the_same_times_as_those_of_certificates() {
    let site = Site::new().await;
    let authority = site.start().await;
    let first = authority.signer().jwt_key_id().unwrap();
    site.clock.advance(DAY / 2 - Duration::from_secs(1));
    authority.check().await.unwrap();
    assert_eq!(authority.jwt_slots().await.len(), 1, "a second too early");
    site.clock.advance(Duration::from_secs(1));
    authority.check().await.unwrap();
    let slots = authority.jwt_slots().await;
    assert_eq!(by_status(&slots, Status::Prepared).unwrap().slot, SlotId::B);
    assert!(published_bundle(&site).await.contains_jwt_key(&slots[1].authority_id), "published long before");
    assert_eq!(authority.signer().jwt_key_id().unwrap(), first);
    site.clock.advance(DAY / 3);
    authority.check().await.unwrap();
    let slots = authority.jwt_slots().await;
    assert_eq!(by_status(&slots, Status::Active).unwrap().slot, SlotId::B);
    assert_eq!(by_status(&slots, Status::Old).unwrap().authority_id, first);
    assert!(published_bundle(&site).await.contains_jwt_key(&first), "its tokens still verify");
}

#[tokio::test]
async fn a_key_missing_from_the_bundle_is_published_again_before_it_signs() {
    let site = Site::new().await;
    let authority = site.start().await;
    let id = authority.signer().jwt_key_id().unwrap();
    let lose = || async {
        published::update(&site.store, &trust_domain(), |bundle| {
            bundle.jwt_signing_keys.clear();
            true
        })
        .await
        .unwrap();
    };
    lose().await;
    authority.check().await.unwrap();
    assert!(published_bundle(&site).await.contains_jwt_key(&id));
    drop(authority);
    lose().await;
    let authority = site.start().await;
    assert_eq!(authority.signer().jwt_key_id().unwrap(), id);
    assert!(published_bundle(&site).await.contains_jwt_key(&id));
    assert_eq!(site.generated_jwt(), 1);
}

#[tokio::test]
async fn a_lost_journal_costs_no_key_id() {
    let site = Site::new().await;
    let first = site.start().await;
    let id = first.signer().jwt_key_id();
    site.lose_journal(&first).await;
    let authority = site.start().await;
    assert_eq!(authority.signer().jwt_key_id(), id);
    assert_eq!(published_bundle(&site).await.jwt_authorities.len(), 1);
    assert_eq!(site.generated_jwt(), 1);
}

#[tokio::test]
async fn the_wrong_database_costs_no_jwt_key() {
    let site = Site::new().await;
    let id = site.start().await.signer().jwt_key_id();
    let mistaken = Site::with_token(Arc::clone(&site.token)).await;
    let other = mistaken.start().await.signer().jwt_key_id();
    assert_ne!(other, id, "an id belongs to one database");
    assert_eq!(site.start().await.signer().jwt_key_id(), id);
    assert_eq!(site.generated_jwt(), 1);
}

#[tokio::test]
async fn a_tainted_key_never_signs() {
    let site = Site::new().await;
    let id = site.start().await.signer().jwt_key_id().unwrap();
    published::update(&site.store, &trust_domain(), |bundle| {
        bundle.jwt_signing_keys.iter_mut().for_each(|key| key.tainted_key = true);
        true
    })
    .await
    .unwrap();
    let authority = site.start().await;
    assert_ne!(authority.signer().jwt_key_id().unwrap(), id);
    let (bundle, _) = read(&site.store, &trust_domain()).await.unwrap();
    let tainted = |key: &common::PublicKey| (key.kid == id, key.tainted_key);
    assert!(bundle.jwt_signing_keys.iter().map(tainted).all(|(old, tainted)| old == tainted));
}

#[tokio::test]
async fn without_an_x509_authority_no_jwt_key_is_made() {
    let site = Site::new().await;
    *site.token.full_for.lock().unwrap() = Some(X509_CA_KEYS);
    let refused = site.start_with(&Steps::immortal()).await.err().unwrap();
    assert!(matches!(refused, AuthorityError::Key { op: "made", .. }), "{refused}");
    assert_eq!(site.generated_jwt(), 0);
}

#[tokio::test]
async fn without_a_jwt_key_the_server_does_not_start_but_certificates_outlive_a_failing_one() {
    let site = Site::new().await;
    *site.token.full_for.lock().unwrap() = Some(JWT_KEYS);
    assert!(site.start_with(&Steps::immortal()).await.is_err());
    *site.token.full_for.lock().unwrap() = None;
    let authority = site.start().await;
    // The successor of the JWT key cannot be made: that of the certificates comes and takes over all the same.
    *site.token.full_for.lock().unwrap() = Some(JWT_KEYS);
    let (x509, jwt) = (authority.signer().authority_id(), authority.signer().jwt_key_id());
    for stage in [DAY / 2, DAY / 3] {
        site.clock.advance(stage);
        authority.check().await.unwrap_err();
    }
    assert_ne!(authority.signer().authority_id(), x509);
    assert_eq!(authority.signer().jwt_key_id(), jwt);
    issue(&authority).await.unwrap();
    issue_jwt(&authority, MINUTE).await.unwrap();
}

#[tokio::test]
async fn a_successor_that_cannot_be_made_does_not_keep_the_server_from_starting() {
    let site = Site::new().await;
    let jwt = site.start().await.signer().jwt_key_id();
    site.clock.advance(DAY / 2);
    for prefix in [X509_CA_KEYS, JWT_KEYS] {
        *site.token.full_for.lock().unwrap() = Some(prefix);
        let authority = site.start().await;
        assert_eq!(authority.signer().jwt_key_id(), jwt, "{prefix}");
        issue(&authority).await.unwrap();
        issue_jwt(&authority, MINUTE).await.unwrap();
    }
}

#[tokio::test]
async fn tokens_end_with_their_key() {
    let site = Site::new().await;
    let authority = site.start().await;
    site.clock.advance(DAY - HOUR / 2);
    let cut = issue_jwt(&authority, HOUR).await.unwrap();
    assert_eq!(cut.expires_at, noon() + DAY);
    site.clock.advance(HOUR / 2);
    let ended = issue_jwt(&authority, HOUR).await;
    assert!(matches!(ended, Err(JwtIssueError::Expired { .. })), "{ended:?}");
    authority.check().await.unwrap();
    issue_jwt(&authority, HOUR).await.unwrap();
}

#[tokio::test]
async fn ended_keys_leave_the_bundle_a_day_later() {
    let site = Site::new().await;
    let authority = site.start().await;
    let first = authority.signer().jwt_key_id().unwrap();
    site.clock.advance(DAY * 2);
    authority.check().await.unwrap();
    authority.prune().await.unwrap();
    assert!(published_bundle(&site).await.contains_jwt_key(&first), "exactly a day: not more than a day");
    site.clock.advance(Duration::from_secs(1));
    authority.prune().await.unwrap();
    assert!(!published_bundle(&site).await.contains_jwt_key(&first));
}

#[tokio::test]
async fn a_wrong_signature_never_becomes_a_token() {
    for kind in [KeyType::EcP256, KeyType::Rsa2048] {
        let site = Site::new().await;
        let authority = site.start_as(jwt_config(kind, None), &Steps::immortal()).await.unwrap();
        let working = authority.signer().working();
        site.token.lies.store(true, Ordering::SeqCst);
        let refused = issue_jwt(&authority, MINUTE).await;
        assert!(matches!(refused, Err(JwtIssueError::Sign(SignError::Wrong { .. }))), "{refused:?}");
        assert!(!*working.borrow(), "readiness sees it");
        site.token.lies.store(false, Ordering::SeqCst);
        issue_jwt(&authority, MINUTE).await.unwrap();
        assert!(*working.borrow());
    }
}

#[tokio::test]
async fn nothing_is_signed_for_nobody_or_for_no_time() {
    let site = Site::new().await;
    let authority = site.start().await;
    for audience in [vec![], vec![String::new()]] {
        let request = JwtRequest { id: &workload(), audience: &audience, ttl: MINUTE, with_token_id: false };
        let refused = authority.signer().sign_jwt(request, None).await;
        assert!(matches!(refused, Err(JwtIssueError::Build(CannotSignJwt::NoAudience))), "{refused:?}");
    }
    let refused = issue_jwt(&authority, Duration::ZERO).await;
    assert!(matches!(refused, Err(JwtIssueError::Build(CannotSignJwt::Lifetime))), "{refused:?}");
    assert_eq!(site.token.signed.load(Ordering::SeqCst), 1, "only the root's own signature");
}

#[tokio::test]
async fn a_disabled_jwt_authority_has_no_key() {
    let site = Site::new().await;
    let disabled = AuthorityConfig { jwt: None, ..config() };
    let authority = site.start_as(disabled, &Steps::immortal()).await.unwrap();
    assert!(matches!(issue_jwt(&authority, MINUTE).await, Err(JwtIssueError::NoKey)));
    assert_eq!(site.generated_jwt(), 0);
    assert!(authority.jwt_slots().await.is_empty());
    assert!(published_bundle(&site).await.jwt_authorities.is_empty());
    // Switched on later, and off and on again: one key.
    let id = site.start().await.signer().jwt_key_id();
    site.start_as(AuthorityConfig { jwt: None, ..config() }, &Steps::immortal()).await.unwrap();
    assert_eq!(site.start().await.signer().jwt_key_id(), id);
    assert_eq!(site.generated_jwt(), 1);
}

#[tokio::test]
async fn servers_that_rotate_prune_and_append_at_once_lose_nothing() {
    let one = Site::new().await;
    let mut servers = Vec::new();
    for _ in 0..3 {
        let site = one.neighbour();
        servers.push(Arc::new(site.start().await));
    }
    let mut sequence = published_bundle(&one).await.sequence_number;
    for round in 0..6_u8 {
        one.clock.advance(DAY / 3);
        let mut busy = Vec::new();
        for server in &servers {
            let server = Arc::clone(server);
            busy.push(tokio::spawn(async move {
                server.check().await.unwrap();
                server.prune().await.unwrap();
            }));
        }
        let store = one.store.clone();
        busy.push(tokio::spawn(async move {
            for n in 0..5_u8 {
                let key = common::PublicKey {
                    pkix_bytes: vec![round, n],
                    kid: format!("foreign-{round}-{n}"),
                    ..Default::default()
                };
                let add = |bundle: &mut common::Bundle| {
                    bundle.jwt_signing_keys.push(key.clone());
                    true
                };
                published::update(&store, &trust_domain(), add).await.unwrap();
            }
        }));
        for task in busy {
            task.await.unwrap();
        }
        let bundle = published_bundle(&one).await;
        assert!(bundle.sequence_number >= sequence + 5, "it only grows");
        sequence = bundle.sequence_number;
        let foreign = bundle.jwt_authorities.iter().filter(|key| key.key_id.starts_with("foreign-")).count();
        assert_eq!(foreign, usize::from(round + 1) * 5);
        for server in &servers {
            for slot in server.slots().await {
                assert!(bundle.contains_x509_authority(&slot.credential), "round {round}");
            }
            for slot in server.jwt_slots().await {
                assert!(bundle.contains_jwt_key(&slot.authority_id), "round {round}");
            }
            issue(server).await.unwrap();
            let token = issue_jwt(server, MINUTE).await.unwrap().token;
            let now = one.clock.now();
            verify_jwt_svid(&token, &["db"], |_| Some(&bundle), now, Duration::ZERO).unwrap();
        }
    }
}

#[tokio::test]
async fn a_storm_of_tokens_on_a_hanging_key_leaves_room_for_certificates() {
    let site = Site::new().await;
    let authority = Arc::new(site.start().await);
    *site.token.hangs_for.lock().unwrap() = Some(JWT_KEYS);
    let storm: Vec<_> = (0..500)
        .map(|_| {
            let authority = Arc::clone(&authority);
            tokio::spawn(async move { issue_jwt(&authority, MINUTE).await.map(|_| ()) })
        })
        .collect();
    tokio::task::yield_now().await;
    for _ in 0..3 {
        issue(&authority).await.unwrap();
    }
    assert!(storm.iter().all(|token| !token.is_finished()));
    storm.iter().for_each(tokio::task::JoinHandle::abort);
}
