//! SPIFFE bundles and bundle maps.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::support::{Ca, Key, now, td};
use crate::{
    BadBundle, BadBundleMap, BadJwk, BadX509Svid, Bundle, DistinguishedName, JwtAuthority, X509Authority,
    bundles_from_map, bundles_to_map, verify_x509_svid,
};

fn x509_entry(der: &[u8]) -> Value {
    json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(der)] })
}

fn read(document: &Value) -> Result<Bundle, BadBundle> {
    Bundle::from_jwks(td("example.org"), document.to_string().as_bytes())
}

fn keys(list: &[Value]) -> Result<Bundle, BadBundle> {
    read(&json!({ "keys": list }))
}

fn jwk_fault(entry: Value) -> BadJwk {
    match keys(&[json!({"kty": "X", "use": "y"}), entry]) {
        Err(BadBundle::Key { index: 1, cause, .. }) => cause,
        other => panic!("expected a bad key, got {other:?}"),
    }
}

fn jwt_authority(key: &Key, key_id: &str) -> JwtAuthority {
    JwtAuthority { key_id: key_id.to_owned(), spki_der: key.spki.clone(), expires_at: 0, tainted: false }
}

/// Every kind of key and certificate that we write ourselves.
fn full() -> Bundle {
    let mut bundle = Bundle::new(td("example.org"));
    for key in [Key::p256(), Key::p384(), Key::rsa()] {
        let ca = Ca::root_with("example.org", key, &DistinguishedName::default_ca());
        bundle.x509_authorities.push(X509Authority { der: ca.der, tainted: false });
    }
    for (key, id) in
        [(Key::p256(), "one"), (Key::p384(), "two"), (Key::p521(), "three"), (Key::rsa(), "four")]
    {
        bundle.jwt_authorities.push(jwt_authority(&key, id));
    }
    bundle.sequence_number = u64::MAX;
    bundle.refresh_hint = 300;
    bundle
}

#[test]
fn documents_round_trip() {
    let bundle = full();
    assert_eq!(Bundle::from_jwks(td("example.org"), &bundle.to_jwks()).unwrap(), bundle);
    let empty = Bundle::new(td("example.org"));
    assert_eq!(Bundle::from_jwks(td("example.org"), &empty.to_jwks()).unwrap(), empty);
}

#[test]
fn a2_15_x509_entries_as_published() {
    let bundle = full();
    let document: Value = serde_json::from_slice(&bundle.to_jwks()).unwrap();
    let entries: Vec<&Value> =
        document["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "x509-svid").collect();
    assert_eq!(entries.len(), 3);
    for (entry, authority) in entries.iter().zip(&bundle.x509_authorities) {
        assert!(entry.get("kid").is_none());
        assert_eq!(entry["x5c"], json!([STANDARD.encode(&authority.der)]));
        let mut members: Vec<&str> = entry.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        let expected: &[&str] = if entry["kty"] == "RSA" {
            &["e", "kty", "n", "use", "x5c"]
        } else {
            &["crv", "kty", "use", "x", "x5c", "y"]
        };
        assert_eq!(members, expected);
    }
}

#[test]
fn a2_15_x509_entries_as_consumed() {
    let (one, two) = (Ca::root("example.org").der, Ca::root("example.org").der);
    let ders = |bundle: Bundle| bundle.x509_authorities.into_iter().map(|a| a.der).collect::<Vec<_>>();
    // Without certificate the entry is ignored; of several only the first counts.
    for ignored in
        [json!({"kty": "EC", "use": "x509-svid"}), json!({"kty": "EC", "use": "x509-svid", "x5c": []})]
    {
        assert_eq!(ders(keys(&[ignored, x509_entry(&one)]).unwrap()), vec![one.clone()]);
    }
    let mut several = x509_entry(&one);
    several["x5c"] = json!([STANDARD.encode(&one), STANDARD.encode(&two), "junk"]);
    assert_eq!(ders(keys(&[several]).unwrap()), vec![one.clone()]);
    // The same authority twice counts once; a kid, which must not be there, does no harm.
    let mut with_kid = x509_entry(&two);
    with_kid["kid"] = json!("x");
    assert_eq!(
        ders(keys(&[x509_entry(&one), with_kid, x509_entry(&one)]).unwrap()),
        [one.clone(), two.clone()]
    );

    for x5c in [json!("text"), json!([7]), json!(["%%%"]), json!({})] {
        let mut entry = x509_entry(&one);
        entry["x5c"] = x5c;
        assert_eq!(jwk_fault(entry), BadJwk::Member { member: "x5c" });
    }
    let trailing = [one.clone(), two].concat();
    assert!(matches!(jwk_fault(x509_entry(&trailing)), BadJwk::Certificate(_)));
    assert!(matches!(jwk_fault(x509_entry(b"junk")), BadJwk::Certificate(_)));
}

#[test]
fn a2_15_the_entrys_key_must_be_the_certificates() {
    let bundle = full();
    let mut document: Value = serde_json::from_slice(&bundle.to_jwks()).unwrap();
    let entries = document["keys"].as_array_mut().unwrap();
    let other = entries.iter().find(|key| key["kid"] == "one").unwrap()["x"].clone();
    let mut entry = entries[0].clone();
    entry["x"] = other;
    assert_eq!(jwk_fault(entry), BadJwk::KeyMismatch);
}

#[test]
fn a3_23_jwt_entries() {
    let bundle = full();
    let document: Value = serde_json::from_slice(&bundle.to_jwks()).unwrap();
    let jwt: Vec<&Value> =
        document["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "jwt-svid").collect();
    let ids: Vec<&str> = jwt.iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(ids, ["one", "two", "three", "four"]);
    assert!(jwt.iter().all(|key| key.get("x5c").is_none() && key.get("d").is_none()));

    let mut entry = jwt[0].clone();
    entry.as_object_mut().unwrap().remove("kid");
    assert_eq!(jwk_fault(entry.clone()), BadJwk::KeyId);
    for kid in [json!(""), json!(7), json!("k".repeat(1025))] {
        entry["kid"] = kid;
        assert_eq!(jwk_fault(entry.clone()), BadJwk::KeyId);
    }
    for (member, value) in
        [("x", json!("AA")), ("y", json!(7)), ("crv", json!("P-224")), ("x", json!("****"))]
    {
        let mut entry = jwt[0].clone();
        entry[member] = value;
        assert!(matches!(jwk_fault(entry), BadJwk::Member { .. }), "{member}");
    }
    let mut off_curve = jwt[0].clone();
    off_curve["x"] = json!(URL_SAFE_NO_PAD.encode([7; 32]));
    assert!(matches!(jwk_fault(off_curve), BadJwk::Key(_)));
    let weak = json!({"kty": "RSA", "use": "jwt-svid", "kid": "w", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB"});
    assert!(matches!(jwk_fault(weak), BadJwk::Key(_)));
}

#[test]
fn one_key_id_names_one_jwt_key() {
    let (one, two) = (Key::p256(), Key::p256());
    let mut bundle = Bundle::new(td("example.org"));
    bundle.jwt_authorities = vec![jwt_authority(&one, "k")];
    let entry = |bundle: &Bundle| -> Value {
        serde_json::from_slice::<Value>(&bundle.to_jwks()).unwrap()["keys"][0].clone()
    };
    let first = entry(&bundle);
    bundle.jwt_authorities = vec![jwt_authority(&two, "k")];
    let second = entry(&bundle);
    assert_eq!(keys(&[first.clone(), first.clone()]).unwrap().jwt_authorities.len(), 1);
    assert!(matches!(keys(&[first, second]), Err(BadBundle::DuplicateKeyId { key_id, .. }) if key_id == "k"));
    // A stored bundle may hold a key tainted and untainted; what is published names it once.
    bundle.jwt_authorities =
        vec![jwt_authority(&one, "k"), JwtAuthority { tainted: true, ..jwt_authority(&one, "k") }];
    let document: Value = serde_json::from_slice(&bundle.to_jwks()).unwrap();
    assert_eq!(document["keys"].as_array().unwrap().len(), 1);
}

#[test]
fn a4_24_unknown_types_and_uses_are_ignored() {
    let der = Ca::root("example.org").der;
    let with = |name: &str, value: Value| {
        let mut entry = x509_entry(&der);
        entry[name] = value;
        entry
    };
    let without = |name: &str| {
        let mut entry = x509_entry(&der);
        entry.as_object_mut().unwrap().remove(name);
        entry
    };
    let ignored = [
        with("kty", json!("OKP")),
        with("kty", json!("ec")),
        with("kty", json!(7)),
        without("kty"),
        with("use", json!("X509-SVID")),
        with("use", json!("sig")),
        with("use", json!("wit-svid")),
        with("use", json!(null)),
        without("use"),
    ];
    let bundle = keys(&ignored).unwrap();
    assert!(bundle.is_empty());
    let mut list = ignored.to_vec();
    list.push(x509_entry(&der));
    assert_eq!(keys(&list).unwrap().x509_authorities.len(), 1);
}

#[test]
fn a4_24_keys_must_be_there() {
    for document in
        [json!({}), json!({"keys": null}), json!({"keys": {}}), json!([]), json!("x"), json!(null)]
    {
        assert!(matches!(read(&document), Err(BadBundle::Shape { .. })), "{document}");
    }
    for text in [&b""[..], b"{", b"{\"keys\":[]} x", b"\xff", b"{\"keys\":[],}"] {
        assert!(matches!(Bundle::from_jwks(td("a"), text), Err(BadBundle::Json { .. })));
    }
    assert_eq!(jwk_fault(json!("text")), BadJwk::NoObject);
    // Nesting cannot exhaust the stack.
    let deep = [b"{\"keys\":".to_vec(), b"[".repeat(100_000)].concat();
    assert!(matches!(Bundle::from_jwks(td("a"), &deep), Err(BadBundle::Json { .. })));
}

#[test]
fn a4_25_an_empty_bundle_trusts_nobody() {
    let ca = Ca::root("example.org");
    let empty = keys(&[]).unwrap();
    assert!(empty.is_empty());
    let effectively_empty = keys(&[json!({"kty": "new", "use": "x509-svid"})]).unwrap();
    for bundle in [empty, effectively_empty] {
        let verdict = verify_x509_svid(&ca.workload("spiffe://example.org/w"), &bundle, now());
        assert_eq!(verdict, Err(BadX509Svid::NoAuthority { trust_domain: td("example.org") }));
    }
}

#[test]
fn a4_26_sequence_numbers_have_64_bits() {
    for (text, number) in [
        ("0", Some(0)),
        ("1", Some(1)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("-1", None),
        ("1.5", None),
        ("\"1\"", None),
        ("null", None),
    ] {
        let document = format!("{{\"keys\":[],\"spiffe_sequence\":{text}}}");
        let bundle = Bundle::from_jwks(td("a"), document.as_bytes());
        assert_eq!(bundle.ok().map(|bundle| bundle.sequence_number), number, "{text}");
    }
}

#[test]
fn a4_27_refresh_hints_are_whole_seconds() {
    for (text, seconds) in [("0", Some(0)), ("300", Some(300)), ("-1", None), ("1.5", None), ("\"5m\"", None)]
    {
        let document = format!("{{\"keys\":[],\"spiffe_refresh_hint\":{text}}}");
        let bundle = Bundle::from_jwks(td("a"), document.as_bytes());
        assert_eq!(bundle.ok().map(|bundle| bundle.refresh_hint), seconds, "{text}");
    }
}

#[test]
fn a4_28_foreign_parameters_are_neither_required_nor_written() {
    let der = Ca::root("example.org").der;
    let mut entry = x509_entry(&der);
    entry["alg"] = json!("ES256");
    let bundle = read(&json!({"keys": [entry], "x-vendor": {"a": 1}})).unwrap();
    assert_eq!((bundle.sequence_number, bundle.refresh_hint, bundle.x509_authorities.len()), (0, 0, 1));
    let members: Value = serde_json::from_slice(&full().to_jwks()).unwrap();
    let mut names: Vec<&String> = members.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["keys", "spiffe_refresh_hint", "spiffe_sequence"]);
    // Without number and hint they are left out.
    assert_eq!(Bundle::new(td("a")).to_jwks(), b"{\"keys\":[]}");
}

#[test]
fn a4_29_duplicate_names_are_refused_everywhere() {
    for text in [
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[],"spiffe_sequence":1,"spiffe_sequence":2}"#,
        r#"{"keys":[{"kty":"EC","use":"a","use":"x509-svid"}]}"#,
        r#"{"keys":[],"x":{"deep":[{"a":1,"\u0061":2}]}}"#,
    ] {
        assert!(matches!(Bundle::from_jwks(td("a"), text.as_bytes()), Err(BadBundle::Json { .. })), "{text}");
    }
}

#[test]
fn a4_29_bundle_maps() {
    let other = Bundle { trust_domain: td("other.org"), refresh_hint: 0, sequence_number: 3, ..full() };
    let own = Bundle { refresh_hint: 0, ..full() };
    let map: BTreeMap<_, _> = [own, other].into_iter().map(|b| (b.trust_domain.clone(), b)).collect();
    assert_eq!(bundles_from_map(&bundles_to_map(&map)).unwrap(), map);
    // A refresh hint inside is neither written nor heeded.
    let hinted: BTreeMap<_, _> = [(td("example.org"), full())].into();
    let text = String::from_utf8(bundles_to_map(&hinted)).unwrap();
    assert!(!text.contains("refresh_hint"));
    let with_hint = text.replacen("\"keys\"", "\"spiffe_refresh_hint\":9,\"keys\"", 1);
    assert_eq!(bundles_from_map(with_hint.as_bytes()).unwrap()[&td("example.org")].refresh_hint, 0);

    assert!(bundles_from_map(br#"{"trust_domains":{}}"#).unwrap().is_empty());
    for text in ["{}", r#"{"trust_domains":[]}"#, "[]"] {
        assert!(matches!(bundles_from_map(text.as_bytes()), Err(BadBundleMap::Shape)));
    }
    let twice = r#"{"trust_domains":{"a":{"keys":[]},"a":{"keys":[]}}}"#;
    assert!(matches!(bundles_from_map(twice.as_bytes()), Err(BadBundleMap::Json(_))));
    let name = r#"{"trust_domains":{"spiffe://a":{"keys":[]}}}"#;
    assert!(matches!(bundles_from_map(name.as_bytes()), Err(BadBundleMap::TrustDomain { .. })));
    let bundle = r#"{"trust_domains":{"a":{}}}"#;
    assert!(matches!(bundles_from_map(bundle.as_bytes()), Err(BadBundleMap::Bundle(_))));
}

#[test]
fn a7_46_jwt_bundles_hold_jwt_keys_without_use() {
    let document: Value = serde_json::from_slice(&full().jwt_jwks()).unwrap();
    assert_eq!(document.as_object().unwrap().len(), 1);
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4);
    assert!(
        keys.iter()
            .all(|key| key.get("use").is_none() && key.get("x5c").is_none() && key.get("kid").is_some())
    );
}

#[test]
fn der_and_pem_sets() {
    let bundle = full();
    let x509 = |bundle: Bundle| bundle.x509_authorities;
    let from_der = Bundle::from_der_concat(td("example.org"), &bundle.x509_der_concat()).unwrap();
    assert_eq!(x509(from_der), bundle.x509_authorities);
    let from_pem = Bundle::from_pem(td("example.org"), bundle.x509_pem().as_bytes()).unwrap();
    assert_eq!(x509(from_pem), bundle.x509_authorities);

    assert!(matches!(Bundle::from_der_concat(td("a"), &[]), Err(BadBundle::NoCertificate { .. })));
    assert!(matches!(Bundle::from_pem(td("a"), b""), Err(BadBundle::Pem { .. })));
    let mut cut = bundle.x509_der_concat();
    cut.pop();
    assert!(matches!(Bundle::from_der_concat(td("a"), &cut), Err(BadBundle::Certificate { index: 2, .. })));
    let junk = crate::pem_encode([b"junk"]);
    assert!(matches!(
        Bundle::from_pem(td("a"), junk.as_bytes()),
        Err(BadBundle::Certificate { index: 0, .. })
    ));
}

#[test]
fn lookups() {
    let bundle = full();
    assert!(bundle.contains_jwt_key("three") && !bundle.contains_jwt_key("five"));
    assert!(bundle.contains_x509_authority(&bundle.x509_authorities[1].der));
    assert!(!bundle.contains_x509_authority(b"x"));
}
