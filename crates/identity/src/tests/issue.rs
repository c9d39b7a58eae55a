//! Templates, names, lifetimes and serial numbers of what we issue.

use std::time::{Duration, UNIX_EPOCH};

use super::support::{
    Ca, Forge, HOUR, Key, constraints, id, key_usage, names, now, seq, serial, td, uri_name,
};
use crate::asn1::{self, element};
use crate::{
    CannotIssue, Certificate, DistinguishedName, Issuer, SignatureAlgorithm, Template, certificate, oid,
    subject_key_id, verify_x509_svid,
};

const AGENT: &str = "spiffe://example.org/spire/agent/x509pop/1";

fn attribute(kind: &[u8], tag: u8, value: &str) -> Vec<u8> {
    seq(&[&element(asn1::OID, &[kind]), &element(tag, &[value.as_bytes()])])
}

fn rdn(pairs: &[Vec<u8>]) -> Vec<u8> {
    let pairs: Vec<&[u8]> = pairs.iter().map(Vec::as_slice).collect();
    element(asn1::SET, &pairs)
}

fn printable(kind: &[u8], value: &str) -> Vec<u8> {
    rdn(&[attribute(kind, asn1::PRINTABLE_STRING, value)])
}

/// Object identifiers and critical flags of the extensions in the order they stand, found with the plainest
/// code possible, independent of the crate's own parser.
fn critical_extensions(der: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let known = [
        oid::KEY_USAGE,
        oid::EXT_KEY_USAGE,
        oid::BASIC_CONSTRAINTS,
        oid::SUBJECT_KEY_ID,
        oid::AUTHORITY_KEY_ID,
        oid::SUBJECT_ALT_NAME,
    ];
    let mut found = Vec::new();
    for rest in (0..der.len()).map(|start| &der[start..]) {
        for known in known.iter().filter(|known| rest.starts_with(&[&[asn1::OID, 3], **known].concat())) {
            found.push((known.to_vec(), rest[5..].starts_with(&[asn1::BOOLEAN, 1, 0xff])));
        }
    }
    found
}

#[test]
fn leaf_templates_follow_spire() {
    let ca = Ca::root("example.org");
    let key = Key::p256();
    for template in [Template::Server, Template::Agent, Template::Workload { dns_names: &[] }] {
        let der = ca.issue(template, &id(AGENT), &key.spki, 7);
        let cert = Certificate::parse(&der).unwrap();
        assert_eq!(cert.subject_der, DistinguishedName::default_svid().to_der());
        assert_eq!(cert.issuer_der, ca.issuer.subject_der());
        assert_eq!(cert.spki_der, key.spki);
        assert_eq!(cert.serial, serial(7));
        assert_eq!((cert.not_before, cert.not_after), (now() - Duration::from_secs(10), now() + HOUR));
        let ext = &cert.extensions;
        let usage = ext.key_usage.unwrap();
        assert!(usage.digital_signature() && usage.key_encipherment() && usage.key_agreement());
        assert!(!usage.key_cert_sign() && !usage.crl_sign());
        let purposes = ext.extended_key_usage.unwrap();
        assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
        let constraints = ext.basic_constraints.unwrap();
        assert!(!constraints.ca && !constraints.has_path_len);
        assert_eq!(ext.subject_key_id.as_deref(), Some(&subject_key_id(&key.spki)[..]));
        assert_eq!(ext.authority_key_id.as_deref(), Some(&subject_key_id(&ca.key.spki)[..]));
        let names = ext.names.as_ref().unwrap();
        assert_eq!(
            (names.uris.as_slice(), names.dns_names.len(), names.others),
            (&[AGENT.to_owned()][..], 0, 0)
        );
        assert_eq!(
            critical_extensions(&der),
            [
                (oid::KEY_USAGE.to_vec(), true),
                (oid::EXT_KEY_USAGE.to_vec(), false),
                (oid::BASIC_CONSTRAINTS.to_vec(), true),
                (oid::SUBJECT_KEY_ID.to_vec(), false),
                (oid::AUTHORITY_KEY_ID.to_vec(), false),
                (oid::SUBJECT_ALT_NAME.to_vec(), false),
            ]
        );
    }
}

#[test]
fn self_signed_ca_template_follows_spire() {
    let ca = Ca::root("example.org");
    let cert = Certificate::parse(&ca.der).unwrap();
    let number = u128::from_be_bytes(serial(1)).to_string();
    let subject = DistinguishedName { serial_number: number.clone(), ..DistinguishedName::default_ca() };
    assert_eq!(cert.subject_der, subject.to_der());
    assert_eq!(cert.issuer_der, cert.subject_der);
    assert_eq!(cert.serial_decimal(), number);
    assert_eq!(cert.not_after, now() + 24 * HOUR);
    let ext = &cert.extensions;
    let usage = ext.key_usage.unwrap();
    assert!(usage.critical && usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    let constraints = ext.basic_constraints.unwrap();
    assert!(constraints.ca && constraints.critical && !constraints.has_path_len);
    assert_eq!(ext.extended_key_usage, None);
    assert_eq!(ext.authority_key_id, None);
    assert_eq!(ext.subject_key_id.as_deref(), Some(&subject_key_id(&ca.key.spki)[..]));
    assert_eq!(ext.names.as_ref().unwrap().uris, ["spiffe://example.org"]);
    // Nothing configured still gives a name, so the alternative names need not be critical.
    let nameless = Ca::root_with("example.org", Key::p256(), &DistinguishedName::default());
    assert_eq!(
        Certificate::parse(&nameless.der).unwrap().subject_der,
        seq(&[&printable(oid::SERIAL_NUMBER, &number)])
    );
    // A configured serialNumber attribute stays.
    let subject = DistinguishedName { serial_number: "17".to_owned(), ..DistinguishedName::default_ca() };
    let ca = Ca::root_with("example.org", Key::p384(), &subject);
    assert_eq!(Certificate::parse(&ca.der).unwrap().subject_der, subject.to_der());
}

#[test]
fn downstream_ca_template_follows_spire() {
    let root = Ca::root("example.org");
    let below = root.downstream(Key::p256());
    let cert = Certificate::parse(&below.der).unwrap();
    let number = u128::from_be_bytes(serial(1)).to_string();
    let expected = DistinguishedName {
        organizational_unit: vec!["DOWNSTREAM-1".to_owned()],
        serial_number: number.clone(),
        ..DistinguishedName::default_ca()
    };
    assert_eq!(cert.subject_der, expected.to_der());
    assert_eq!(cert.extensions.authority_key_id.as_deref(), Some(&subject_key_id(&root.key.spki)[..]));
    assert!(cert.is_authority() && cert.extensions.extended_key_usage.is_none());
    assert_eq!(cert.extensions.names.unwrap().uris, ["spiffe://example.org"]);
    // The next level replaces the unit instead of adding one.
    let deeper = Certificate::parse(&below.downstream(Key::p256()).der).unwrap();
    let expected = DistinguishedName { organizational_unit: vec!["DOWNSTREAM-2".to_owned()], ..expected };
    assert_eq!(deeper.subject_der, expected.to_der());
}

#[test]
fn the_first_dns_name_becomes_the_common_name() {
    let ca = Ca::root("example.org");
    let dns_names = ["db.example.org".to_owned(), "*.example.org".to_owned()];
    let der = ca.issue(
        Template::Workload { dns_names: &dns_names },
        &id("spiffe://example.org/db"),
        &Key::p256().spki,
        3,
    );
    let cert = Certificate::parse(&der).unwrap();
    let subject =
        DistinguishedName { common_name: dns_names[0].clone(), ..DistinguishedName::default_svid() };
    assert_eq!(cert.subject_der, subject.to_der());
    assert_eq!(cert.extensions.names.unwrap().dns_names, dns_names);
    // PrintableString has no '*', so such a name is UTF8String.
    let wild = ["*.example.org".to_owned()];
    let der = ca.issue(
        Template::Workload { dns_names: &wild },
        &id("spiffe://example.org/db"),
        &Key::p256().spki,
        3,
    );
    let common = rdn(&[attribute(oid::COMMON_NAME, asn1::UTF8_STRING, "*.example.org")]);
    assert!(Certificate::parse(&der).unwrap().subject_der.ends_with(&common));
}

#[test]
fn a_requested_subject_keeps_its_bytes_except_the_common_name() {
    let ca = Ca::root("example.org");
    let component: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19];
    let dc = rdn(&[attribute(component, 0x16, "org")]);
    let mixed = rdn(&[
        attribute(oid::COMMON_NAME, asn1::UTF8_STRING, "old"),
        attribute(oid::ORGANIZATIONAL_UNIT, asn1::UTF8_STRING, "Ünit"),
    ]);
    let unit_only = rdn(&[attribute(oid::ORGANIZATIONAL_UNIT, asn1::UTF8_STRING, "Ünit")]);
    let subject = seq(&[&dc, &mixed, &printable(oid::SERIAL_NUMBER, "5")]);
    let issue = |dns_names: &[String], subject_der: &[u8]| {
        let template = Template::WorkloadWithSubject { subject_der, dns_names };
        let der = ca.issue(template, &id("spiffe://example.org/db"), &Key::p256().spki, 3);
        Certificate::parse(&der).unwrap().subject_der
    };
    assert_eq!(issue(&[], &subject), subject);
    let renamed =
        seq(&[&dc, &unit_only, &printable(oid::COMMON_NAME, "a.org"), &printable(oid::SERIAL_NUMBER, "5")]);
    assert_eq!(issue(&["a.org".to_owned()], &subject), renamed);
    // What is no name never becomes a subject.
    for junk in [
        &b""[..],
        b"junk",
        &[0x30, 2, 5, 0],
        &[0x30, 2, 0x31, 0],
        &seq(&[&rdn(&[seq(&[])])]),
        &[&subject[..], &[0]].concat(),
    ] {
        let template = Template::WorkloadWithSubject { subject_der: junk, dns_names: &[] };
        let (id, spki) = (id("spiffe://example.org/db"), Key::p256().spki);
        let refused = certificate(template, &id, &spki, serial(1), now(), HOUR, &ca.issuer, ca.key.alg);
        assert!(matches!(refused, Err(CannotIssue::Subject(_))), "{junk:?}: {refused:?}");
    }
    // An empty subject means the default one.
    assert_eq!(issue(&[], &seq(&[])), DistinguishedName::default_svid().to_der());
}

#[test]
fn several_values_share_one_sorted_relative_name() {
    let name = DistinguishedName {
        country: vec!["US".to_owned()],
        organization: vec!["Alpha".to_owned(), "Zeta".to_owned()],
        ..Default::default()
    };
    let pairs = [
        attribute(oid::ORGANIZATION, asn1::PRINTABLE_STRING, "Zeta"),
        attribute(oid::ORGANIZATION, asn1::PRINTABLE_STRING, "Alpha"),
    ];
    // The shorter encoding sorts first.
    assert_eq!(name.to_der(), seq(&[&printable(oid::COUNTRY, "US"), &rdn(&pairs)]));
}

/// Issuers as other people's PKIs name them: what a leaf repeats must be their bytes, whatever those are.
#[test]
fn the_leafs_issuer_is_the_cas_subject_byte_for_byte() {
    let component: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19];
    let dc = |value: &str| rdn(&[attribute(component, 0x16, value)]);
    let unit = |value: &str| printable(oid::ORGANIZATIONAL_UNIT, value);
    let subjects = [
        seq(&[&dc("org"), &dc("example"), &printable(oid::COMMON_NAME, "CA")]),
        seq(&[&unit("One"), &unit("Two"), &printable(oid::ORGANIZATION, "Later than the units")]),
        seq(&[&rdn(&[
            attribute(oid::COMMON_NAME, asn1::UTF8_STRING, "Multi"),
            attribute(oid::SERIAL_NUMBER, asn1::PRINTABLE_STRING, "1"),
        ])]),
        // Not in DER's order, as some CAs write it, and in a string type we never write.
        seq(&[&rdn(&[
            attribute(oid::ORGANIZATIONAL_UNIT, 0x14, "Teletex, second type first"),
            attribute(oid::COMMON_NAME, 0x14, "a"),
        ])]),
        seq(&[&printable(oid::COMMON_NAME, "CN first"), &printable(oid::COUNTRY, "US")]),
    ];
    for subject in subjects {
        let (root, key) = (Ca::root("example.org"), Key::p256());
        let mut forge = Forge::authority(&root, &key);
        forge.subject = subject.clone();
        let ca_der = forge.sign(&root.key);
        let ca = Ca::of(td("example.org"), ca_der.clone(), key, vec![ca_der]);
        let chain = ca.workload("spiffe://example.org/w");
        assert_eq!(Certificate::parse(&chain[0]).unwrap().issuer_der, subject);
        verify_x509_svid(&chain, &root.bundle(), now()).unwrap();
    }
}

#[test]
fn the_issuers_key_identifier_is_copied_not_computed() {
    let (root, key) = (Ca::root("example.org"), Key::p256());
    let mut forge = Forge::authority(&root, &key);
    forge.set(oid::SUBJECT_KEY_ID, false, element(asn1::OCTET_STRING, &[b"by another method"]));
    let ca = Ca::of(td("example.org"), forge.sign(&root.key), key, Vec::new());
    let leaf = Certificate::parse(&ca.workload("spiffe://example.org/w")[0]).unwrap();
    assert_eq!(leaf.extensions.authority_key_id.as_deref(), Some(&b"by another method"[..]));
    // Without one it is computed as RFC 5280 describes.
    let mut bare = Forge::authority(&root, &ca.key);
    bare.unset(oid::SUBJECT_KEY_ID);
    let issuer = Issuer::from_certificate(&bare.sign(&root.key)).unwrap();
    assert_eq!(issuer.subject_key_id(), subject_key_id(&ca.key.spki));
}

#[test]
fn the_issuers_end_caps_and_its_validity_bounds() {
    let ca = Ca::root("example.org");
    let spki = Key::p256().spki;
    let issue = |now, ttl| {
        certificate(Template::Agent, &id(AGENT), &spki, serial(1), now, ttl, &ca.issuer, ca.key.alg)
            .map(|tbs| tbs.not_after())
    };
    let end = now() + 24 * HOUR;
    assert_eq!(ca.issuer.not_after(), end);
    assert_eq!(issue(now(), 24 * HOUR), Ok(end));
    assert_eq!(issue(now(), 25 * HOUR), Ok(end));
    assert_eq!(issue(now() + 23 * HOUR, 2 * HOUR), Ok(end));
    assert_eq!(issue(end, HOUR), Err(CannotIssue::IssuerExpired));
    assert_eq!(issue(now() - HOUR, HOUR), Err(CannotIssue::IssuerNotYetValid));
    assert_eq!(issue(now(), Duration::ZERO), Err(CannotIssue::Lifetime));
    assert_eq!(issue(now(), Duration::from_millis(300)), Err(CannotIssue::Lifetime));
    // Fractions of a second are cut on both ends.
    let odd = now() + Duration::from_millis(900);
    assert_eq!(issue(odd, HOUR), Ok(now() + HOUR));
}

#[test]
fn times_switch_encoding_in_2050() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(
        asn1::time(at(2_524_607_999)).unwrap(),
        [&[asn1::UTC_TIME, 13], &b"491231235959Z"[..]].concat()
    );
    assert_eq!(
        asn1::time(at(2_524_608_000)).unwrap(),
        [&[asn1::GENERALIZED_TIME, 15], &b"20500101000000Z"[..]].concat()
    );
    assert!(asn1::time(at(253_402_300_800)).is_err());
    let key = Key::p256();
    let subject = DistinguishedName::default_ca();
    let root = |ttl| {
        let template = Template::SelfSignedCa { subject: &subject };
        certificate(template, &td("a").id(), &key.spki, serial(1), now(), ttl, None, key.alg)
    };
    root(HOUR * 24 * 365 * 100).unwrap();
    assert_eq!(root(Duration::MAX), Err(CannotIssue::Lifetime));
    assert_eq!(root(HOUR * 24 * 365 * 9000), Err(CannotIssue::Lifetime));
}

#[test]
fn serial_numbers_are_positive_and_minimal() {
    let ca = Ca::root("example.org");
    let spki = Key::p256().spki;
    let issue =
        |serial| certificate(Template::Agent, &id(AGENT), &spki, serial, now(), HOUR, &ca.issuer, ca.key.alg);
    assert_eq!(issue([0; 16]), Err(CannotIssue::ZeroSerial));
    let mut one = [0; 16];
    one[15] = 1;
    for (serial, encoded) in [
        (one, vec![2, 1, 1]),
        ([0xff; 16], [&[2, 17, 0][..], &[0xff; 16]].concat()),
        ([0x7f; 16], [&[2, 16][..], &[0x7f; 16]].concat()),
    ] {
        let tbs = issue(serial).unwrap();
        assert!(tbs.to_be_signed().windows(encoded.len()).any(|window| window == encoded));
        let signature = ca.key.sign(tbs.to_be_signed());
        let cert = Certificate::parse(&tbs.assemble(&signature).unwrap()).unwrap();
        assert_eq!(cert.serial_decimal(), u128::from_be_bytes(serial).to_string());
    }
}

#[test]
fn the_signature_algorithm_follows_the_cas_key() {
    for (key, alg) in [
        (Key::p256(), SignatureAlgorithm::EcdsaSha256),
        (Key::p384(), SignatureAlgorithm::EcdsaSha384),
        (Key::rsa(), SignatureAlgorithm::RsaSha256),
    ] {
        let ca = Ca::root_with("example.org", key, &DistinguishedName::default_ca());
        assert_eq!(ca.issuer.signature_algorithm(), alg);
        verify_x509_svid(&ca.workload("spiffe://example.org/w"), &ca.bundle(), now()).unwrap();
        let other = if alg == SignatureAlgorithm::RsaSha256 {
            SignatureAlgorithm::EcdsaSha256
        } else {
            SignatureAlgorithm::RsaSha256
        };
        let wrong = certificate(
            Template::Agent,
            &id(AGENT),
            &Key::p256().spki,
            serial(1),
            now(),
            HOUR,
            &ca.issuer,
            other,
        );
        assert_eq!(wrong, Err(CannotIssue::AlgorithmMismatch { asked: other, key: alg }));
    }
}

#[test]
fn a_signature_by_another_key_never_becomes_a_certificate() {
    let ca = Ca::root("example.org");
    let tbs = certificate(
        Template::Agent,
        &id(AGENT),
        &Key::p256().spki,
        serial(1),
        now(),
        HOUR,
        &ca.issuer,
        ca.key.alg,
    )
    .unwrap();
    let wrong = Key::p256().sign(tbs.to_be_signed());
    let mut garbled = ca.key.sign(tbs.to_be_signed());
    *garbled.last_mut().unwrap() ^= 1;
    for signature in [wrong, garbled, Vec::new()] {
        assert!(!tbs.is_signed_by_issuer(&signature));
        assert_eq!(tbs.clone().assemble(&signature), Err(CannotIssue::Signature));
    }
    let good = ca.key.sign(tbs.to_be_signed());
    assert_eq!(tbs.clone().assemble(&good).unwrap(), tbs.assemble_unverified(&good));
}

#[test]
fn misuse_is_refused() {
    let ca = Ca::root("example.org");
    let spki = Key::p256().spki;
    let subject = DistinguishedName::default_ca();
    let root = Template::SelfSignedCa { subject: &subject };
    let build = |template: Template<'_>, text: &str, issuer: Option<&Issuer>| {
        certificate(template, &id(text), &spki, serial(1), now(), HOUR, issuer, ca.key.alg).map(|_| ())
    };
    assert_eq!(build(root, "spiffe://example.org", Some(&ca.issuer)), Err(CannotIssue::IssuerMismatch));
    assert_eq!(build(Template::Agent, AGENT, None), Err(CannotIssue::IssuerMismatch));
    let id_fault = |text: &str| Err(CannotIssue::Id { id: text.to_owned() });
    assert_eq!(build(root, AGENT, None), id_fault(AGENT));
    assert_eq!(
        build(Template::Agent, "spiffe://example.org", Some(&ca.issuer)),
        id_fault("spiffe://example.org")
    );
    let bad = ["a b".to_owned()];
    let dns = build(Template::Workload { dns_names: &bad }, AGENT, Some(&ca.issuer));
    assert!(matches!(dns, Err(CannotIssue::DnsName(_))));
    let key =
        certificate(Template::Agent, &id(AGENT), b"no key", serial(1), now(), HOUR, &ca.issuer, ca.key.alg);
    assert!(matches!(key, Err(CannotIssue::SubjectKey(_))));
}

#[test]
fn issuers_that_cannot_issue_are_refused() {
    let root = Ca::root("example.org");
    let key = Key::p256();
    let leaf = root.workload("spiffe://example.org/w");
    assert_eq!(Issuer::from_certificate(&leaf[0]), Err(CannotIssue::IssuerIsNoCa));
    let mut forge = Forge::authority(&root, &key);
    forge.set(oid::KEY_USAGE, true, key_usage(0x02));
    assert_eq!(Issuer::from_certificate(&forge.sign(&root.key)), Err(CannotIssue::IssuerIsNoCa));
    let mut forge = Forge::authority(&root, &key);
    forge.set(oid::BASIC_CONSTRAINTS, true, constraints(false));
    assert_eq!(Issuer::from_certificate(&forge.sign(&root.key)), Err(CannotIssue::IssuerIsNoCa));
    let mut forge = Forge::authority(&root, &key);
    forge.subject = seq(&[]);
    forge.set(oid::SUBJECT_ALT_NAME, true, names(&[uri_name("spiffe://example.org")]));
    assert_eq!(Issuer::from_certificate(&forge.sign(&root.key)), Err(CannotIssue::IssuerWithoutName));
    let forge = Forge::authority(&root, &Key::p521());
    assert!(matches!(Issuer::from_certificate(&forge.sign(&root.key)), Err(CannotIssue::SigningKey(_))));
    assert!(matches!(Issuer::from_certificate(b"junk"), Err(CannotIssue::BadIssuer(_))));
}

#[test]
fn decimal_numbers() {
    for (bytes, text) in [
        (&[][..], "0"),
        (&[0], "0"),
        (&[1], "1"),
        (&[0x3b, 0x9a, 0xca, 0x00], "1000000000"),
        (&[0xff; 16], "340282366920938463463374607431768211455"),
        (&[0xff; 20], "1461501637330902918203684832716283019655932542975"),
    ] {
        assert_eq!(asn1::decimal(bytes), text);
    }
}
