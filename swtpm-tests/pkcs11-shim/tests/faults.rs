//! The pkcs11 key manager and a token that misbehaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hardroot_emulators::softhsm::{self, SoftHsm};
use hardroot_hsm_keymanager::pkcs11::{Config, Namespace, Pkcs11KeyManager};
use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyError, KeyId, KeyManager, KeyType, SignatureScheme, verify,
};
use tokio::sync::watch;

const NAMESPACE: Namespace<'_> = Namespace { trust_domain: "example.org", instance: "server" };
/// CKR_DEVICE_ERROR.
const DEVICE_ERROR: u32 = 0x30;
/// CKF_USER_PIN_FINAL_TRY.
const FINAL_TRY: u32 = 0x0002_0000;

/// The shim as this build made it, beside the test or one level up.
fn shim() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    [deps.clone(), deps.parent().unwrap().to_owned()]
        .map(|directory| directory.join("libhardroot_pkcs11_shim.so"))
        .into_iter()
        .find(|path| path.is_file())
        .expect("the shim was not built")
}

fn config(hsm: &SoftHsm) -> Config {
    let mut config = Config::new(shim(), hsm.pin_file());
    config.token_label = Some(SoftHsm::TOKEN.to_owned());
    config
}

fn control(hsm: &SoftHsm, text: &str) {
    // Whole or not at all: the shim reads it at any time.
    let path = hsm.directory().join("shim-control");
    fs::write(path.with_extension("new"), text).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

fn no_faults(hsm: &SoftHsm) {
    fs::remove_file(hsm.directory().join("shim-control")).unwrap();
}

fn calls(hsm: &SoftHsm, name: &str) -> usize {
    let log = fs::read_to_string(hsm.directory().join("shim-log")).unwrap_or_default();
    log.lines().filter(|line| *line == name).count()
}

fn run<W: Future<Output = ()>>(work: W) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work);
}

fn digest() -> Digest {
    Digest::of(HashAlgorithm::Sha256, b"what is signed")
}

fn ca() -> KeyId {
    KeyId::new("x509-CA-A").unwrap()
}

fn chain(error: &KeyError) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[test]
fn wiped_sessions_under_load_reach_no_caller() {
    softhsm::isolated(|hsm| {
        run(async {
            let keys = Arc::new(Pkcs11KeyManager::open(config(hsm), NAMESPACE).await.unwrap());
            let public = keys.generate(&ca(), KeyType::EcP256).await.unwrap();
            let done = watch::Sender::new(0_u32);
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let (keys, public, done) = (Arc::clone(&keys), public.clone(), done.clone());
                tasks.spawn(async move {
                    for _ in 0..100 {
                        let signature = keys.sign(&ca(), SignatureScheme::Ecdsa, &digest()).await.unwrap();
                        assert!(verify(&public, SignatureScheme::Ecdsa, &digest(), &signature));
                        done.send_modify(|count| *count += 1);
                    }
                });
            }
            for wipe in 1..=5_u32 {
                done.subscribe().wait_for(|count| *count >= wipe * 120).await.unwrap();
                control(hsm, "wipe");
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
            assert!(calls(hsm, "C_Login") > 3, "the sessions were not wiped");
        });
    });
}

#[test]
fn a_hanging_token_costs_the_deadline_and_no_more() {
    softhsm::isolated(|hsm| {
        run(async {
            let mut config = config(hsm);
            config.timeout = Duration::from_millis(500);
            let keys = Pkcs11KeyManager::open(config, NAMESPACE).await.unwrap();
            keys.generate(&ca(), KeyType::EcP256).await.unwrap();
            control(hsm, "hang=1500");
            let started = Instant::now();
            let error = keys.sign(&ca(), SignatureScheme::Ecdsa, &digest()).await.unwrap_err();
            assert!(started.elapsed() < Duration::from_millis(1200), "{:?}", started.elapsed());
            assert!(chain(&error).contains("did not answer within 0.5 s"), "{}", chain(&error));
            assert!(matches!(error, KeyError::Device { retryable: true, .. }));
            no_faults(hsm);
            recovers(&keys).await;
        });
    });
}

async fn recovers(keys: &Pkcs11KeyManager) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = keys.sign(&ca(), SignatureScheme::Ecdsa, &digest()).await {
        assert!(Instant::now() < deadline, "it does not recover: {}", chain(&error));
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_dead_token_is_left_alone_and_comes_back_without_a_restart() {
    softhsm::isolated(|hsm| {
        run(async {
            let keys = Pkcs11KeyManager::open(config(hsm), NAMESPACE).await.unwrap();
            keys.generate(&ca(), KeyType::EcP256).await.unwrap();
            control(hsm, &format!("error={DEVICE_ERROR}"));
            for _ in 0..3 {
                let error = keys.sign(&ca(), SignatureScheme::Ecdsa, &digest()).await.unwrap_err();
                assert!(chain(&error).contains("CKR_DEVICE_ERROR"), "{}", chain(&error));
            }
            let error = keys.sign(&ca(), SignatureScheme::Ecdsa, &digest()).await.unwrap_err();
            assert!(chain(&error).contains("left alone"), "{}", chain(&error));
            no_faults(hsm);
            recovers(&keys).await;
            assert_eq!(calls(hsm, "C_Finalize"), 1, "the module is set up anew before it is tried again");
        });
    });
}

#[test]
fn a_wrong_signature_is_used_neither_for_a_caller_nor_for_a_new_key() {
    softhsm::isolated(|hsm| {
        run(async {
            let keys = Pkcs11KeyManager::open(config(hsm), NAMESPACE).await.unwrap();
            let public = keys.generate(&ca(), KeyType::EcP256).await.unwrap();
            control(hsm, "corrupt");
            for error in [
                keys.sign(&ca(), SignatureScheme::Ecdsa, &digest()).await.unwrap_err(),
                keys.generate(&ca(), KeyType::EcP256).await.unwrap_err(),
            ] {
                assert!(chain(&error).contains("does not verify"), "{}", chain(&error));
            }
            no_faults(hsm);
            assert_eq!(keys.find(&ca()).await.unwrap(), Some(public), "the old key is the key");
        });
    });
}

#[test]
fn a_refused_pin_is_not_tried_again_after_the_login_was_lost() {
    softhsm::isolated(|hsm| {
        run(async {
            let keys = Pkcs11KeyManager::open(config(hsm), NAMESPACE).await.unwrap();
            keys.generate(&ca(), KeyType::EcP256).await.unwrap();
            let before = calls(hsm, "C_Login");
            softhsm::private_file(&hsm.pin_file(), "0000-0000").unwrap();
            control(hsm, "wipe");
            for _ in 0..10 {
                let error = keys.sign(&ca(), SignatureScheme::Ecdsa, &digest()).await.unwrap_err();
                let text = chain(&error);
                assert!(text.contains("CKR_PIN_INCORRECT") || text.contains("not asked again"), "{text}");
            }
            assert_eq!(calls(hsm, "C_Login"), before + 1);
            // Another PIN in the file is an operator's decision.
            softhsm::private_file(&hsm.pin_file(), SoftHsm::PIN).unwrap();
            keys.sign(&ca(), SignatureScheme::Ecdsa, &digest()).await.unwrap();
        });
    });
}

#[test]
fn the_last_try_of_a_pin_is_left_to_people() {
    softhsm::isolated(|hsm| {
        run(async {
            control(hsm, &format!("flags={FINAL_TRY}"));
            let error = Pkcs11KeyManager::open(config(hsm), NAMESPACE).await.err().unwrap();
            assert!(chain(&error).contains("CKF_USER_PIN_FINAL_TRY"), "{}", chain(&error));
            assert_eq!(calls(hsm, "C_Login"), 0);
        });
    });
}
