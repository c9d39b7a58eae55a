//! A TLS key that signs in a token or a chip.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyId, KeyManager, KeyType, PublicKey, SignatureScheme as KeyScheme,
};
use rustls::sign::{Signer, SigningKey};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Longest wait for one signature. A handshake that waits longer has timed out on the other side anyway.
const SIGN_DEADLINE: Duration = Duration::from_secs(10);
/// Signatures of one key that may wait at the same time. Each holds a thread of the runtime's blocking pool
/// (512 by default), so this must stay well below it or everything else would wait too.
const MAX_WAITING: usize = 128;

/// Why the remote key made no signature.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("{0}")]
    Key(#[from] hardroot_hsm_keymanager::KeyError),
    #[error("key {id} made no signature within {} s; is the token or TPM stuck?", SIGN_DEADLINE.as_secs())]
    Late { id: KeyId },
    #[error("{MAX_WAITING} signatures of key {id} are waiting already; try again")]
    Busy { id: KeyId },
    #[error(
        "a TLS handshake ran outside a multi-thread runtime, where waiting for key {id} would stop everything"
    )]
    Runtime { id: KeyId },
}

struct Inner {
    keys: Arc<dyn KeyManager>,
    id: KeyId,
    public: PublicKey,
    waiting: AtomicUsize,
}

/// A [`SigningKey`] over a key of a [`KeyManager`].
///
/// rustls signs synchronously; the signature is awaited with `block_in_place`, so handshakes need a
/// multi-thread tokio runtime (and no `LocalSet`). On any other runtime the handshake fails with a clear error.
#[derive(Clone)]
pub struct RemoteKey(Arc<Inner>);

impl RemoteKey {
    /// Wraps the key `id` of `keys`, whose public half is `public`.
    #[must_use]
    pub fn new(keys: Arc<dyn KeyManager>, id: KeyId, public: PublicKey) -> Self {
        Self(Arc::new(Inner { keys, id, public, waiting: AtomicUsize::new(0) }))
    }

    /// The key's name in its manager.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.0.id
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.0.public
    }

    fn schemes(&self) -> &'static [SignatureScheme] {
        match self.0.public.kind {
            KeyType::EcP256 => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            KeyType::EcP384 => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            // TLS 1.3 signs with PSS only; PKCS#1 v1.5 is for TLS 1.2 peers that lack it.
            KeyType::Rsa2048 | KeyType::Rsa4096 => &[
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PSS_SHA384,
                SignatureScheme::RSA_PSS_SHA512,
                SignatureScheme::RSA_PKCS1_SHA256,
                SignatureScheme::RSA_PKCS1_SHA384,
                SignatureScheme::RSA_PKCS1_SHA512,
            ],
        }
    }
}

impl fmt::Debug for RemoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKey").field("id", &self.0.id).field("kind", &self.0.public.kind).finish()
    }
}

impl SigningKey for RemoteKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.schemes().iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(RemoteSigner { key: self.clone(), scheme }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.public.spki_der.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        if self.0.public.kind.is_ec() { SignatureAlgorithm::ECDSA } else { SignatureAlgorithm::RSA }
    }
}

#[derive(Debug)]
struct RemoteSigner {
    key: RemoteKey,
    scheme: SignatureScheme,
}

impl RemoteSigner {
    fn split(&self) -> (KeyScheme, HashAlgorithm) {
        match self.scheme {
            SignatureScheme::ECDSA_NISTP384_SHA384 => (KeyScheme::Ecdsa, HashAlgorithm::Sha384),
            SignatureScheme::RSA_PSS_SHA256 => (KeyScheme::RsaPss, HashAlgorithm::Sha256),
            SignatureScheme::RSA_PSS_SHA384 => (KeyScheme::RsaPss, HashAlgorithm::Sha384),
            SignatureScheme::RSA_PSS_SHA512 => (KeyScheme::RsaPss, HashAlgorithm::Sha512),
            SignatureScheme::RSA_PKCS1_SHA256 => (KeyScheme::RsaPkcs1, HashAlgorithm::Sha256),
            SignatureScheme::RSA_PKCS1_SHA384 => (KeyScheme::RsaPkcs1, HashAlgorithm::Sha384),
            SignatureScheme::RSA_PKCS1_SHA512 => (KeyScheme::RsaPkcs1, HashAlgorithm::Sha512),
            _ => (KeyScheme::Ecdsa, HashAlgorithm::Sha256),
        }
    }

    fn sign_remotely(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let inner = &self.key.0;
        let id = || inner.id.clone();
        let handle = Handle::try_current()
            .ok()
            .filter(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
            .ok_or_else(|| SignError::Runtime { id: id() })?;
        let _waiting = Waiting::enter(&inner.waiting).ok_or_else(|| SignError::Busy { id: id() })?;
        let (scheme, hash) = self.split();
        let digest = Digest::of(hash, message);
        let answer = tokio::task::block_in_place(|| {
            handle.block_on(tokio::time::timeout(SIGN_DEADLINE, inner.keys.sign(&inner.id, scheme, &digest)))
        });
        match answer {
            Ok(signature) => Ok(signature?),
            Err(_elapsed) => Err(SignError::Late { id: id() }),
        }
    }
}

impl Signer for RemoteSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.sign_remotely(message).map_err(|error| {
            tracing::error!(key = %self.key.id(), %error, "no TLS signature from the key manager");
            rustls::Error::Other(OtherError(Arc::new(error)))
        })
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// One place among [`MAX_WAITING`], given back on drop.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let place = Self(count);
        (before < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
