//! Keys as objects on the token: finding, making, signing with and destroying them.
//!
//! A key is a private and a public object with the same label and the same id; the id's last bytes are its
//! generation. A replacement is made beside the old key, as the next generation, read back and proven, and
//! only then is the old private object destroyed: that one call is what makes the new key the key, for the
//! oldest whole generation is always the one in use. So a process that dies anywhere leaves either the old key
//! or the new one, never neither and never a choice.

use std::collections::BTreeMap;
use std::sync::Arc;

use cryptoki::context::Function;
use cryptoki::error::{Error as CkError, RvError};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;

use super::attributes::{self, Style};
use super::error::{Failure, Pkcs11Error};
use super::names;
use super::sessions::Access;
use super::token::Life;
use super::worker::{At, lock};
use crate::public::{ec_public_key, ecdsa_der, ecdsa_input, fits, rsa_public_key, verify};
use crate::types::{Digest, HashAlgorithm, KeyError, KeyId, KeyType, PublicKey, SignatureScheme};

/// A key that was found and checked.
pub(super) struct Key {
    pub(super) public: PublicKey,
    private: ObjectHandle,
    life: Life,
}

/// All objects of one label and one id.
#[derive(Default)]
pub(super) struct Group {
    pub(super) generation: Option<u32>,
    pub(super) private: Vec<ObjectHandle>,
    pub(super) public: Vec<ObjectHandle>,
}

impl Group {
    fn is_whole(&self) -> bool {
        !self.private.is_empty() && !self.public.is_empty()
    }
}

/// The objects of one label, by id.
pub(super) fn groups(session: &Session, label: &str) -> Result<BTreeMap<Vec<u8>, Group>, CkError> {
    let mut groups: BTreeMap<Vec<u8>, Group> = BTreeMap::new();
    for (class, private) in [(attributes::private_class(), true), (attributes::public_class(), false)] {
        let mut template = class;
        template.push(Attribute::Label(label.as_bytes().to_vec()));
        for handle in session.find_objects(&template)? {
            let id = one(session, handle, AttributeType::Id)?.unwrap_or_default();
            let group = groups.entry(id.clone()).or_default();
            group.generation = names::generation(label, &id);
            if private { group.private.push(handle) } else { group.public.push(handle) }
        }
    }
    Ok(groups)
}

/// The objects of one label, seen by a session that was logged in all the time.
fn own_groups(at: &At<'_>, label: &str) -> Result<BTreeMap<Vec<u8>, Group>, Failure> {
    let groups = groups(at.session, label)?;
    confirm(at)?;
    Ok(groups)
}

/// Fails like a lost login when the login was lost while objects were looked for.
fn confirm(at: &At<'_>) -> Result<(), Failure> {
    if at.shared.token.is_current(at.session, at.life)? {
        return Ok(());
    }
    Err(CkError::Pkcs11(RvError::UserNotLoggedIn, Function::FindObjects).into())
}

/// The group in use: the oldest whole generation. The error says why there is no saying which it is.
pub(super) fn in_use(groups: &BTreeMap<Vec<u8>, Group>) -> Result<Option<&Group>, String> {
    for (id, group) in groups {
        if group.generation.is_none() && !group.private.is_empty() {
            return Err(format!(
                "a private key of the same label has the id {}, which this program did not give. Rename or delete it",
                hex::encode(id)
            ));
        }
        if group.private.len() > 1 || group.public.len() > 1 {
            return Err(format!(
                "there are {} private and {} public objects with this label and the id {}; exactly one of each is needed. Delete the copies",
                group.private.len(),
                group.public.len(),
                hex::encode(id)
            ));
        }
    }
    let whole = groups.values().filter(|group| group.is_whole()).min_by_key(|group| group.generation);
    if whole.is_none() && groups.values().any(|group| !group.private.is_empty()) {
        return Err("its public object is missing. If the key was in use, restore the object from a backup of the token; if not, delete the private object, or let the server make a new key".to_owned());
    }
    Ok(whole)
}

/// One attribute of bytes.
pub(super) fn one(
    session: &Session,
    handle: ObjectHandle,
    kind: AttributeType,
) -> Result<Option<Vec<u8>>, CkError> {
    Ok(session.get_attributes(handle, &[kind])?.into_iter().find_map(|attribute| match attribute {
        Attribute::Id(bytes)
        | Attribute::Label(bytes)
        | Attribute::EcPoint(bytes)
        | Attribute::EcParams(bytes)
        | Attribute::Modulus(bytes)
        | Attribute::PublicExponent(bytes) => Some(bytes),
        _ => None,
    }))
}

/// Reads a public object as a key.
pub(super) fn public_key(session: &Session, public: ObjectHandle) -> Result<Option<PublicKey>, Failure> {
    let key_type =
        session.get_attributes(public, &[AttributeType::KeyType])?.into_iter().find_map(|attribute| {
            match attribute {
                Attribute::KeyType(key_type) => Some(key_type),
                _ => None,
            }
        });
    let Some(key_type) = key_type else { return Ok(None) };
    let params = one(session, public, AttributeType::EcParams)?;
    let modulus = one(session, public, AttributeType::Modulus)?;
    let Some(kind) = attributes::kind_of(key_type, params.as_deref(), modulus.as_deref()) else {
        return Ok(None);
    };
    let read = if kind.is_ec() {
        let point = one(session, public, AttributeType::EcPoint)?.unwrap_or_default();
        ec_public_key(kind, &point)
    } else {
        let exponent = one(session, public, AttributeType::PublicExponent)?.unwrap_or_default();
        rsa_public_key(kind, &modulus.unwrap_or_default(), &exponent)
    };
    read.map(Some).map_err(|bad| Pkcs11Error::PublicKey(bad).into())
}

fn refused(id: &KeyId, reason: impl Into<String>) -> Failure {
    KeyError::Refused { id: id.clone(), reason: reason.into() }.into()
}

/// Checks one private object and reads the public one beside it.
fn checked(at: &At<'_>, id: &KeyId, private: ObjectHandle, public: ObjectHandle) -> Result<Key, Failure> {
    let findings = attributes::check(at.session, private, &at.shared.tolerate_missing)?;
    if !findings.faults.is_empty() {
        return Err(refused(id, findings.faults.join("; ")));
    }
    let public = public_key(at.session, public)?
        .ok_or_else(|| refused(id, "it is no EC P-256, EC P-384, RSA 2048 or RSA 4096 key".to_owned()))?;
    Ok(Key { public, private, life: at.life })
}

/// Looks a key up on the token, with all checks.
pub(super) fn find(at: &At<'_>, id: &KeyId) -> Result<Option<Key>, Failure> {
    let label = at.shared.names.label(id);
    let groups = own_groups(at, &label)?;
    match in_use(&groups).map_err(|reason| refused(id, reason))? {
        Some(Group { private, public, .. }) => match (private.first(), public.first()) {
            (Some(private), Some(public)) => checked(at, id, *private, *public).map(Some),
            _ => Ok(None),
        },
        None => Ok(None),
    }
}

/// As [`find`], proves a key that is new to this process, and remembers it.
pub(super) fn look_up(at: &At<'_>, id: &KeyId) -> Result<Option<Arc<Key>>, Failure> {
    let known = at.shared.cached(id);
    let found = find(at, id).and_then(|found| {
        let Some(key) = found else { return Ok(None) };
        if known.is_none_or(|known| known.public != key.public) {
            prove(at.session, key.private, &key.public).map_err(|failure| match failure {
                Failure::Token(bad @ Pkcs11Error::BadSignature { .. }) => refused(id, bad.to_string()),
                other => other,
            })?;
        }
        Ok(Some(Arc::new(key)))
    });
    match &found {
        Ok(Some(key)) => at.shared.remember(id, Arc::clone(key)),
        // Gone or refused: what was known of it must not be used any more. A failing token proves nothing.
        Ok(None) | Err(Failure::Key(_)) => at.shared.forget(id),
        Err(_) => {}
    }
    found
}

/// The ids of this namespace that have a private object on the token, sorted.
pub(super) fn ids(at: &At<'_>) -> Result<Vec<KeyId>, Failure> {
    let mut ids = Vec::new();
    for handle in at.session.find_objects(&attributes::private_class())? {
        let label = one(at.session, handle, AttributeType::Label)?.unwrap_or_default();
        ids.extend(at.shared.names.key(&label));
    }
    confirm(at)?;
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Who verifies a signature before it is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// This key manager, unless it is configured not to.
    AsConfigured,
    /// The caller.
    ByCaller,
}

/// Signs a digest with a key of the token.
pub(super) fn sign(
    at: &At<'_>,
    id: &KeyId,
    scheme: SignatureScheme,
    digest: &Digest,
    check: Check,
) -> Result<Vec<u8>, Failure> {
    let known = at.shared.cached(id);
    let key = match &known {
        Some(key) if key.life == at.life && !at.again => Arc::clone(key),
        _ => {
            let found = look_up(at, id)?.ok_or_else(|| KeyError::NotFound { id: id.clone() })?;
            if known.as_ref().is_some_and(|known| known.public != found.public) {
                return Err(Pkcs11Error::Replaced.into());
            }
            found
        }
    };
    if !fits(key.public.kind, scheme) {
        return Err(KeyError::Mismatch { id: id.clone(), kind: key.public.kind, scheme }.into());
    }
    let signature = raw_sign(at.session, key.private, key.public.kind, scheme, digest)?;
    let verified = check == Check::AsConfigured && at.shared.verify_signatures;
    if verified && !verify(&key.public, scheme, digest, &signature) {
        tracing::error!(key = %id, "the token made a signature that does not verify");
        return Err(Pkcs11Error::BadSignature { kind: key.public.kind }.into());
    }
    Ok(signature)
}

fn raw_sign(
    session: &Session,
    private: ObjectHandle,
    kind: KeyType,
    scheme: SignatureScheme,
    digest: &Digest,
) -> Result<Vec<u8>, Failure> {
    match scheme {
        SignatureScheme::Ecdsa => {
            let raw = session.sign(&Mechanism::Ecdsa, private, ecdsa_input(kind, digest))?;
            ecdsa_der(kind, &raw).ok_or_else(|| Pkcs11Error::BadSignature { kind }.into())
        }
        SignatureScheme::RsaPkcs1 => {
            let info = [digest_info(digest.algorithm()), digest.as_bytes()].concat();
            Ok(full_length(kind, session.sign(&Mechanism::RsaPkcs, private, &info)?))
        }
        SignatureScheme::RsaPss => {
            let (hash_alg, mgf, s_len) = match digest.algorithm() {
                HashAlgorithm::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
                HashAlgorithm::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
                HashAlgorithm::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
            };
            let params = PkcsPssParams { hash_alg, mgf, s_len: Ulong::new(s_len) };
            let made = session.sign(&Mechanism::RsaPkcsPss(params), private, digest.as_bytes())?;
            Ok(full_length(kind, made))
        }
    }
}

/// Some tokens leave leading zeros out; RFC 8017 8.2.1 wants as many bytes as the modulus has.
fn full_length(kind: KeyType, made: Vec<u8>) -> Vec<u8> {
    let length = if kind == KeyType::Rsa4096 { 512 } else { 256 };
    let mut full = vec![0; length.max(made.len()) - made.len()];
    full.extend(made);
    full
}

/// DER of `DigestInfo` up to the digest (RFC 8017 9.2 note 1): `CKM_RSA_PKCS` signs what it is given.
fn digest_info(hash: HashAlgorithm) -> &'static [u8] {
    match hash {
        HashAlgorithm::Sha256 => &[
            0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
            0x00, 0x04, 0x20,
        ],
        HashAlgorithm::Sha384 => &[
            0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05,
            0x00, 0x04, 0x30,
        ],
        HashAlgorithm::Sha512 => &[
            0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05,
            0x00, 0x04, 0x40,
        ],
    }
}

/// Signs a test digest and verifies it in software: proves that the private object belongs to the public one
/// and that the token can use it.
pub(super) fn prove(session: &Session, private: ObjectHandle, public: &PublicKey) -> Result<(), Failure> {
    let kind = public.kind;
    let scheme = if kind.is_ec() { SignatureScheme::Ecdsa } else { SignatureScheme::RsaPkcs1 };
    let digest =
        Digest::of(HashAlgorithm::Sha256, b"hardroot: does this private key belong to its public key?");
    let signature = raw_sign(session, private, kind, scheme, &digest)?;
    if verify(public, scheme, &digest, &signature) {
        return Ok(());
    }
    Err(Pkcs11Error::BadSignature { kind }.into())
}

/// Runs a change of the token with a session that may write, one change at a time.
fn change<T>(at: &At<'_>, work: impl FnOnce(&Session) -> Result<T, Failure>) -> Result<T, Failure> {
    let _one_at_a_time = lock(&at.shared.changing);
    let sessions = &at.shared.token.sessions;
    let lease = sessions.open(at.state, at.slot, Access::Write)?;
    let result = work(&lease.session);
    sessions.close(lease, at.state);
    result
}

/// Makes a key, replacing what is there: see the module's head for the order.
pub(super) fn generate(at: &At<'_>, id: &KeyId, kind: KeyType) -> Result<PublicKey, Failure> {
    change(at, |session| replace(at, session, id, kind))
}

fn replace(at: &At<'_>, session: &Session, id: &KeyId, kind: KeyType) -> Result<PublicKey, Failure> {
    let label = at.shared.names.label(id);
    let before = own_groups(at, &label)?;
    if let Some((object_id, _)) =
        before.iter().find(|(_, group)| group.generation.is_none() && !group.private.is_empty())
    {
        return Err(refused(
            id,
            format!(
                "a private key of the same label has the id {}, which this program did not give, so it is neither used nor replaced. Rename or delete it",
                hex::encode(object_id)
            ),
        ));
    }
    // Younger than the key in use: what a creation left behind that did not finish.
    let old = before.values().filter(|group| group.is_whole()).filter_map(|group| group.generation).min();
    for group in before.values().filter(|group| old.is_some() && group.generation > old) {
        destroy_group(session, group)?;
    }
    let generation = before.values().filter_map(|group| group.generation).max().unwrap_or(0) + 1;
    let object_id = names::object_id(&label, generation);
    let (public, private) = make(at, session, kind, &label, &object_id)?;
    let made = Group { generation: Some(generation), private: vec![private], public: vec![public] };
    let key = accept(at, id, kind, &label, &object_id).inspect_err(|_failure| {
        // Best effort: left behind, it would be refused by the same checks, and removed by the next creation.
        drop(destroy_group(session, &made));
    })?;
    let replaced = before.values().filter(|group| old.is_none() || group.generation <= old);
    for group in replaced.filter(|group| group.generation.is_some()) {
        if let Err(error) = destroy_group(session, group) {
            at.shared.forget(id);
            let now = own_groups(at, &label)?;
            // As long as the old key is whole it is the key, and the new one must go.
            if now.values().any(|group| group.is_whole() && group.generation == old) {
                drop(destroy_group(session, &made));
            }
            return Err(error.into());
        }
    }
    let public = key.public.clone();
    at.shared.remember(id, Arc::new(key));
    tracing::info!(key = %id, kind = %kind, label, id = hex::encode(&object_id), "made a key on the token");
    Ok(public)
}

fn make(
    at: &At<'_>,
    session: &Session,
    kind: KeyType,
    label: &str,
    object_id: &[u8],
) -> Result<(ObjectHandle, ObjectHandle), Failure> {
    let (mechanism, mechanism_type, bits) = match kind {
        KeyType::EcP256 => (Mechanism::EccKeyPairGen, MechanismType::ECC_KEY_PAIR_GEN, 256),
        KeyType::EcP384 => (Mechanism::EccKeyPairGen, MechanismType::ECC_KEY_PAIR_GEN, 384),
        KeyType::Rsa2048 => (Mechanism::RsaPkcsKeyPairGen, MechanismType::RSA_PKCS_KEY_PAIR_GEN, 2048),
        KeyType::Rsa4096 => (Mechanism::RsaPkcsKeyPairGen, MechanismType::RSA_PKCS_KEY_PAIR_GEN, 4096),
    };
    let unsupported = |reason: String| KeyError::Unsupported {
        backend: "pkcs11",
        op: "generate",
        reason: format!("{kind}: {reason}"),
    };
    // Tokens leave out mechanisms that they can do, so only a stated range that excludes this key is believed.
    if let Ok(info) = at.state.context.get_mechanism_info(at.slot, mechanism_type) {
        let (least, most) = (info.min_key_size(), info.max_key_size());
        if most > 0 && !(least..=most).contains(&bits) {
            return Err(unsupported(format!("the token makes keys of {least} to {most} bits")).into());
        }
    }
    let public = attributes::public_template(kind, label, object_id);
    let with = |style| {
        let private = attributes::private_template(kind, label, object_id, style);
        session.generate_key_pair(&mechanism, &public, &private)
    };
    let made = match with(Style::Strict) {
        Err(CkError::Pkcs11(
            RvError::TemplateInconsistent
            | RvError::TemplateIncomplete
            | RvError::AttributeTypeInvalid
            | RvError::AttributeValueInvalid
            | RvError::AttributeReadOnly
            | RvError::ArgumentsBad
            | RvError::FunctionNotSupported,
            _,
        )) => with(Style::Plain),
        other => other,
    };
    match made {
        Err(CkError::Pkcs11(
            code @ (RvError::MechanismInvalid
            | RvError::CurveNotSupported
            | RvError::DomainParamsInvalid
            | RvError::KeySizeRange),
            function,
        )) => Err(unsupported(Pkcs11Error::from(CkError::Pkcs11(code, function)).to_string()).into()),
        other => Ok(other?),
    }
}

/// Reads a new key back as a restart would find it, checks and proves it.
fn accept(at: &At<'_>, id: &KeyId, kind: KeyType, label: &str, object_id: &[u8]) -> Result<Key, Failure> {
    let groups = own_groups(at, label)?;
    let group = groups.get(object_id);
    let (private, public) = match group.map(|group| (group.private.as_slice(), group.public.as_slice())) {
        Some(([private], [public])) => (*private, *public),
        _ => {
            return Err(refused(id, "the token made it but does not show one private and one public object"));
        }
    };
    let key = checked(at, id, private, public)?;
    if key.public.kind != kind {
        return Err(refused(id, format!("the token made {} where {kind} was asked for", key.public.kind)));
    }
    prove(at.session, private, &key.public)?;
    Ok(key)
}

/// The private object first: a public one left over is harmless, and never taken for a key.
fn destroy_group(session: &Session, group: &Group) -> Result<(), CkError> {
    for handle in group.private.iter().chain(&group.public) {
        match session.destroy_object(*handle) {
            Ok(()) | Err(CkError::Pkcs11(RvError::ObjectHandleInvalid, _)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Destroys every object of a key.
pub(super) fn destroy(at: &At<'_>, id: &KeyId) -> Result<(), Failure> {
    at.shared.forget(id);
    let label = at.shared.names.label(id);
    if own_groups(at, &label)?.is_empty() {
        return Ok(());
    }
    change(at, |session| {
        // Youngest first: were the oldest gone and the rest not, a replacement that never was would come to
        // light.
        let groups = own_groups(at, &label)?;
        let mut ours: Vec<_> = groups.values().filter(|group| group.generation.is_some()).collect();
        ours.sort_by_key(|group| std::cmp::Reverse(group.generation));
        for group in ours {
            destroy_group(session, group)?;
        }
        at.shared.forget(id);
        tracing::info!(key = %id, label, "destroyed a key on the token");
        Ok(())
    })
}
