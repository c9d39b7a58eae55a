//! What the agent keeps between attestations: the AK's blob and whether the server has it on record.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hardroot_identity::TrustDomain;
use hardroot_runtime::state::{StateError, ensure_dir, quarantine, read_checked, write_checked};
use hardroot_tpm_attestor::device::{EkKind, EndorsementKey, WrappedKey};
use hardroot_tpm_attestor::verify::HashAlg;
use serde::{Deserialize, Serialize};

/// The state of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) ek: EndorsementKey,
    pub(super) ak: WrappedKey,
    /// SHA-256 (hex) of the agent key's `SubjectPublicKeyInfo` that the server accepted together with this AK.
    pub(super) accepted_key: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    trust_domain: String,
    ek_type: String,
    ek_public: String,
    ak_public: String,
    ak_private: String,
    accepted_key: Option<String>,
}

/// One file per trust domain: one AK never speaks for two.
pub(super) fn path(folder: &Path, trust_domain: &TrustDomain) -> PathBuf {
    let digest = hex::encode(HashAlg::Sha256.digest(&[trust_domain.as_str().as_bytes()]));
    folder.join(format!("tpm_quote-{}.state", digest.get(..16).unwrap_or(&digest)))
}

impl State {
    /// Reads the state. What is damaged is set aside and named in the log: the TPM can prove the node anew.
    pub(super) fn load(path: &Path, trust_domain: &TrustDomain) -> Result<Option<Self>, StateError> {
        let bytes = match read_checked(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(StateError::Damaged { why, .. }) => {
                set_aside(path, why);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let state = Self::decode(&bytes, trust_domain);
        if state.is_none() {
            set_aside(path, "its content is not understood");
        }
        Ok(state)
    }

    pub(super) fn decode(bytes: &[u8], trust_domain: &TrustDomain) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        if stored.version != 1 || stored.trust_domain != trust_domain.as_str() {
            return None;
        }
        let decode = |text: &str| BASE64_STANDARD.decode(text).ok();
        Some(Self {
            ek: EndorsementKey {
                kind: EkKind::from_name(&stored.ek_type)?,
                public: decode(&stored.ek_public)?,
                certificate: None,
                intermediates: Vec::new(),
            },
            ak: WrappedKey { public: decode(&stored.ak_public)?, private: decode(&stored.ak_private)? },
            accepted_key: stored.accepted_key,
        })
    }

    /// Writes the state, and makes its folder if it is not there.
    pub(super) fn save(&self, path: &Path, trust_domain: &TrustDomain) -> Result<(), StateError> {
        let stored = Stored {
            version: 1,
            trust_domain: trust_domain.as_str().to_owned(),
            ek_type: self.ek.kind.as_str().to_owned(),
            ek_public: BASE64_STANDARD.encode(&self.ek.public),
            ak_public: BASE64_STANDARD.encode(&self.ak.public),
            ak_private: BASE64_STANDARD.encode(&self.ak.private),
            accepted_key: self.accepted_key.clone(),
        };
        if let Some(folder) = path.parent() {
            ensure_dir(folder, 0o700)?;
        }
        // A struct of strings always serialises.
        write_checked(path, &serde_json::to_vec(&stored).unwrap_or_default(), 0o600)
    }
}

fn set_aside(path: &Path, why: &str) {
    match quarantine(path) {
        Ok(kept) => {
            tracing::warn!(file = %path.display(), kept = %kept.display(), why, "the attestation state is damaged, set aside");
        }
        Err(error) => tracing::warn!(file = %path.display(), %error, "the damaged attestation state stays"),
    }
}
