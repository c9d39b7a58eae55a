use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use proptest::prelude::*;

use super::*;
use crate::public::verify;
use crate::types::{HashAlgorithm, SignatureScheme};

/// A file as SPIRE 1.15 writes it: one key of each type, made by Go's crypto libraries.
const SPIRE: &str = include_str!("../testdata/spire-keys.json");
const SPIRE_PUBLIC: &str = include_str!("../testdata/spire-keys.public.json");

fn place(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (directory, path)
}

#[tokio::test]
async fn reads_and_rewrites_the_file_of_a_spire_server() {
    let (_directory, path) = place(SPIRE, 0o600);
    let keys = DiskKeyManager::open(&path).unwrap();
    let public: BTreeMap<String, String> = serde_json::from_str(SPIRE_PUBLIC).unwrap();
    let listed: BTreeMap<String, String> = keys
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|key| (key.id.to_string(), STANDARD.encode(key.public.spki_der)))
        .collect();
    assert_eq!(listed, public);
    for key in keys.list().await.unwrap() {
        let digest = Digest::of(HashAlgorithm::Sha256, b"moved");
        let scheme = if key.public.kind.is_ec() { SignatureScheme::Ecdsa } else { SignatureScheme::RsaPkcs1 };
        let signature = keys.sign(&key.id, scheme, &digest).await.unwrap();
        assert!(verify(&key.public, scheme, &digest, &signature), "{}", key.id);
    }

    // Put one in and take it out again: what SPIRE wrote is there byte for byte.
    let id = KeyId::new("x509-CA-C").unwrap();
    keys.generate(&id, KeyType::EcP256).await.unwrap();
    assert_ne!(fs::read_to_string(&path).unwrap(), SPIRE);
    keys.destroy(&id).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), SPIRE);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
}

#[tokio::test]
async fn a_failed_write_leaves_file_and_memory_as_they_were() {
    let (directory, path) = place(SPIRE, 0o600);
    let keys = DiskKeyManager::open(&path).unwrap();
    let id = KeyId::new("x509-CA-A").unwrap();
    let before = keys.find(&id).await.unwrap();
    // The directory is gone, as it is for a file system that was unmounted.
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    fs::rename(directory.path(), &moved).unwrap();
    let error = keys.generate(&id, KeyType::EcP256).await.unwrap_err();
    assert!(matches!(error, KeyError::Device { retryable: true, .. }), "{error:?}");
    assert_eq!(keys.find(&id).await.unwrap(), before);
    assert_eq!(fs::read_to_string(moved.join("keys.json")).unwrap(), SPIRE);
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let (_directory, path) = place(SPIRE, 0o640);
    let error = DiskKeyManager::open(&path).err().unwrap();
    assert!(error.to_string().contains("0640") && error.to_string().contains("chmod 0600"), "{error}");
}

#[test]
fn damage_is_named_without_quoting_keys() {
    let cut = SPIRE.get(..SPIRE.len() - 40).unwrap();
    let (_directory, path) = place(cut, 0o600);
    let error = DiskKeyManager::open(&path).err().unwrap();
    assert!(matches!(error, DiskError::Format { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), cut, "whoever repairs it finds what was there");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "and no other file");

    let (_directory, path) = place(r#"{"keys":{"x509-CA-A":"bm8ga2V5IGF0IGFsbA=="}}"#, 0o600);
    let error = DiskKeyManager::open(&path).err().unwrap().to_string();
    assert!(error.contains("x509-CA-A") && error.contains("PKCS#8") && !error.contains("bm8"), "{error}");

    // One bad key spoils the file: keys that were left out would be made anew and take the place of the old ones.
    let good = SPIRE.replacen("{\n\t\"keys\": {", "{\n\t\"keys\": {\n\t\t\"x509-CA-B\": \"!\",", 1);
    let (_directory, path) = place(&good, 0o600);
    let error = DiskKeyManager::open(&path).err().unwrap();
    assert!(matches!(&error, DiskError::Key { id, .. } if id == "x509-CA-B"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), good);

    for (text, told) in [
        ("{}", "line 1, column 2"),
        (r#"{"keys":{},"keys":{}}"#, "line 1, column"),
        (r#"{"keys":{}} x"#, "line 1, column 13"),
        (r#"{"keys":[]}"#, "line 1, column"),
        ("[]", "line 1, column"),
    ] {
        let error = DiskKeyManager::from_text(text.as_bytes(), "k").err().unwrap().to_string();
        assert!(error.contains("damaged or in another format") && error.contains(told), "{text}: {error}");
    }
    let odd = DiskKeyManager::from_text(br#"{"version":1,"keys":{}}"#, "k");
    assert!(odd.is_ok(), "other names are read over, as Go does");
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "\\PC{0,200}") {
        let (_directory, path) = place(&text, 0o600);
        drop(DiskKeyManager::open(&path));
    }

    #[test]
    fn no_key_entry_makes_it_panic(name in "[a-z@ ]{0,10}", value in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = serde_json::json!({"keys": {name: STANDARD.encode(value)}}).to_string();
        let (_directory, path) = place(&text, 0o600);
        drop(DiskKeyManager::open(&path));
    }
}
