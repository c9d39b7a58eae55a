//! The JSON of x509pop as Go writes and reads it: bytes are standard base64 with padding, nothing is `null`,
//! names are taken in any case, unknown fields are ignored.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

/// Largest payload, in bytes: a dozen large certificates.
pub(crate) const MAX_PAYLOAD: usize = 256 * 1024;
/// Largest challenge or response, in bytes: an RSA-8192 signature is 1.4 KiB in base64.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024;
/// Certificates that are read at all; the configured limit is at most this.
pub(crate) const MAX_CERTIFICATES: usize = 32;

/// Why bytes are no message of x509pop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadMessage {
    /// More bytes than such a message may have.
    #[error("it has {len} bytes, at most {max} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Not JSON, or not of this shape.
    #[error("{reason}")]
    Json {
        /// What the parser said.
        reason: String,
    },
}

/// As Go's `base64.StdEncoding`: padding is a must, unused bits are not looked at.
const GO_BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

fn read<'de, T: Deserialize<'de>>(json: &'de [u8], max: usize) -> Result<T, BadMessage> {
    if json.len() > max {
        return Err(BadMessage::TooLong { len: json.len(), max });
    }
    serde_json::from_slice(json).map_err(|error| BadMessage::Json { reason: error.to_string() })
}

fn write<T: Serialize>(message: &T) -> Vec<u8> {
    // Texts and lists only: this cannot fail, and an empty message would be refused by the other side.
    serde_json::to_vec(message).unwrap_or_default()
}

/// What opens the exchange: the certificates, DER, leaf first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload {
    /// DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
}

/// The server's question; the kind of key decides which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// For RSA keys.
    Rsa(Vec<u8>),
    /// For EC keys.
    Ecdsa(Vec<u8>),
}

/// An RSA key's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RsaResponse {
    /// The node's nonce.
    pub nonce: Vec<u8>,
    /// RSASSA-PSS.
    pub signature: Vec<u8>,
}

/// An EC key's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EcdsaResponse {
    /// The node's nonce.
    pub nonce: Vec<u8>,
    /// Big-endian, without leading zeros.
    pub r: Vec<u8>,
    /// Big-endian, without leading zeros.
    pub s: Vec<u8>,
}

/// The node's answer. On the wire both fields are always there and one of them is null; a peer may send both,
/// of which the one that fits the key counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Response {
    /// Of an RSA key.
    pub rsa: Option<RsaResponse>,
    /// Of an EC key.
    pub ecdsa: Option<EcdsaResponse>,
}

impl Payload {
    /// Reads a payload.
    ///
    /// # Errors
    /// See [`BadMessage`].
    pub fn from_json(json: &[u8]) -> Result<Self, BadMessage> {
        read::<Shape<Payload>>(json, MAX_PAYLOAD).map(|shape| shape.0)
    }

    /// Writes it as Go does.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        write(&Shape(self))
    }
}

impl Challenge {
    /// Reads a challenge.
    ///
    /// # Errors
    /// See [`BadMessage`]; also when it is for no kind of key, or for both.
    pub fn from_json(json: &[u8]) -> Result<Self, BadMessage> {
        let both = read::<Shape<(Option<OneNonce>, Option<OneNonce>)>>(json, MAX_MESSAGE)?.0;
        match both {
            (Some(rsa), None) => Ok(Self::Rsa(rsa.0)),
            (None, Some(ecdsa)) => Ok(Self::Ecdsa(ecdsa.0)),
            _ => Err(BadMessage::Json {
                reason: "expected one of rsa_signature and ecdsa_signature".to_owned(),
            }),
        }
    }

    /// Writes it as Go does.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        write(&Shape(self))
    }
}

impl Response {
    /// Reads a response.
    ///
    /// # Errors
    /// See [`BadMessage`].
    pub fn from_json(json: &[u8]) -> Result<Self, BadMessage> {
        read::<Shape<Response>>(json, MAX_MESSAGE).map(|shape| shape.0)
    }

    /// Writes it as Go does.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        write(&Shape(self))
    }
}

/// Keeps serde's traits off the public types.
struct Shape<T>(T);

#[derive(Default)]
struct OneNonce(Vec<u8>);

/// An object whose fields Go would find.
trait Fields: Default {
    const NAMES: &'static [&'static str];
    /// Reads the value of the field with this index.
    fn take<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error>;
}

impl<'de, T: Fields> Deserialize<'de> for Shape<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Fields> Visitor<'de> for Object<T> {
            type Value = Shape<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object with {}", T::NAMES.join(" and "))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape<T>, A::Error> {
                let mut object = T::default();
                let mut seen = vec![false; T::NAMES.len()];
                while let Some(Name(name)) = map.next_key()? {
                    match T::NAMES.iter().zip(0..).find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                        Some((known, field)) => {
                            if seen.get_mut(field).is_some_and(|seen| std::mem::replace(seen, true)) {
                                return Err(A::Error::custom(format_args!("{known} is there twice")));
                            }
                            object.take(field, &mut map)?;
                        }
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Shape(object))
            }
        }
        deserializer.deserialize_map(Object(PhantomData))
    }
}

/// A field's name, borrowed from the message where it has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Go's `[]byte`.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;
        impl Visitor<'_> for Base64 {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64 or null")
            }

            fn visit_unit<E>(self) -> Result<Bytes, E> {
                Ok(Bytes(Vec::new()))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                let joined: Cow<'_, str> = if text.contains(['\r', '\n']) {
                    text.replace(['\r', '\n'], "").into()
                } else {
                    text.into()
                };
                GO_BASE64
                    .decode(&*joined)
                    .map(Bytes)
                    .map_err(|error| E::custom(format_args!("bad base64: {error}")))
            }
        }
        deserializer.deserialize_any(Base64)
    }
}

/// A list of certificates; null is an empty one.
struct Certificates(Vec<Vec<u8>>);

impl<'de> Deserialize<'de> for Certificates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Certificates;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of certificates or null")
            }

            fn visit_unit<E>(self) -> Result<Certificates, E> {
                Ok(Certificates(Vec::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Certificates, A::Error> {
                let mut all = Vec::new();
                while let Some(Bytes(der)) = list.next_element()? {
                    if all.len() == MAX_CERTIFICATES {
                        return Err(A::Error::custom(format_args!(
                            "more than {MAX_CERTIFICATES} certificates"
                        )));
                    }
                    all.push(der);
                }
                Ok(Certificates(all))
            }
        }
        deserializer.deserialize_any(List)
    }
}

fn bytes<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Vec<u8>, A::Error> {
    map.next_value::<Bytes>().map(|bytes| bytes.0)
}

/// An object or null.
fn optional<'de, T: Fields, A: MapAccess<'de>>(map: &mut A) -> Result<Option<T>, A::Error> {
    struct Seed<T>(PhantomData<T>);
    impl<'de, T: Fields> DeserializeSeed<'de> for Seed<T> {
        type Value = Option<T>;
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
            Ok(Option::<Shape<T>>::deserialize(deserializer)?.map(|shape| shape.0))
        }
    }
    map.next_value_seed(Seed(PhantomData))
}

impl Fields for Payload {
    const NAMES: &'static [&'static str] = &["certificates"];
    fn take<'de, A: MapAccess<'de>>(&mut self, _field: usize, map: &mut A) -> Result<(), A::Error> {
        self.certificates = map.next_value::<Certificates>()?.0;
        Ok(())
    }
}

impl Fields for OneNonce {
    const NAMES: &'static [&'static str] = &["nonce"];
    fn take<'de, A: MapAccess<'de>>(&mut self, _field: usize, map: &mut A) -> Result<(), A::Error> {
        self.0 = bytes(map)?;
        Ok(())
    }
}

impl Fields for RsaResponse {
    const NAMES: &'static [&'static str] = &["nonce", "signature"];
    fn take<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error> {
        *if field == 0 { &mut self.nonce } else { &mut self.signature } = bytes(map)?;
        Ok(())
    }
}

impl Fields for EcdsaResponse {
    const NAMES: &'static [&'static str] = &["nonce", "r", "s"];
    fn take<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error> {
        let value = bytes(map)?;
        match field {
            0 => self.nonce = value,
            1 => self.r = value,
            _ => self.s = value,
        }
        Ok(())
    }
}

/// The names shared by challenge and response.
const BY_KEY: &[&str] = &["rsa_signature", "ecdsa_signature"];

impl Fields for (Option<OneNonce>, Option<OneNonce>) {
    const NAMES: &'static [&'static str] = BY_KEY;
    fn take<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error> {
        *if field == 0 { &mut self.0 } else { &mut self.1 } = optional(map)?;
        Ok(())
    }
}

impl Fields for Response {
    const NAMES: &'static [&'static str] = BY_KEY;
    fn take<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error> {
        if field == 0 {
            self.rsa = optional(map)?
        } else {
            self.ecdsa = optional(map)?
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    GO_BASE64.encode(bytes)
}

impl Serialize for Shape<&Payload> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("", 1)?;
        let list: Vec<String> = self.0.certificates.iter().map(|der| text(der)).collect();
        object.serialize_field("certificates", &list)?;
        object.end()
    }
}

impl Serialize for Shape<&Challenge> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (rsa, ecdsa) = match self.0 {
            Challenge::Rsa(nonce) => (Some(nonce), None),
            Challenge::Ecdsa(nonce) => (None, Some(nonce)),
        };
        let object = |nonce: &Vec<u8>| Named([("nonce", text(nonce))]);
        let mut both = serializer.serialize_struct("", 2)?;
        both.serialize_field("rsa_signature", &rsa.map(object))?;
        both.serialize_field("ecdsa_signature", &ecdsa.map(object))?;
        both.end()
    }
}

impl Serialize for Shape<&Response> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rsa = self
            .0
            .rsa
            .as_ref()
            .map(|r| Named([("nonce", text(&r.nonce)), ("signature", text(&r.signature))]));
        let ecdsa = self
            .0
            .ecdsa
            .as_ref()
            .map(|e| Named([("nonce", text(&e.nonce)), ("r", text(&e.r)), ("s", text(&e.s))]));
        let mut both = serializer.serialize_struct("", 2)?;
        both.serialize_field("rsa_signature", &rsa)?;
        both.serialize_field("ecdsa_signature", &ecdsa)?;
        both.end()
    }
}

/// An object of texts, in this order.
struct Named<const N: usize>([(&'static str, String); N]);

impl<const N: usize> Serialize for Named<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("", N)?;
        for (name, value) in &self.0 {
            object.serialize_field(name, value)?;
        }
        object.end()
    }
}

#[cfg(test)]
mod tests;
