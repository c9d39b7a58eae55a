//! Properties of every decoder: no panic on any bytes, and what is accepted survives a round trip.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::support::{Ca, Key, id, now, td};
use crate::asn1;
use crate::{
    Bundle, Certificate, Csr, DistinguishedName, JwtAlgorithm, JwtClaims, Selector, SpiffeId, TrustDomain,
    X509Svid, assemble_csr, bundles_from_map, check_dns_name, check_public_key, csr_to_be_signed,
    jwt_assemble, jwt_signing_input, pem_decode, pem_encode, subject_key_id, verify_jwt_svid,
    verify_x509_svid,
};

static CHAIN: LazyLock<(Vec<Vec<u8>>, Bundle)> = LazyLock::new(|| {
    let root = Ca::root("example.org");
    (root.downstream(Key::p256()).workload("spiffe://example.org/w"), root.bundle())
});
static CSR: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = Key::p256();
    let tbs = csr_to_be_signed(&DistinguishedName::default_svid().to_der(), &key.spki, Some("spiffe://a/b"));
    assemble_csr(&tbs, key.alg, &key.sign(&tbs))
});
static TOKEN: LazyLock<(String, Bundle)> = LazyLock::new(|| {
    let key = Key::p256();
    let claims = JwtClaims::new(
        &id("spiffe://example.org/w"),
        &["ours".to_owned()],
        now(),
        std::time::Duration::from_secs(60),
        None,
    );
    let input = jwt_signing_input(&claims.unwrap(), "k", JwtAlgorithm::Es256);
    let token = jwt_assemble(&input, JwtAlgorithm::Es256, &key.sign(input.as_bytes()), &key.spki).unwrap();
    let mut bundle = Bundle::new(td("example.org"));
    bundle.jwt_authorities.push(crate::JwtAuthority {
        key_id: "k".to_owned(),
        spki_der: key.spki,
        expires_at: 0,
        tainted: false,
    });
    (token, bundle)
});

/// A valid input with a few bytes changed, cut or added: gets further into a decoder than noise.
fn damaged(valid: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8);
    prop::collection::vec(change, 1..4).prop_map(move |changes| {
        let mut bytes = valid.to_vec();
        for (at, value, how) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes.insert(at, value),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn ids_round_trip(text in "(spiffe://)?[a-zA-Z0-9._/%?#@:-]{0,40}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text.clone());
            prop_assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()), Ok(id.clone()));
            prop_assert!(id.is_member_of(&id.trust_domain()));
            prop_assert_eq!(TrustDomain::from_name_or_id(&text), Ok(id.trust_domain()));
        }
    }

    #[test]
    fn any_text_is_no_panic(text in "\\PC{0,80}") {
        let _id = text.parse::<SpiffeId>().is_ok();
        let _dns = check_dns_name(&text).is_ok();
        if let Ok(name) = TrustDomain::from_name_or_id(&text) {
            prop_assert_eq!(TrustDomain::new(name.as_str()), Ok(name));
        }
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string(), text);
        }
    }

    #[test]
    fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _certificate = Certificate::parse(&bytes).is_ok();
        let _csr = Csr::parse(&bytes).is_ok();
        let _bundle = Bundle::from_jwks(td("a"), &bytes).is_ok();
        let _der = Bundle::from_der_concat(td("a"), &bytes).is_ok();
        let _map = bundles_from_map(&bytes).is_ok();
        let _pem = pem_decode(&bytes).is_ok();
        let _key = check_public_key(&bytes).is_ok();
        let _id = subject_key_id(&bytes);
        let _svid = X509Svid::parse(vec![bytes]).is_ok();
    }

    #[test]
    fn pem_round_trips(ders in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..5)) {
        prop_assert_eq!(pem_decode(pem_encode(&ders).as_bytes()), Ok(ders));
    }

    #[test]
    fn a_damaged_leaf_is_never_trusted(leaf in damaged(&CHAIN.0[0])) {
        if leaf != CHAIN.0[0] {
            let chain = [leaf, CHAIN.0[1].clone()];
            prop_assert!(verify_x509_svid(&chain, &CHAIN.1, now()).is_err());
        }
    }

    #[test]
    fn a_damaged_intermediate_is_never_trusted(between in damaged(&CHAIN.0[1])) {
        if between != CHAIN.0[1] {
            let chain = [CHAIN.0[0].clone(), between];
            prop_assert!(verify_x509_svid(&chain, &CHAIN.1, now()).is_err());
        }
    }

    #[test]
    fn a_damaged_csr_has_no_valid_signature(bytes in damaged(&CSR)) {
        if bytes != *CSR && let Ok(csr) = Csr::parse(&bytes) {
            prop_assert!(!csr.signature_valid);
        }
    }

    #[test]
    fn a_damaged_token_is_never_accepted(bytes in damaged(TOKEN.0.as_bytes())) {
        if let Ok(text) = String::from_utf8(bytes) && text != TOKEN.0 {
            let verdict = verify_jwt_svid(&text, &["ours"], |_| Some(&TOKEN.1), now(), std::time::Duration::ZERO);
            prop_assert!(verdict.is_err());
        }
    }

    #[test]
    fn accepted_bundles_round_trip(sequence in any::<u64>(), hint in 0..i64::MAX) {
        let mut bundle = TOKEN.1.clone();
        bundle.x509_authorities = CHAIN.1.x509_authorities.clone();
        bundle.sequence_number = sequence;
        bundle.refresh_hint = hint;
        let read = Bundle::from_jwks(td("example.org"), &bundle.to_jwks());
        prop_assert_eq!(read.ok(), Some(bundle));
    }

    #[test]
    fn decimal_is_right(value in any::<u128>()) {
        prop_assert_eq!(asn1::decimal(&value.to_be_bytes()), value.to_string());
    }

    #[test]
    fn integers_and_elements_are_der(magnitude in prop::collection::vec(any::<u8>(), 0..200)) {
        let encoded = asn1::integer(&magnitude);
        let mut cursor = asn1::Cursor::new(&encoded).unwrap();
        let read = cursor.unsigned().unwrap().to_vec();
        cursor.finish().unwrap();
        prop_assert_eq!(asn1::decimal(&read), asn1::decimal(&magnitude));
    }
}
