//! Registration entries as the agent holds them.

use hardroot_api::spire::api::types;
use hardroot_identity::{BadSelector, BadSpiffeId, Selector, SpiffeId, TrustDomain};

/// Longest hint that is handed on, in bytes (Workload API 5.1).
pub const MAX_HINT_BYTES: usize = 1024;

/// An entry this agent may obtain SVIDs for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizedEntry {
    /// The entry's id.
    pub id: String,
    /// The identity it grants, a member of the agent's own trust domain.
    pub spiffe_id: SpiffeId,
    /// What a workload must be; sorted, unique, never empty.
    pub selectors: Vec<Selector>,
    /// Foreign trust domains whose bundles the workload gets; sorted, unique.
    pub federates_with: Vec<TrustDomain>,
    /// The operator's hint, or nothing.
    pub hint: String,
    /// Grows with each change of the entry.
    pub revision: i64,
    /// When it was created, seconds since 1970. Tells an entry from a new one of the same id and revision.
    pub created_at: i64,
    /// Whether an SVID is obtained before a workload asks for one.
    pub prefetch: bool,
    /// Whether each of its JWT-SVIDs has an id of its own (`jti`), so that none is handed out twice.
    pub jwt_include_jti: bool,
    /// Whether the SVID is meant for a store outside the node; such entries are not served to workloads.
    pub store_svid: bool,
}

/// Why an entry from the server cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadEntry {
    /// It has no id.
    #[error("the entry has no id")]
    NoId,
    /// It has no SPIFFE ID.
    #[error("entry {id} has no SPIFFE ID")]
    NoSpiffeId {
        /// The entry.
        id: String,
    },
    /// Its SPIFFE ID is malformed or of another trust domain.
    #[error("entry {id}: its SPIFFE ID is not usable")]
    SpiffeId {
        /// The entry.
        id: String,
        /// What is wrong with the ID.
        #[source]
        cause: BadSpiffeId,
    },
    /// Its SPIFFE ID belongs to another trust domain, or has no path or a reserved one.
    #[error("entry {id} grants {spiffe_id}, which is not a workload of this trust domain")]
    Foreign {
        /// The entry.
        id: String,
        /// What it grants.
        spiffe_id: SpiffeId,
    },
    /// A selector is malformed.
    #[error("entry {id} has a selector that is not usable")]
    Selector {
        /// The entry.
        id: String,
        /// What is wrong with it.
        #[source]
        cause: BadSelector,
    },
    /// No selectors: it would match every workload.
    #[error("entry {id} has no selectors and would match every workload")]
    NoSelectors {
        /// The entry.
        id: String,
    },
    /// A trust domain it federates with is malformed.
    #[error("entry {id} federates with something that is no trust domain")]
    FederatesWith {
        /// The entry.
        id: String,
        /// What is wrong with the name.
        #[source]
        cause: BadSpiffeId,
    },
}

impl AuthorizedEntry {
    /// Checks an entry that came from the server.
    ///
    /// # Errors
    /// See [`BadEntry`]; such an entry is left out, for a workload must not get an identity by accident.
    pub fn from_wire(wire: types::Entry, trust_domain: &TrustDomain) -> Result<Self, BadEntry> {
        let id = wire.id;
        if id.is_empty() {
            return Err(BadEntry::NoId);
        }
        let Some(named) = wire.spiffe_id else { return Err(BadEntry::NoSpiffeId { id }) };
        let spiffe_id = TrustDomain::new(&named.trust_domain)
            .and_then(|td| SpiffeId::new(&td, &named.path))
            .map_err(|cause| BadEntry::SpiffeId { id: id.clone(), cause })?;
        if !spiffe_id.is_member_of(trust_domain) || spiffe_id.path().is_empty() || spiffe_id.is_reserved() {
            return Err(BadEntry::Foreign { id, spiffe_id });
        }
        let mut selectors = wire
            .selectors
            .into_iter()
            .map(|s| Selector::new(s.r#type, s.value))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|cause| BadEntry::Selector { id: id.clone(), cause })?;
        selectors.sort();
        selectors.dedup();
        if selectors.is_empty() {
            return Err(BadEntry::NoSelectors { id });
        }
        let mut federates_with = wire
            .federates_with
            .iter()
            .map(|name| TrustDomain::from_name_or_id(name))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|cause| BadEntry::FederatesWith { id: id.clone(), cause })?;
        federates_with.sort();
        federates_with.dedup();
        federates_with.retain(|td| td != trust_domain);
        let hint = if wire.hint.len() > MAX_HINT_BYTES { String::new() } else { wire.hint };
        Ok(Self {
            id,
            spiffe_id,
            selectors,
            federates_with,
            hint,
            revision: wire.revision_number,
            created_at: wire.created_at,
            prefetch: !wire.additional_attributes.is_some_and(|a| a.disable_x509_svid_prefetch),
            jwt_include_jti: wire.additional_attributes.is_some_and(|a| a.jwt_svid_include_jti),
            store_svid: wire.store_svid,
        })
    }
}

/// An entry's version: what decides whether it must be fetched again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryVersion {
    /// The entry's id.
    pub id: String,
    /// Its revision.
    pub revision: i64,
    /// When it was created, seconds since 1970; 0 from servers that do not say.
    pub created_at: i64,
}

/// What one synchronisation brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryChanges {
    /// New and changed entries.
    pub upserts: Vec<AuthorizedEntry>,
    /// Ids of all entries that are still authorised, beside the upserts; every other one goes.
    pub unchanged: std::collections::HashSet<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> types::Entry {
        types::Entry {
            id: "e1".into(),
            spiffe_id: Some(types::Spiffeid { trust_domain: "example.org".into(), path: "/web".into() }),
            selectors: vec![
                types::Selector { r#type: "unix".into(), value: "uid:1".into() },
                types::Selector { r#type: "unix".into(), value: "gid:1".into() },
                types::Selector { r#type: "unix".into(), value: "uid:1".into() },
            ],
            federates_with: vec!["b.org".into(), "spiffe://a.org".into(), "example.org".into()],
            hint: "internal".into(),
            revision_number: 3,
            created_at: 9,
            ..types::Entry::default()
        }
    }

    fn td() -> TrustDomain {
        TrustDomain::new("example.org").unwrap()
    }

    #[test]
    fn a_good_entry_is_sorted_and_unique() {
        let entry = AuthorizedEntry::from_wire(wire(), &td()).unwrap();
        assert_eq!(
            entry.selectors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["unix:gid:1", "unix:uid:1"]
        );
        assert_eq!(
            entry.federates_with.iter().map(TrustDomain::as_str).collect::<Vec<_>>(),
            ["a.org", "b.org"]
        );
        assert!(entry.prefetch && !entry.store_svid);
        assert_eq!((entry.revision, entry.created_at), (3, 9));
    }

    #[test]
    fn entries_that_would_give_identities_by_accident_are_refused() {
        let refused = |change: fn(&mut types::Entry)| {
            let mut entry = wire();
            change(&mut entry);
            AuthorizedEntry::from_wire(entry, &td()).unwrap_err()
        };
        assert!(matches!(refused(|e| e.id.clear()), BadEntry::NoId));
        assert!(matches!(refused(|e| e.spiffe_id = None), BadEntry::NoSpiffeId { .. }));
        assert!(matches!(refused(|e| e.selectors.clear()), BadEntry::NoSelectors { .. }));
        assert!(matches!(refused(|e| e.selectors[0].value.clear()), BadEntry::Selector { .. }));
        let path = |path: &'static str, td: &'static str| {
            let mut entry = wire();
            entry.spiffe_id = Some(types::Spiffeid { trust_domain: td.into(), path: path.into() });
            AuthorizedEntry::from_wire(entry, &TrustDomain::new("example.org").unwrap()).unwrap_err()
        };
        assert!(matches!(path("/web", "evil.org"), BadEntry::Foreign { .. }));
        assert!(matches!(path("", "example.org"), BadEntry::Foreign { .. }));
        assert!(matches!(path("/spire/agent/x", "example.org"), BadEntry::Foreign { .. }));
        assert!(matches!(path("/../x", "example.org"), BadEntry::SpiffeId { .. }));
        assert!(matches!(refused(|e| e.federates_with = vec!["A B".into()]), BadEntry::FederatesWith { .. }));
    }

    #[test]
    fn a_hint_too_long_is_left_out() {
        let mut entry = wire();
        entry.hint = "x".repeat(MAX_HINT_BYTES + 1);
        assert_eq!(AuthorizedEntry::from_wire(entry, &td()).unwrap().hint, "");
    }

    proptest::proptest! {
        #[test]
        fn any_entry_is_judged_without_panic(id in ".{0,20}", path in ".{0,40}", kind in ".{0,10}", value in ".{0,10}", fed in ".{0,20}") {
            let mut entry = wire();
            entry.id = id;
            entry.spiffe_id = Some(types::Spiffeid { trust_domain: "example.org".into(), path });
            entry.selectors = vec![types::Selector { r#type: kind, value }];
            entry.federates_with = vec![fed];
            if let Ok(entry) = AuthorizedEntry::from_wire(entry, &td()) {
                proptest::prop_assert!(!entry.selectors.is_empty());
                proptest::prop_assert!(entry.spiffe_id.is_member_of(&td()) && !entry.spiffe_id.is_reserved());
            }
        }
    }
}
