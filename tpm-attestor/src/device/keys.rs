//! The storage root key and the keys under it.

use std::time::Duration;

use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::structures::{Digest, HashcheckTicket, Private, Public, Signature, SignatureScheme};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

use super::chip::{Chip, Cover, NONE};
use super::error::Class;
use super::queue::Urgency;
use super::{Tpm, TpmError, WrappedKey, auth};
use crate::der;
use crate::templates;
use crate::verify::{Curve, PublicArea, PublicKey};

/// Where the TCG wants a storage root key (TCG TPM v2.0 Provisioning Guidance, 7.8).
const SRK_HANDLE: u32 = 0x8100_0001;
/// Persistent handles of the owner that may hold storage root keys.
const SRK_HANDLES: std::ops::RangeInclusive<u32> = 0x8100_0001..=0x8100_00ff;

impl Tpm {
    /// Makes a P-256 signing key under the storage root key: unrestricted, ECDSA with SHA-256, not to be duplicated, without
    /// dictionary attack protection (its auth value is 256 random bits or empty, and unorderly shutdowns must not
    /// lock it).
    ///
    /// # Errors
    /// The TPM fails.
    pub async fn create_signing_key(&self) -> Result<WrappedKey, TpmError> {
        self.run("create a signing key", Urgency::Normal, self.timeout, |chip| {
            let srk = chip.srk()?;
            chip.create(srk, None, &templates::signing_key())
        })
        .await
    }

    /// Signs a SHA-256 digest with a key made by [`Tpm::create_signing_key`]. The signature is ASN.1 DER. The key stays
    /// loaded until another is used.
    ///
    /// # Errors
    /// The key is not of this TPM, or the TPM fails.
    pub async fn sign(&self, key: &WrappedKey, digest: [u8; 32]) -> Result<Vec<u8>, TpmError> {
        let key = key.clone();
        self.run("sign", Urgency::Urgent, self.timeout, move |chip| {
            let handle = chip.load_resident(&key)?;
            chip.sign(handle, digest)
        })
        .await
    }

    /// Checks that this TPM loads a key, and what kind of key it is.
    ///
    /// # Errors
    /// The key is not of this TPM, or the TPM fails.
    pub async fn check_key(&self, key: &WrappedKey) -> Result<PublicArea, TpmError> {
        let key = key.clone();
        self.run("load a key", Urgency::Normal, self.timeout, move |chip| {
            let srk = chip.srk()?;
            chip.load(srk, None, &key)?;
            parse_public("load a key", &key.public)
        })
        .await
    }

    /// The storage root key's public area: its name tells a TPM, and whether it was cleared.
    ///
    /// # Errors
    /// The TPM fails.
    pub async fn storage_root_key(&self) -> Result<PublicArea, TpmError> {
        self.run("read the storage root key", Urgency::Normal, self.timeout, |chip| {
            let srk = chip.srk()?;
            chip.read_public(srk)
        })
        .await
    }

    /// The operation timeout.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl Chip {
    /// Finds the persistent storage root key, or makes it and makes it persistent.
    pub(super) fn prepare_srk(&mut self) -> Result<(), TpmError> {
        if self.srk.is_some() {
            return Ok(());
        }
        let wanted = parse_attributes(&templates::storage_root_key())?;
        let mut taken = Vec::new();
        for handle in self.handles(SRK_HANDLE)? {
            let number = u32::from(handle);
            if !SRK_HANDLES.contains(&number) {
                break;
            }
            taken.push(number);
            let object = self.run("read a persistent key", NONE, |tpm| tpm.tr_from_tpm_public(handle))?;
            // A key we cannot read is not our template.
            if let Ok(public) = self.read_public(object.into())
                && public.attributes().bits() == wanted
                && matches!(public.key(), PublicKey::Ecc { curve: Curve::P256, .. })
                && public.symmetric_bits() == Some(128)
            {
                self.srk = Some(object.into());
                return Ok(());
            }
        }
        let free = SRK_HANDLES.into_iter().find(|number| !taken.contains(number)).unwrap_or(SRK_HANDLE);
        let srk = self.create_primary(Hierarchy::Owner, &templates::storage_root_key())?;
        let persistent = self.make_persistent(srk, free)?;
        tracing::info!(handle = format!("{free:#x}"), "made the storage root key persistent");
        self.srk = Some(persistent);
        Ok(())
    }

    pub(super) fn srk(&mut self) -> Result<KeyHandle, TpmError> {
        self.prepare_srk()?;
        self.srk
            .ok_or(TpmError::Answer { op: "find the storage root key", reason: "there is none".to_owned() })
    }

    /// Makes a primary key, for this job.
    pub(super) fn create_primary(
        &mut self,
        hierarchy: Hierarchy,
        template: &[u8],
    ) -> Result<KeyHandle, TpmError> {
        const OP: &str = "create a primary key";
        let public = to_tss(OP, template)?;
        self.release_resident();
        let has_auth = match hierarchy {
            Hierarchy::Owner => !self.secrets.owner.is_empty(),
            _ => !self.secrets.endorsement.is_empty(),
        };
        let session = self.authorisation(has_auth, Cover::Nothing)?;
        let made = self.run(OP, (Some(session), None, None), |tpm| {
            tpm.create_primary(hierarchy, public.clone(), None, None, None, None)
        })?;
        self.keep_for_job(made.key_handle);
        Ok(made.key_handle)
    }

    /// Stores a loaded key at a persistent handle, by the owner's authority.
    pub(super) fn make_persistent(&mut self, key: KeyHandle, at: u32) -> Result<KeyHandle, TpmError> {
        const OP: &str = "store a key persistently";
        let handle = PersistentTpmHandle::new(at)
            .map_err(|cause| TpmError::Command { op: OP, cause: cause.into() })?;
        let session = self.authorisation(!self.secrets.owner.is_empty(), Cover::Nothing)?;
        let stored = self.run(OP, (Some(session), None, None), |tpm| {
            tpm.evict_control(Provision::Owner, key.into(), Persistent::Persistent(handle))
        })?;
        Ok(stored.into())
    }

    /// Makes a key under `parent`. A parent under policy gives its policy session.
    pub(super) fn create(
        &mut self,
        parent: KeyHandle,
        policy: Option<tss_esapi::interface_types::session_handles::AuthSession>,
        template: &[u8],
    ) -> Result<WrappedKey, TpmError> {
        const OP: &str = "create a key";
        let public = to_tss(OP, template)?;
        self.release_resident();
        let value = (!self.secrets.key.is_empty()).then(|| auth::auth(&self.secrets.key));
        // The new key's auth value is the one secret here: it travels encrypted.
        let cover = if value.is_some() { Cover::Command } else { Cover::Nothing };
        let sessions = match policy {
            None => (Some(self.authorisation(false, cover)?), None, None),
            Some(policy) if value.is_some() => (Some(policy), Some(self.authorisation(false, cover)?), None),
            Some(policy) => (Some(policy), None, None),
        };
        let made = self
            .run(OP, sessions, |tpm| tpm.create(parent, public.clone(), value.clone(), None, None, None))?;
        let public =
            made.out_public.marshall().map_err(|cause| TpmError::Command { op: OP, cause: cause.into() })?;
        parse_public(OP, &public)?;
        Ok(WrappedKey { public, private: made.out_private.value().to_vec() })
    }

    /// Loads a key for this job.
    pub(super) fn load(
        &mut self,
        parent: KeyHandle,
        policy: Option<tss_esapi::interface_types::session_handles::AuthSession>,
        key: &WrappedKey,
    ) -> Result<KeyHandle, TpmError> {
        const OP: &str = "load a key";
        let public = to_tss(OP, &key.public)?;
        let private = Private::try_from(key.private.as_slice())
            .map_err(|cause| TpmError::ForeignKey { cause: cause.into() })?;
        self.release_resident();
        let session = match policy {
            Some(policy) => policy,
            None => self.authorisation(false, Cover::Nothing)?,
        };
        let loaded = self
            .run(OP, (Some(session), None, None), |tpm| tpm.load(parent, private.clone(), public.clone()));
        let handle = match loaded {
            Err(TpmError::Command { cause, .. })
                if matches!(cause.class(), Class::Foreign | Class::Final) =>
            {
                return Err(TpmError::ForeignKey { cause });
            }
            other => other?,
        };
        self.keep_for_job(handle);
        if !self.secrets.key.is_empty() {
            let value = auth::auth(&self.secrets.key);
            self.run("set a key's auth value", NONE, |tpm| tpm.tr_set_auth(handle.into(), value.clone()))?;
        }
        Ok(handle)
    }

    fn load_resident(&mut self, key: &WrappedKey) -> Result<KeyHandle, TpmError> {
        if let Some((private, handle)) = &self.resident
            && *private == key.private
        {
            return Ok(*handle);
        }
        let srk = self.srk()?;
        let handle = self.load(srk, None, key)?;
        self.make_resident(&key.private, handle);
        Ok(handle)
    }

    fn sign(&mut self, key: KeyHandle, digest: [u8; 32]) -> Result<Vec<u8>, TpmError> {
        const OP: &str = "sign";
        let command = |cause: tss_esapi::Error| TpmError::Command { op: OP, cause: cause.into() };
        let digest = Digest::try_from(digest.as_slice()).map_err(command)?;
        // The digest was not made by the TPM; an unrestricted key signs it all the same.
        let ticket = HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
            tag: TPM2_ST_HASHCHECK,
            hierarchy: TPM2_RH_NULL,
            digest: Default::default(),
        })
        .map_err(command)?;
        let session = self.authorisation(!self.secrets.key.is_empty(), Cover::Nothing)?;
        let signature = self.run(OP, (Some(session), None, None), |tpm| {
            tpm.sign(key, digest.clone(), SignatureScheme::Null, ticket.clone())
        })?;
        match signature {
            Signature::EcDsa(signature) => {
                Ok(der::ecdsa_signature(signature.signature_r().value(), signature.signature_s().value()))
            }
            _ => Err(TpmError::Answer { op: OP, reason: "a signature that is not ECDSA".to_owned() }),
        }
    }

    /// A loaded key's public area.
    pub(super) fn read_public(&mut self, key: KeyHandle) -> Result<PublicArea, TpmError> {
        const OP: &str = "read a public key";
        let (public, name, _) = self.run(OP, NONE, |tpm| tpm.read_public(key))?;
        let bytes = public.marshall().map_err(|cause| TpmError::Command { op: OP, cause: cause.into() })?;
        let public = parse_public(OP, &bytes)?;
        if public.name() != name.value() {
            return Err(TpmError::Answer {
                op: OP,
                reason: "the name is not that of the public area".to_owned(),
            });
        }
        Ok(public)
    }

    /// An ESYS object for a persistent handle.
    pub(super) fn persistent(&mut self, handle: TpmHandle) -> Result<ObjectHandle, TpmError> {
        self.run("read a persistent key", NONE, |tpm| tpm.tr_from_tpm_public(handle))
    }
}

/// Decodes what the TPM gave, by the same rules as the server's.
pub(super) fn parse_public(op: &'static str, bytes: &[u8]) -> Result<PublicArea, TpmError> {
    PublicArea::parse(bytes).map_err(|cause| TpmError::Evidence { op, cause: cause.into() })
}

fn parse_attributes(template: &[u8]) -> Result<u32, TpmError> {
    template
        .get(4..8)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or(TpmError::Answer { op: "read a template", reason: "it is too short".to_owned() })
}

fn to_tss(op: &'static str, bytes: &[u8]) -> Result<Public, TpmError> {
    Public::unmarshall(bytes).map_err(|cause| TpmError::Command { op, cause: cause.into() })
}
