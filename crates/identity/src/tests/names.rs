//! Selectors, DNS names, PEM.

use super::support::Ca;
use crate::{
    BadDnsName, BadPem, BadSelector, Selector, check_dns_name, check_dns_names, pem_decode, pem_encode,
};

#[test]
fn selectors_split_at_the_first_colon() {
    for (text, kind, value) in [
        ("unix:uid:1000", "unix", "uid:1000"),
        ("tpm_quote:ek_hash:ab", "tpm_quote", "ek_hash:ab"),
        ("a:b", "a", "b"),
        ("a::", "a", ":"),
        ("x509pop:subject:cn:a b", "x509pop", "subject:cn:a b"),
    ] {
        let selector: Selector = text.parse().unwrap();
        assert_eq!((selector.kind(), selector.value()), (kind, value));
        assert_eq!(selector.to_string(), text);
    }
}

#[test]
fn malformed_selectors_are_refused() {
    for (text, why) in [
        ("", BadSelector::NoColon),
        ("unix", BadSelector::NoColon),
        (":uid:0", BadSelector::NoType),
        (":", BadSelector::NoType),
        ("unix:", BadSelector::NoValue),
    ] {
        assert_eq!(text.parse::<Selector>(), Err(why), "{text:?}");
    }
    assert_eq!(Selector::new("a:b", "c"), Err(BadSelector::ColonInType));
    assert_eq!(Selector::new("", "c"), Err(BadSelector::NoType));
    assert_eq!(Selector::new("a", ""), Err(BadSelector::NoValue));
}

#[test]
fn dns_names() {
    for name in [
        "a",
        "example.org",
        "*.example.org",
        "a-b.c",
        "xn--bcher-kva.example",
        "1.2",
        "A.org",
        "_a.b_c",
        &"a".repeat(63),
    ] {
        assert_eq!(check_dns_name(name), Ok(()), "{name:?}");
    }
    let too_long = [format!("{}.org", "a".repeat(64)), vec!["a".repeat(63); 4].join(".")];
    for name in &too_long {
        assert_eq!(check_dns_name(name), Err(BadDnsName::TooLong), "{name:?}");
    }
    assert_eq!(check_dns_name(""), Err(BadDnsName::Empty));
    for name in ["*", "a.*.org", "**.org", "*a.org", "*.*.org"] {
        assert_eq!(check_dns_name(name), Err(BadDnsName::Wildcard), "{name:?}");
    }
    for name in ["a..b", ".a", "a.", "-a", "a-", "a!b", "a b", "bücher.de", "ab--c", "a\0.org", "*."] {
        assert!(matches!(check_dns_name(name), Err(BadDnsName::Label { .. })), "{name:?}");
    }
}

#[test]
fn wildcards_may_not_cover_a_name_beside_them() {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(check_dns_names(&list(&["*.a.org", "b.org", "x.y.a.org"])), Ok(()));
    let overlap = check_dns_names(&list(&["x.a.org", "*.a.org"]));
    assert_eq!(overlap, Err(BadDnsName::Overlap { name: "x.a.org".to_owned() }));
}

#[test]
fn pem_round_trip_with_text_between_blocks() {
    let (one, two) = (Ca::root("a").der, Ca::root("b").der);
    let text = format!("# first\n{}\nsubject=x\n{}", pem_encode([&one]), pem_encode([&two]));
    assert_eq!(pem_decode(text.as_bytes()), Ok(vec![one, two]));
    assert!(text.lines().all(|line| line.len() <= 64));
}

#[test]
fn pem_with_other_blocks_or_damage_is_refused() {
    let good = pem_encode([Ca::root("a").der]);
    assert_eq!(pem_decode(b""), Err(BadPem::Empty));
    assert_eq!(pem_decode(b"no block here"), Err(BadPem::Empty));
    let cut = good.get(..good.len() - 30).unwrap();
    assert!(matches!(pem_decode(cut.as_bytes()), Err(BadPem::Malformed { .. })));
    let key = good.replace("CERTIFICATE", "PRIVATE KEY");
    let both = format!("{good}{key}");
    assert!(matches!(pem_decode(both.as_bytes()), Err(BadPem::OtherBlock { .. })));
    let damaged = good.replacen("MII", "M!I", 1);
    assert!(matches!(pem_decode(damaged.as_bytes()), Err(BadPem::Malformed { .. })));
}
