//! `pkcs11` on a real SoftHSM: the conformance suite, and what belongs to tokens alone.
#![cfg(all(feature = "conformance", feature = "pkcs11"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::sync::Arc;
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use hardroot_emulators::softhsm::{self, SoftHsm};
use hardroot_hsm_keymanager::conformance::{Backend, run};
use hardroot_hsm_keymanager::pkcs11::inspect::{self, NewToken};
use hardroot_hsm_keymanager::pkcs11::{Config, Namespace, Pkcs11KeyManager};
use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyError, KeyId, KeyManager, KeyType, SignatureScheme, verify,
};

const NAMESPACE: Namespace<'_> = Namespace { trust_domain: "example.org", instance: "server-1" };
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

fn config(hsm: &SoftHsm) -> Config {
    let mut config = Config::new(hsm.module(), hsm.pin_file());
    config.token_label = Some(SoftHsm::TOKEN.to_owned());
    config
}

async fn open(hsm: &SoftHsm) -> Pkcs11KeyManager {
    Pkcs11KeyManager::open(config(hsm), NAMESPACE).await.unwrap()
}

fn id(name: &str) -> KeyId {
    KeyId::new(name).unwrap()
}

fn label(id: &KeyId) -> String {
    format!("hardroot/example.org/server-1/{id}")
}

fn object_id(label: &str, generation: u32) -> Vec<u8> {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, label.as_bytes());
    [&hash.as_ref()[..12], &generation.to_be_bytes()].concat()
}

/// A second way into the token: what another program, or a process that died, does to it.
fn other_program(hsm: &SoftHsm) -> Session {
    let context = Pkcs11::new(hsm.module()).unwrap();
    // Set up already when a key manager is open; otherwise this is the first use.
    drop(context.initialize(cryptoki::context::CInitializeArgs::new(
        cryptoki::context::CInitializeFlags::OS_LOCKING_OK,
    )));
    let slot = context
        .get_slots_with_initialized_token()
        .unwrap()
        .into_iter()
        .find(|slot| context.get_token_info(*slot).unwrap().label() == SoftHsm::TOKEN)
        .unwrap();
    let session = context.open_rw_session(slot).unwrap();
    drop(session.login(UserType::User, Some(&AuthPin::new(SoftHsm::PIN.into()))));
    session
}

fn make(session: &Session, label: &str, object_id: &[u8], more: &[Attribute]) {
    let name = [Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(object_id.to_vec())];
    let public = [&[Attribute::Token(true), Attribute::EcParams(P256.to_vec())], &name[..]].concat();
    let private =
        [&[Attribute::Token(true), Attribute::Private(true), Attribute::Sign(true)], &name[..], more]
            .concat();
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
}

fn remove(session: &Session, class: ObjectClass, label: &str) -> usize {
    let found = session
        .find_objects(&[Attribute::Class(class), Attribute::Label(label.as_bytes().to_vec())])
        .unwrap();
    for handle in &found {
        session.destroy_object(*handle).unwrap();
    }
    found.len()
}

fn chain(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}

struct Token<'a> {
    hsm: &'a SoftHsm,
}

#[async_trait::async_trait]
impl Backend for Token<'_> {
    async fn open(&self) -> Arc<dyn KeyManager> {
        Arc::new(open(self.hsm).await)
    }

    fn types(&self) -> Vec<KeyType> {
        vec![KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096]
    }

    async fn die_halfway(&self, id: &KeyId) -> bool {
        let session = other_program(self.hsm);
        let label = label(id);
        if remove(&session, ObjectClass::PRIVATE_KEY, "no such label") == 0
            && session.find_objects(&[Attribute::Label(label.as_bytes().to_vec())]).unwrap().is_empty()
        {
            // SoftHSM writes the public object first.
            make(&session, &label, &object_id(&label, 1), &[]);
            assert_eq!(remove(&session, ObjectClass::PRIVATE_KEY, &label), 1);
        } else {
            // A whole pair that was not yet checked and proven: here even one that must not be used.
            make(
                &session,
                &label,
                &object_id(&label, 900),
                &[Attribute::Extractable(true), Attribute::Sensitive(false)],
            );
        }
        true
    }
}

#[test]
fn pkcs11_conforms() {
    softhsm::isolated(|hsm| {
        block_on(async {
            run(&Token { hsm }).await.unwrap();
            let custody = open(hsm).await.custody();
            assert!(custody.hardware && custody.detail.contains("\"hardroot\""), "{custody:?}");
        });
    });
}

#[test]
fn made_keys_show_every_attribute_as_it_must_be() {
    softhsm::isolated(|hsm| {
        block_on(async {
            let keys = open(hsm).await;
            let (ec, rsa) = (id("x509-CA-A"), id("x509-CA-B"));
            keys.generate(&ec, KeyType::EcP256).await.unwrap();
            keys.generate(&rsa, KeyType::Rsa2048).await.unwrap();
            let session = other_program(hsm);
            for key in [ec, rsa] {
                let found = session
                    .find_objects(&[
                        Attribute::Class(ObjectClass::PRIVATE_KEY),
                        Attribute::Label(label(&key).into_bytes()),
                    ])
                    .unwrap();
                assert_eq!(found.len(), 1);
                let read = session
                    .get_attributes(
                        found[0],
                        &[
                            AttributeType::Token,
                            AttributeType::Private,
                            AttributeType::Sensitive,
                            AttributeType::Extractable,
                            AttributeType::AlwaysSensitive,
                            AttributeType::NeverExtractable,
                            AttributeType::Local,
                            AttributeType::Sign,
                            AttributeType::Decrypt,
                            AttributeType::Unwrap,
                            AttributeType::Derive,
                            AttributeType::Modifiable,
                            AttributeType::Copyable,
                        ],
                    )
                    .unwrap();
                assert_eq!(
                    read,
                    [
                        Attribute::Token(true),
                        Attribute::Private(true),
                        Attribute::Sensitive(true),
                        Attribute::Extractable(false),
                        Attribute::AlwaysSensitive(true),
                        Attribute::NeverExtractable(true),
                        Attribute::Local(true),
                        Attribute::Sign(true),
                        Attribute::Decrypt(false),
                        Attribute::Unwrap(false),
                        Attribute::Derive(false),
                        Attribute::Modifiable(false),
                        Attribute::Copyable(false),
                    ]
                );
                // SoftHSM answers with nothing rather than an error.
                let value =
                    session.get_attributes(found[0], &[AttributeType::Value, AttributeType::PrivateExponent]);
                assert!(
                    value.unwrap_or_default().iter().all(|attribute| match attribute {
                        Attribute::Value(bytes) | Attribute::PrivateExponent(bytes) => bytes.is_empty(),
                        _ => true,
                    }),
                    "the token showed a private value"
                );
            }
        });
    });
}

#[test]
fn an_exportable_key_is_refused_with_the_reason_and_can_be_replaced() {
    softhsm::isolated(|hsm| {
        block_on(async {
            let key = id("x509-CA-A");
            let session = other_program(hsm);
            make(
                &session,
                &label(&key),
                &object_id(&label(&key), 1),
                &[Attribute::Extractable(true), Attribute::Sensitive(false)],
            );
            let keys = open(hsm).await;
            let digest = Digest::of(HashAlgorithm::Sha256, b"x");
            for error in [
                keys.find(&key).await.unwrap_err(),
                keys.sign(&key, SignatureScheme::Ecdsa, &digest).await.unwrap_err(),
            ] {
                let text = error.to_string();
                assert!(matches!(error, KeyError::Refused { .. }), "{error:?}");
                assert!(
                    text.contains("CKA_EXTRACTABLE is true") && text.contains("CKA_SENSITIVE is false"),
                    "{text}"
                );
            }
            assert!(keys.list().await.unwrap().is_empty());
            let report = inspect::inspect(&config(hsm)).unwrap();
            assert!(report.objects[0].findings.faults.iter().any(|fault| fault.contains("CKA_EXTRACTABLE")));

            let public = keys.generate(&key, KeyType::EcP256).await.unwrap();
            assert_eq!(open(hsm).await.find(&key).await.unwrap(), Some(public));
        });
    });
}

#[test]
fn an_imported_key_is_refused_though_it_is_sensitive_now() {
    softhsm::isolated(|hsm| {
        block_on(async {
            let key = id("x509-CA-A");
            let session = other_program(hsm);
            let pair = aws_lc_rs::signature::EcdsaKeyPair::generate(
                &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            )
            .unwrap();
            use aws_lc_rs::encoding::AsBigEndian as _;
            use aws_lc_rs::signature::KeyPair as _;
            let secret = pair.private_key().as_be_bytes().unwrap();
            let point = [&[0x04, 65], pair.public_key().as_ref()].concat();
            let (label, object_id) = (label(&key), object_id(&label(&key), 1));
            let name = [Attribute::Label(label.into_bytes()), Attribute::Id(object_id)];
            let common = [
                Attribute::Token(true),
                Attribute::KeyType(cryptoki::object::KeyType::EC),
                Attribute::EcParams(P256.to_vec()),
            ];
            let private = [
                &[
                    Attribute::Class(ObjectClass::PRIVATE_KEY),
                    Attribute::Private(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(false),
                    Attribute::Sign(true),
                    Attribute::Value(secret.as_ref().to_vec()),
                ][..],
                &common,
                &name,
            ]
            .concat();
            let public =
                [&[Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::EcPoint(point)][..], &common, &name]
                    .concat();
            session.create_object(&private).unwrap();
            session.create_object(&public).unwrap();
            let error = open(hsm).await.find(&key).await.unwrap_err().to_string();
            assert!(error.contains("CKA_LOCAL") && error.contains("CKA_NEVER_EXTRACTABLE"), "{error}");
        });
    });
}

#[test]
fn two_keys_of_one_name_or_a_missing_public_object_are_refused() {
    softhsm::isolated(|hsm| {
        block_on(async {
            let (twice, lone, foreign) = (id("twice"), id("lone"), id("foreign"));
            let sensitive = [Attribute::Extractable(false), Attribute::Sensitive(true)];
            let session = other_program(hsm);
            for _ in 0..2 {
                make(&session, &label(&twice), &object_id(&label(&twice), 1), &sensitive);
            }
            make(&session, &label(&lone), &object_id(&label(&lone), 1), &sensitive);
            assert_eq!(remove(&session, ObjectClass::PUBLIC_KEY, &label(&lone)), 1);
            make(&session, &label(&foreign), b"some other id", &sensitive);

            let keys = open(hsm).await;
            for (key, says) in [
                (&twice, "exactly one of each"),
                (&lone, "public object is missing"),
                (&foreign, "did not give"),
            ] {
                let error = keys.find(key).await.unwrap_err();
                assert!(matches!(error, KeyError::Refused { .. }), "{error:?}");
                assert!(error.to_string().contains(says), "{error}");
            }
            // A foreign key is not ours to delete; the others are replaced.
            assert!(matches!(keys.generate(&foreign, KeyType::EcP256).await, Err(KeyError::Refused { .. })));
            for key in [&twice, &lone] {
                let public = keys.generate(key, KeyType::EcP256).await.unwrap();
                assert_eq!(keys.find(key).await.unwrap(), Some(public));
            }
        });
    });
}

#[test]
fn servers_do_not_see_each_others_keys() {
    softhsm::isolated(|hsm| {
        block_on(async {
            let first = open(hsm).await;
            let key = id("x509-CA-A");
            let public = first.generate(&key, KeyType::EcP256).await.unwrap();
            for namespace in [
                Namespace { trust_domain: "example.org", instance: "server-2" },
                Namespace { trust_domain: "example.com", instance: "server-1" },
            ] {
                let other = Pkcs11KeyManager::open(config(hsm), namespace).await.unwrap();
                assert!(other.find(&key).await.unwrap().is_none() && other.list().await.unwrap().is_empty());
                other.generate(&key, KeyType::EcP256).await.unwrap();
                other.destroy(&key).await.unwrap();
            }
            assert_eq!(first.find(&key).await.unwrap(), Some(public));
        });
    });
}

#[test]
fn a_lost_session_or_login_is_repaired_without_the_caller_noticing() {
    softhsm::isolated(|hsm| {
        block_on(async {
            let keys = Arc::new(open(hsm).await);
            let key = id("server-svid-A");
            let public = keys.generate(&key, KeyType::EcP256).await.unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            let (done, mut signed) = tokio::sync::mpsc::unbounded_channel();
            for task in 0..8_u32 {
                let (keys, key, public) = (Arc::clone(&keys), key.clone(), public.clone());
                let done = done.clone();
                tasks.spawn(async move {
                    for number in 0..100_u32 {
                        let digest = Digest::of(
                            HashAlgorithm::Sha256,
                            &[task.to_be_bytes(), number.to_be_bytes()].concat(),
                        );
                        let signature = keys.sign(&key, SignatureScheme::Ecdsa, &digest).await.unwrap();
                        assert!(verify(&public, SignatureScheme::Ecdsa, &digest, &signature));
                        done.send(()).unwrap();
                    }
                });
            }
            // Logging out ends the login of every session of this process.
            for _ in 0..5 {
                for _ in 0..120 {
                    signed.recv().await.unwrap();
                }
                other_program(hsm).logout().unwrap();
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
    });
}

#[test]
fn a_wrong_pin_is_tried_once_and_said() {
    softhsm::isolated(|hsm| {
        block_on(async {
            let mut config = config(hsm);
            config.pin_file = hsm.directory().join("wrong-pin");
            softhsm::private_file(&config.pin_file, "0000-0000").unwrap();
            let error = Pkcs11KeyManager::open(config.clone(), NAMESPACE).await.err().unwrap();
            let KeyError::Device { retryable, cause, .. } = error else { panic!("{error:?}") };
            assert!(!retryable);
            assert!(
                cause.to_string().contains("CKR_PIN_INCORRECT") && !cause.to_string().contains("0000"),
                "{cause}"
            );

            std::fs::set_permissions(&config.pin_file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .unwrap();
            let error = Pkcs11KeyManager::open(config, NAMESPACE).await.err().unwrap();
            let said = format!("{:?}", chain(&error));
            assert!(said.contains("wrong-pin") && said.contains("mode"), "{said}");
        });
    });
}

#[test]
fn tokens_are_found_by_label_and_serial_and_else_named() {
    softhsm::isolated(|hsm| {
        block_on(async {
            hsm.add_token("twin").unwrap();
            hsm.add_token("twin").unwrap();
            let mut config = config(hsm);
            config.token_label = Some("absent".to_owned());
            let text = |error: KeyError| std::error::Error::source(&error).unwrap().to_string();
            let error = text(Pkcs11KeyManager::open(config.clone(), NAMESPACE).await.err().unwrap());
            assert!(error.contains("\"absent\"") && error.contains("\"hardroot\""), "{error}");
            config.token_label = Some("twin".to_owned());
            let error = text(Pkcs11KeyManager::open(config.clone(), NAMESPACE).await.err().unwrap());
            assert!(error.contains("2 tokens") && error.contains("token_serial"), "{error}");
            let twin = inspect::tokens(hsm.module())
                .unwrap()
                .into_iter()
                .find(|token| token.label == "twin")
                .unwrap();
            config.token_serial = Some(twin.serial);
            Pkcs11KeyManager::open(config, NAMESPACE).await.unwrap();
        });
    });
}

#[test]
fn a_module_that_is_none_is_said_to_be_none() {
    block_on(async {
        let text = |error: KeyError| std::error::Error::source(&error).unwrap().to_string();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("module.so");
        let mut config = Config::new(&path, "/nonexistent");
        config.token_label = Some("x".to_owned());
        let error = text(Pkcs11KeyManager::open(config.clone(), NAMESPACE).await.err().unwrap());
        assert!(error.contains("module.so") && error.contains("module_path"), "{error}");
        std::fs::write(&path, "no library").unwrap();
        let error = text(Pkcs11KeyManager::open(config.clone(), NAMESPACE).await.err().unwrap());
        assert!(error.contains("module.so"), "{error}");
        config.token_label = None;
        config.sessions = 0;
        config.timeout = Duration::ZERO;
        config.tolerate_missing_attributes = vec!["CKA_NONSENSE".to_owned()];
        let error = text(Pkcs11KeyManager::open(config, NAMESPACE).await.err().unwrap());
        for fault in ["token_label", "sessions", "timeout", "CKA_NONSENSE"] {
            assert!(error.contains(fault), "{error}");
        }
    });
}

#[test]
fn a_fresh_token_is_initialised_and_no_other_is_touched() {
    softhsm::isolated(|hsm| {
        let (so_pin_file, pin_file) = (hsm.so_pin_file(), hsm.pin_file());
        let new = NewToken {
            module_path: hsm.module(),
            label: "made",
            so_pin_file: &so_pin_file,
            pin_file: &pin_file,
        };
        let made = inspect::init_token(new).unwrap();
        assert!(made.label == "made" && made.initialised && made.user_pin_set, "{made:?}");
        let error = inspect::init_token(new).unwrap_err().to_string();
        assert!(error.contains("already") && error.contains(&made.serial), "{error}");
        block_on(async {
            let mut config = config(hsm);
            config.token_label = Some("made".to_owned());
            let keys = Pkcs11KeyManager::open(config.clone(), NAMESPACE).await.unwrap();
            keys.generate(&id("x509-CA-A"), KeyType::EcP256).await.unwrap();
            let report = inspect::inspect(&config).unwrap();
            assert_eq!(report.objects.len(), 1);
            let object = &report.objects[0];
            assert_eq!(object.owner.as_ref().unwrap().key, "x509-CA-A");
            assert!(object.findings.faults.is_empty() && object.spki_sha256.is_some(), "{object:?}");
        });
    });
}

#[test]
fn a_key_deleted_by_another_program_is_missed_at_the_next_look() {
    softhsm::isolated(|hsm| {
        block_on(async {
            let keys = open(hsm).await;
            let key = id("x509-CA-A");
            keys.generate(&key, KeyType::EcP256).await.unwrap();
            let session = other_program(hsm);
            assert_eq!(remove(&session, ObjectClass::PRIVATE_KEY, &label(&key)), 1);
            let digest = Digest::of(HashAlgorithm::Sha256, b"x");
            assert!(matches!(
                keys.sign(&key, SignatureScheme::Ecdsa, &digest).await,
                Err(KeyError::NotFound { .. })
            ));
            assert!(keys.find(&key).await.unwrap().is_none());
        });
    });
}
