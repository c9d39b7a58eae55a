use super::*;

fn stored() -> StoredSvid {
    StoredSvid { chain: vec![vec![1, 2, 3], vec![4]], reattestable: true, csr: Some(vec![9]) }
}

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

#[test]
fn what_is_kept_is_found_again_by_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er");
    let storage = Storage::open(&path).unwrap();
    assert_eq!(storage.svid(), None);
    storage.keep_svid(&stored()).unwrap();
    assert_eq!(storage.svid(), Some(stored()));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join(SVID_FILE)), 0o600);
    storage.forget_svid().unwrap();
    storage.forget_svid().unwrap();
    assert_eq!(storage.svid(), None);
}

#[test]
fn an_open_directory_is_narrowed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let _storage = Storage::open(dir.path()).unwrap();
    assert_eq!(std::fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn two_agents_cannot_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = Storage::open(dir.path()).unwrap();
    assert!(matches!(Storage::open(dir.path()), Err(StorageError::InUse { .. })));
    drop(first);
    assert!(Storage::open(dir.path()).is_ok());
}

#[test]
fn damage_is_set_aside_and_never_fatal() {
    let damages: [fn(&Path); 5] = [
        |path| std::fs::write(path, b"").unwrap(),
        |path| {
            let whole = std::fs::read(path).unwrap();
            std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
        },
        |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let last = bytes.len() - 3;
            bytes[last] ^= 1;
            std::fs::write(path, bytes).unwrap();
        },
        |path| {
            state::write_checked(
                path,
                b"{\"version\":9,\"chain\":[],\"reattestable\":true,\"csr\":null}",
                0o600,
            )
            .unwrap()
        },
        |path| {
            state::write_checked(
                path,
                b"{\"version\":1,\"chain\":[],\"reattestable\":true,\"csr\":null}",
                0o600,
            )
            .unwrap()
        },
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        storage.keep_svid(&stored()).unwrap();
        damage(&dir.path().join(SVID_FILE));
        let damaged = std::fs::read(dir.path().join(SVID_FILE)).unwrap();
        assert_eq!(storage.svid(), None);
        let kept = std::fs::read(dir.path().join(format!("{SVID_FILE}.damaged-1"))).unwrap();
        assert_eq!(kept, damaged, "for whoever looks into it");
        storage.keep_svid(&stored()).unwrap();
        assert_eq!(storage.svid(), Some(stored()), "and the next one is written as ever");
    }
}

#[test]
fn a_chain_has_as_many_certificates_as_a_chain_may_have() {
    let of = |count: usize| {
        let chain = vec!["AQID"; count];
        serde_json::json!({"version": 1, "chain": chain, "reattestable": false, "csr": null}).to_string()
    };
    let read = |count| StoredSvid::decode(of(count).as_bytes()).map(|stored| stored.chain);
    assert_eq!(read(10), Ok(vec![vec![1, 2, 3]; 10]));
    assert!(read(11).unwrap_err().starts_with("more than 10 certificates"));
    assert!(StoredSvid::decode(of(1).replace("AQID", "AQI").as_bytes()).is_err(), "no base64");
}

#[test]
fn a_bundle_without_authorities_is_no_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    storage.keep_bundle(&Bundle::new(td())).unwrap();
    assert_eq!(storage.bundle(&td()), None);
}

proptest::proptest! {
    #[test]
    fn any_file_content_is_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), sealed: bool) {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        for name in [SVID_FILE, BUNDLE_FILE] {
            let path = dir.path().join(name);
            if sealed {
                state::write_checked(&path, &bytes, 0o600).unwrap();
            } else {
                std::fs::write(&path, &bytes).unwrap();
            }
        }
        let _svid = storage.svid();
        let _bundle = storage.bundle(&td());
    }
}
