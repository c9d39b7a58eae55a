//! Reading a bundle document key by key, so that what is held meanwhile is what the bundle will hold.
//!
//! [`crate::json::check`] has looked through the text before: it is JSON and has no duplicate names.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{BadBundleMap, JWT_USE, X509_USE};
use crate::TrustDomain;
use crate::bundle::{BadBundle, Bundle, JwtAuthority, X509Authority, unique};
use crate::json::{Member, Text};
use crate::jwk::{self, BadJwk};

/// Reads one document into a bundle. A fault ends reading and is kept: serde's errors are texts.
pub(super) struct DocumentReader {
    bundle: Bundle,
    has_keys: bool,
    fault: Option<BadBundle>,
}

impl DocumentReader {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self { bundle: Bundle::new(trust_domain), has_keys: false, fault: None }
    }

    /// The bundle, after reading ended so.
    pub(super) fn finish(self, read: Result<(), BadBundle>) -> Result<Bundle, BadBundle> {
        let Self { mut bundle, has_keys, fault } = self;
        if let Some(fault) = fault {
            return Err(fault);
        }
        read?;
        if !has_keys {
            let trust_domain = bundle.trust_domain;
            return Err(BadBundle::Shape { trust_domain, reason: NO_KEYS });
        }
        bundle.x509_authorities = unique(bundle.x509_authorities);
        bundle.jwt_authorities = unique(bundle.jwt_authorities);
        bundle.check_key_ids()?;
        Ok(bundle)
    }

    fn fail<E: serde::de::Error>(&mut self, fault: impl FnOnce(TrustDomain) -> BadBundle) -> E {
        self.fault = Some(fault(self.bundle.trust_domain.clone()));
        E::custom("the bundle cannot be used")
    }

    fn shape<E: serde::de::Error>(&mut self, reason: &'static str) -> E {
        self.fail(|trust_domain| BadBundle::Shape { trust_domain, reason })
    }

    fn take(&mut self, key: &jwk::Entry<'_>) -> Result<(), BadJwk> {
        match key.text("use") {
            Some(X509_USE) => {
                if let Some(der) = jwk::certificate(key)? {
                    self.bundle.x509_authorities.push(X509Authority { der, tainted: false });
                }
            }
            Some(JWT_USE) => {
                if let Some((key_id, spki_der)) = jwk::jwt_key(key)? {
                    let key = JwtAuthority { key_id, spki_der, expires_at: 0, tainted: false };
                    self.bundle.jwt_authorities.push(key);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

const NO_KEYS: &str = "it has no array \"keys\"";

/// Visits an object; for anything else the given fault is raised.
macro_rules! object_or {
    ($fault:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_bool<E: serde::de::Error>(self, _value: bool) -> Result<(), E> {
            Err($fault(self))
        }

        fn visit_i64<E: serde::de::Error>(self, _value: i64) -> Result<(), E> {
            Err($fault(self))
        }

        fn visit_u64<E: serde::de::Error>(self, _value: u64) -> Result<(), E> {
            Err($fault(self))
        }

        fn visit_f64<E: serde::de::Error>(self, _value: f64) -> Result<(), E> {
            Err($fault(self))
        }

        fn visit_str<E: serde::de::Error>(self, _value: &str) -> Result<(), E> {
            Err($fault(self))
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
            Err($fault(self))
        }
    };
}

impl<'de> DeserializeSeed<'de> for &mut DocumentReader {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut DocumentReader {
    type Value = ();

    object_or!(|reader: Self| reader.shape(NO_KEYS));

    fn visit_seq<A: SeqAccess<'de>>(self, _list: A) -> Result<(), A::Error> {
        Err(self.shape(NO_KEYS))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = members.next_key()? {
            match &*name {
                "keys" => members.next_value_seed(Keys(&mut *self))?,
                "spiffe_sequence" => {
                    self.bundle.sequence_number = match members.next_value()? {
                        Member::Integer(number) => u64::try_from(number).ok(),
                        _ => None,
                    }
                    .ok_or_else(|| self.shape("spiffe_sequence is not an integer from 0 to 2^64-1"))?;
                }
                "spiffe_refresh_hint" => {
                    self.bundle.refresh_hint = match members.next_value()? {
                        Member::Integer(seconds) => i64::try_from(seconds).ok().filter(|hint| *hint >= 0),
                        _ => None,
                    }
                    .ok_or_else(|| self.shape("spiffe_refresh_hint is not a number of seconds"))?;
                }
                _ => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The list of keys.
struct Keys<'a>(&'a mut DocumentReader);

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    object_or!(|keys: Self| keys.0.shape(NO_KEYS));

    fn visit_map<A: MapAccess<'de>>(self, _members: A) -> Result<(), A::Error> {
        Err(self.0.shape(NO_KEYS))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.has_keys = true;
        let mut index = 0;
        while let Some(members) = list.next_element_seed(jwk::Entry::FIELDS)? {
            let taken = match members {
                Some(members) => self.0.take(&jwk::Entry::new(members)),
                None => Err(BadJwk::NoObject),
            };
            if let Err(cause) = taken {
                return Err(self.0.fail(|trust_domain| BadBundle::Key { trust_domain, index, cause }));
            }
            index += 1;
        }
        Ok(())
    }
}

/// Reads a map of bundles and hands out each.
pub(super) struct MapReader<F> {
    pub(super) each: F,
    pub(super) fault: Option<BadBundleMap>,
    /// Whether there was an object `trust_domains`.
    pub(super) found: bool,
}

impl<F> MapReader<F> {
    fn fail<E: serde::de::Error>(&mut self, fault: impl Into<BadBundleMap>) -> E {
        self.fault = Some(fault.into());
        E::custom("the bundle map cannot be used")
    }
}

impl<'de, F: FnMut(TrustDomain, Bundle)> DeserializeSeed<'de> for &mut MapReader<F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(TrustDomain, Bundle)> Visitor<'de> for &mut MapReader<F> {
    type Value = ();

    object_or!(|reader: Self| reader.fail(BadBundleMap::Shape));

    fn visit_seq<A: SeqAccess<'de>>(self, _list: A) -> Result<(), A::Error> {
        Err(self.fail(BadBundleMap::Shape))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = members.next_key()? {
            if name == "trust_domains" {
                members.next_value_seed(TrustDomains(&mut *self))?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The object `trust_domains`.
struct TrustDomains<'a, F>(&'a mut MapReader<F>);

impl<'de, F: FnMut(TrustDomain, Bundle)> DeserializeSeed<'de> for TrustDomains<'_, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(TrustDomain, Bundle)> Visitor<'de> for TrustDomains<'_, F> {
    type Value = ();

    object_or!(|domains: Self| domains.0.fail(BadBundleMap::Shape));

    fn visit_seq<A: SeqAccess<'de>>(self, _list: A) -> Result<(), A::Error> {
        Err(self.0.fail(BadBundleMap::Shape))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let map = self.0;
        map.found = true;
        while let Some(Text(name)) = members.next_key()? {
            let trust_domain = TrustDomain::new(&name).map_err(|cause| {
                let name = name.escape_default().to_string();
                map.fail(BadBundleMap::TrustDomain { name, cause })
            })?;
            let mut reader = DocumentReader::new(trust_domain.clone());
            let read = members.next_value_seed(&mut reader);
            // What serde has to say is said already, or the reader has the fault.
            let ended = match (&reader.fault, read) {
                (None, Err(cause)) => return Err(cause),
                _ => Ok(()),
            };
            match reader.finish(ended) {
                Ok(bundle) => (map.each)(trust_domain, bundle),
                Err(fault) => return Err(map.fail(fault)),
            }
        }
        Ok(())
    }
}
