//! The JSON of `-data` and `-file`, with SPIRE's names. A name that is not known is an error: a mistyped
//! `selectors` must not make an entry without them. What `entry show -output json` prints is read too.

use std::fmt;
use std::marker::PhantomData;

use hardroot_api::spire::api::types;
use hardroot_identity::{SpiffeId, TrustDomain};
use serde::de::{Error as DeError, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::source::Listed;

/// How much of a text that is refused is told, in bytes.
const LONGEST_SHOWN: usize = 256;

/// The entries of `-data`.
pub(super) struct Entries;

/// The ids of `entry delete -file`.
pub(super) struct Ids;

/// The entries of `-data`, judged and dropped: a file with a mistake is refused before any of its lists is held.
pub(super) struct EntriesSeen;

impl Listed for Entries {
    const KEY: &'static str = "entries";
    type Seen = EntriesSeen;
    type Data = EntryData<Vec<SelectorData>, Vec<Domain>, Vec<String>>;
    type Item = types::Entry;

    fn judge(data: Self::Data) -> Result<types::Entry, String> {
        message(data)
    }
}

impl Listed for EntriesSeen {
    const KEY: &'static str = Entries::KEY;
    type Seen = Self;
    type Data = EntryData<Each<SelectorData>, Each<Domain>, Each<String>>;
    type Item = ();

    fn judge(data: Self::Data) -> Result<(), String> {
        data.facts().map(drop)
    }
}

impl Listed for Ids {
    const KEY: &'static str = "ids";
    type Seen = Self;
    type Data = String;
    type Item = String;

    fn judge(data: String) -> Result<String, String> {
        Ok(data)
    }
}

/// An entry as it is written: with lists of selectors, of trust domains and of names.
#[derive(Deserialize, Default)]
#[serde(
    deny_unknown_fields,
    default,
    bound(
        deserialize = "S: Deserialize<'de> + Default, D: Deserialize<'de> + Default, N: Deserialize<'de> + Default"
    )
)]
pub(super) struct EntryData<S, D, N> {
    #[serde(alias = "id", deserialize_with = "or_null")]
    entry_id: String,
    #[serde(deserialize_with = "or_null")]
    spiffe_id: IdData,
    #[serde(deserialize_with = "or_null")]
    parent_id: IdData,
    #[serde(deserialize_with = "or_null")]
    selectors: S,
    #[serde(deserialize_with = "or_null")]
    x509_svid_ttl: i32,
    #[serde(deserialize_with = "or_null")]
    jwt_svid_ttl: i32,
    #[serde(deserialize_with = "or_null")]
    federates_with: D,
    #[serde(deserialize_with = "or_null")]
    admin: bool,
    #[serde(deserialize_with = "or_null")]
    downstream: bool,
    #[serde(
        rename = "entryExpiry",
        alias = "entry_expiry",
        alias = "expires_at",
        deserialize_with = "or_null"
    )]
    entry_expiry: SecondsData,
    #[serde(deserialize_with = "or_null")]
    dns_names: N,
    #[serde(deserialize_with = "or_null")]
    store_svid: bool,
    #[serde(deserialize_with = "or_null")]
    hint: String,
    additional_attributes: Option<Attributes>,
    /// The server's own; a listing that is fed back in has them.
    #[serde(rename = "revision_number")]
    _revision_number: serde::de::IgnoredAny,
    #[serde(rename = "created_at")]
    _created_at: serde::de::IgnoredAny,
}

/// `null` stands for nothing, as programs written in Go leave it in empty lists.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A list whose elements are read, and so judged, and dropped.
pub(super) struct Each<T>(PhantomData<T>);

impl<T> Default for Each<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Each<T> {
    fn deserialize<F: Deserializer<'de>>(from: F) -> Result<Self, F::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Each<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Each<T>, A::Error> {
                while list.next_element::<T>()?.is_some() {}
                Ok(Each::default())
            }
        }
        from.deserialize_seq(List(PhantomData))
    }
}

/// The name of a trust domain, or its ID.
pub(super) struct Domain(TrustDomain);

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<F: Deserializer<'de>>(from: F) -> Result<Self, F::Error> {
        let text = String::deserialize(from)?;
        TrustDomain::from_name_or_id(&text).map(Self).map_err(|cause| {
            F::Error::custom(format_args!("invalid federated trust domain \"{}\": {cause}", start(&text)))
        })
    }
}

/// An ID as text, or in parts as listings have it.
#[derive(Default)]
struct IdData(String);

impl<'de> Deserialize<'de> for IdData {
    fn deserialize<F: Deserializer<'de>>(from: F) -> Result<Self, F::Error> {
        #[derive(Deserialize)]
        struct Parts {
            trust_domain: String,
            path: String,
        }

        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = IdData;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a SPIFFE ID as text, or as an object with trust_domain and path")
            }

            fn visit_str<E>(self, text: &str) -> Result<IdData, E> {
                Ok(IdData(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, parts: A) -> Result<IdData, A::Error> {
                let Parts { trust_domain, path } =
                    Parts::deserialize(serde::de::value::MapAccessDeserializer::new(parts))?;
                Ok(IdData(format!("spiffe://{trust_domain}{path}")))
            }
        }
        from.deserialize_any(Either)
    }
}

/// A time as a number of seconds since 1970, or as text as listings have it.
#[derive(Default)]
struct SecondsData(i64);

impl<'de> Deserialize<'de> for SecondsData {
    fn deserialize<F: Deserializer<'de>>(from: F) -> Result<Self, F::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = SecondsData;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds since 1970")
            }

            fn visit_i64<E>(self, seconds: i64) -> Result<SecondsData, E> {
                Ok(SecondsData(seconds))
            }

            fn visit_u64<E: DeError>(self, seconds: u64) -> Result<SecondsData, E> {
                i64::try_from(seconds)
                    .map(SecondsData)
                    .map_err(|_range| E::invalid_value(Unexpected::Unsigned(seconds), &self))
            }

            fn visit_str<E: DeError>(self, text: &str) -> Result<SecondsData, E> {
                text.parse()
                    .map(SecondsData)
                    .map_err(|cause| E::custom(format_args!("invalid time \"{}\": {cause}", start(text))))
            }
        }
        from.deserialize_any(Either)
    }
}

/// As much of a text as a message shows.
fn start(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST_SHOWN)).unwrap_or(text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SelectorData {
    r#type: String,
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Attributes {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

/// What is judged besides the types.
struct Facts {
    spiffe_id: types::Spiffeid,
    parent_id: types::Spiffeid,
}

impl<S, D, N> EntryData<S, D, N> {
    fn facts(&self) -> Result<Facts, String> {
        let id = |what: &str, IdData(text): &IdData| {
            let id: SpiffeId =
                text.parse().map_err(|cause| format!("invalid {what} \"{}\": {cause}", start(text)))?;
            Ok::<_, String>(crate::api::spiffe_id(&id))
        };
        Ok(Facts {
            spiffe_id: id("SPIFFE ID", &self.spiffe_id)?,
            parent_id: id("parent ID", &self.parent_id)?,
        })
    }
}

fn message(data: EntryData<Vec<SelectorData>, Vec<Domain>, Vec<String>>) -> Result<types::Entry, String> {
    let Facts { spiffe_id, parent_id } = data.facts()?;
    Ok(types::Entry {
        id: data.entry_id,
        spiffe_id: Some(spiffe_id),
        parent_id: Some(parent_id),
        selectors: data
            .selectors
            .into_iter()
            .map(|selector| types::Selector { r#type: selector.r#type, value: selector.value })
            .collect(),
        x509_svid_ttl: data.x509_svid_ttl,
        jwt_svid_ttl: data.jwt_svid_ttl,
        federates_with: data.federates_with.into_iter().map(|Domain(domain)| domain.to_string()).collect(),
        admin: data.admin,
        downstream: data.downstream,
        expires_at: data.entry_expiry.0,
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
    use hardroot_api::json::to_json;
    use proptest::prelude::*;

    use super::*;

    fn judged<L: Listed>(json: &str) -> Result<L::Item, String> {
        serde_json::from_str(json).map_err(|cause| cause.to_string()).and_then(L::judge)
    }

    /// As an item, once it was seen to be one; both tell the same.
    fn read(json: &str) -> Result<types::Entry, String> {
        let (seen, read) = (judged::<EntriesSeen>(json), judged::<Entries>(json));
        assert_eq!(seen.err().as_ref(), read.as_ref().err(), "{json}");
        read
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_harm(text in "\\PC{0,200}") {
            let _entry = read(&text).is_ok();
        }

        #[test]
        fn what_a_listing_prints_is_read_back(
            hint in "\\PC{0,20}", ttl in any::<i32>(), expiry in any::<i64>(), admin in any::<bool>(),
            jti in any::<bool>(), federates in any::<bool>(),
        ) {
            let id = |path: &str| {
                Some(types::Spiffeid { trust_domain: "example.org".to_owned(), path: path.to_owned() })
            };
            let entry = types::Entry {
                id: "e1".to_owned(),
                spiffe_id: id("/a"),
                parent_id: id("/p"),
                selectors: vec![types::Selector { r#type: "unix".to_owned(), value: "uid:1".to_owned() }],
                hint,
                x509_svid_ttl: ttl,
                expires_at: expiry,
                admin,
                federates_with: if federates { vec!["other.test".to_owned()] } else { Vec::new() },
                additional_attributes: jti.then_some(types::entry::AdditionalAttributes {
                    jwt_svid_include_jti: true,
                    ..Default::default()
                }),
                revision_number: 4,
                created_at: 5,
                ..Default::default()
            };
            let json = to_json("spire.api.types.Entry", &entry).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let back = read(&json.to_string()).map_err(TestCaseError::fail)?;
            prop_assert_eq!(back, types::Entry { revision_number: 0, created_at: 0, ..entry }, "the server's own");
        }
    }

    #[test]
    fn spires_names_are_read_and_others_are_not() {
        let entry = read(
            r#"{"entry_id":"e","spiffe_id":"spiffe://example.org/a","parent_id":"spiffe://example.org/p",
            "selectors":[{"type":"unix","value":"uid:1"}],"entryExpiry":7,"federates_with":["spiffe://other.test"],
            "dns_names":null,"hint":null}"#,
        )
        .unwrap();
        assert_eq!((entry.id.as_str(), entry.expires_at), ("e", 7));
        assert_eq!(entry.federates_with, ["other.test"]);
        for (json, fault) in [
            (r#"{"selector":[]}"#, "unknown field `selector`"),
            (r#"{"spiffe_id":"example.org/a"}"#, "invalid SPIFFE ID \"example.org/a\": "),
            (
                r#"{"spiffe_id":7}"#,
                "invalid type: integer `7`, expected a SPIFFE ID as text, or as an object with trust_domain and path",
            ),
            (r#"{"spiffe_id":"spiffe://e.org/a"}"#, "invalid parent ID \"\": "),
            (r#"{"entryExpiry":"soon"}"#, "invalid time \"soon\": "),
        ] {
            let told = read(json).unwrap_err();
            assert!(told.starts_with(fault), "{json}: {told}");
        }
    }
}
