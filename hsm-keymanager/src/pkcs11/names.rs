//! What keys are called on a token: each object names its trust domain, its server and its key, so that
//! several servers can share a token and nobody has to guess whose a key is.

use aws_lc_rs::digest::{SHA256, digest};

use super::error::Pkcs11Error;
use crate::types::KeyId;

/// What every label of ours begins with.
const PREFIX: &str = "hardroot/";
/// Bytes of `CKA_ID` that come from the label.
const NAME_BYTES: usize = 12;

/// Whose keys a key manager holds.
#[derive(Debug, Clone, Copy)]
pub struct Namespace<'a> {
    /// The trust domain's name, such as `example.org`.
    pub trust_domain: &'a str,
    /// The server's own name on this token: 1 to 64 of `[A-Za-z0-9._-]`. Two servers must never have the
    /// same, or they would use and replace each other's keys.
    pub instance: &'a str,
}

/// Labels and ids of one namespace.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(namespace: Namespace<'_>) -> Result<Self, Pkcs11Error> {
        let Namespace { trust_domain, instance } = namespace;
        let bad = |what: &str, text: &str| {
            Pkcs11Error::Config(format!(
                "\"{}\" is no {what} to name keys with: letters, digits and . _ - are allowed",
                text.escape_default()
            ))
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if trust_domain.is_empty() || trust_domain.len() > 255 || !trust_domain.bytes().all(plain) {
            return Err(bad("trust domain", trust_domain));
        }
        if KeyId::new(instance).is_err() {
            return Err(bad("instance", instance));
        }
        Ok(Self { prefix: format!("{PREFIX}{trust_domain}/{instance}/") })
    }

    /// `CKA_LABEL` of a key's objects.
    pub(super) fn label(&self, id: &KeyId) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The key that a label names, when it is one of this namespace.
    pub(super) fn key(&self, label: &[u8]) -> Option<KeyId> {
        let label = std::str::from_utf8(label).ok()?;
        KeyId::new(label.strip_prefix(&self.prefix)?).ok()
    }
}

/// `CKA_ID` of generation `generation` of a key: a hash of its label, then the generation. Each replacement
/// has the next generation, so that the private object finds its public one while both keys are there.
pub(super) fn object_id(label: &str, generation: u32) -> Vec<u8> {
    let hash = digest(&SHA256, label.as_bytes());
    hash.as_ref().iter().take(NAME_BYTES).copied().chain(generation.to_be_bytes()).collect()
}

/// The generation in a `CKA_ID`; `None` when it is not one of ours for this label.
pub(super) fn generation(label: &str, object_id: &[u8]) -> Option<u32> {
    let (name, generation) = object_id.split_at_checked(NAME_BYTES)?;
    let own = digest(&SHA256, label.as_bytes());
    if own.as_ref().get(..NAME_BYTES) != Some(name) {
        return None;
    }
    generation.try_into().ok().map(u32::from_be_bytes)
}

/// Trust domain, instance and key of a label of ours.
pub(super) fn parts(label: &str) -> Option<(&str, &str, &str)> {
    let mut parts = label.strip_prefix(PREFIX)?.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(trust_domain), Some(instance), Some(key), None) => Some((trust_domain, instance, key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let names = Names::new(Namespace { trust_domain: "example.org", instance: "server-1" }).unwrap();
        let key = KeyId::new("x509-CA-A").unwrap();
        let label = names.label(&key);
        assert_eq!(label, "hardroot/example.org/server-1/x509-CA-A");
        assert_eq!(names.key(label.as_bytes()), Some(key));
        assert_eq!(parts(&label), Some(("example.org", "server-1", "x509-CA-A")));
        assert_eq!(generation(&label, &object_id(&label, 7)), Some(7));
        assert_eq!(generation("hardroot/example.org/server-2/x509-CA-A", &object_id(&label, 7)), None);
        assert_eq!(generation(&label, &object_id(&label, 7)[..15]), None);
        assert_eq!(generation(&label, &[]), None);
    }

    #[test]
    fn another_servers_keys_are_not_ours() {
        let names = Names::new(Namespace { trust_domain: "example.org", instance: "server-1" }).unwrap();
        for label in [
            "hardroot/example.org/server-10/x509-CA-A",
            "hardroot/example.com/server-1/x509-CA-A",
            "hardroot/example.org/server-1/a/b",
            "hardroot/example.org/server-1/",
            "x509-CA-A",
        ] {
            assert_eq!(names.key(label.as_bytes()), None, "{label}");
        }
        assert!(Names::new(Namespace { trust_domain: "a/b", instance: "x" }).is_err());
        assert!(Names::new(Namespace { trust_domain: "a", instance: "x/y" }).is_err());
    }
}
