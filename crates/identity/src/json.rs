//! JSON that refuses duplicate names: two readers of such a document can see different keys
//! (SPIFFE Trust Domain and Bundle 6.3).
//!
//! A tree of values is many times the size of its text. So a document is first looked through as a whole
//! ([`check`]), then only what is known of it is read ([`Member`], [`Fields`]); a tree is built of claims that
//! somebody we trust has signed ([`parse`]).

mod unique;

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use unique::{Strict, Unique};

/// Looks through one JSON value that must have no duplicate names anywhere and nothing behind it. It keeps four
/// bytes for each name of the objects it is in.
pub(crate) fn check(text: &[u8]) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    Unique { text }.deserialize(&mut reader)?;
    reader.end()
}

/// Reads a value that [`check`] has looked through.
pub(crate) fn read<'de, S: DeserializeSeed<'de>>(
    text: &'de [u8],
    seed: S,
) -> Result<S::Value, serde_json::Error> {
    seed.deserialize(&mut serde_json::Deserializer::from_slice(text))
}

/// Reads one JSON value, as a tree, that has no duplicate names anywhere and nothing behind it.
pub(crate) fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// A name or a text; borrowed where it has no escapes.
pub(crate) struct Text<'de>(pub(crate) Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Either)
    }
}

/// A member's value as far as any reader here wants to know it. Lists and objects are read over.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Member<'de> {
    /// A text.
    Text(Cow<'de, str>),
    /// An integer of 64 bits.
    Integer(i128),
    /// A list's first element, if that is a text.
    List {
        /// How many elements there are.
        len: usize,
        /// The first.
        first: Option<Cow<'de, str>>,
    },
    /// Anything else.
    Other,
}

impl Member<'_> {
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> serde::Deserialize<'de> for Member<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Member<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_bool<E>(self, _value: bool) -> Result<Member<'de>, E> {
                Ok(Member::Other)
            }

            fn visit_i64<E>(self, value: i64) -> Result<Member<'de>, E> {
                Ok(Member::Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Member<'de>, E> {
                Ok(Member::Integer(value.into()))
            }

            fn visit_f64<E>(self, _value: f64) -> Result<Member<'de>, E> {
                Ok(Member::Other)
            }

            fn visit_unit<E>(self) -> Result<Member<'de>, E> {
                Ok(Member::Other)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Member<'de>, E> {
                Ok(Member::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Member<'de>, E> {
                Ok(Member::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Member<'de>, A::Error> {
                // One level only: what stands deeper is nobody's text.
                let Some(Shallow(first)) = list.next_element()? else {
                    return Ok(Member::List { len: 0, first: None });
                };
                let mut len = 1;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    len += 1;
                }
                Ok(Member::List { len, first })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Member<'de>, A::Error> {
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Member::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A text, or that it is none.
struct Shallow<'de>(Option<Cow<'de, str>>);

impl<'de> serde::Deserialize<'de> for Shallow<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Shallow<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_bool<E>(self, _value: bool) -> Result<Shallow<'de>, E> {
                Ok(Shallow(None))
            }

            fn visit_i64<E>(self, _value: i64) -> Result<Shallow<'de>, E> {
                Ok(Shallow(None))
            }

            fn visit_u64<E>(self, _value: u64) -> Result<Shallow<'de>, E> {
                Ok(Shallow(None))
            }

            fn visit_f64<E>(self, _value: f64) -> Result<Shallow<'de>, E> {
                Ok(Shallow(None))
            }

            fn visit_unit<E>(self) -> Result<Shallow<'de>, E> {
                Ok(Shallow(None))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Shallow<'de>, E> {
                Ok(Shallow(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Shallow<'de>, E> {
                Ok(Shallow(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shallow<'de>, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Shallow(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Shallow<'de>, A::Error> {
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Shallow(None))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The members of an object that have known names; all others are read over. None when the value is no object.
pub(crate) struct Fields<const N: usize>(pub(crate) [&'static str; N]);

/// What [`Fields`] found, in the order of the names.
pub(crate) type Found<'de, const N: usize> = Option<[Option<Member<'de>>; N]>;

impl<'de, const N: usize> DeserializeSeed<'de> for Fields<N> {
    type Value = Found<'de, N>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = Found<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _value: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _value: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _value: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _value: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = [const { None }; N];
        while let Some(Text(name)) = members.next_key()? {
            let place = self.0.iter().zip(&mut found).find(|(known, _)| **known == name);
            match place {
                Some((_, place)) => *place = Some(members.next_value()?),
                None => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_finds_the_duplicates_that_a_tree_finds() {
        for text in [
            r#"{"a":1,"b":{"a":1},"ab":[{"a":1},{"a":2}],"":0,"\u0062a":3}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"b":2,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"\u0061":1,"\u0061":2}"#,
            r#"{"x":[[{"k":{"":1,"":2}}]]}"#,
            r#"{"é":1,"e":2,"é":3}"#,
            "{}",
            "[1,2.5,-3,null,true]",
            "7 7",
            r#"{"a":1,}"#,
        ] {
            let (looked, parsed) = (check(text.as_bytes()), parse(text.as_bytes()));
            assert_eq!(looked.is_ok(), parsed.is_ok(), "{text}: {looked:?} {parsed:?}");
        }
    }

    #[test]
    fn fields_are_found_and_the_rest_is_read_over() {
        let text = br#"{"z":{"a":1},"a":"x","b":[{"c":1},"y"],"d":["p",7],"e":9,"f":1.5,"\u0067":"g"}"#;
        let fields = Fields(["a", "b", "c", "d", "e", "f", "g"]);
        let [a, b, c, d, e, f, g] = read(text, fields).unwrap().unwrap();
        assert_eq!(a, Some(Member::Text("x".into())));
        assert_eq!(b, Some(Member::List { len: 2, first: None }));
        assert_eq!(c, None);
        assert_eq!(d, Some(Member::List { len: 2, first: Some("p".into()) }));
        assert_eq!((e, f), (Some(Member::Integer(9)), Some(Member::Other)));
        assert_eq!(g.as_ref().and_then(Member::as_str), Some("g"));
        assert!(read(b"[1]", Fields(["a"])).unwrap().is_none());
    }
}
