//! One certificate signed by a key of the key manager.

use std::time::Duration;

use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyError, KeyId, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_identity::{CannotIssue, TbsCertificate};

/// How long one signature may take, waiting for a session included.
pub(super) const SIGN_DEADLINE: Duration = Duration::from_secs(30);

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
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
        cause: CannotIssue,
    },
}

/// The scheme and hash that go with a key type in certificates (as in SPIRE).
#[must_use]
pub(super) fn scheme_of(kind: KeyType) -> (SignatureScheme, HashAlgorithm) {
    match kind {
        KeyType::EcP256 => (SignatureScheme::Ecdsa, HashAlgorithm::Sha256),
        KeyType::EcP384 => (SignatureScheme::Ecdsa, HashAlgorithm::Sha384),
        KeyType::Rsa2048 | KeyType::Rsa4096 => (SignatureScheme::RsaPkcs1, HashAlgorithm::Sha256),
    }
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
    let (scheme, hash) = scheme_of(public.kind);
    let digest = Digest::of(hash, tbs.to_be_signed());
    let signed = tokio::time::timeout(SIGN_DEADLINE, keys.sign(key, scheme, &digest))
        .await
        .map_err(|_elapsed| SignError::Deadline { key: key.clone() })?
        .map_err(|cause| SignError::Key { key: key.clone(), cause })?;
    tbs.assemble(&signed).map_err(|cause| SignError::Wrong { key: key.clone(), cause })
}
