//! A key held in this process's memory: what `memory` and `disk` are made of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, RsaEncoding, RsaKeyPair};
use zeroize::Zeroizing;

use crate::public::{ecdsa_input_padded, fits, import, imported};
use crate::types::{Digest, HashAlgorithm, KeyError, KeyId, KeyInfo, KeyType, PublicKey, SignatureScheme};

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A private key and its public half.
pub(crate) struct SoftwareKey {
    pair: Pair,
    public: PublicKey,
}

/// The cryptographic library refused; it gives no reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SoftwareError {
    #[error("the cryptographic library could not {op}")]
    Library { op: &'static str },
    #[error("this is no PKCS#8 key of a type in use here (EC P-256, EC P-384, RSA 2048, RSA 4096)")]
    UnknownKey,
}

fn failed(op: &'static str) -> SoftwareError {
    SoftwareError::Library { op }
}

impl SoftwareKey {
    /// Makes a key. RSA takes up to some seconds: call it where blocking is allowed.
    pub(crate) fn generate(kind: KeyType) -> Result<Self, SoftwareError> {
        let pair = match kind {
            KeyType::EcP256 => Pair::Ec(
                EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)
                    .map_err(|_unspecified| failed("make an EC P-256 key"))?,
            ),
            KeyType::EcP384 => Pair::Ec(
                EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)
                    .map_err(|_unspecified| failed("make an EC P-384 key"))?,
            ),
            KeyType::Rsa2048 => Pair::Rsa(
                RsaKeyPair::generate(KeySize::Rsa2048)
                    .map_err(|_unspecified| failed("make an RSA 2048 key"))?,
            ),
            KeyType::Rsa4096 => Pair::Rsa(
                RsaKeyPair::generate(KeySize::Rsa4096)
                    .map_err(|_unspecified| failed("make an RSA 4096 key"))?,
            ),
        };
        Self::of(kind, pair)
    }

    /// Reads an unencrypted PKCS#8 key (RFC 5958) and tells its type.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, SoftwareError> {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8) {
            return Self::of(KeyType::EcP256, Pair::Ec(pair));
        }
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8) {
            return Self::of(KeyType::EcP384, Pair::Ec(pair));
        }
        match RsaKeyPair::from_pkcs8(pkcs8) {
            Ok(pair) if pair.public_modulus_len() == 256 => Self::of(KeyType::Rsa2048, Pair::Rsa(pair)),
            Ok(pair) if pair.public_modulus_len() == 512 => Self::of(KeyType::Rsa4096, Pair::Rsa(pair)),
            _ => Err(SoftwareError::UnknownKey),
        }
    }

    fn of(kind: KeyType, pair: Pair) -> Result<Self, SoftwareError> {
        let der: Result<PublicKeyX509Der<'static>, _> = match &pair {
            Pair::Ec(pair) => pair.public_key().as_der(),
            Pair::Rsa(pair) => pair.public_key().as_der(),
        };
        let spki_der = der.map_err(|_unspecified| failed("encode a public key"))?.as_ref().to_vec();
        Ok(Self { pair, public: PublicKey { kind, spki_der } })
    }

    /// The private key as PKCS#8, for the one place that writes it: the `disk` key manager's file.
    #[cfg(feature = "disk")]
    pub(crate) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SoftwareError> {
        match &self.pair {
            Pair::Ec(pair) => pair.to_pkcs8v1().map(|der| Zeroizing::new(der.as_ref().to_vec())),
            Pair::Rsa(pair) => {
                AsDer::<Pkcs8V1Der<'static>>::as_der(pair).map(|der| Zeroizing::new(der.as_ref().to_vec()))
            }
        }
        .map_err(|_unspecified| failed("encode a private key"))
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs; `id` is for the error only.
    pub(crate) fn sign(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        digest: &Digest,
    ) -> Result<Vec<u8>, KeyError> {
        let kind = self.public.kind;
        if !fits(kind, scheme) {
            return Err(KeyError::Mismatch { id: id.clone(), kind, scheme });
        }
        let device = |op| KeyError::Device {
            op: "signing",
            id: id.to_string(),
            retryable: false,
            cause: Box::new(failed(op)),
        };
        match &self.pair {
            Pair::Ec(pair) => {
                // The library signs only the curve's own hash. ECDSA sees the digest as a number of the
                // order's length, so another hash is the same number in the clothes of that one.
                let own = if kind == KeyType::EcP384 { HashAlgorithm::Sha384 } else { HashAlgorithm::Sha256 };
                let digest = import(own, &ecdsa_input_padded(kind, digest))?;
                let made = pair.sign_digest(&digest).map_err(|_unspecified| device("sign with an EC key"))?;
                Ok(made.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut made = vec![0; pair.public_modulus_len()];
                pair.sign_digest(padding(scheme, digest.algorithm()), &imported(digest)?, &mut made)
                    .map_err(|_unspecified| device("sign with an RSA key"))?;
                Ok(made)
            }
        }
    }
}

/// Keys by name; shared by `memory` and `disk`.
#[derive(Default)]
pub(crate) struct KeyMap(Mutex<BTreeMap<KeyId, Arc<SoftwareKey>>>);

impl KeyMap {
    pub(crate) fn get(&self, id: &KeyId) -> Option<Arc<SoftwareKey>> {
        self.lock().get(id).cloned()
    }

    pub(crate) fn put(&self, id: &KeyId, key: SoftwareKey) {
        self.lock().insert(id.clone(), Arc::new(key));
    }

    pub(crate) fn remove(&self, id: &KeyId) {
        self.lock().remove(id);
    }

    pub(crate) fn list(&self) -> Vec<KeyInfo> {
        self.lock().iter().map(|(id, key)| KeyInfo { id: id.clone(), public: key.public().clone() }).collect()
    }

    // Every holder of this lock only moves values, so a panic elsewhere leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<KeyId, Arc<SoftwareKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs off the async threads when the key is slow.
    pub(crate) async fn sign(
        &self,
        id: &KeyId,
        scheme: SignatureScheme,
        digest: &Digest,
    ) -> Result<Vec<u8>, KeyError> {
        let key = self.get(id).ok_or_else(|| KeyError::NotFound { id: id.clone() })?;
        if key.public().kind.is_ec() {
            return key.sign(id, scheme, digest);
        }
        let (owned, digest) = (id.clone(), digest.clone());
        run("signing", id, move || key.sign(&owned, scheme, &digest)).await?
    }
}

/// Software signs on every core.
pub(crate) fn lanes() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Makes a key off the async threads.
pub(crate) async fn generate(id: &KeyId, kind: KeyType) -> Result<SoftwareKey, KeyError> {
    run("generation", id, move || SoftwareKey::generate(kind))
        .await?
        .map_err(|cause| software_error("generation", id, cause))
}

pub(crate) fn software_error(op: &'static str, id: &KeyId, cause: SoftwareError) -> KeyError {
    KeyError::Device { op, id: id.to_string(), retryable: false, cause: Box::new(cause) }
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn run<T: Send + 'static>(
    op: &'static str,
    id: &KeyId,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, KeyError> {
    tokio::task::spawn_blocking(job).await.map_err(|cause| KeyError::Device {
        op,
        id: id.to_string(),
        retryable: false,
        cause: Box::new(cause),
    })
}

fn padding(scheme: SignatureScheme, hash: HashAlgorithm) -> &'static dyn RsaEncoding {
    match (scheme, hash) {
        (SignatureScheme::RsaPss, HashAlgorithm::Sha256) => &signature::RSA_PSS_SHA256,
        (SignatureScheme::RsaPss, HashAlgorithm::Sha384) => &signature::RSA_PSS_SHA384,
        (SignatureScheme::RsaPss, HashAlgorithm::Sha512) => &signature::RSA_PSS_SHA512,
        (_, HashAlgorithm::Sha256) => &signature::RSA_PKCS1_SHA256,
        (_, HashAlgorithm::Sha384) => &signature::RSA_PKCS1_SHA384,
        (_, HashAlgorithm::Sha512) => &signature::RSA_PKCS1_SHA512,
    }
}
