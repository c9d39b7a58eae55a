//! Looking at a token without a key manager: what the `hsm` commands print. Everything here blocks.

use std::collections::BTreeMap;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::context::Pkcs11;
use cryptoki::object::{AttributeType, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};

use super::error::{Failure, Pkcs11Error};
use super::module::Module;
use super::names::parts;
use super::objects::{Group, groups, in_use, one, prove, public_key};
use super::{Config, Findings, attributes, pin};
use crate::types::KeyType;

/// A token as its module describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSummary {
    /// Its label.
    pub label: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// The slot it is in now; it may be another tomorrow.
    pub slot: u64,
    /// Whether it has been initialised.
    pub initialised: bool,
    /// Whether its user PIN has been set.
    pub user_pin_set: bool,
    /// Whether the user PIN is locked.
    pub user_pin_locked: bool,
    /// Whether one wrong PIN more would lock it.
    pub user_pin_last_try: bool,
    /// Whether it can be changed.
    pub write_protected: bool,
}

impl TokenSummary {
    fn of(slot: Slot, info: &TokenInfo) -> Self {
        Self {
            label: info.label().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            serial: info.serial_number().to_owned(),
            slot: slot.id(),
            initialised: info.token_initialized(),
            user_pin_set: info.user_pin_initialized(),
            user_pin_locked: info.user_pin_locked(),
            user_pin_last_try: info.user_pin_final_try(),
            write_protected: info.write_protected(),
        }
    }
}

/// Private and public objects of one label and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectReport {
    /// `CKA_LABEL`, control characters escaped.
    pub label: String,
    /// `CKA_ID`.
    pub id: Vec<u8>,
    /// The key's type, when it is one that Hardroot uses.
    pub kind: Option<KeyType>,
    /// SHA-256 of its `SubjectPublicKeyInfo`.
    pub spki_sha256: Option<[u8; 32]>,
    /// Private objects.
    pub private_objects: usize,
    /// Public objects.
    pub public_objects: usize,
    /// Whose key it is, when the label is one of Hardroot's.
    pub owner: Option<Owner>,
    /// What the private object's attributes say; empty when there is none.
    pub findings: Findings,
}

/// What a label of ours names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The trust domain.
    pub trust_domain: String,
    /// The server.
    pub instance: String,
    /// The key.
    pub key: String,
}

impl ObjectReport {
    /// Whether Hardroot uses this key, or would if it were not refused.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.owner.is_some()
    }
}

/// A token and the keys on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenReport {
    /// The token.
    pub token: TokenSummary,
    /// Its keys, sorted by label and id.
    pub objects: Vec<ObjectReport>,
}

/// Every token of a module, initialised or not. No PIN is needed.
///
/// # Errors
/// The module cannot be loaded or fails.
pub fn tokens(module_path: &Path) -> Result<Vec<TokenSummary>, Pkcs11Error> {
    let module = Module::load(module_path)?;
    let context = &module.read().context;
    let mut tokens = Vec::new();
    for slot in context.get_slots_with_token()? {
        tokens.push(TokenSummary::of(slot, &context.get_token_info(slot)?));
    }
    Ok(tokens)
}

/// Logs into the token and reports every key on it.
///
/// # Errors
/// The token is not there, refuses the PIN, or fails.
pub fn inspect(config: &Config) -> Result<TokenReport, Pkcs11Error> {
    if let Some(fault) = config.faults().into_iter().next() {
        return Err(Pkcs11Error::Config(fault));
    }
    let module = Module::load(&config.module_path)?;
    let state = module.read();
    let (slot, info) = config.wanted().find(&state.context).map_err(token_error)?;
    let session = state.context.open_ro_session(slot)?;
    log_in(&session, &info, config)?;
    report(&session, slot, &info, config)
}

fn log_in(session: &Session, info: &TokenInfo, config: &Config) -> Result<(), Pkcs11Error> {
    use cryptoki::error::{Error as CkError, RvError};
    if !info.login_required() {
        return Ok(());
    }
    pin::may_try(info.into())?;
    let pin = pin::read(&config.pin_file)?;
    match session.login(UserType::User, Some(&pin::auth(&pin))) {
        Ok(()) | Err(CkError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn report(
    session: &Session,
    slot: Slot,
    info: &TokenInfo,
    config: &Config,
) -> Result<TokenReport, Pkcs11Error> {
    let mut labels = Vec::new();
    for class in [attributes::private_class(), attributes::public_class()] {
        for handle in session.find_objects(&class)? {
            labels.push(one(session, handle, AttributeType::Label)?.unwrap_or_default());
        }
    }
    labels.sort();
    labels.dedup();
    let mut objects = Vec::new();
    for label in labels {
        // A label that is no text is none of ours; its objects are counted under the escaped form.
        let Ok(label) = String::from_utf8(label) else { continue };
        let groups = groups(session, &label)?;
        let together = if parts(&label).is_some() { in_use(&groups).err() } else { None };
        for (id, group) in &groups {
            objects.push(object(session, &label, id, group, together.as_deref(), config)?);
        }
    }
    Ok(TokenReport { token: TokenSummary::of(slot, info), objects })
}

fn object(
    session: &Session,
    label: &str,
    id: &[u8],
    group: &Group,
    together: Option<&str>,
    config: &Config,
) -> Result<ObjectReport, Pkcs11Error> {
    let mut findings = match group.private.first() {
        Some(private) => attributes::check(session, *private, &config.tolerate_missing_attributes)?,
        None => Findings::default(),
    };
    let mut public = None;
    match group.public.first().map(|public| read_public(session, *public)) {
        Some(Ok(read)) => public = read,
        Some(Err(error)) => findings.faults.push(chain(&error)),
        None => {}
    }
    if let Some(reason) = together {
        findings.faults.push(reason.to_owned());
    }
    if group.private.is_empty() {
        findings.notes.push(
            "there is no private object: left over from a key that was destroyed or never finished"
                .to_owned(),
        );
    }
    let owner = parts(label).map(|(trust_domain, instance, key)| Owner {
        trust_domain: trust_domain.to_owned(),
        instance: instance.to_owned(),
        key: key.to_owned(),
    });
    let spki_sha256 = public.as_ref().and_then(|public: &crate::types::PublicKey| {
        digest(&SHA256, &public.spki_der).as_ref().try_into().ok()
    });
    if owner.is_some() && public.is_none() && !group.private.is_empty() && !group.public.is_empty() {
        findings.faults.push("it is no EC P-256, EC P-384, RSA 2048 or RSA 4096 key".to_owned());
    }
    // A use of the key, so only of one that is meant for us and passed everything else.
    if owner.is_some()
        && findings.faults.is_empty()
        && let (Some(private), Some(public)) = (group.private.first(), &public)
        && let Err(error) = prove(session, *private, public).map_err(token_error)
    {
        findings.faults.push(chain(&error));
    }
    Ok(ObjectReport {
        label: label.escape_debug().to_string(),
        id: id.to_vec(),
        kind: public.map(|public| public.kind),
        spki_sha256,
        private_objects: group.private.len(),
        public_objects: group.public.len(),
        owner,
        findings,
    })
}

fn read_public(
    session: &Session,
    public: ObjectHandle,
) -> Result<Option<crate::types::PublicKey>, Pkcs11Error> {
    public_key(session, public).map_err(token_error)
}

fn token_error(failure: Failure) -> Pkcs11Error {
    match failure {
        Failure::Token(error) => error,
        Failure::Module(error) => error.into(),
        Failure::Key(error) => Pkcs11Error::Answer(error.to_string()),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// What [`init_token`] needs.
#[derive(Debug, Clone, Copy)]
pub struct NewToken<'a> {
    /// The module.
    pub module_path: &'a Path,
    /// The new token's label, 1 to 32 bytes.
    pub label: &'a str,
    /// A file of mode 0600 with the security officer's PIN, which is set on a fresh token.
    pub so_pin_file: &'a Path,
    /// A file of mode 0600 with the user PIN to set.
    pub pin_file: &'a Path,
}

/// Initialises a fresh token: label, security officer's PIN, user PIN. A token that is initialised already is
/// never touched, for initialising destroys what is on it.
///
/// # Errors
/// A PIN file cannot be used, there is a token of that label already, no slot has a fresh token, or the module
/// refuses.
pub fn init_token(new: NewToken<'_>) -> Result<TokenSummary, Pkcs11Error> {
    if new.label.is_empty() || new.label.len() > 32 || new.label.chars().any(char::is_control) {
        return Err(Pkcs11Error::Config(format!(
            "\"{}\" is no token label: 1 to 32 bytes without control characters",
            new.label.escape_debug()
        )));
    }
    let (so_pin, user_pin) = (pin::read(new.so_pin_file)?, pin::read(new.pin_file)?);
    let module = Module::load(new.module_path)?;
    let context = &module.read().context;
    let mut fresh = None;
    for slot in context.get_slots_with_token()? {
        let info = context.get_token_info(slot)?;
        if !info.token_initialized() {
            fresh = fresh.or(Some((slot, info)));
        } else if info.label() == new.label {
            return Err(Pkcs11Error::Config(format!(
                "there is a token \"{}\" already (serial {}); it is left as it is",
                new.label,
                info.serial_number()
            )));
        }
    }
    let Some((slot, info)) = fresh else {
        return Err(Pkcs11Error::Config(
            "no slot of this module has a token that is not initialised yet".to_owned(),
        ));
    };
    for (name, pin) in [("so-pin", &so_pin), ("pin", &user_pin)] {
        let (least, most) = (info.min_pin_length(), info.max_pin_length());
        if most > 0 && !(least..=most).contains(&pin.len()) {
            return Err(Pkcs11Error::Config(format!(
                "the {name} has {} bytes; this token takes {least} to {most}",
                pin.len()
            )));
        }
    }
    context.init_token(slot, &pin::auth(&so_pin), new.label)?;
    let slot = find_fresh(context, slot, new.label)?;
    let session = context.open_rw_session(slot)?;
    session.login(UserType::So, Some(&pin::auth(&so_pin)))?;
    session.init_pin(&pin::auth(&user_pin))?;
    drop(session);
    Ok(TokenSummary::of(slot, &context.get_token_info(slot)?))
}

/// Some modules give the token another slot once it is initialised.
fn find_fresh(context: &Pkcs11, slot: Slot, label: &str) -> Result<Slot, Pkcs11Error> {
    let mut slots = BTreeMap::new();
    for candidate in context.get_slots_with_token()? {
        let info = context.get_token_info(candidate)?;
        if info.token_initialized() && info.label() == label {
            slots.insert(candidate.id() != slot.id(), candidate);
        }
    }
    slots.into_values().next().ok_or_else(|| {
        Pkcs11Error::Answer("the module initialised the token but does not show it".to_owned())
    })
}
