use proptest::prelude::*;

use super::*;

#[test]
fn writes_what_go_writes() {
    let payload = Payload { certificates: vec![b"leaf".to_vec(), b"ca".to_vec()] };
    assert_eq!(payload.to_json(), br#"{"certificates":["bGVhZg==","Y2E="]}"#);
    assert_eq!(
        Challenge::Rsa(b"n".to_vec()).to_json(),
        br#"{"rsa_signature":{"nonce":"bg=="},"ecdsa_signature":null}"#
    );
    assert_eq!(
        Challenge::Ecdsa(b"n".to_vec()).to_json(),
        br#"{"rsa_signature":null,"ecdsa_signature":{"nonce":"bg=="}}"#
    );
    let rsa = RsaResponse { nonce: b"n".to_vec(), signature: b"s".to_vec() };
    assert_eq!(
        Response { rsa: Some(rsa), ecdsa: None }.to_json(),
        br#"{"rsa_signature":{"nonce":"bg==","signature":"cw=="},"ecdsa_signature":null}"#
    );
    let ecdsa = EcdsaResponse { nonce: b"n".to_vec(), r: b"r".to_vec(), s: b"s".to_vec() };
    assert_eq!(
        Response { rsa: None, ecdsa: Some(ecdsa) }.to_json(),
        br#"{"rsa_signature":null,"ecdsa_signature":{"nonce":"bg==","r":"cg==","s":"cw=="}}"#
    );
}

#[test]
fn reads_what_go_reads() {
    for json in [
        &br#"{"certificates":["bGVhZg=="]}"#[..],
        br#" { "Certificates" : [ "bGVh\nZg==" ] , "more": {"a":[1,{}]} } "#,
        br#"{"CERTIFICATES":["bGVhZh=="]}"#,
        b"{\"certif\\u0069cates\":[\"bGVhZg==\"]}",
    ] {
        assert_eq!(
            Payload::from_json(json).unwrap().certificates,
            [b"leaf"],
            "{}",
            String::from_utf8_lossy(json)
        );
    }
    for empty in [&b"{}"[..], br#"{"certificates":null}"#, br#"{"certificates":[]}"#] {
        assert!(Payload::from_json(empty).unwrap().certificates.is_empty());
    }
    assert_eq!(Response::from_json(b"{}").unwrap(), Response::default());
    assert_eq!(
        Challenge::from_json(br#"{"ECDSA_signature":{"Nonce":"bg=="}}"#).unwrap(),
        Challenge::Ecdsa(b"n".to_vec())
    );
}

#[test]
fn refuses_everything_else() {
    for json in [
        &b""[..],
        b"null",
        b"[]",
        b"{",
        br#"{"certificates":["bGVhZg=="]}x"#,
        br#"{"certificates":["bGVhZg=="]} {}"#,
        br#"{"certificates":["bGVhZg"]}"#,
        br#"{"certificates":["bGVhZg="]}"#,
        br#"{"certificates":["bGVh Zg=="]}"#,
        br#"{"certificates":["-_-_"]}"#,
        br#"{"certificates":"bGVhZg=="}"#,
        br#"{"certificates":[1]}"#,
        br#"{"certificates":[],"Certificates":[]}"#,
    ] {
        assert!(Payload::from_json(json).is_err(), "{}", String::from_utf8_lossy(json));
    }
    for json in [&b"{}"[..], br#"{"rsa_signature":{"nonce":"bg=="},"ecdsa_signature":{"nonce":"bg=="}}"#] {
        assert!(Challenge::from_json(json).is_err());
    }
    let many = format!("{{\"certificates\":[{}\"\"]}}", "\"\",".repeat(MAX_CERTIFICATES));
    assert!(Payload::from_json(many.as_bytes()).is_err());
    let deep = format!("{{\"x\":{}", "[".repeat(100_000));
    assert!(Payload::from_json(deep.as_bytes()).is_err());
    let long = vec![b' '; MAX_PAYLOAD + 1];
    assert!(matches!(Payload::from_json(&long), Err(BadMessage::TooLong { .. })));
    assert!(matches!(Response::from_json(&long[..=MAX_MESSAGE]), Err(BadMessage::TooLong { .. })));
}

proptest! {
    #[test]
    fn no_bytes_do_harm(json in prop::collection::vec(any::<u8>(), 0..200)) {
        drop((Payload::from_json(&json), Challenge::from_json(&json), Response::from_json(&json)));
    }

    #[test]
    fn messages_round_trip(certificates in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
                           a in prop::collection::vec(any::<u8>(), 0..40), b in prop::collection::vec(any::<u8>(), 0..40)) {
        let payload = Payload { certificates };
        prop_assert_eq!(&Payload::from_json(&payload.to_json()).unwrap(), &payload);
        let challenge = Challenge::Rsa(a.clone());
        prop_assert_eq!(&Challenge::from_json(&challenge.to_json()).unwrap(), &challenge);
        let response = Response {
            rsa: Some(RsaResponse { nonce: a.clone(), signature: b.clone() }),
            ecdsa: Some(EcdsaResponse { nonce: b.clone(), r: a, s: b }),
        };
        prop_assert_eq!(&Response::from_json(&response.to_json()).unwrap(), &response);
    }
}
