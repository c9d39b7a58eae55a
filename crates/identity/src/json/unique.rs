//! Refusing duplicate names, with and without a tree.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Text;

/// Looks for duplicate names. A name is remembered by where it stands in the text.
#[derive(Clone, Copy)]
pub(super) struct Unique<'de> {
    pub(super) text: &'de [u8],
}

impl<'de> Unique<'de> {
    /// A borrowed name's place; it ends at the quote behind it.
    fn place(self, name: &str) -> Option<u32> {
        let at = (name.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        u32::try_from(at).ok()
    }

    fn name(self, place: u32) -> &'de [u8] {
        let rest = usize::try_from(place).ok().and_then(|at| self.text.get(at..)).unwrap_or_default();
        rest.split(|byte| *byte == b'"').next().unwrap_or_default()
    }
}

impl<'de> DeserializeSeed<'de> for Unique<'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _value: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _value: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _value: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _value: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _value: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let (mut places, mut escaped): (Vec<u32>, Vec<Box<str>>) = (Vec::new(), Vec::new());
        while let Some(Text(name)) = members.next_key()? {
            match name {
                Cow::Borrowed(name) => {
                    places.push(self.place(name).ok_or_else(|| A::Error::custom("too long"))?)
                }
                Cow::Owned(name) => escaped.push(name.into_boxed_str()),
            }
            members.next_value_seed(self)?;
        }
        let duplicate = |name: &[u8]| {
            A::Error::custom(format_args!("duplicate name {:?}", String::from_utf8_lossy(name)))
        };
        places.sort_unstable_by_key(|place| self.name(*place));
        if let Some(one) =
            places.iter().zip(places.iter().skip(1)).find(|(a, b)| self.name(**a) == self.name(**b))
        {
            return Err(duplicate(self.name(*one.0)));
        }
        escaped.sort_unstable();
        if let Some(one) = escaped.iter().zip(escaped.iter().skip(1)).find(|(a, b)| a == b) {
            return Err(duplicate(one.0.as_bytes()));
        }
        let known =
            |name: &str| places.binary_search_by_key(&name.as_bytes(), |place| self.name(*place)).is_ok();
        match escaped.iter().find(|name| known(name)) {
            Some(name) => Err(duplicate(name.as_bytes())),
            None => Ok(()),
        }
    }
}

/// Builds a tree, and refuses duplicate names.
#[derive(Clone, Copy)]
pub(super) struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate name {name:?}")));
            }
            let value = members.next_value_seed(Self)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}
