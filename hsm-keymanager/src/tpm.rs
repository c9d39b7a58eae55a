//! `tpm`: P-256 keys that only this TPM can use. The TPM makes them under its storage root key; what is on
//! disk is wrapped by it and worthless anywhere else.

mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hardroot_runtime::state::StateError;
use hardroot_tpm_attestor::device::{Tpm, TpmError, WrappedKey, WrappedKeys};
use hardroot_tpm_attestor::verify::{
    Attributes, Curve, HashAlg, PublicArea, PublicKey as TpmPublicKey, Scheme,
};

use crate::KeyManager;
use crate::public::{ec_public_key, ecdsa_input_padded, verify};
use crate::types::{
    Custody, Digest, HashAlgorithm, KeyError, KeyId, KeyInfo, KeyType, PublicKey, SignatureScheme,
};
use store::Store;

/// What to do at start with a key file that this TPM does not load: it comes from another TPM, or the TPM was
/// cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForeignKeys {
    /// Keep the file, and refuse the key with the reason: right for a server, whose CA key must not be replaced
    /// in silence because the wrong TPM was plugged in.
    #[default]
    Refuse,
    /// Rename the file and go on without the key: right for an agent, which proves itself anew with what
    /// hardware it has.
    SetAside,
}

/// The settings of the `tpm` key manager. Where the TPM is, and the file with the keys' auth value
/// (`key_auth_file`), are settings of [`Tpm`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the wrapped keys are kept, one file each; made with mode 0700 when it is not there.
    pub directory: PathBuf,
    /// What to do with keys of another TPM.
    pub foreign_keys: ForeignKeys,
}

impl Config {
    /// Keys in `directory`; those of another TPM are refused.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), foreign_keys: ForeignKeys::default() }
    }
}

/// What can be wrong with the `tpm` key manager beside the TPM itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmKeyError {
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// A key file.
    #[error(transparent)]
    File(#[from] StateError),
    /// The TPM made another kind of key than asked for.
    #[error("the TPM made a key that must not be used: {0}")]
    Made(String),
    /// The signature does not verify with the public key.
    #[error("the TPM made a signature that does not verify; it was not used. The chip may be faulty")]
    BadSignature,
}

/// A key that was found.
enum Entry {
    Good {
        public: PublicKey,
        wrapped: WrappedKey,
        /// It has made a signature that verified, or was found at start.
        proven: bool,
    },
    Refused {
        reason: String,
    },
}

/// Keys of a TPM.
pub struct TpmKeyManager {
    tpm: Arc<Tpm>,
    store: Store,
    keys: Mutex<BTreeMap<KeyId, Entry>>,
    /// Held while a key is made or destroyed: one change at a time.
    changing: tokio::sync::Mutex<()>,
}

/// Whether these bytes are taken for the key file of `id`: for tests of what damaged files cost.
#[doc(hidden)]
#[must_use]
pub fn reads_key_file(id: &KeyId, bytes: &[u8]) -> bool {
    store::decode(id, bytes).is_ok()
}

impl TpmKeyManager {
    /// Reads every key file, has the TPM load each key, and checks the attributes in its public area.
    ///
    /// A damaged file is set aside and logged. A key that the TPM loads but that has the wrong attributes is
    /// refused by [`KeyManager::find`] and [`KeyManager::sign`]; for keys of another TPM see [`ForeignKeys`].
    ///
    /// # Errors
    /// The directory cannot be used, a file is open to others, or the TPM fails.
    pub async fn open(tpm: Arc<Tpm>, config: Config) -> Result<Self, KeyError> {
        let store =
            Store::open(config.directory).map_err(|error| failed("opening the key directory", "*", error))?;
        let mut keys = BTreeMap::new();
        for (id, wrapped) in store.read_all().map_err(|error| failed("reading the keys", "*", error))? {
            let entry = match tpm.check_key(&wrapped).await {
                Ok(area) => match judge(&area) {
                    Ok(public) => {
                        tracing::info!(key = %id, "the TPM loaded a key, and its attributes are as they must be");
                        Entry::Good { public, wrapped, proven: true }
                    }
                    Err(reason) => Entry::Refused { reason },
                },
                Err(error @ TpmError::ForeignKey { .. }) => match config.foreign_keys {
                    ForeignKeys::Refuse => Entry::Refused {
                        reason: format!(
                            "{error}. Configure the TPM it was made in, or remove {} to have a new key made",
                            store.path(&id).display()
                        ),
                    },
                    ForeignKeys::SetAside => {
                        store
                            .set_aside(&id, &error.to_string())
                            .map_err(|error| failed("setting a key aside", id.as_str(), error))?;
                        continue;
                    }
                },
                Err(error) => return Err(failed("loading", id.as_str(), error.into())),
            };
            if let Entry::Refused { reason } = &entry {
                tracing::error!(key = %id, reason, "a key is refused");
            }
            keys.insert(id, entry);
        }
        Ok(Self { tpm, store, keys: Mutex::new(keys), changing: tokio::sync::Mutex::default() })
    }

    // Every holder only moves finished values, so a panic elsewhere leaves the map whole.
    fn keys(&self) -> MutexGuard<'_, BTreeMap<KeyId, Entry>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn good(&self, id: &KeyId) -> Result<Option<(PublicKey, WrappedKey)>, KeyError> {
        match self.keys().get(id) {
            None => Ok(None),
            Some(Entry::Good { public, wrapped, .. }) => Ok(Some((public.clone(), wrapped.clone()))),
            Some(Entry::Refused { reason }) => {
                Err(KeyError::Refused { id: id.clone(), reason: reason.clone() })
            }
        }
    }

    /// The key in the form that only this TPM loads, for TPM2_Certify; `None` when there is no such key.
    #[must_use]
    pub fn wrapped(&self, id: &KeyId) -> Option<WrappedKey> {
        self.good(id).ok().flatten().map(|(_, wrapped)| wrapped)
    }

    async fn signature(
        &self,
        public: &PublicKey,
        wrapped: &WrappedKey,
        digest: &Digest,
    ) -> Result<Vec<u8>, TpmKeyError> {
        let input: [u8; 32] = ecdsa_input_padded(KeyType::EcP256, digest)
            .try_into()
            .map_err(|_length| TpmKeyError::Made("its digest is not 32 bytes".to_owned()))?;
        let signature = self.tpm.sign(wrapped, input).await?;
        if verify(public, SignatureScheme::Ecdsa, digest, &signature) {
            return Ok(signature);
        }
        Err(TpmKeyError::BadSignature)
    }

    async fn make(&self) -> Result<(PublicKey, WrappedKey), TpmKeyError> {
        let wrapped = self.tpm.create_signing_key().await?;
        // Loaded again and read back, as the next start will do it.
        let public = judge(&self.tpm.check_key(&wrapped).await?).map_err(TpmKeyError::Made)?;
        Ok((public, wrapped))
    }

    /// Signs for nobody, to see whether the key does.
    async fn prove(&self, public: &PublicKey, wrapped: &WrappedKey) -> Result<(), TpmKeyError> {
        let test = Digest::of(HashAlgorithm::Sha256, b"hardroot: does this key sign?");
        self.signature(public, wrapped, &test).await.map(|_signature| ())
    }

    fn is_proven(&self, id: &KeyId) -> bool {
        matches!(self.keys().get(id), Some(Entry::Good { proven: true, .. }))
    }

    fn note_proven(&self, id: &KeyId, signed_by: &WrappedKey) {
        if let Some(Entry::Good { wrapped, proven, .. }) = self.keys().get_mut(id)
            && wrapped == signed_by
        {
            *proven = true;
        }
    }

    /// A key whose very first signature was bad is of no use: the next attempt makes another.
    async fn give_up(&self, id: &KeyId, bad: &WrappedKey) {
        let _one_at_a_time = self.changing.lock().await;
        let is_bad =
            |entry: &Entry| matches!(entry, Entry::Good { wrapped, proven: false, .. } if wrapped == bad);
        if !self.keys().get(id).is_some_and(is_bad) {
            return;
        }
        if let Err(error) = self.store.set_aside(id, "its first signature does not verify") {
            tracing::error!(key = %id, %error, "the file of a key that does not sign stays");
        }
        self.keys().remove(id);
    }
}

fn failed(op: &'static str, id: &str, error: TpmKeyError) -> KeyError {
    let retryable = match &error {
        TpmKeyError::Tpm(error) => error.is_retryable(),
        TpmKeyError::File(StateError::Io { .. }) => true,
        _ => false,
    };
    KeyError::Device { op, id: id.to_owned(), retryable, cause: Box::new(error) }
}

/// Checks a public area: the key was made in this TPM, cannot leave it, signs anything (TLS handshakes are not
/// of the TPM's making) and does nothing else.
fn judge(area: &PublicArea) -> Result<PublicKey, String> {
    let attributes = area.attributes();
    for (wanted, name, otherwise) in [
        (Attributes::FIXED_TPM, "fixedTPM", "it could be moved to another TPM"),
        (Attributes::FIXED_PARENT, "fixedParent", "it could be moved under another key"),
        (Attributes::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin", "it was not made in the TPM"),
        (Attributes::USER_WITH_AUTH, "userWithAuth", "its auth value does not open it"),
        (Attributes::NO_DA, "noDA", "wrong auth values would lock the TPM"),
        (Attributes::SIGN, "sign", "it cannot sign"),
    ] {
        if !attributes.has(wanted) {
            return Err(format!("{name} is not set: {otherwise}"));
        }
    }
    for (forbidden, name) in [(Attributes::RESTRICTED, "restricted"), (Attributes::DECRYPT, "decrypt")] {
        if attributes.has(forbidden) {
            return Err(format!("{name} is set: this is no signing key for TLS"));
        }
    }
    if area.scheme() != Some(Scheme::Ecdsa(HashAlg::Sha256)) {
        return Err("its scheme is not ECDSA with SHA-256".to_owned());
    }
    match area.key() {
        key @ TpmPublicKey::Ecc { curve: Curve::P256, .. } => {
            ec_public_key(KeyType::EcP256, &key.point()).map_err(|bad| bad.to_string())
        }
        _ => Err("it is no P-256 key".to_owned()),
    }
}

#[async_trait::async_trait]
impl KeyManager for TpmKeyManager {
    fn custody(&self) -> Custody {
        Custody {
            backend: "tpm",
            hardware: true,
            detail: format!(
                "TPM at {}: keys are fixed to it and made in it, loaded and read back at start; wrapped in {}",
                self.tpm.location(),
                self.store.directory().display()
            ),
        }
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        if kind != KeyType::EcP256 {
            return Err(KeyError::Unsupported {
                backend: "tpm",
                op: "generate",
                reason: format!(
                    "{kind}: it makes ec-p256 keys, which every TPM has. Set the key type to ec-p256, or use the pkcs11 key manager"
                ),
            });
        }
        let _one_at_a_time = self.changing.lock().await;
        let failed = |error| failed("generation", id.as_str(), error);
        let (public, wrapped) = self.make().await.map_err(failed)?;
        // What is replaced goes away for good, so the new key must have signed before. Where nothing is, the first
        // signature is the proof, and a slow chip is spared one (a new box attests with five).
        let replaces = self.keys().contains_key(id);
        if replaces {
            self.prove(&public, &wrapped).await.map_err(failed)?;
        }
        // A file of another TPM is not ours to overwrite: it may be the only copy.
        if let Err(KeyError::Refused { reason, .. }) = self.good(id) {
            self.store.set_aside(id, &reason).map_err(failed)?;
        }
        self.store.write(id, &wrapped).map_err(failed)?;
        let entry = Entry::Good { public: public.clone(), wrapped, proven: replaces };
        self.keys().insert(id.clone(), entry);
        tracing::info!(key = %id, "made a key in the TPM");
        Ok(public)
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        Ok(self.good(id)?.map(|(public, _)| public))
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let keys = self.keys();
        let good = keys.iter().filter_map(|(id, entry)| match entry {
            Entry::Good { public, .. } => Some(KeyInfo { id: id.clone(), public: public.clone() }),
            Entry::Refused { .. } => None,
        });
        Ok(good.collect())
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        let (public, wrapped) = self.good(id)?.ok_or_else(|| KeyError::NotFound { id: id.clone() })?;
        if scheme != SignatureScheme::Ecdsa {
            return Err(KeyError::Mismatch { id: id.clone(), kind: public.kind, scheme });
        }
        let proven = self.is_proven(id);
        let signed = self.signature(&public, &wrapped, digest).await;
        match &signed {
            Ok(_) if !proven => self.note_proven(id, &wrapped),
            Err(TpmKeyError::BadSignature) if !proven => self.give_up(id, &wrapped).await,
            _ => {}
        }
        signed.map_err(|error| failed("signing", id.as_str(), error))
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        let _one_at_a_time = self.changing.lock().await;
        self.store.remove(id).map_err(|error| failed("destruction", id.as_str(), error))?;
        if self.keys().remove(id).is_some() {
            tracing::info!(key = %id, "destroyed a key of the TPM");
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl WrappedKeys for TpmKeyManager {
    async fn wrapped_by_spki(
        &self,
        spki_der: &[u8],
    ) -> Result<Option<WrappedKey>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.keys().values().find_map(|entry| match entry {
            Entry::Good { public, wrapped, .. } if public.spki_der == spki_der => Some(wrapped.clone()),
            _ => None,
        }))
    }
}
