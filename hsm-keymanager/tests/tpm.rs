//! `tpm` on a real swtpm: the conformance suite, and what belongs to TPMs alone.
#![cfg(all(feature = "conformance", feature = "tpm"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use hardroot_emulators::{Fault, Swtpm, TpmProxy, code};
use hardroot_hsm_keymanager::conformance::{Backend, run};
use hardroot_hsm_keymanager::tpm::{Config, ForeignKeys, TpmKeyManager};
use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyError, KeyId, KeyManager, KeyType, SignatureScheme, verify,
};
use hardroot_tpm_attestor::device::{Config as DeviceConfig, Tpm, WrappedKeys as _};

async fn device(swtpm: &Swtpm, key_auth: Option<&Path>) -> Arc<Tpm> {
    let mut config = DeviceConfig::new(swtpm.tcti().parse().unwrap());
    config.key_auth_file = key_auth.map(Path::to_owned);
    Tpm::open(config).await.unwrap()
}

fn id(name: &str) -> KeyId {
    KeyId::new(name).unwrap()
}

struct Chip {
    tpm: Arc<Tpm>,
    directory: tempfile::TempDir,
}

#[async_trait::async_trait]
impl Backend for Chip {
    async fn open(&self) -> Arc<dyn KeyManager> {
        Arc::new(
            TpmKeyManager::open(Arc::clone(&self.tpm), Config::new(self.directory.path())).await.unwrap(),
        )
    }

    fn types(&self) -> Vec<KeyType> {
        vec![KeyType::EcP256]
    }

    async fn die_halfway(&self, id: &KeyId) -> bool {
        // The new file was being written and had not been renamed.
        fs::write(self.directory.path().join(format!(".{id}.tpmkey.1-0.tmp")), "hardroot-state 1 sha256=")
            .unwrap();
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpm_conforms_with_an_auth_value_for_its_keys() {
    let swtpm = Swtpm::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let auth = directory.path().join("auth");
    fs::write(&auth, "an auth value\n").unwrap();
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o600)).unwrap();
    let chip = Chip { tpm: device(&swtpm, Some(&auth)).await, directory: tempfile::tempdir().unwrap() };
    run(&chip).await.unwrap();
    let keys = chip.open().await;
    assert!(keys.custody().hardware && keys.custody().backend == "tpm");
    assert!(matches!(
        keys.generate(&id("rsa"), KeyType::Rsa2048).await,
        Err(KeyError::Unsupported { backend: "tpm", .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_worthless_in_another_tpm() {
    let (first, second) = (Swtpm::start().unwrap(), Swtpm::start().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let key = id("agent-svid-A");
    let keys = TpmKeyManager::open(device(&first, None).await, Config::new(directory.path())).await.unwrap();
    let public = keys.generate(&key, KeyType::EcP256).await.unwrap();
    let file = directory.path().join("agent-svid-A.tpmkey");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert!(keys.wrapped_by_spki(&public.spki_der).await.unwrap() == keys.wrapped(&key));

    // A server refuses and keeps the file; the right TPM still loads it.
    let other = device(&second, None).await;
    let server = TpmKeyManager::open(Arc::clone(&other), Config::new(directory.path())).await.unwrap();
    let digest = Digest::of(HashAlgorithm::Sha256, b"x");
    for error in [
        server.find(&key).await.unwrap_err(),
        server.sign(&key, SignatureScheme::Ecdsa, &digest).await.unwrap_err(),
    ] {
        assert!(matches!(error, KeyError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("another TPM"), "{error}");
    }
    assert!(server.list().await.unwrap().is_empty() && file.exists());
    let again = TpmKeyManager::open(device(&first, None).await, Config::new(directory.path())).await.unwrap();
    assert_eq!(again.find(&key).await.unwrap().as_ref(), Some(&public));

    // An agent sets the file aside and can go on with a key of the TPM it has.
    let config = Config { foreign_keys: ForeignKeys::SetAside, ..Config::new(directory.path()) };
    let agent = TpmKeyManager::open(other, config).await.unwrap();
    assert!(agent.find(&key).await.unwrap().is_none());
    assert!(directory.path().join("agent-svid-A.tpmkey.damaged-1").exists());
    let fresh = agent.generate(&key, KeyType::EcP256).await.unwrap();
    assert_ne!(fresh, public);
    let signature = agent.sign(&key, SignatureScheme::Ecdsa, &digest).await.unwrap();
    assert!(verify(&fresh, SignatureScheme::Ecdsa, &digest, &signature));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_set_aside_and_the_others_are_used() {
    let swtpm = Swtpm::start().unwrap();
    let tpm = device(&swtpm, None).await;
    let directory = tempfile::tempdir().unwrap();
    let open = || TpmKeyManager::open(Arc::clone(&tpm), Config::new(directory.path()));
    let keys = open().await.unwrap();
    let (broken, whole) = (id("broken"), id("whole"));
    keys.generate(&broken, KeyType::EcP256).await.unwrap();
    let public = keys.generate(&whole, KeyType::EcP256).await.unwrap();
    let path = directory.path().join("broken.tpmkey");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, bytes.get(..bytes.len() / 2).unwrap()).unwrap();
    let keys = open().await.unwrap();
    assert!(keys.find(&broken).await.unwrap().is_none());
    assert_eq!(keys.find(&whole).await.unwrap(), Some(public));
    assert!(directory.path().join("broken.tpmkey.damaged-1").exists());

    // Writable by others: it proves nothing, and that is an operator's to repair.
    fs::set_permissions(directory.path().join("whole.tpmkey"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(open().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_key_is_proven_by_its_first_signature_and_a_successor_before_it_replaces() {
    let swtpm = Swtpm::start().unwrap();
    let proxy = TpmProxy::before(&swtpm).unwrap();
    let tpm = Tpm::open(DeviceConfig::new(proxy.tcti().parse().unwrap())).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let keys = TpmKeyManager::open(tpm, Config::new(directory.path())).await.unwrap();
    let key = id("agent-svid-A");
    let digest = Digest::of(HashAlgorithm::Sha256, b"x");
    // The last byte of a signature's s stands before the five bytes of the empty password session.
    let bad_signature = || proxy.inject(Some(code::SIGN), Fault::FlipBit { from_end: 6 }, 1);

    let unfit = keys.generate(&key, KeyType::EcP256).await.unwrap();
    assert_eq!(proxy.count(code::SIGN), 0, "a slow chip is spared a signature");
    bad_signature();
    let error = keys.sign(&key, SignatureScheme::Ecdsa, &digest).await.unwrap_err();
    assert!(error.to_string().contains("signing"), "{error}");
    assert!(keys.find(&key).await.unwrap().is_none(), "a key that does not sign is given up");
    assert!(directory.path().join("agent-svid-A.tpmkey.damaged-1").exists());

    let public = keys.generate(&key, KeyType::EcP256).await.unwrap();
    assert_ne!(public, unfit);
    let signature = keys.sign(&key, SignatureScheme::Ecdsa, &digest).await.unwrap();
    assert!(verify(&public, SignatureScheme::Ecdsa, &digest, &signature));
    // Once proven, a bad signature is refused but the key stays.
    bad_signature();
    keys.sign(&key, SignatureScheme::Ecdsa, &digest).await.unwrap_err();
    assert_eq!(keys.find(&key).await.unwrap(), Some(public.clone()));

    // A successor that does not sign leaves the old key where it is.
    bad_signature();
    keys.generate(&key, KeyType::EcP256).await.unwrap_err();
    assert_eq!(keys.find(&key).await.unwrap(), Some(public.clone()));
    let signature = keys.sign(&key, SignatureScheme::Ecdsa, &digest).await.unwrap();
    assert!(verify(&public, SignatureScheme::Ecdsa, &digest, &signature));
}
