//! SPIFFE-ID 2.

use super::support::{id, td};
use crate::{BadSpiffeId as Bad, MAX_ID_BYTES, SpiffeId, TrustDomain};

fn refused(text: &str, why: Bad) {
    assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text:?}");
}

#[test]
fn a1_1_scheme_query_and_fragment() {
    assert_eq!(id("spiffe://example.org/a").to_string(), "spiffe://example.org/a");
    refused("", Bad::Empty);
    for text in
        ["spiffe:/", "spiffe:", "https://example.org/a", "//example.org/a", "example.org/a", " spiffe://a/b"]
    {
        refused(text, Bad::Scheme);
    }
    refused("spiffe://example.org/a?q=1", Bad::PathByte { at: 2 });
    refused("spiffe://example.org/a#f", Bad::PathByte { at: 2 });
    refused("spiffe://example.org?q=1", Bad::TrustDomainByte { at: 11 });
    refused("spiffe://example.org#f", Bad::TrustDomainByte { at: 11 });
}

#[test]
fn a1_2_host_without_userinfo_and_port() {
    refused("spiffe://", Bad::NoTrustDomain);
    refused("spiffe:///", Bad::NoTrustDomain);
    refused("spiffe:///path", Bad::NoTrustDomain);
    refused("spiffe://user@example.org/a", Bad::TrustDomainByte { at: 4 });
    refused("spiffe://user:pass@example.org/a", Bad::TrustDomainByte { at: 4 });
    refused("spiffe://@example.org/a", Bad::TrustDomainByte { at: 0 });
    refused("spiffe://example.org:8443/a", Bad::TrustDomainByte { at: 11 });
    refused("spiffe://example.org:/a", Bad::TrustDomainByte { at: 11 });
}

#[test]
fn a1_3_host_characters_and_length() {
    for name in ["a", "example.org", "10.0.0.1", "a-b_c.d", "0", "..", "-", "_"] {
        assert_eq!(id(&format!("spiffe://{name}/x")).trust_domain_name(), name);
    }
    for byte in 0..=255_u8 {
        let allowed = byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let name = format!("a{}b", char::from(byte));
        assert_eq!(TrustDomain::new(&name).is_ok(), allowed, "byte {byte:#04x}");
    }
    refused("spiffe://[::1]/a", Bad::TrustDomainByte { at: 0 });
    refused("spiffe://%62ad/a", Bad::TrustDomainByte { at: 0 });
    let longest = "a".repeat(255);
    assert_eq!(td(&longest).as_str(), longest);
    assert_eq!(TrustDomain::new(&"a".repeat(256)), Err(Bad::TrustDomainTooLong { len: 256 }));
    refused(&format!("spiffe://{}/x", "a".repeat(256)), Bad::TrustDomainTooLong { len: 256 });
}

#[test]
fn a1_4_path_segments() {
    for path in ["", "/a", "/A/b", "/.a", "/..a", "/...", "/a.b-c_d/0", "/a/b/c/d/e"] {
        assert_eq!(id(&format!("spiffe://td{path}")).path(), path);
    }
    for byte in 0..=127_u8 {
        let allowed = byte.is_ascii_alphanumeric() || b".-_/".contains(&byte);
        let text = format!("spiffe://td/a{}b", char::from(byte));
        assert_eq!(text.parse::<SpiffeId>().is_ok(), allowed, "byte {byte:#04x}");
    }
    for text in ["spiffe://td/", "spiffe://td//", "spiffe://td//a", "spiffe://td/a/", "spiffe://td/a//b"] {
        refused(text, Bad::EmptySegment);
    }
    for text in
        ["spiffe://td/.", "spiffe://td/..", "spiffe://td/./a", "spiffe://td/a/../b", "spiffe://td/a/.."]
    {
        refused(text, Bad::DotSegment);
    }
    refused("spiffe://td/%61", Bad::PathByte { at: 1 });
    refused("spiffe://td/ä", Bad::PathByte { at: 1 });
    assert_ne!(id("spiffe://td/A"), id("spiffe://td/a"));
    assert_eq!(SpiffeId::new(&td("td"), "a"), Err(Bad::NoLeadingSlash));
}

#[test]
fn a1_5_2048_bytes_are_accepted_and_no_more() {
    let head = "spiffe://td/";
    let longest = format!("{head}{}", "x".repeat(MAX_ID_BYTES - head.len()));
    assert_eq!(longest.len(), 2048);
    assert_eq!(id(&longest).as_str(), longest);
    refused(&format!("{longest}x"), Bad::TooLong { len: 2049 });
    let path = format!("/{}", "x".repeat(2048));
    assert!(matches!(SpiffeId::new(&td("td"), &path), Err(Bad::TooLong { .. })));
}

#[test]
fn a1_6_upper_case_scheme_and_trust_domain_are_refused() {
    refused("SPIFFE://td/a", Bad::Scheme);
    refused("Spiffe://td/a", Bad::Scheme);
    refused("spiffe://TD/a", Bad::TrustDomainByte { at: 0 });
}

#[test]
fn a1_7_the_trust_domain_has_an_id_without_path() {
    let own = td("example.org").id();
    assert_eq!(own, id("spiffe://example.org"));
    assert_eq!(own.path(), "");
    assert!(own.is_member_of(&td("example.org")));
    assert!(!own.is_member_of(&td("example.or")));
    assert!(!id("spiffe://example.org.evil/a").is_member_of(&td("example.org")));
}

#[test]
fn names_or_ids_are_read_as_trust_domains() {
    for text in ["example.org", "spiffe://example.org", "spiffe://example.org/some/path"] {
        assert_eq!(TrustDomain::from_name_or_id(text), Ok(td("example.org")));
    }
    for text in ["", "Example.org", "https://example.org", "spiffe://example.org/", "example.org/x"] {
        assert!(TrustDomain::from_name_or_id(text).is_err(), "{text:?}");
    }
}

#[test]
fn the_runtimes_own_paths_are_reserved() {
    for (path, reserved) in [
        ("/spire", true),
        ("/spire/server", true),
        ("/spire/agent/x/y", true),
        ("/spirex", false),
        ("/a/spire", false),
        ("", false),
    ] {
        assert_eq!(SpiffeId::new(&td("td"), path).unwrap().is_reserved(), reserved, "{path:?}");
    }
}
