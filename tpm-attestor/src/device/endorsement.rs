//! Endorsement keys: which there are, their certificates in NV, and attestation keys under them.

use std::fmt;
use std::ops::RangeInclusive;

use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::SymmetricDefinition;

use super::chip::{Chip, Cover, NONE};
use super::ek_template::{Place, Template};
use super::keys::parse_public;
use super::queue::Urgency;
use super::{Tpm, TpmError, WrappedKey};
use crate::templates;
use crate::verify::{Attributes, BadStructure, MAX_PUBLIC_BYTES, PublicArea, certificate_key};

/// Persistent handles of endorsement keys (TCG Registry of Reserved TPM 2.0 Handles, 2.3.1).
const EK_HANDLES: RangeInclusive<u32> = 0x8101_0000..=0x8101_ffff;
/// NV indices with certificates of an on-die CA (EK Credential Profile 2.2.1.4, 2.2.1.5).
const CHAIN_INDICES: RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;
/// The first NV index of the TCG's for endorsement keys.
const FIRST_INDEX: u32 = 0x01c0_0000;
/// Largest certificate read from NV.
const MAX_CERTIFICATE: usize = 8192;
/// Largest chain read from NV, all indices together.
const MAX_CHAIN: usize = 16384;
/// Largest nonce read from NV: an RSA key's unique field.
const MAX_NONCE: usize = 256;

/// Kinds of endorsement key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EkKind {
    /// RSA-2048, the most common.
    Rsa2048,
    /// NIST P-256.
    EcP256,
    /// NIST P-384.
    EcP384,
}

impl EkKind {
    const ALL: [Self; 3] = [Self::Rsa2048, Self::EcP256, Self::EcP384];

    /// The name in configurations: `rsa-2048`, `ec-p256`, `ec-p384`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa-2048",
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
        }
    }

    /// Reads a configuration name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for EkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An endorsement key: what names a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndorsementKey {
    /// Its kind.
    pub kind: EkKind,
    /// `TPMT_PUBLIC`.
    pub public: Vec<u8>,
    /// The manufacturer's certificate for it, DER, if the TPM holds one.
    pub certificate: Option<Vec<u8>>,
    /// Further certificates from NV, DER, for chips with a CA of their own.
    pub intermediates: Vec<Vec<u8>>,
}

impl EndorsementKey {
    /// SHA-256 of the key's `SubjectPublicKeyInfo`, lower-case hex: what an operator enrols.
    ///
    /// # Errors
    /// The public area is damaged.
    pub fn hash(&self) -> Result<String, TpmError> {
        let public = parse_public("read the endorsement key", &self.public)?;
        Ok(public.key().hash_hex())
    }
}

impl Tpm {
    /// The endorsement key of a kind. Without a kind: the first with a certificate of RSA-2048, P-256 and P-384, so that the choice
    /// depends on the chip alone; when there is no certificate, P-256.
    ///
    /// # Errors
    /// The TPM fails, or cannot make such a key.
    pub async fn endorsement_key(&self, kind: Option<EkKind>) -> Result<EndorsementKey, TpmError> {
        // A chip may take a minute to make an RSA key, once.
        self.run("find the endorsement key", Urgency::Normal, self.timeout * 4, move |chip| {
            chip.endorsement_key(kind)
        })
        .await
    }

    /// Makes an attestation key under an endorsement key: restricted to what the TPM itself made. There the server
    /// sees true reset counters, which the TPM hides from keys of other hierarchies.
    ///
    /// # Errors
    /// The TPM fails.
    pub async fn create_attestation_key(&self, parent: &EndorsementKey) -> Result<WrappedKey, TpmError> {
        let parent = parent.clone();
        self.run("create an attestation key", Urgency::Normal, self.timeout, move |chip| {
            let (handle, public) = chip.endorsement_handle(&parent)?;
            let session = chip.endorsement_session(&public)?;
            chip.create(handle, Some(session), &templates::attestation_key())
        })
        .await
    }
}

impl Chip {
    fn endorsement_key(&mut self, kind: Option<EkKind>) -> Result<EndorsementKey, TpmError> {
        const OP: &str = "find the endorsement key";
        let indices: Vec<TpmHandle> = self.handles(FIRST_INDEX)?;
        let certified_place =
            |kind: EkKind| Place::of(kind).iter().find(|place| held(&indices, place.certificate).is_some());
        let kind = kind
            .or_else(|| EkKind::ALL.into_iter().find(|kind| certified_place(*kind).is_some()))
            .unwrap_or(EkKind::EcP256);
        let with_template = || Place::of(kind).iter().find(|place| held(&indices, place.template).is_some());
        let place = certified_place(kind).or_else(with_template).or(Place::of(kind).first());
        // Every kind has a place.
        let Some(place) = place else {
            return Err(TpmError::Answer { op: OP, reason: format!("no place is known for {kind} keys") });
        };
        let mut certificate = None;
        if let Some(index) = held(&indices, place.certificate) {
            certificate = first_certificate(&self.nv_read(index, MAX_CERTIFICATE)?).map(<[u8]>::to_vec);
        }
        let certified = certificate.as_deref().and_then(|der| certificate_key(der).ok());
        let mut public = None;
        if let Some(certified) = &certified {
            public = self.persistent_endorsement(|found| found.key() == certified)?;
        }
        let public = match public {
            Some(public) => public,
            None => {
                let template = self.ek_template(kind, place, &indices)?;
                self.template_endorsement(kind, place, &template)?
            }
        };
        if certified.as_ref() != Some(public.key()) && certificate.is_some() {
            tracing::warn!(%kind, "the certificate in NV is not for the endorsement key: it is left out");
            certificate = None;
        }
        let mut chain = Vec::new();
        if certificate.is_some() {
            for index in indices.iter().copied().filter(|handle| CHAIN_INDICES.contains(&u32::from(*handle)))
            {
                let room = MAX_CHAIN - chain.len();
                chain.extend(self.nv_read(index, room)?);
            }
        }
        Ok(EndorsementKey {
            kind,
            public: public.as_bytes().to_vec(),
            certificate,
            intermediates: split_certificates(&chain),
        })
    }

    /// The persistent endorsement key that `wanted` says yes to.
    fn persistent_endorsement(
        &mut self,
        wanted: impl Fn(&PublicArea) -> bool,
    ) -> Result<Option<PublicArea>, TpmError> {
        for handle in self.handles(*EK_HANDLES.start())? {
            if !EK_HANDLES.contains(&u32::from(handle)) {
                break;
            }
            let object = self.persistent(handle)?;
            // Other people's objects may be of kinds we do not read.
            let Ok(public) = self.read_public(object.into()) else { continue };
            if public.attributes().has(Attributes::RESTRICTED.with(Attributes::DECRYPT)) && wanted(&public) {
                self.endorsement_keys.push((public.as_bytes().to_vec(), object.into()));
                return Ok(Some(public));
            }
        }
        Ok(None)
    }

    /// What makes the key of a place: the template and the nonce from NV, where there are any.
    fn ek_template(
        &mut self,
        kind: EkKind,
        place: &Place,
        indices: &[TpmHandle],
    ) -> Result<Template, TpmError> {
        const OP: &str = "read the endorsement key's template";
        let evidence = |cause: BadStructure| TpmError::Evidence { op: OP, cause: cause.into() };
        let mut template = place.standard_template(kind).map_err(evidence)?;
        if let Some(index) = held(indices, place.template) {
            match Template::parse(kind, &self.nv_read(index, MAX_PUBLIC_BYTES)?) {
                Ok(from_nv) => template = from_nv,
                Err(error) => {
                    tracing::warn!(%kind, %error, "the endorsement key template in NV is not used");
                }
            }
        }
        if let Some(index) = place.nonce.and_then(|index| held(indices, index)) {
            match template.with_nonce(&self.nv_read(index, MAX_NONCE)?) {
                Some(with_nonce) => template = with_nonce,
                None => {
                    tracing::warn!(%kind, "the endorsement key nonce in NV has the wrong size and is not used")
                }
            }
        }
        Ok(template)
    }

    /// The endorsement key that follows from the seed and the template; it is stored, so that it is made only once.
    fn template_endorsement(
        &mut self,
        kind: EkKind,
        place: &Place,
        template: &Template,
    ) -> Result<PublicArea, TpmError> {
        // A persistent key that differs in nothing but the unique field is that key.
        if let Some(public) = self.persistent_endorsement(|found| template.fits(found.as_bytes()))? {
            return Ok(public);
        }
        let made = self.create_primary(Hierarchy::Endorsement, template.as_bytes())?;
        let public = self.read_public(made)?;
        match self.make_persistent(made, place.persistent_handle) {
            Ok(handle) => self.endorsement_keys.push((public.as_bytes().to_vec(), handle)),
            // Without owner authority, or with full NV, it is made anew each time: slower, not weaker.
            Err(error) => {
                tracing::warn!(%kind, error = %chain_text(&error), "the endorsement key is not stored")
            }
        }
        Ok(public)
    }

    /// A handle for an endorsement key found before.
    pub(super) fn endorsement_handle(
        &mut self,
        ek: &EndorsementKey,
    ) -> Result<(KeyHandle, PublicArea), TpmError> {
        const OP: &str = "find the endorsement key again";
        let public = parse_public(OP, &ek.public)?;
        let known = |chip: &Self| {
            chip.endorsement_keys.iter().find(|(bytes, _)| *bytes == ek.public).map(|(_, handle)| *handle)
        };
        if let Some(handle) = known(self) {
            return Ok((handle, public));
        }
        if self.persistent_endorsement(|found| found.as_bytes() == ek.public)?.is_some()
            && let Some(handle) = known(self)
        {
            return Ok((handle, public));
        }
        let indices = self.handles(FIRST_INDEX)?;
        for place in Place::of(ek.kind) {
            let template = self.ek_template(ek.kind, place, &indices)?;
            if !template.fits(&ek.public) {
                continue;
            }
            let made = self.create_primary(Hierarchy::Endorsement, template.as_bytes())?;
            if self.read_public(made)?.as_bytes() == ek.public {
                return Ok((made, public));
            }
            self.release(made);
        }
        Err(TpmError::ReplacedEndorsementKey)
    }

    /// What authorises the use of an endorsement key: its (empty) auth value or TPM2_PolicySecret of the hierarchy.
    pub(super) fn endorsement_session(&mut self, ek: &PublicArea) -> Result<AuthSession, TpmError> {
        const OP: &str = "satisfy the endorsement key's policy";
        if ek.attributes().has(Attributes::USER_WITH_AUTH) {
            return Ok(AuthSession::Password);
        }
        let session = self
            .run(OP, NONE, |tpm| {
                tpm.start_auth_session(
                    None,
                    None,
                    None,
                    SessionType::Policy,
                    SymmetricDefinition::AES_128_CFB,
                    HashingAlgorithm::Sha256,
                )
            })?
            .ok_or_else(|| TpmError::Answer { op: OP, reason: "no session".to_owned() })?;
        self.keep_for_job(SessionHandle::from(session));
        let policy = PolicySession::try_from(session)
            .map_err(|cause| TpmError::Command { op: OP, cause: cause.into() })?;
        let authority = self.authorisation(!self.secrets.endorsement.is_empty(), Cover::Nothing)?;
        self.run(OP, (Some(authority), None, None), |tpm| {
            tpm.policy_secret(
                policy,
                AuthHandle::Endorsement,
                Default::default(),
                Default::default(),
                Default::default(),
                None,
            )
        })?;
        Ok(session)
    }
}

/// The handle of an NV index, if it is among those there are.
fn held(indices: &[TpmHandle], index: u32) -> Option<TpmHandle> {
    indices.iter().copied().find(|handle| u32::from(*handle) == index)
}

fn chain_text(error: &TpmError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// The first DER element, if it is a SEQUENCE; NV areas are often padded behind it.
fn first_certificate(bytes: &[u8]) -> Option<&[u8]> {
    let [0x30, 0x82, high, low, ..] = bytes else { return None };
    bytes.get(..4 + usize::from(u16::from_be_bytes([*high, *low])))
}

/// Certificates one after the other; the rest, when it is none, is padding.
fn split_certificates(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(certificate) = first_certificate(bytes) {
        found.push(certificate.to_vec());
        bytes = bytes.get(certificate.len()..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_and_joined_certificates_are_taken_apart() {
        let one = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        let two = [&[0x30, 0x82, 0x00, 0x80][..], &[9; 128]].concat();
        assert_eq!(first_certificate(&[&one[..], &[0xff; 30]].concat()), Some(one.as_slice()));
        assert_eq!(first_certificate(&one[..200]), None);
        assert_eq!(split_certificates(&[&one[..], &two, &[0; 9]].concat()), [one, two]);
        assert!(split_certificates(&[0xff; 50]).is_empty());
    }
}
