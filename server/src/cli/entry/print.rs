//! An entry for people: fixed labels, values in one column. Scripts read this too.

use hardroot_api::spire::api::types::Entry;

use crate::cli::flags::{id_text, time_text};

/// Gives each line of an entry to `line`, an empty one at the end.
pub(super) fn entry_lines(entry: &Entry, mut line: impl FnMut(String)) {
    let mut field = |label: &str, value: &dyn std::fmt::Display| line(format!("{label:<24}: {value}"));
    let ttl = |seconds: i32| if seconds == 0 { "default".to_owned() } else { seconds.to_string() };
    field("Entry ID", &if entry.id.is_empty() { "(none)" } else { &entry.id });
    field("SPIFFE ID", &id_text(entry.spiffe_id.as_ref()));
    field("Parent ID", &id_text(entry.parent_id.as_ref()));
    field("Revision", &entry.revision_number);
    if entry.downstream {
        field("Downstream", &true);
    }
    field("X509-SVID TTL", &ttl(entry.x509_svid_ttl));
    field("JWT-SVID TTL", &ttl(entry.jwt_svid_ttl));
    if entry.expires_at != 0 {
        field("Expiration time", &time_text(entry.expires_at));
    }
    for selector in &entry.selectors {
        field("Selector", &format!("{}:{}", selector.r#type, selector.value));
    }
    for trust_domain in &entry.federates_with {
        field("FederatesWith", trust_domain);
    }
    for name in &entry.dns_names {
        field("DNS name", name);
    }
    if entry.admin {
        field("Admin", &true);
    }
    if entry.store_svid {
        field("StoreSvid", &true);
    }
    if !entry.hint.is_empty() {
        field("Hint", &entry.hint);
    }
    if let Some(attributes) = &entry.additional_attributes {
        if attributes.disable_x509_svid_prefetch {
            field("DisableX509SvidPrefetch", &true);
        }
        if attributes.jwt_svid_include_jti {
            field("JwtSvidIncludeJti", &true);
        }
    }
    line(String::new());
}

/// SPIRE's order: identity, parent, lifetimes, selectors.
pub(super) fn sort(entries: &mut [Entry]) {
    let id = |id: &Option<hardroot_api::spire::api::types::Spiffeid>| {
        id.as_ref().map(|id| (id.trust_domain.clone(), id.path.clone())).unwrap_or_default()
    };
    for entry in entries.iter_mut() {
        entry.selectors.sort_by(|a, b| (&a.r#type, &a.value).cmp(&(&b.r#type, &b.value)));
    }
    entries.sort_by_cached_key(|entry| {
        let selectors: Vec<_> = entry.selectors.iter().map(|s| (s.r#type.clone(), s.value.clone())).collect();
        (
            id(&entry.spiffe_id),
            id(&entry.parent_id),
            entry.x509_svid_ttl,
            entry.jwt_svid_ttl,
            selectors.len(),
            selectors,
        )
    });
}
