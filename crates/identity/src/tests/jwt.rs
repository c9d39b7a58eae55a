//! JWT-SVID 2 to 5.

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::signature as sig;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::support::{HOUR, Key, id, now, td};
use crate::{
    BadJwtSvid as Bad, Bundle, CannotSignJwt, JwtAlgorithm, JwtAuthority, JwtClaims, JwtSvid,
    MAX_TOKEN_BYTES, jwt_assemble, jwt_assemble_unverified, jwt_signing_input, verify_jwt_svid,
};

const SUBJECT: &str = "spiffe://example.org/w";
const NO_LEEWAY: Duration = Duration::ZERO;

fn unix() -> u64 {
    now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn bundle(keys: &[(&Key, &str)]) -> Bundle {
    let mut bundle = Bundle::new(td("example.org"));
    for (key, key_id) in keys {
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: (*key_id).to_owned(),
            spki_der: key.spki.clone(),
            expires_at: 0,
            tainted: false,
        });
    }
    bundle
}

fn claims() -> Value {
    json!({ "sub": SUBJECT, "aud": ["ours", "theirs"], "exp": unix() + 300, "iat": unix() })
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "k", "typ": "JWT" })
}

/// Any header over any claims, signed with ES256.
fn token(key: &Key, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", part(header), part(claims));
    jwt_assemble_unverified(&input, JwtAlgorithm::Es256, &key.sign(input.as_bytes())).unwrap()
}

fn verify(token: &str, bundle: &Bundle) -> Result<JwtSvid, Bad> {
    verify_jwt_svid(
        token,
        &["ours"],
        |wanted| (*wanted == td("example.org")).then_some(bundle),
        now(),
        NO_LEEWAY,
    )
}

/// Verifies a token after a change of header and claims.
fn judge(change: impl FnOnce(&mut Value, &mut Value)) -> Result<JwtSvid, Bad> {
    let key = Key::p256();
    let (mut header, mut claims) = (header(), claims());
    change(&mut header, &mut claims);
    verify(&token(&key, &header, &claims), &bundle(&[(&key, "k")]))
}

fn issued(audience: &[&str], ttl: Duration) -> Result<JwtClaims, CannotSignJwt> {
    let audience: Vec<String> = audience.iter().map(|value| (*value).to_owned()).collect();
    JwtClaims::new(&id(SUBJECT), &audience, now(), ttl, None)
}

#[test]
fn what_we_sign_verifies() {
    for (key, algorithm) in [
        (Key::p256(), JwtAlgorithm::Es256),
        (Key::p384(), JwtAlgorithm::Es384),
        (Key::p521(), JwtAlgorithm::Es512),
        (Key::rsa(), JwtAlgorithm::Rs256),
    ] {
        assert_eq!(JwtAlgorithm::for_key(&key.spki), Ok(algorithm));
        let claims = issued(&["ours"], HOUR).unwrap();
        // Often enough that integers with leading zeros occur.
        for _ in 0..if algorithm == JwtAlgorithm::Rs256 { 1 } else { 300 } {
            let input = jwt_signing_input(&claims, "k", algorithm);
            let token = jwt_assemble(&input, algorithm, &key.sign(input.as_bytes()), &key.spki).unwrap();
            let svid = verify(&token, &bundle(&[(&key, "k")])).unwrap();
            assert_eq!((svid.id, svid.key_id.as_str()), (id(SUBJECT), "k"));
            assert_eq!((svid.expires_at, svid.issued_at), (now() + HOUR, Some(now())));
            assert_eq!(svid.audience, ["ours"]);
        }
    }
}

#[test]
fn all_rsa_algorithms_verify() {
    let key = Key::rsa();
    for (name, encoding) in [
        ("RS256", &sig::RSA_PKCS1_SHA256),
        ("RS384", &sig::RSA_PKCS1_SHA384),
        ("RS512", &sig::RSA_PKCS1_SHA512),
        ("PS256", &sig::RSA_PSS_SHA256),
        ("PS384", &sig::RSA_PSS_SHA384),
        ("PS512", &sig::RSA_PSS_SHA512),
    ] {
        let algorithm = JwtAlgorithm::from_name(name).unwrap();
        let input = jwt_signing_input(&issued(&["ours"], HOUR).unwrap(), "k", algorithm);
        let signature = key.sign_rsa_with(encoding, input.as_bytes());
        let token = jwt_assemble(&input, algorithm, &signature, &key.spki).unwrap();
        verify(&token, &bundle(&[(&key, "k")])).unwrap();
        // The same signature under another algorithm's name is worth nothing.
        let other = if name == "RS256" { JwtAlgorithm::Ps256 } else { JwtAlgorithm::Rs256 };
        assert_eq!(jwt_assemble(&input, other, &signature, &key.spki), Err(CannotSignJwt::WrongKey));
    }
}

#[test]
fn a3_16_compact_serialisation_only() {
    let key = Key::p256();
    let good = token(&key, &header(), &claims());
    let bundle = bundle(&[(&key, "k")]);
    verify(&good, &bundle).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let flattened = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string();
    let general =
        json!({"payload": parts[1], "signatures": [{"protected": parts[0], "signature": parts[2]}]})
            .to_string();
    for bad in [
        "",
        ".",
        "..",
        "...",
        &flattened,
        &general,
        &format!("{}.{}", parts[0], parts[1]),
        &format!("{}.{}.", parts[0], parts[1]),
        &format!(".{}.{}", parts[1], parts[2]),
        &format!("{}..{}", parts[0], parts[2]),
        &format!("{good}.x"),
        &format!("{good}.x.y"),
    ] {
        assert!(matches!(verify(bad, &bundle), Err(Bad::NotCompact)), "{bad:?}");
    }
    for bad in [format!("{good}="), format!(" {good}"), format!("{good}\n"), format!("{good}+")] {
        assert!(matches!(verify(&bad, &bundle), Err(Bad::Base64 { .. })), "{bad:?}");
    }
    let long = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert!(matches!(verify(&long, &bundle), Err(Bad::TooLong { .. })));
    for text in ["[]", "7", "\"x\""] {
        let bad = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(text), parts[1], parts[2]);
        assert!(matches!(verify(&bad, &bundle), Err(Bad::NoObject { part: "header" })));
    }
    for text in ["", "{", r#"{"alg":"ES256","alg":"none"}"#] {
        let bad = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(text), parts[1], parts[2]);
        assert!(verify(&bad, &bundle).is_err(), "{text:?}");
    }
    let twice = format!(r#"{{"sub":"{SUBJECT}","sub":"{SUBJECT}","aud":"ours","exp":{}}}"#, unix() + 9);
    let bad = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(twice), parts[2]);
    assert!(matches!(verify(&bad, &bundle), Err(Bad::Json { part: "claims", .. })));
}

#[test]
fn a3_16_our_header_has_three_members() {
    let input = jwt_signing_input(&issued(&["ours"], HOUR).unwrap(), "key one", JwtAlgorithm::Es256);
    let header = URL_SAFE_NO_PAD.decode(input.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(header, json!({"alg": "ES256", "kid": "key one", "typ": "JWT"}));
}

#[test]
fn a3_17_other_algorithms_are_refused_before_anything_else() {
    for alg in
        ["none", "None", "HS256", "HS384", "HS512", "EdDSA", "ES256K", "RSA-OAEP", "es256", "", "RS256 "]
    {
        assert!(matches!(judge(|h, _| h["alg"] = json!(alg)), Err(Bad::Algorithm)), "{alg:?}");
    }
    for alg in [json!(null), json!(["ES256"]), json!(256)] {
        assert!(matches!(judge(|h, _| h["alg"] = alg), Err(Bad::Algorithm)));
    }
    assert!(matches!(judge(|h, _| drop(h.as_object_mut().unwrap().remove("alg"))), Err(Bad::Algorithm)));
    // Neither claims nor bundle are looked at: both are useless here.
    let token = format!("{}.!.!", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#));
    let verdict = verify_jwt_svid(
        &token,
        &["ours"],
        |_| -> Option<Bundle> { panic!("must not ask") },
        now(),
        NO_LEEWAY,
    );
    assert!(matches!(verdict, Err(Bad::Algorithm)));
}

#[test]
fn a3_17_the_algorithm_must_fit_the_key() {
    for alg in ["ES384", "ES512", "RS256", "PS512"] {
        assert!(matches!(judge(|h, _| h["alg"] = json!(alg)), Err(Bad::UnknownKey { .. })), "{alg}");
    }
}

#[test]
fn a3_18_type_is_absent_jwt_or_jose() {
    for typ in ["JWT", "JOSE"] {
        judge(|h, _| h["typ"] = json!(typ)).unwrap();
    }
    judge(|h, _| drop(h.as_object_mut().unwrap().remove("typ"))).unwrap();
    for typ in [json!("jwt"), json!("wit+jwt"), json!(""), json!(null), json!(1)] {
        assert!(matches!(judge(|h, _| h["typ"] = typ.clone()), Err(Bad::Type)), "{typ}");
    }
}

#[test]
fn headers_that_must_be_understood_are_refused_and_keys_in_headers_ignored() {
    assert!(matches!(judge(|h, _| h["crit"] = json!(["b64"])), Err(Bad::Critical)));
    let (key, attacker) = (Key::p256(), Key::p256());
    let mut header = header();
    header["jwk"] = json!({"kty": "EC", "crv": "P-256"});
    header["jku"] = json!("https://attacker.example/keys");
    let bundle = bundle(&[(&key, "k")]);
    verify(&token(&key, &header, &claims()), &bundle).unwrap();
    assert!(matches!(verify(&token(&attacker, &header, &claims()), &bundle), Err(Bad::Signature { .. })));
}

#[test]
fn key_ids_are_optional_but_binding() {
    let (one, two) = (Key::p256(), Key::p256());
    let bundle = bundle(&[(&one, "k"), (&two, "k2")]);
    let mut bare = header();
    bare.as_object_mut().unwrap().remove("kid");
    assert_eq!(verify(&token(&two, &bare, &claims()), &bundle).unwrap().key_id, "k2");
    assert!(matches!(verify(&token(&Key::p256(), &bare, &claims()), &bundle), Err(Bad::Signature { .. })));
    // A token that names key one is not tried with key two.
    assert!(matches!(verify(&token(&two, &header(), &claims()), &bundle), Err(Bad::Signature { .. })));
    assert!(matches!(judge(|h, _| h["kid"] = json!("other")), Err(Bad::UnknownKey { key_id: Some(_), .. })));
    for kid in [json!(""), json!(7), json!(null)] {
        assert!(matches!(judge(|h, _| h["kid"] = kid.clone()), Err(Bad::KeyId)), "{kid}");
    }
}

#[test]
fn a3_19_the_subject_is_a_spiffe_id() {
    assert!(matches!(judge(|_, c| drop(c.as_object_mut().unwrap().remove("sub"))), Err(Bad::NoSubject)));
    assert!(matches!(judge(|_, c| c["sub"] = json!(7)), Err(Bad::NoSubject)));
    for sub in ["", "example.org/w", "spiffe://EXAMPLE.org/w", "spiffe://example.org/w/"] {
        assert!(matches!(judge(|_, c| c["sub"] = json!(sub)), Err(Bad::Subject(_))), "{sub:?}");
    }
}

#[test]
fn a3_20_the_audience_is_there_and_ours() {
    judge(|_, c| c["aud"] = json!("ours")).unwrap();
    judge(|_, c| c["aud"] = json!(["other", "ours"])).unwrap();
    assert!(matches!(
        judge(|_, c| drop(c.as_object_mut().unwrap().remove("aud"))),
        Err(Bad::NoAudience { .. })
    ));
    for aud in
        [json!([]), json!(""), json!([""]), json!(null), json!(7), json!(["ours", 7]), json!({"ours": 1})]
    {
        assert!(matches!(judge(|_, c| c["aud"] = aud.clone()), Err(Bad::NoAudience { .. })), "{aud}");
    }
    for aud in [json!("Ours"), json!(["theirs"]), json!("our"), json!("ours ")] {
        assert!(matches!(judge(|_, c| c["aud"] = aud.clone()), Err(Bad::Audience { .. })), "{aud}");
    }
    // Who has no audience accepts no token.
    let key = Key::p256();
    let (token, bundle) = (token(&key, &header(), &claims()), bundle(&[(&key, "k")]));
    let verdict = verify_jwt_svid::<&str, _>(&token, &[], |_| Some(&bundle), now(), NO_LEEWAY);
    assert!(matches!(verdict, Err(Bad::Audience { .. })));
}

#[test]
fn a3_21_expiry_is_there_and_not_past() {
    assert!(matches!(
        judge(|_, c| drop(c.as_object_mut().unwrap().remove("exp"))),
        Err(Bad::Time { claim: "exp", .. })
    ));
    for exp in [json!(null), json!("2030-01-01"), json!(-1), json!(1e300), json!([1])] {
        assert!(matches!(judge(|_, c| c["exp"] = exp.clone()), Err(Bad::Time { claim: "exp", .. })), "{exp}");
    }
    for exp in [json!(0), json!(unix() - 1), json!(unix())] {
        assert!(matches!(judge(|_, c| c["exp"] = exp.clone()), Err(Bad::Expired { .. })), "{exp}");
    }
    #[expect(clippy::cast_precision_loss, reason = "the tests' present is far below 2^53")]
    let soon = unix() as f64 + 0.5;
    assert_eq!(judge(|_, c| c["exp"] = json!(soon)).unwrap().expires_at, now() + Duration::from_millis(500));
}

#[test]
fn a3_21_leeway_is_the_callers() {
    let key = Key::p256();
    let (mut late, mut early) = (claims(), claims());
    late["exp"] = json!(unix() - 30);
    early["nbf"] = json!(unix() + 30);
    let bundle = bundle(&[(&key, "k")]);
    for claims in [late, early] {
        let token = token(&key, &header(), &claims);
        let with = |seconds| {
            verify_jwt_svid(&token, &["ours"], |_| Some(&bundle), now(), Duration::from_secs(seconds))
        };
        assert!(matches!(with(29), Err(Bad::Expired { .. } | Bad::NotYetValid { .. })));
        with(31).unwrap();
    }
    assert!(matches!(judge(|_, c| c["nbf"] = json!("soon")), Err(Bad::Time { claim: "nbf", .. })));
    judge(|_, c| c["nbf"] = json!(unix())).unwrap();
}

#[test]
fn a3_22_the_bundle_of_the_subjects_trust_domain() {
    let key = Key::p256();
    let token = token(&key, &header(), &claims());
    let own = bundle(&[(&key, "k")]);
    let none = verify_jwt_svid(&token, &["ours"], |_| None::<Bundle>, now(), NO_LEEWAY);
    assert!(matches!(none, Err(Bad::NoBundle { .. })));
    // A lookup that answers with another domain's bundle is not believed.
    let foreign = Bundle { trust_domain: td("other.org"), ..own.clone() };
    let verdict = verify_jwt_svid(&token, &["ours"], |_| Some(&foreign), now(), NO_LEEWAY);
    assert!(matches!(verdict, Err(Bad::NoBundle { .. })));
    let mut asked = None;
    verify_jwt_svid(
        &token,
        &["ours"],
        |wanted| {
            asked = Some(wanted.clone());
            Some(&own)
        },
        now(),
        NO_LEEWAY,
    )
    .unwrap();
    assert_eq!(asked, Some(td("example.org")));
    let empty = Bundle::new(td("example.org"));
    assert!(matches!(verify(&token, &empty), Err(Bad::UnknownKey { .. })));
}

#[test]
fn damaged_signatures_are_refused() {
    let key = Key::p256();
    let bundle = bundle(&[(&key, "k")]);
    let good = token(&key, &header(), &claims());
    let (input, signature) = good.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let der = key.sign(input.as_bytes());
    let with = |bytes: &[u8]| verify(&format!("{input}.{}", URL_SAFE_NO_PAD.encode(bytes)), &bundle);
    with(&raw).unwrap();
    let mut flipped = raw.clone();
    flipped[10] ^= 1;
    for bad in [&flipped[..], &raw[..63], &[&raw[..], &[0]].concat(), &[0; 64], &der] {
        assert!(matches!(with(bad), Err(Bad::Signature { .. })), "{} bytes", bad.len());
    }
    let mut other = claims();
    other["sub"] = json!("spiffe://example.org/admin");
    let claims = URL_SAFE_NO_PAD.encode(other.to_string());
    let head = input.split('.').next().unwrap();
    assert!(matches!(verify(&format!("{head}.{claims}.{signature}"), &bundle), Err(Bad::Signature { .. })));
}

#[test]
fn claims_follow_spire() {
    let claims =
        issued(&["b", "", "a"], HOUR).unwrap().with_issuer("https://issuer.example").with_token_id("id-1");
    let input = jwt_signing_input(&claims, "k", JwtAlgorithm::Es256);
    let body: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(input.split('.').nth(1).unwrap()).unwrap()).unwrap();
    let expected = json!({
        "sub": SUBJECT, "aud": ["b", "a"], "iat": unix(), "exp": unix() + 3600,
        "iss": "https://issuer.example", "jti": "id-1",
    });
    assert_eq!(body, expected);
    assert_eq!(issued(&[], HOUR), Err(CannotSignJwt::NoAudience));
    assert_eq!(issued(&[""], HOUR), Err(CannotSignJwt::NoAudience));
    assert_eq!(issued(&["a"], Duration::ZERO), Err(CannotSignJwt::Lifetime));
    assert_eq!(issued(&["a"], Duration::MAX), Err(CannotSignJwt::Lifetime));
    let capped = |cap| {
        JwtClaims::new(&id(SUBJECT), &["a".to_owned()], now(), HOUR, Some(cap))
            .map(|claims| claims.expires_at())
    };
    assert_eq!(capped(now() + 2 * HOUR), Ok(now() + HOUR));
    assert_eq!(capped(now() + HOUR / 2), Ok(now() + HOUR / 2));
    assert_eq!(capped(now()), Err(CannotSignJwt::Lifetime));
}

#[test]
fn a_token_signed_with_another_key_is_never_handed_out() {
    let key = Key::p256();
    let input = jwt_signing_input(&issued(&["ours"], HOUR).unwrap(), "k", JwtAlgorithm::Es256);
    let wrong = Key::p256().sign(input.as_bytes());
    assert_eq!(jwt_assemble(&input, JwtAlgorithm::Es256, &wrong, &key.spki), Err(CannotSignJwt::WrongKey));
    let malformed = Err(CannotSignJwt::Signature { algorithm: JwtAlgorithm::Es256 });
    assert_eq!(jwt_assemble(&input, JwtAlgorithm::Es256, b"junk", &key.spki), malformed);
    let long = Key::p384().sign(input.as_bytes());
    assert_eq!(jwt_assemble_unverified(&input, JwtAlgorithm::Es256, &long), malformed);
}
