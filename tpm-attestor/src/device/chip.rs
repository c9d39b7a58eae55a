//! The open TPM, as the device thread sees it: commands with retries, sessions, and objects that are flushed again.

use std::time::{Duration, Instant};

use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, SymmetricDefinition};
use tss_esapi::{Context, Result as TssResult};

use super::auth::Secrets;
use super::error::{Class, TssFault};
use super::{Tcti, TpmError, auth};

/// First wait before a busy TPM is asked again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(640);
/// How long a busy TPM is asked again and again.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
/// Handles read in one go.
const MAX_HANDLES: u32 = 254;

/// Three session places of a command.
pub(super) type Sessions = (Option<AuthSession>, Option<AuthSession>, Option<AuthSession>);
/// No authorisation.
pub(super) const NONE: Sessions = (None, None, None);

/// Which parameter of a command travels encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cover {
    /// None: nothing secret is in it.
    Nothing,
    /// The first parameter of the command.
    Command,
    /// The first parameter of the command and of the response.
    Both,
}

/// An open TPM.
#[derive(Debug)]
pub(super) struct Chip {
    context: Context,
    pub(super) secrets: Secrets,
    resource_manager: bool,
    /// The persistent storage root key.
    pub(super) srk: Option<KeyHandle>,
    /// Persistent endorsement keys, by public area.
    pub(super) endorsement_keys: Vec<(Vec<u8>, KeyHandle)>,
    /// A session salted to the SRK, kept for the life of the context.
    salted: Option<AuthSession>,
    /// The signing key used last stays loaded, by private blob.
    pub(super) resident: Option<(Vec<u8>, KeyHandle)>,
    /// What this job must flush at its end.
    temporary: Vec<ObjectHandle>,
}

impl Chip {
    /// Opens the TPM and, where no resource manager does it, flushes what a killed process left behind.
    pub(super) fn open(tcti: &Tcti, secrets: &Secrets) -> Result<Self, TpmError> {
        let context = Context::new(tcti.name_conf()?)
            .map_err(|cause| TpmError::Open { tcti: tcti.to_string(), cause: cause.into() })?;
        let mut chip = Self {
            context,
            secrets: secrets.clone(),
            resource_manager: tcti.has_resource_manager(),
            srk: None,
            endorsement_keys: Vec::new(),
            salted: None,
            resident: None,
            temporary: Vec::new(),
        };
        for (hierarchy, value) in
            [(ObjectHandle::Owner, &secrets.owner), (ObjectHandle::Endorsement, &secrets.endorsement)]
        {
            if !value.is_empty() {
                let value = auth::auth(value);
                chip.run("set a hierarchy's auth value", NONE, |tpm| {
                    tpm.tr_set_auth(hierarchy, value.clone())
                })?;
            }
        }
        if !chip.resource_manager {
            chip.flush_stale()?;
        }
        Ok(chip)
    }

    /// Flushes transient objects, and sessions, that nobody can be using: without a resource manager the TPM is ours
    /// alone, and there are three slots.
    fn flush_stale(&mut self) -> Result<(), TpmError> {
        for first in [0x8000_0000, 0x0200_0000, 0x0300_0000] {
            for handle in self.handles(first)? {
                let object =
                    self.run("take over a stale handle", NONE, |tpm| tpm.tr_from_tpm_public(handle))?;
                self.run("flush a stale handle", NONE, |tpm| tpm.flush_context(object))?;
                tracing::info!(handle = format!("{:#x}", u32::from(handle)), "flushed a stale TPM handle");
            }
        }
        Ok(())
    }

    /// The handles of one kind that the TPM holds, from `first` on.
    pub(super) fn handles(&mut self, first: u32) -> Result<Vec<TpmHandle>, TpmError> {
        const OP: &str = "list its handles";
        let (data, _more) =
            self.run(OP, NONE, |tpm| tpm.get_capability(CapabilityType::Handles, first, MAX_HANDLES))?;
        match data {
            CapabilityData::Handles(handles) => Ok(handles.into_inner()),
            _ => Err(TpmError::Answer { op: OP, reason: "another capability than asked for".to_owned() }),
        }
    }

    /// Runs one command; a busy TPM is asked again with growing waits, nothing else is tried twice.
    pub(super) fn run<T>(
        &mut self,
        op: &'static str,
        sessions: Sessions,
        mut command: impl FnMut(&mut Context) -> TssResult<T>,
    ) -> Result<T, TpmError> {
        let started = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            let fault: TssFault = match self.context.execute_with_sessions(sessions, &mut command) {
                Ok(value) => return Ok(value),
                Err(fault) => fault.into(),
            };
            match fault.class() {
                Class::Busy if started.elapsed() < BUSY_PATIENCE => {
                    tracing::debug!(op, %fault, "the TPM is busy");
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Class::Auth => return Err(TpmError::AuthRefused { op }),
                _ => return Err(TpmError::Command { op, cause: fault }),
            }
        }
    }

    /// How to authorise a command for something whose auth value is or is not empty. An empty value needs no session
    /// of its own; any other never travels, because an HMAC proves it.
    pub(super) fn authorisation(&mut self, has_auth: bool, cover: Cover) -> Result<AuthSession, TpmError> {
        if !has_auth && cover == Cover::Nothing {
            return Ok(AuthSession::Password);
        }
        let session = match self.salted {
            Some(session) => session,
            None => self.start_session()?,
        };
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_continue_session(true)
            .with_decrypt(cover != Cover::Nothing)
            .with_encrypt(cover == Cover::Both)
            .build();
        self.run("prepare a session", NONE, |tpm| tpm.tr_sess_set_attributes(session, attributes, mask))?;
        Ok(session)
    }

    /// Starts an HMAC session, salted to the SRK once there is one.
    fn start_session(&mut self) -> Result<AuthSession, TpmError> {
        const OP: &str = "start an HMAC session";
        let srk = self.srk;
        let session = self.new_session(OP, srk)?;
        if srk.is_some() {
            self.salted = Some(session);
        } else {
            // Only the making of the SRK itself goes without salt; the session does not outlive its job.
            self.temporary.push(SessionHandle::from(session).into());
        }
        Ok(session)
    }

    /// A session for the second of two objects: a session proves one auth value. It covers no parameter, so it needs
    /// no salt, and it lasts for this job.
    pub(super) fn second_session(&mut self) -> Result<AuthSession, TpmError> {
        let session = self.new_session("start a second HMAC session", None)?;
        self.temporary.push(SessionHandle::from(session).into());
        Ok(session)
    }

    fn new_session(&mut self, op: &'static str, salt: Option<KeyHandle>) -> Result<AuthSession, TpmError> {
        self.run(op, NONE, |tpm| {
            tpm.start_auth_session(
                salt,
                None,
                None,
                SessionType::Hmac,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
        })?
        .ok_or_else(|| TpmError::Answer { op, reason: "no session".to_owned() })
    }

    /// Remembers a loaded object, so that the job's end flushes it.
    pub(super) fn keep_for_job(&mut self, handle: impl Into<ObjectHandle>) {
        self.temporary.push(handle.into());
    }

    /// Makes the key loaded last stay over the end of the job, in place of the one before it.
    pub(super) fn make_resident(&mut self, private: &[u8], key: KeyHandle) {
        let object: ObjectHandle = key.into();
        self.temporary.retain(|handle| *handle != object);
        self.resident = Some((private.to_vec(), key));
    }

    /// Flushes the resident key, to free its slot.
    pub(super) fn release_resident(&mut self) {
        if let Some((_, key)) = self.resident.take() {
            self.flush(key.into());
        }
    }

    /// Flushes an object of this job before its end; persistent ones stay.
    pub(super) fn release(&mut self, object: impl Into<ObjectHandle>) {
        let object = object.into();
        if let Some(at) = self.temporary.iter().position(|handle| *handle == object) {
            self.temporary.remove(at);
            self.flush(object);
        }
    }

    /// Flushes what the job loaded. Failures are left to the next start, which flushes stale handles.
    pub(super) fn tidy(&mut self) {
        while let Some(handle) = self.temporary.pop() {
            self.flush(handle);
        }
    }

    fn flush(&mut self, handle: ObjectHandle) {
        if let Err(error) = self.run("flush an object", NONE, |tpm| tpm.flush_context(handle)) {
            tracing::debug!(%error, "an object stays loaded");
        }
    }
}
