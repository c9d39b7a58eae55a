//! What a private key's attributes must be, when it is made and whenever it is found.

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeType, KeyType as CkKeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;

use crate::types::KeyType;

/// DER OBJECT IDENTIFIER of secp256r1, for `CKA_EC_PARAMS`.
pub(super) const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// The same for secp384r1.
pub(super) const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// Attributes that a private key must show with this value, or it is refused.
const REQUIRED: [(AttributeType, &str, bool, &str); 8] = [
    (AttributeType::Token, "CKA_TOKEN", true, "it would be gone with the session"),
    (AttributeType::Private, "CKA_PRIVATE", true, "it can be used without the PIN"),
    (AttributeType::Sensitive, "CKA_SENSITIVE", true, "the token would show its private value"),
    (AttributeType::Extractable, "CKA_EXTRACTABLE", false, "the token would export it wrapped"),
    (AttributeType::AlwaysSensitive, "CKA_ALWAYS_SENSITIVE", true, "its private value could once be read"),
    (AttributeType::NeverExtractable, "CKA_NEVER_EXTRACTABLE", true, "it could once be exported"),
    (AttributeType::Local, "CKA_LOCAL", true, "it was not made on this token but imported"),
    (AttributeType::Sign, "CKA_SIGN", true, "it cannot sign"),
];

/// Uses that a signing key must not have. A token that does not report one does not have it.
const FORBIDDEN: [(AttributeType, &str); 4] = [
    (AttributeType::Decrypt, "CKA_DECRYPT"),
    (AttributeType::Unwrap, "CKA_UNWRAP"),
    (AttributeType::Derive, "CKA_DERIVE"),
    (AttributeType::SignRecover, "CKA_SIGN_RECOVER"),
];

/// Better off, where the token knows them at all.
const BETTER_OFF: [(AttributeType, &str); 2] =
    [(AttributeType::Copyable, "CKA_COPYABLE"), (AttributeType::Modifiable, "CKA_MODIFIABLE")];

/// Names that `tolerate_missing_attributes` may hold.
pub(super) fn tolerable() -> impl Iterator<Item = &'static str> {
    REQUIRED.iter().map(|(_, name, _, _)| *name)
}

/// What a private key's attributes say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Each attribute that was asked for, with its value as text; `absent` when the token does not report it.
    pub values: Vec<(&'static str, String)>,
    /// Why the key must not be used; empty for a good key.
    pub faults: Vec<String>,
    /// What could be better but is no reason to refuse.
    pub notes: Vec<String>,
}

/// Reads a private key's attributes back and judges them.
pub(super) fn check(
    session: &Session,
    private: ObjectHandle,
    tolerate_missing: &[String],
) -> Result<Findings, cryptoki::error::Error> {
    let asked: Vec<AttributeType> = REQUIRED
        .iter()
        .map(|(kind, ..)| *kind)
        .chain(FORBIDDEN.iter().map(|(kind, _)| *kind))
        .chain(BETTER_OFF.iter().map(|(kind, _)| *kind))
        .collect();
    let read = session.get_attributes(private, &asked)?;
    // Vendors' own mechanisms make the list unreadable for the wrapper; then it says nothing about ours.
    let mechanisms = session
        .get_attributes(private, &[AttributeType::AllowedMechanisms])
        .ok()
        .and_then(|read| read.into_iter().find_map(mechanism_list));
    Ok(judge(&read, mechanisms.as_deref(), tolerate_missing))
}

fn mechanism_list(attribute: Attribute) -> Option<Vec<MechanismType>> {
    match attribute {
        Attribute::AllowedMechanisms(list) => Some(list),
        _ => None,
    }
}

fn judge(read: &[Attribute], mechanisms: Option<&[MechanismType]>, tolerate_missing: &[String]) -> Findings {
    let value = |kind: AttributeType| read.iter().find(|a| a.attribute_type() == kind).and_then(boolean);
    let mut findings = Findings::default();
    for (kind, name, wanted, otherwise) in REQUIRED {
        let read = value(kind);
        findings.values.push((name, text(read)));
        match read {
            Some(read) if read == wanted => {}
            Some(_) => findings.faults.push(format!("{name} is {}: {otherwise}", !wanted)),
            None if tolerate_missing.iter().any(|tolerated| tolerated == name) => {
                findings.notes.push(format!("the token does not report {name}, which the configuration tolerates"));
            }
            None => findings.faults.push(format!(
                "the token does not report {name}, so nothing proves that it is {wanted} (tolerate_missing_attributes would accept that)"
            )),
        }
    }
    for (kind, name) in FORBIDDEN {
        let read = value(kind);
        findings.values.push((name, text(read)));
        if read == Some(true) {
            findings.faults.push(format!("{name} is true: a signing key must have no other use"));
        }
    }
    for (kind, name) in BETTER_OFF {
        let read = value(kind);
        findings.values.push((name, text(read)));
        if read == Some(true) {
            findings.notes.push(format!("{name} is true; this token may not support turning it off"));
        }
    }
    if let Some(list) = mechanisms.filter(|list| !list.is_empty()) {
        findings.values.push((
            "CKA_ALLOWED_MECHANISMS",
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        ));
        let ours = [MechanismType::ECDSA, MechanismType::RSA_PKCS, MechanismType::RSA_PKCS_PSS];
        for other in list.iter().filter(|mechanism| !ours.contains(mechanism)) {
            findings
                .faults
                .push(format!("CKA_ALLOWED_MECHANISMS has {other}: a signing key must have no other use"));
        }
    }
    findings
}

fn text(value: Option<bool>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| value.to_string())
}

fn boolean(attribute: &Attribute) -> Option<bool> {
    match attribute {
        Attribute::Token(v)
        | Attribute::Private(v)
        | Attribute::Sensitive(v)
        | Attribute::Extractable(v)
        | Attribute::AlwaysSensitive(v)
        | Attribute::NeverExtractable(v)
        | Attribute::Local(v)
        | Attribute::Sign(v)
        | Attribute::SignRecover(v)
        | Attribute::Decrypt(v)
        | Attribute::Unwrap(v)
        | Attribute::Derive(v)
        | Attribute::Copyable(v)
        | Attribute::Modifiable(v) => Some(*v),
        _ => None,
    }
}

/// How much a template asks for: not every token knows the newer attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// With COPYABLE, MODIFIABLE and ALLOWED_MECHANISMS.
    Strict,
    /// Without those: what PKCS#11 2.20 has.
    Plain,
}

/// The public object's attributes.
pub(super) fn public_template(kind: KeyType, label: &str, id: &[u8]) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    match kind {
        KeyType::EcP256 => template.push(Attribute::EcParams(P256.to_vec())),
        KeyType::EcP384 => template.push(Attribute::EcParams(P384.to_vec())),
        KeyType::Rsa2048 | KeyType::Rsa4096 => {
            let bits = if kind == KeyType::Rsa4096 { 4096 } else { 2048 };
            template.push(Attribute::ModulusBits(Ulong::new(bits)));
            template.push(Attribute::PublicExponent(vec![1, 0, 1]));
        }
    }
    template
}

/// The private object's attributes: each is said, none is left to the token's defaults.
pub(super) fn private_template(kind: KeyType, label: &str, id: &[u8], style: Style) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::SignRecover(false),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    if style == Style::Strict {
        template.push(Attribute::Modifiable(false));
        template.push(Attribute::Copyable(false));
        template.push(Attribute::AllowedMechanisms(if kind.is_ec() {
            vec![MechanismType::ECDSA]
        } else {
            vec![MechanismType::RSA_PKCS, MechanismType::RSA_PKCS_PSS]
        }));
    }
    template
}

/// What finds private key objects on the token.
pub(super) fn private_class() -> Vec<Attribute> {
    vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)]
}

/// What finds public key objects on the token.
pub(super) fn public_class() -> Vec<Attribute> {
    vec![Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Token(true)]
}

/// The type of a public object, from its key type and parameters.
pub(super) fn kind_of(
    key_type: CkKeyType,
    ec_params: Option<&[u8]>,
    modulus: Option<&[u8]>,
) -> Option<KeyType> {
    match (key_type, ec_params, modulus) {
        (CkKeyType::EC, Some(P256), _) => Some(KeyType::EcP256),
        (CkKeyType::EC, Some(P384), _) => Some(KeyType::EcP384),
        (CkKeyType::RSA, _, Some(modulus)) => {
            let zeros = modulus.iter().take_while(|b| **b == 0).count();
            match modulus.len() - zeros {
                256 => Some(KeyType::Rsa2048),
                512 => Some(KeyType::Rsa4096),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Vec<Attribute> {
        vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::AlwaysSensitive(true),
            Attribute::NeverExtractable(true),
            Attribute::Local(true),
            Attribute::Sign(true),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            Attribute::SignRecover(false),
        ]
    }

    fn flipped(attribute: &Attribute) -> Attribute {
        match attribute {
            Attribute::Token(v) => Attribute::Token(!v),
            Attribute::Private(v) => Attribute::Private(!v),
            Attribute::Sensitive(v) => Attribute::Sensitive(!v),
            Attribute::Extractable(v) => Attribute::Extractable(!v),
            Attribute::AlwaysSensitive(v) => Attribute::AlwaysSensitive(!v),
            Attribute::NeverExtractable(v) => Attribute::NeverExtractable(!v),
            Attribute::Local(v) => Attribute::Local(!v),
            Attribute::Sign(v) => Attribute::Sign(!v),
            Attribute::Decrypt(v) => Attribute::Decrypt(!v),
            Attribute::Unwrap(v) => Attribute::Unwrap(!v),
            Attribute::Derive(v) => Attribute::Derive(!v),
            Attribute::SignRecover(v) => Attribute::SignRecover(!v),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_key_has_no_faults() {
        assert_eq!(judge(&good(), Some(&[MechanismType::ECDSA]), &[]).faults, Vec::<String>::new());
        assert_eq!(judge(&good(), None, &[]).faults, Vec::<String>::new());
    }

    #[test]
    fn each_wrong_attribute_is_a_fault_of_its_own() {
        for at in 0..good().len() {
            let mut attributes = good();
            attributes[at] = flipped(&attributes[at]);
            let findings = judge(&attributes, None, &[]);
            assert_eq!(findings.faults.len(), 1, "{:?}: {:?}", attributes[at], findings.faults);
        }
    }

    #[test]
    fn a_missing_attribute_is_refused_unless_the_configuration_tolerates_it() {
        for (at, name) in tolerable().enumerate() {
            let mut attributes = good();
            attributes.remove(at);
            let findings = judge(&attributes, None, &[]);
            assert!(findings.faults.len() == 1 && findings.faults[0].contains(name), "{:?}", findings.faults);
            let findings = judge(&attributes, None, &[name.to_owned()]);
            assert!(findings.faults.is_empty() && findings.notes[0].contains(name));
        }
    }

    #[test]
    fn another_allowed_mechanism_is_a_fault() {
        let findings = judge(&good(), Some(&[MechanismType::ECDSA, MechanismType::ECDH1_DERIVE]), &[]);
        assert_eq!(findings.faults.len(), 1);
    }

    #[test]
    fn what_is_better_off_is_only_noted() {
        let mut attributes = good();
        attributes.push(Attribute::Modifiable(true));
        attributes.push(Attribute::Copyable(true));
        let findings = judge(&attributes, None, &[]);
        assert!(findings.faults.is_empty() && findings.notes.len() == 2);
    }
}
