//! Keys that stay in hardware: the [`KeyManager`] trait, its conformance suite and the backends.
//!
//! Nothing here can return private bytes. Backends are behind features of the same name, so that a crate
//! that only needs the trait links neither cryptoki nor libtss2.

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "disk")]
pub mod disk;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod public;
#[cfg(any(feature = "memory", feature = "disk"))]
mod software;
#[cfg(feature = "tpm")]
pub mod tpm;
mod types;

pub use public::{BadPublicKey, ec_point, ec_public_key, rsa_public_key, verify};
pub use types::{
    Custody, Digest, HashAlgorithm, KeyError, KeyId, KeyInfo, KeyType, PublicKey, SignatureScheme,
};

/// Where keys are made, found, used and destroyed.
///
/// One conformance suite (feature `conformance`) holds every backend to the same behaviour.
#[async_trait::async_trait]
pub trait KeyManager: Send + Sync {
    /// Where keys live and how that was checked; also the backend's name as in the configuration.
    fn custody(&self) -> Custody;

    /// How many signatures it makes at the same time, at least 1: what is asked beyond waits inside.
    fn lanes(&self) -> usize {
        1
    }

    /// Makes a key under `id`, replacing what was there.
    ///
    /// The new key is made, read back and proven by a test signature before an old one of the same id goes
    /// away; where there was none, a slow backend may leave the proof to the key's first signature, and then
    /// a key that fails it is given up. A call that fails, or a process that dies halfway, leaves the old key usable; a half-made
    /// object is never found by [`KeyManager::find`] and is removed by the next `generate` of that id.
    ///
    /// # Errors
    /// The backend cannot make this type, or the device failed.
    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError>;

    /// The public half of `id`, or `None` when there is no such key.
    ///
    /// # Errors
    /// The device failed, or the key is there but was refused (for example because it is extractable).
    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError>;

    /// Every usable key of this manager, sorted by id.
    ///
    /// # Errors
    /// The device failed.
    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError>;

    /// Signs a digest. ECDSA signatures are ASN.1 DER (RFC 3279 2.2.3), RSA ones as long as the modulus.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], [`KeyError::Mismatch`] when the scheme does not fit the key, or the device
    /// failed.
    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError>;

    /// As [`KeyManager::sign`], for a caller that verifies the signature itself, with a public key that it knows from
    /// elsewhere: a manager that verifies what it signs does not do it a second time.
    ///
    /// # Errors
    /// As [`KeyManager::sign`].
    async fn sign_unverified(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        digest: &Digest,
    ) -> Result<Vec<u8>, KeyError> {
        self.sign(id, scheme, digest).await
    }

    /// Destroys `id`. Destroying what is not there is no error.
    ///
    /// # Errors
    /// The device failed.
    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError>;
}
