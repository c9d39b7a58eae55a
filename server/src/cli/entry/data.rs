//! The JSON of `-data` and `-file`, with SPIRE's names. A name that is not known is an error: a mistyped
//! `selectors` must not make an entry without them.

use hardroot_api::spire::api::types;
use hardroot_identity::{SpiffeId, TrustDomain};
use serde::Deserialize;

use crate::cli::CliError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    entries: Vec<EntryData>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct EntryData {
    entry_id: String,
    spiffe_id: String,
    parent_id: String,
    selectors: Vec<SelectorData>,
    x509_svid_ttl: i32,
    jwt_svid_ttl: i32,
    federates_with: Vec<String>,
    admin: bool,
    downstream: bool,
    #[serde(rename = "entryExpiry", alias = "entry_expiry", alias = "expires_at")]
    entry_expiry: i64,
    dns_names: Vec<String>,
    store_svid: bool,
    hint: String,
    additional_attributes: Option<Attributes>,
    /// The server's own; a listing that is fed back in has them.
    #[serde(rename = "revision_number")]
    _revision_number: serde::de::IgnoredAny,
    #[serde(rename = "created_at")]
    _created_at: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectorData {
    r#type: String,
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Attributes {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    ids: Vec<String>,
}

fn fault(path: &str) -> impl Fn(String) -> CliError + '_ {
    move |reason| CliError::File { op: "parsing", path: path.to_owned(), reason }
}

/// The ids of `entry delete -file`.
pub(super) fn ids(json: &[u8], path: &str) -> Result<Vec<String>, CliError> {
    let ids: Ids = serde_json::from_slice(json).map_err(|cause| fault(path)(cause.to_string()))?;
    Ok(ids.ids)
}

/// The entries of `-data`.
pub(super) fn entries(json: &[u8], path: &str) -> Result<Vec<types::Entry>, CliError> {
    let data: Entries = serde_json::from_slice(json).map_err(|cause| fault(path)(cause.to_string()))?;
    data.entries
        .into_iter()
        .enumerate()
        .map(|(at, entry)| {
            message(entry).map_err(|reason| fault(path)(format!("entry {}: {reason}", at.saturating_add(1))))
        })
        .collect()
}

fn message(data: EntryData) -> Result<types::Entry, String> {
    let id = |what: &str, text: &str| {
        let id: SpiffeId = text.parse().map_err(|cause| format!("invalid {what} \"{text}\": {cause}"))?;
        Ok::<_, String>(crate::api::spiffe_id(&id))
    };
    let domain = |text: &String| {
        TrustDomain::from_name_or_id(text)
            .map(|domain| domain.to_string())
            .map_err(|cause| format!("invalid federated trust domain \"{text}\": {cause}"))
    };
    Ok(types::Entry {
        id: data.entry_id,
        spiffe_id: Some(id("SPIFFE ID", &data.spiffe_id)?),
        parent_id: Some(id("parent ID", &data.parent_id)?),
        selectors: data
            .selectors
            .into_iter()
            .map(|selector| types::Selector { r#type: selector.r#type, value: selector.value })
            .collect(),
        x509_svid_ttl: data.x509_svid_ttl,
        jwt_svid_ttl: data.jwt_svid_ttl,
        federates_with: data.federates_with.iter().map(domain).collect::<Result<_, _>>()?,
        admin: data.admin,
        downstream: data.downstream,
        expires_at: data.entry_expiry,
        dns_names: data.dns_names,
        store_svid: data.store_svid,
        hint: data.hint,
        additional_attributes: data.additional_attributes.map(|given| types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: given.disable_x509_svid_prefetch,
            jwt_svid_include_jti: given.jwt_svid_include_jti,
        }),
        ..types::Entry::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_file_is_judged_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _entries = entries(&bytes, "f").is_ok();
            let _ids = ids(&bytes, "f").is_ok();
        }

        #[test]
        fn what_is_read_has_the_fields_given(
            hint in "\\PC{0,20}", ttl in any::<i32>(), expiry in any::<i64>(), admin in any::<bool>(),
        ) {
            let json = serde_json::json!({ "entries": [{
                "spiffe_id": "spiffe://example.org/a", "parent_id": "spiffe://example.org/p",
                "selectors": [{ "type": "unix", "value": "uid:1" }],
                "hint": hint, "x509_svid_ttl": ttl, "entryExpiry": expiry, "admin": admin,
                "revision_number": 4, "created_at": 5,
            }]});
            let read = entries(json.to_string().as_bytes(), "f").map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(read.len(), 1);
            let entry = read.into_iter().next().unwrap_or_default();
            prop_assert_eq!((entry.hint, entry.x509_svid_ttl, entry.expires_at, entry.admin), (hint, ttl, expiry, admin));
            prop_assert_eq!((entry.revision_number, entry.created_at), (0, 0), "the server's own");
        }
    }
}
