//! The device thread on an emulated TPM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use hardroot_emulators::{Fault, Shutdown, Swtpm, TpmProxy, code};
use hardroot_tpm_attestor::device::{Config, EkKind, ProofRequest, Tpm, TpmError, WrappedKey};
use hardroot_tpm_attestor::evidence;
use hardroot_tpm_attestor::verify::{
    AttestKind, HashAlg, PcrPolicy, PublicArea, check_attestation_key, check_certification,
    check_certified_key, check_endorsement_key, check_quote, make_credential, signed_attestation,
};

async fn open(tcti: &str) -> Arc<Tpm> {
    Tpm::open(Config::new(tcti.parse().unwrap())).await.unwrap()
}

fn assert_signs(key: &WrappedKey, message: &[u8], signature: &[u8]) {
    let public = PublicArea::parse(&key.public).unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public.key().point()).verify(message, signature).unwrap();
}

fn sha256(message: &[u8]) -> [u8; 32] {
    HashAlg::Sha256.digest(&[message]).try_into().unwrap()
}

/// Activation, certification and quote, each judged as a server would.
async fn assert_proves(tpm: &Tpm, kind: EkKind) {
    let ek = tpm.endorsement_key(Some(kind)).await.unwrap();
    let ek_public = PublicArea::parse(&ek.public).unwrap();
    check_endorsement_key(&ek_public).unwrap();
    let ak = tpm.create_attestation_key(&ek).await.unwrap();
    let ak_public = PublicArea::parse(&ak.public).unwrap();
    check_attestation_key(&ak_public).unwrap();
    let key = tpm.create_signing_key().await.unwrap();
    let key_public = PublicArea::parse(&key.public).unwrap();
    let secret = [7; 32];
    let credential = make_credential(&ek_public, &ak_public.name(), &secret).unwrap();
    let qualifying_data = sha256(b"nonce");
    let proof = tpm
        .prove(ProofRequest {
            ek: ek.clone(),
            ak: ak.clone(),
            key,
            credential: credential.id_object,
            encrypted_seed: credential.encrypted_seed,
            qualifying_data,
            bank: HashAlg::Sha256,
            pcrs: vec![0, 1, 7, 10, 16, 23],
        })
        .await
        .unwrap();
    assert_eq!(proof.activation.as_slice(), secret);
    let certification =
        signed_attestation(&ak_public, &proof.certification.attest, &proof.certification.signature).unwrap();
    check_certification(&certification, &qualifying_data, &key_public, &key_public.key().spki_der()).unwrap();
    let policy = PcrPolicy::new(HashAlg::Sha256, &[0, 1, 7, 10, 16, 23]).unwrap();
    let quote = signed_attestation(&ak_public, &proof.quote.attest, &proof.quote.signature).unwrap();
    let values: Vec<&[u8]> = proof.quote.pcr_values.iter().map(Vec::as_slice).collect();
    check_quote(&quote, &qualifying_data, &ak_public, &policy, &values).unwrap();
    // True counters: an obfuscated reset count would be a huge number.
    assert!(quote.clock().reset_count < 100, "{:?}", quote.clock());
    assert!(matches!(quote.kind(), AttestKind::Quote { .. }));
}

#[tokio::test]
async fn every_kind_of_endorsement_key_proves_itself() {
    let chip = Swtpm::start().unwrap();
    let tpm = open(&chip.tcti()).await;
    for kind in [EkKind::Rsa2048, EkKind::EcP256, EkKind::EcP384] {
        assert_proves(&tpm, kind).await;
    }
    let with = |kind| {
        let tpm = Arc::clone(&tpm);
        async move { tpm.endorsement_key(kind).await.unwrap() }
    };
    assert_eq!(with(None).await.kind, EkKind::Rsa2048, "the first with a certificate");
    assert!(with(Some(EkKind::EcP384)).await.certificate.is_some());
    assert!(with(Some(EkKind::EcP256)).await.certificate.is_none());
}

#[tokio::test]
async fn a_blank_chip_gets_its_keys_once() {
    let chip = Swtpm::start_blank().unwrap();
    let proxy = TpmProxy::before(&chip).unwrap();
    let tpm = open(&proxy.tcti()).await;
    assert_proves(&tpm, EkKind::EcP256).await;
    assert_eq!(proxy.count(code::EVICT_CONTROL), 2, "SRK and EK are stored");
    let ek = tpm.endorsement_key(None).await.unwrap();
    drop(tpm);
    proxy.reset_counts();
    let tpm = open(&proxy.tcti()).await;
    assert_eq!(tpm.endorsement_key(None).await.unwrap(), ek);
    assert_eq!(proxy.count(code::CREATE_PRIMARY) + proxy.count(code::EVICT_CONTROL), 0, "found, not made");
}

#[tokio::test]
async fn keys_sign_survive_a_restart_and_are_worthless_elsewhere() {
    let mut chip = Swtpm::start().unwrap();
    let tpm = open(&chip.tcti()).await;
    let key = tpm.create_signing_key().await.unwrap();
    check_certified_key(&tpm.check_key(&key).await.unwrap()).unwrap();
    assert_signs(&key, b"one", &tpm.sign(&key, sha256(b"one")).await.unwrap());
    // The TPM forgets what was loaded; the same handle goes on.
    chip.restart(Shutdown::Orderly).unwrap();
    assert_signs(&key, b"two", &tpm.sign(&key, sha256(b"two")).await.unwrap());
    let other = Swtpm::start_blank().unwrap();
    let elsewhere = open(&other.tcti()).await;
    let error = elsewhere.sign(&key, sha256(b"x")).await.unwrap_err();
    assert!(matches!(error, TpmError::ForeignKey { .. }), "{error:?}");
    let mut damaged = key.clone();
    damaged.private[40] ^= 1;
    assert!(matches!(tpm.sign(&damaged, [1; 32]).await.unwrap_err(), TpmError::ForeignKey { .. }));
    assert!(tpm.sign(&key, [1; 32]).await.is_ok());
}

#[tokio::test]
async fn auth_values_protect_keys_and_never_travel() {
    use std::os::unix::fs::PermissionsExt;
    let chip = Swtpm::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key-auth");
    std::fs::write(&path, "correct horse").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = Config::new(chip.tcti().parse().unwrap());
    config.key_auth_file = Some(path);
    let tpm = Tpm::open(config).await.unwrap();
    assert_proves(&tpm, EkKind::Rsa2048).await;
    assert_proves(&tpm, EkKind::EcP384).await;
    let key = tpm.create_signing_key().await.unwrap();
    for message in [b"one", b"two"] {
        assert_signs(&key, message, &tpm.sign(&key, sha256(message)).await.unwrap());
    }
    drop(tpm);
    let without = open(&chip.tcti()).await;
    let error = without.sign(&key, [1; 32]).await.unwrap_err();
    assert!(matches!(error, TpmError::AuthRefused { .. }), "{error:?}");
}

#[tokio::test]
async fn many_tasks_share_the_chip() {
    let chip = Swtpm::start_blank().unwrap();
    let tpm = open(&chip.tcti()).await;
    let keys = Arc::new([tpm.create_signing_key().await.unwrap(), tpm.create_signing_key().await.unwrap()]);
    let tasks: Vec<_> = (0..40_u8)
        .map(|n| {
            let (tpm, keys) = (Arc::clone(&tpm), Arc::clone(&keys));
            tokio::spawn(async move {
                let key = &keys[usize::from(n % 2)];
                assert_signs(key, &[n], &tpm.sign(key, sha256(&[n])).await.unwrap());
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn stale_handles_of_a_killed_process_are_flushed() {
    let chip = Swtpm::start_blank().unwrap();
    // Three primary keys in the null hierarchy fill all slots, and nobody flushes them.
    let template: &[u8] = &[
        0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0, 0, 0, 0x06, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0,
        0x10, 0, 0, 0, 0,
    ];
    let mut body = vec![0x40, 0, 0, 0x07, 0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    body.extend_from_slice(&u16::try_from(template.len()).unwrap().to_be_bytes());
    body.extend_from_slice(template);
    body.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    let size = u32::try_from(body.len() + 10).unwrap().to_be_bytes();
    let command = [&[0x80, 0x02][..], &size, &code::CREATE_PRIMARY.to_be_bytes(), &body].concat();
    for _ in 0..3 {
        let answer = chip.command(&command).unwrap();
        assert_eq!(answer[6..10], [0; 4], "{answer:02x?}");
    }
    let tpm = open(&chip.tcti()).await;
    assert_proves(&tpm, EkKind::EcP256).await;
}

#[tokio::test]
async fn a_busy_tpm_is_asked_again_and_other_refusals_are_not() {
    let chip = Swtpm::start_blank().unwrap();
    let proxy = TpmProxy::before(&chip).unwrap();
    let tpm = open(&proxy.tcti()).await;
    let key = tpm.create_signing_key().await.unwrap();
    for busy in [0x922, 0x908, 0x90a, 0x920] {
        // libtss2 itself tries some of them five times in a row; more than that is up to us.
        proxy.inject(Some(code::SIGN), Fault::ResponseCode(busy), 12);
        assert_signs(&key, b"busy", &tpm.sign(&key, sha256(b"busy")).await.unwrap());
    }
    proxy.reset_counts();
    proxy.inject(Some(code::SIGN), Fault::ResponseCode(0x101), 1);
    let error = tpm.sign(&key, [1; 32]).await.unwrap_err();
    assert!(matches!(error, TpmError::Command { .. }), "{error:?}");
    assert_eq!(proxy.count(code::SIGN), 1, "RC_FAILURE is not retried");
    proxy.inject(Some(code::SIGN), Fault::ResponseCode(0x98e), 1);
    assert!(matches!(tpm.sign(&key, [1; 32]).await.unwrap_err(), TpmError::AuthRefused { .. }));
    assert_eq!(proxy.count(code::SIGN), 2, "AUTH_FAIL is not retried");
}

#[tokio::test]
async fn lockout_stops_everything() {
    let chip = Swtpm::start_blank().unwrap();
    let proxy = TpmProxy::before(&chip).unwrap();
    let tpm = open(&proxy.tcti()).await;
    let key = tpm.create_signing_key().await.unwrap();
    proxy.inject(Some(code::SIGN), Fault::ResponseCode(0x921), 1);
    assert!(matches!(tpm.sign(&key, [1; 32]).await.unwrap_err(), TpmError::LockedOut { .. }));
    proxy.reset_counts();
    assert!(matches!(tpm.sign(&key, [1; 32]).await.unwrap_err(), TpmError::LockedOut { .. }));
    assert_eq!(proxy.total(), 0, "nothing reaches the TPM any more");
}

#[tokio::test]
async fn a_lost_connection_is_opened_again() {
    let chip = Swtpm::start_blank().unwrap();
    let proxy = TpmProxy::before(&chip).unwrap();
    let tpm = open(&proxy.tcti()).await;
    let key = tpm.create_signing_key().await.unwrap();
    proxy.inject(Some(code::SIGN), Fault::Disconnect, 1);
    assert_signs(&key, b"again", &tpm.sign(&key, sha256(b"again")).await.unwrap());
    for memory in [0x902, 0x903, 0x901] {
        proxy.inject(Some(code::LOAD), Fault::ResponseCode(memory), 1);
        let other = tpm.create_signing_key().await.unwrap();
        assert_signs(&other, b"slots", &tpm.sign(&other, sha256(b"slots")).await.unwrap());
    }
}

#[tokio::test]
async fn a_hanging_tpm_costs_each_caller_its_deadline_and_no_more() {
    let chip = Swtpm::start_blank().unwrap();
    let proxy = TpmProxy::before(&chip).unwrap();
    let mut config = Config::new(proxy.tcti().parse().unwrap());
    config.timeout = Duration::from_millis(1500);
    let tpm = Tpm::open(config).await.unwrap();
    let key = tpm.create_signing_key().await.unwrap();
    proxy.inject(Some(code::SIGN), Fault::Hang, 1);
    let started = Instant::now();
    assert!(matches!(tpm.sign(&key, [1; 32]).await.unwrap_err(), TpmError::Timeout { .. }));
    assert!(matches!(tpm.sign(&key, [2; 32]).await.unwrap_err(), TpmError::Timeout { .. }));
    assert!(started.elapsed() < Duration::from_secs(20));
    proxy.release();
    proxy.reset_counts();
    let deadline = Instant::now() + Duration::from_secs(20);
    while tpm.sign(&key, sha256(b"back")).await.is_err() {
        assert!(Instant::now() < deadline, "the TPM does not come back");
    }
    assert!(proxy.count(code::SIGN) <= 2, "jobs whose callers gave up are not done");
}

#[tokio::test]
async fn a_missing_tpm_is_an_error_that_says_where() {
    let error = Tpm::open(Config::new("swtpm:host=127.0.0.1,port=65000".parse().unwrap())).await.unwrap_err();
    assert!(error.to_string().contains("swtpm:host=127.0.0.1,port=65000"), "{error}");
    let error = Tpm::open(Config::new("device:/nonexistent/tpmrm0".parse().unwrap())).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("/nonexistent/tpmrm0"));
}

#[tokio::test]
async fn the_report_has_what_an_operator_needs_and_uses_no_private_key() {
    let chip = Swtpm::start().unwrap();
    let proxy = TpmProxy::before(&chip).unwrap();
    let tpm = open(&proxy.tcti()).await;
    let report = evidence::report(&tpm, None, &(0..24).collect::<Vec<u8>>()).await.unwrap();
    assert_eq!(report.ek_hash.len(), 64);
    assert_eq!(report.pcrs.len(), 24);
    assert!(report.ek_certificate.unwrap().starts_with("-----BEGIN CERTIFICATE-----\nMII"));
    assert!(!report.vendor.is_empty() && report.firmware.split('.').count() == 4);
    assert_eq!(proxy.private_key_operations(), 0);
}

/// A process that exits while the thread is inside the TPM's library crashes in libc, so whoever lets the TPM go waits for
/// the command that is under way.
#[tokio::test(flavor = "multi_thread")]
async fn letting_the_tpm_go_waits_for_its_thread() {
    let chip = Swtpm::start().unwrap();
    let proxy = TpmProxy::before(&chip).unwrap();
    let tpm = open(&proxy.tcti()).await;
    let slow = Duration::from_millis(500);
    proxy.inject(None, Fault::Delay(slow), 1);
    let begun = Instant::now();
    let asked = tokio::time::timeout(Duration::from_millis(50), tpm.create_signing_key()).await;
    assert!(asked.is_err(), "the caller gives up");
    drop(tpm);
    assert!(begun.elapsed() >= slow, "{:?}", begun.elapsed());
}
