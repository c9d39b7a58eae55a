//! X509-SVID 2 to 6.

use std::time::{Duration, SystemTime};

use super::support::{
    CA_USAGE, Ca, Forge, HOUR, Key, LEAF_USAGE, constraints, eku, id, key_usage, names, now, seq, td,
    uri_name,
};
use crate::asn1::{self, element};
use crate::{
    BadCertificate, BadX509Svid as Bad, Bundle, ExtensionFault, LeafFault, MAX_CHAIN_CERTIFICATES,
    X509Authority, X509Svid, is_tainted, oid, verify_x509_svid, verify_x509_svid_until,
};

const WORKLOAD: &str = "spiffe://example.org/workload";
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];

/// Signs a leaf after `change` and validates it.
fn judge(change: impl FnOnce(&mut Forge)) -> Result<X509Svid, Bad> {
    let ca = Ca::root("example.org");
    let mut forge = Forge::leaf(&ca, WORKLOAD);
    change(&mut forge);
    verify_x509_svid(&[forge.sign(&ca.key)], &ca.bundle(), now())
}

fn leaf_fault(change: impl FnOnce(&mut Forge)) -> LeafFault {
    match judge(change) {
        Err(Bad::Leaf(fault)) => fault,
        other => panic!("expected a broken leaf rule, got {other:?}"),
    }
}

#[test]
fn an_honest_leaf_is_accepted_and_described() {
    let svid = judge(|_| ()).unwrap();
    assert_eq!(svid.id, id(WORKLOAD));
    assert_eq!(svid.serial, "4386");
    assert_eq!((svid.not_before, svid.not_after), (now() - HOUR, now() + HOUR));
}

#[test]
fn a2_8_exactly_one_uri() {
    assert_eq!(leaf_fault(|f| f.unset(oid::SUBJECT_ALT_NAME)), LeafFault::NoUri);
    let dns = element(0x82, &[b"example.org"]);
    let only_dns = names(std::slice::from_ref(&dns));
    assert_eq!(leaf_fault(|f| f.set(oid::SUBJECT_ALT_NAME, false, only_dns)), LeafFault::NoUri);
    let two = names(&[uri_name(WORKLOAD), uri_name("spiffe://example.org/other")]);
    assert_eq!(leaf_fault(|f| f.set(oid::SUBJECT_ALT_NAME, false, two)), LeafFault::SeveralUris { count: 2 });
    let foreign = names(&[uri_name(WORKLOAD), uri_name("https://example.org/")]);
    assert_eq!(
        leaf_fault(|f| f.set(oid::SUBJECT_ALT_NAME, false, foreign)),
        LeafFault::SeveralUris { count: 2 }
    );
    // Names of other kinds are fine.
    let mail = element(0x81, &[b"a@example.org"]);
    let ip = element(0x87, &[&[127, 0, 0, 1]]);
    let mixed = names(&[dns, mail, uri_name(WORKLOAD), ip]);
    let svid = judge(|f| f.set(oid::SUBJECT_ALT_NAME, false, mixed)).unwrap();
    assert_eq!(svid.dns_names, ["example.org"]);
}

#[test]
fn a2_9_the_leafs_id_has_a_path() {
    let set = |uri: &str| {
        let value = names(&[uri_name(uri)]);
        move |f: &mut Forge| f.set(oid::SUBJECT_ALT_NAME, false, value)
    };
    assert_eq!(leaf_fault(set("spiffe://example.org")), LeafFault::NoPath);
    for uri in [
        "spiffe://example.org/",
        "https://example.org/a",
        "SPIFFE://example.org/a",
        "spiffe://example.org/a?b",
        "",
    ] {
        assert!(matches!(leaf_fault(set(uri)), LeafFault::Id(_)), "{uri:?}");
    }
}

#[test]
fn a2_9_an_empty_subject_needs_critical_names() {
    let value = names(&[uri_name(WORKLOAD)]);
    assert_eq!(leaf_fault(|f| f.subject = seq(&[])), LeafFault::NamesNotCritical);
    judge(|f| {
        f.subject = seq(&[]);
        f.set(oid::SUBJECT_ALT_NAME, true, value);
    })
    .unwrap();
}

#[test]
fn a2_10_signing_certificates_in_the_chain() {
    let root = Ca::root("example.org");
    let judge = |change: &dyn Fn(&mut Forge)| {
        let key = Key::p256();
        let mut between = Forge::authority(&root, &key);
        change(&mut between);
        let mut leaf = Forge::leaf(&root, WORKLOAD);
        leaf.issuer = between.subject.clone();
        verify_x509_svid(&[leaf.sign(&key), between.sign(&root.key)], &root.bundle(), now())
    };
    judge(&|_| ()).unwrap();
    // Optional: cRLSign left out, a path length, no SPIFFE ID at all, the trust domain with a lone slash.
    judge(&|f| f.set(oid::KEY_USAGE, true, key_usage(0x04))).unwrap();
    judge(&|f| f.set(oid::BASIC_CONSTRAINTS, true, seq(&[&[asn1::BOOLEAN, 1, 0xff, asn1::INTEGER, 1, 0]])))
        .unwrap();
    judge(&|f| f.unset(oid::SUBJECT_ALT_NAME)).unwrap();
    judge(&|f| f.set(oid::SUBJECT_ALT_NAME, false, names(&[uri_name("spiffe://example.org/")]))).unwrap();

    let refused = Bad::NotAnAuthority { index: 1 };
    assert_eq!(judge(&|f| f.set(oid::BASIC_CONSTRAINTS, true, constraints(false))), Err(refused.clone()));
    assert_eq!(judge(&|f| f.unset(oid::BASIC_CONSTRAINTS)), Err(refused.clone()));
    assert_eq!(judge(&|f| f.unset(oid::KEY_USAGE)), Err(refused.clone()));
    assert_eq!(judge(&|f| f.set(oid::KEY_USAGE, true, key_usage(0x82))), Err(refused));
    assert_eq!(
        judge(&|f| f.set(oid::SUBJECT_ALT_NAME, false, names(&[uri_name("spiffe://example.org/ca")]))),
        Err(Bad::AuthorityWithPath { index: 1 })
    );
}

#[test]
fn a2_10_a_signing_certificate_authenticates_nobody() {
    let ca = Ca::root("example.org");
    let verdict = verify_x509_svid(std::slice::from_ref(&ca.der), &ca.bundle(), now());
    assert_eq!(verdict, Err(Bad::Leaf(LeafFault::NoPath)));
    let fault = leaf_fault(|f| {
        f.set(oid::BASIC_CONSTRAINTS, true, constraints(true));
        f.set(oid::KEY_USAGE, true, key_usage(CA_USAGE));
    });
    assert_eq!(fault, LeafFault::Ca);
}

#[test]
fn a2_11_leaf_constraints_and_key_usage() {
    assert_eq!(leaf_fault(|f| f.set(oid::BASIC_CONSTRAINTS, true, constraints(true))), LeafFault::Ca);
    assert_eq!(leaf_fault(|f| f.unset(oid::KEY_USAGE)), LeafFault::NoKeyUsage);
    assert_eq!(leaf_fault(|f| f.set(oid::KEY_USAGE, false, key_usage(LEAF_USAGE))), LeafFault::NoKeyUsage);
    for (bits, fault) in [
        (0x28, LeafFault::NoDigitalSignature),
        (0xac, LeafFault::SigningKeyUsage),
        (0xaa, LeafFault::SigningKeyUsage),
        (0x84, LeafFault::SigningKeyUsage),
        (0x82, LeafFault::SigningKeyUsage),
    ] {
        assert_eq!(leaf_fault(|f| f.set(oid::KEY_USAGE, true, key_usage(bits))), fault, "{bits:#04x}");
    }
    for bits in [0x80, 0xa0, 0x88, 0xa8] {
        judge(|f| f.set(oid::KEY_USAGE, true, key_usage(bits))).unwrap();
    }
    // Absent constraints mean "no CA".
    judge(|f| f.unset(oid::BASIC_CONSTRAINTS)).unwrap();
}

#[test]
fn a2_12_extended_key_usage_has_both_roles_or_is_absent() {
    judge(|f| f.unset(oid::EXT_KEY_USAGE)).unwrap();
    let code_signing: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];
    judge(|f| f.set(oid::EXT_KEY_USAGE, true, eku(&[oid::CLIENT_AUTH, oid::SERVER_AUTH, code_signing])))
        .unwrap();
    for purposes in [&[oid::SERVER_AUTH][..], &[oid::CLIENT_AUTH], &[code_signing], &[oid::ANY_EXT_KEY_USAGE]]
    {
        assert_eq!(
            leaf_fault(|f| f.set(oid::EXT_KEY_USAGE, false, eku(purposes))),
            LeafFault::ExtendedKeyUsage
        );
    }
}

#[test]
fn a2_12_extended_key_usage_of_an_intermediate_must_allow_both_roles() {
    let root = Ca::root("example.org");
    for (purposes, fine) in [
        (&[oid::SERVER_AUTH, oid::CLIENT_AUTH][..], true),
        (&[oid::ANY_EXT_KEY_USAGE], true),
        (&[oid::SERVER_AUTH], false),
        (&[oid::CLIENT_AUTH], false),
    ] {
        let key = Key::p256();
        let mut between = Forge::authority(&root, &key);
        between.set(oid::EXT_KEY_USAGE, false, eku(purposes));
        let mut leaf = Forge::leaf(&root, WORKLOAD);
        leaf.issuer = between.subject.clone();
        let verdict = verify_x509_svid(&[leaf.sign(&key), between.sign(&root.key)], &root.bundle(), now());
        assert_eq!(verdict.is_ok(), fine, "{verdict:?}");
    }
}

#[test]
fn a2_13_path_validation() {
    let root = Ca::root("example.org");
    let below = root.downstream(Key::p384());
    let deeper = below.downstream(Key::rsa());
    for ca in [&root, &below, &deeper] {
        verify_x509_svid(&ca.workload(WORKLOAD), &root.bundle(), now()).unwrap();
    }
    let untrusted = Err(Bad::Untrusted { id: id(WORKLOAD) });
    // Another root with the same name, a missing intermediate, a signature by the wrong key.
    assert_eq!(
        verify_x509_svid(&root.workload(WORKLOAD), &Ca::root("example.org").bundle(), now()).map(|_| ()),
        untrusted
    );
    let mut chain = deeper.workload(WORKLOAD);
    chain.remove(1);
    assert_eq!(verify_x509_svid(&chain, &root.bundle(), now()).map(|_| ()), untrusted);
    let forged = Forge::leaf(&root, WORKLOAD).sign(&Key::p256());
    assert!(verify_x509_svid(&[forged], &root.bundle(), now()).is_err());
    // A leaf is no authority for another leaf.
    let leaf_key = Key::p256();
    let leaf = root.issue(crate::Template::Agent, &id(WORKLOAD), &leaf_key.spki, 3);
    let mut child = Forge::leaf(&root, "spiffe://example.org/child");
    child.issuer = crate::Certificate::parse(&leaf).unwrap().subject_der;
    let verdict = verify_x509_svid(&[child.sign(&leaf_key), leaf], &root.bundle(), now());
    assert_eq!(verdict, Err(Bad::NotAnAuthority { index: 1 }));
}

#[test]
fn a2_13_path_length_is_obeyed() {
    let root = Ca::root("example.org");
    let (one, two) = (Key::p256(), Key::p256());
    let mut first = Forge::authority(&root, &one);
    first.set(oid::BASIC_CONSTRAINTS, true, seq(&[&[asn1::BOOLEAN, 1, 0xff, asn1::INTEGER, 1, 0]]));
    let mut second = Forge::authority(&root, &two);
    second.issuer = first.subject.clone();
    second.subject =
        crate::DistinguishedName { organization: vec!["Below".to_owned()], ..Default::default() }.to_der();
    let mut leaf = Forge::leaf(&root, WORKLOAD);
    leaf.issuer = second.subject.clone();
    let chain = [leaf.sign(&two), second.sign(&one), first.sign(&root.key)];
    let verdict = verify_x509_svid(&chain, &root.bundle(), now());
    assert!(
        matches!(verdict, Err(Bad::Path { cause: webpki::Error::PathLenConstraintViolated, .. })),
        "{verdict:?}"
    );
}

#[test]
fn a2_13_validity_of_leaf_and_authorities() {
    let ca = Ca::root("example.org");
    let chain = ca.workload(WORKLOAD);
    let at = |now: SystemTime| verify_x509_svid(&chain, &ca.bundle(), now).map(|_| ());
    let second = Duration::from_secs(1);
    at(now() - Duration::from_secs(10)).unwrap();
    at(now() + HOUR).unwrap();
    assert_eq!(at(now() + HOUR + second), Err(Bad::Expired { id: id(WORKLOAD) }));
    // Before its notBefore the root is not valid either.
    assert_eq!(
        at(now() - Duration::from_secs(11)),
        Err(Bad::NoAuthority { trust_domain: td("example.org") })
    );
    assert_eq!(at(now() + 25 * HOUR), Err(Bad::NoAuthority { trust_domain: td("example.org") }));
    let early = judge(|f| f.not_before = now() + HOUR / 2);
    assert_eq!(early, Err(Bad::NotYetValid { id: id(WORKLOAD) }));
    assert!(at(SystemTime::UNIX_EPOCH - second).is_err());
}

#[test]
fn a2_13_a_verdict_stands_until_the_first_certificate_of_the_path_ends() {
    let root = Ca::root("example.org");
    let key = Key::p256();
    // How long a leaf and the CA above it live; the root lives 24 hours.
    let until = |leaf_ends: Duration, between_ends: Duration| {
        let mut between = Forge::authority(&root, &key);
        between.not_after = now() + between_ends;
        let mut leaf = Forge::leaf(&root, WORKLOAD);
        leaf.issuer = between.subject.clone();
        leaf.not_after = now() + leaf_ends;
        let chain = [leaf.sign(&key), between.sign(&root.key)];
        verify_x509_svid_until(&chain, &root.bundle(), now()).unwrap().1
    };
    assert_eq!(until(HOUR, 2 * HOUR), now() + HOUR);
    assert_eq!(until(2 * HOUR, HOUR), now() + HOUR);
    assert_eq!(until(48 * HOUR, 48 * HOUR), now() + 24 * HOUR, "the root's end");
    // Of two authorities only the one that the path leads to counts.
    let mut bundle = root.bundle();
    let mut other = Forge::authority(&root, &key);
    other.not_after = now() + HOUR / 2;
    bundle.x509_authorities.insert(0, X509Authority { der: other.sign(&key), tainted: false });
    let chain = root.workload(WORKLOAD);
    assert_eq!(verify_x509_svid_until(&chain, &bundle, now()).unwrap().1, now() + HOUR);
}

#[test]
fn a2_13_only_the_bundle_of_the_ids_own_trust_domain() {
    let ca = Ca::root("example.org");
    let foreign = Bundle { trust_domain: td("other.org"), ..ca.bundle() };
    assert_eq!(
        verify_x509_svid(&ca.workload(WORKLOAD), &foreign, now()),
        Err(Bad::ForeignBundle { id: id(WORKLOAD), bundle: td("other.org") })
    );
    // The authority of one domain signs an ID of another: that domain's bundle does not hold it.
    let leaf = Forge::leaf(&ca, "spiffe://other.org/x").sign(&ca.key);
    let verdict = verify_x509_svid(&[leaf], &Ca::root("other.org").bundle(), now());
    assert!(matches!(verdict, Err(Bad::Untrusted { .. })), "{verdict:?}");
}

#[test]
fn a2_13_a_bundle_entry_that_is_no_ca_is_no_authority() {
    let ca = Ca::root("example.org");
    let leaf = ca.workload(WORKLOAD);
    let mut bundle = Bundle::new(td("example.org"));
    bundle.x509_authorities.push(X509Authority { der: leaf[0].clone(), tainted: false });
    assert_eq!(
        verify_x509_svid(&leaf, &bundle, now()),
        Err(Bad::NoAuthority { trust_domain: td("example.org") })
    );
}

#[test]
fn a2_14_uri_name_constraints_are_never_ignored() {
    let root = Ca::root("example.org");
    let key = Key::p256();
    let mut between = Forge::authority(&root, &key);
    let subtree = seq(&[&element(0x86, &[b"example.org"])]);
    between.set(NAME_CONSTRAINTS, true, seq(&[&element(0xa0, &[&subtree])]));
    let mut leaf = Forge::leaf(&root, WORKLOAD);
    leaf.issuer = between.subject.clone();
    let verdict = verify_x509_svid(&[leaf.sign(&key), between.sign(&root.key)], &root.bundle(), now());
    assert!(matches!(verdict, Err(Bad::Path { .. })), "{verdict:?}");
    // What we issue has none.
    let own = root.downstream(Key::p256());
    assert!(!own.der.windows(3).any(|window| window == NAME_CONSTRAINTS));
}

#[test]
fn unknown_critical_extensions_are_refused() {
    let private: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x63];
    judge(|f| f.set(private, false, vec![5, 0])).unwrap();
    assert!(matches!(judge(|f| f.set(private, true, vec![5, 0])), Err(Bad::Path { .. })));
}

#[test]
fn malformed_certificates_are_refused() {
    let cause = |change: &dyn Fn(&mut Forge)| match judge(change) {
        Err(Bad::Certificate { index: 0, cause }) => cause,
        other => panic!("expected a malformed certificate, got {other:?}"),
    };
    assert_eq!(cause(&|f| f.version = vec![]), BadCertificate::Version);
    assert_eq!(cause(&|f| f.version = vec![0xa0, 3, 2, 1, 1]), BadCertificate::Version);
    assert_eq!(cause(&|f| f.serial = vec![2, 1, 0]), BadCertificate::Serial);
    assert_eq!(cause(&|f| f.serial = asn1::integer(&[1; 21])), BadCertificate::Serial);
    assert!(matches!(cause(&|f| f.serial = vec![2, 1, 0x80]), BadCertificate::Malformed(_)));
    assert!(matches!(cause(&|f| f.serial = vec![2, 2, 0, 1]), BadCertificate::Malformed(_)));
    let rsa = crate::SignatureAlgorithm::RsaSha256.identifier();
    assert_eq!(cause(&|f| f.outer_algorithm = Some(rsa.clone())), BadCertificate::SignatureAlgorithm);
    let extension = |change: &dyn Fn(&mut Forge)| match cause(change) {
        BadCertificate::Extension(fault) => fault,
        other => panic!("expected an extension fault, got {other:?}"),
    };
    let repeated = extension(&|f| f.extensions.push((oid::KEY_USAGE, true, key_usage(0x80))));
    assert_eq!(repeated, ExtensionFault::Repeated { oid: "2.5.29.15".to_owned() });
    let nul = names(&[element(0x82, &[b"a\0.org"]), uri_name(WORKLOAD)]);
    assert_eq!(extension(&|f| f.set(oid::SUBJECT_ALT_NAME, false, nul.clone())), ExtensionFault::NameText);
    let many = names(&vec![element(0x82, &[b"a.org"]); 600]);
    let fault = extension(&|f| f.set(oid::SUBJECT_ALT_NAME, false, many.clone()));
    assert_eq!(fault, ExtensionFault::TooManyNames { limit: 512 });
    for (id, value) in [
        (oid::KEY_USAGE, vec![]),
        (oid::KEY_USAGE, vec![3, 1, 0]),
        (oid::KEY_USAGE, vec![3, 2, 1, 0x81]),
        (oid::BASIC_CONSTRAINTS, vec![0x30, 3, 1, 1, 1]),
        (oid::BASIC_CONSTRAINTS, vec![0x30, 0, 0]),
        (oid::EXT_KEY_USAGE, vec![0x30, 2, 2, 0]),
        (oid::SUBJECT_KEY_ID, vec![4, 5, 0]),
        (oid::AUTHORITY_KEY_ID, vec![0x31, 0]),
        (oid::SUBJECT_ALT_NAME, vec![0x30, 2, 0x0c, 0]),
    ] {
        let fault = extension(&|f| f.set(id, true, value.clone()));
        assert!(matches!(fault, ExtensionFault::Malformed { .. }), "{id:?} {value:?}: {fault:?}");
    }
}

#[test]
fn chains_are_bounded_and_not_empty() {
    let ca = Ca::root("example.org");
    assert_eq!(X509Svid::parse(Vec::new()), Err(Bad::Empty));
    let long = vec![ca.der.clone(); MAX_CHAIN_CERTIFICATES + 1];
    assert_eq!(X509Svid::parse(long), Err(Bad::ChainTooLong { count: MAX_CHAIN_CERTIFICATES + 1 }));
    let huge = vec![0x30; 64 * 1024 + 1];
    let cause = BadCertificate::TooLong { len: 64 * 1024 + 1 };
    assert_eq!(X509Svid::parse(vec![huge]), Err(Bad::Certificate { index: 0, cause }));
    let mut trailing = ca.workload(WORKLOAD);
    trailing[0].push(0);
    assert!(matches!(X509Svid::parse(trailing), Err(Bad::Certificate { index: 0, .. })));
}

#[test]
fn taint_marks_but_does_not_break_trust() {
    let (old, new) = (Ca::root("example.org"), Ca::root("example.org"));
    let mut bundle = old.bundle();
    bundle.x509_authorities.extend(new.bundle().x509_authorities);
    let (by_old, by_new) = (old.workload(WORKLOAD), new.workload(WORKLOAD));
    assert!(!is_tainted(&by_old, &bundle, now()));
    bundle.x509_authorities[0].tainted = true;
    assert!(is_tainted(&by_old, &bundle, now()));
    assert!(!is_tainted(&by_new, &bundle, now()));
    verify_x509_svid(&by_old, &bundle, now()).unwrap();
    bundle.x509_authorities.remove(0);
    assert_eq!(verify_x509_svid(&by_old, &bundle, now()), Err(Bad::Untrusted { id: id(WORKLOAD) }));
}
