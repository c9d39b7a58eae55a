//! One signature by a key of the key manager.

use std::time::Duration;

use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyError, KeyId, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_identity::TbsCertificate;

/// How long one signature may take, waiting for a session included.
pub(super) const SIGN_DEADLINE: Duration = Duration::from_secs(30);

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// There is more to sign than can be signed in time.
    #[error(transparent)]
    Busy(#[from] super::queue::Busy),
    /// The key manager refused or failed.
    #[error("key {key} did not sign")]
    Key {
        /// The key.
        key: KeyId,
        /// The cause.
        #[source]
        cause: KeyError,
    },
    /// The key manager did not answer in time.
    #[error("key {key} did not sign within {} s; check the token or chip", SIGN_DEADLINE.as_secs())]
    Deadline {
        /// The key.
        key: KeyId,
    },
    /// The signature does not verify with the issuer's public key: it was thrown away.
    #[error(
        "key {key} made a signature that does not verify with its public key: \
         the token or chip is faulty or holds another key, and nothing was issued"
    )]
    Wrong {
        /// The key.
        key: KeyId,
        /// The cause.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl SignError {
    /// A signature that did not verify.
    pub(super) fn wrong(key: &KeyId, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Wrong { key: key.clone(), cause: cause.into() }
    }
}

/// The scheme and hash that go with a key type in certificates and tokens (as in SPIRE).
#[must_use]
pub(super) fn scheme_of(kind: KeyType) -> (SignatureScheme, HashAlgorithm) {
    match kind {
        KeyType::EcP256 => (SignatureScheme::Ecdsa, HashAlgorithm::Sha256),
        KeyType::EcP384 => (SignatureScheme::Ecdsa, HashAlgorithm::Sha384),
        KeyType::Rsa2048 | KeyType::Rsa4096 => (SignatureScheme::RsaPkcs1, HashAlgorithm::Sha256),
    }
}

/// Signs a message. The caller verifies the signature with the public key that was published.
///
/// # Errors
/// [`SignError::Key`], [`SignError::Deadline`].
pub(super) async fn sign_message(
    keys: &dyn KeyManager,
    key: &KeyId,
    kind: KeyType,
    message: &[u8],
) -> Result<Vec<u8>, SignError> {
    let (scheme, hash) = scheme_of(kind);
    tokio::time::timeout(SIGN_DEADLINE, keys.sign_unverified(key, scheme, &Digest::of(hash, message)))
        .await
        .map_err(|_elapsed| SignError::Deadline { key: key.clone() })?
        .map_err(|cause| SignError::Key { key: key.clone(), cause })
}

/// Signs a certificate and verifies the signature in software: a device that signs with the wrong key, or
/// wrongly, must not get a certificate out of the house.
///
/// # Errors
/// [`SignError`].
pub(super) async fn sign_certificate(
    keys: &dyn KeyManager,
    key: &KeyId,
    public: &PublicKey,
    tbs: TbsCertificate,
) -> Result<Vec<u8>, SignError> {
    let signed = sign_message(keys, key, public.kind, tbs.to_be_signed()).await?;
    tbs.assemble(&signed).map_err(|cause| SignError::wrong(key, cause))
}
