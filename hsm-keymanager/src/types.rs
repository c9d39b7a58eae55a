//! The words of the [`crate::KeyManager`] trait.

use std::error::Error;
use std::fmt;

/// A key's name within one key manager: 1 to 64 bytes of `[A-Za-z0-9._-]`, such as `x509-CA-A`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(String);

impl KeyId {
    /// Reads a key id.
    ///
    /// # Errors
    /// Anything else than 1 to 64 bytes of `[A-Za-z0-9._-]`.
    pub fn new(id: &str) -> Result<Self, KeyError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if id.is_empty() || id.len() > 64 || !id.bytes().all(fits) {
            return Err(KeyError::BadId { id: id.escape_default().to_string() });
        }
        Ok(Self(id.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kinds of key exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// ECDSA on NIST P-256.
    EcP256,
    /// ECDSA on NIST P-384.
    EcP384,
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
}

impl KeyType {
    /// The name used in configuration files: `ec-p256`, `ec-p384`, `rsa-2048`, `rsa-4096`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// Reads a configuration name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::EcP256, Self::EcP384, Self::Rsa2048, Self::Rsa4096].into_iter().find(|k| k.as_str() == name)
    }

    /// Whether this is an elliptic-curve key.
    #[must_use]
    pub fn is_ec(self) -> bool {
        matches!(self, Self::EcP256 | Self::EcP384)
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A public key: its type and its `SubjectPublicKeyInfo` in DER (RFC 5280 4.1.2.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The key's type.
    pub kind: KeyType,
    /// `SubjectPublicKeyInfo`, DER.
    pub spki_der: Vec<u8>,
}

/// A key as [`crate::KeyManager::list`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name.
    pub id: KeyId,
    /// Its public half.
    pub public: PublicKey,
}

/// Digest algorithms for signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl HashAlgorithm {
    /// Digest length in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Never true; here because clippy wants it beside `len`.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    pub(crate) fn algorithm(self) -> &'static aws_lc_rs::digest::Algorithm {
        match self {
            Self::Sha256 => &aws_lc_rs::digest::SHA256,
            Self::Sha384 => &aws_lc_rs::digest::SHA384,
            Self::Sha512 => &aws_lc_rs::digest::SHA512,
        }
    }
}

/// A message's digest: what a key signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    algorithm: HashAlgorithm,
    bytes: Vec<u8>,
}

impl Digest {
    /// Hashes a message.
    #[must_use]
    pub fn of(algorithm: HashAlgorithm, message: &[u8]) -> Self {
        Self { algorithm, bytes: aws_lc_rs::digest::digest(algorithm.algorithm(), message).as_ref().to_vec() }
    }

    /// Takes a digest that was computed elsewhere.
    ///
    /// # Errors
    /// The length is not the algorithm's.
    pub fn from_bytes(algorithm: HashAlgorithm, bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() != algorithm.len() {
            return Err(KeyError::DigestLength { expected: algorithm.len(), got: bytes.len() });
        }
        Ok(Self { algorithm, bytes: bytes.to_vec() })
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The digest's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// How to sign; the hash is the digest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureScheme {
    /// ECDSA, signature as ASN.1 DER.
    Ecdsa,
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1,
    /// RSASSA-PSS, MGF1 with the same hash, salt as long as the hash.
    RsaPss,
}

/// Where a manager's keys live, and how that is known: for health pages, logs and the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custody {
    /// The backend's name in the configuration: `pkcs11`, `tpm`, `memory`, `disk`.
    pub backend: &'static str,
    /// Whether private keys are held by hardware (or what stands in for it) and cannot be exported.
    pub hardware: bool,
    /// One line for people: which token or chip, and which attributes were read back.
    pub detail: String,
}

/// What went wrong with a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A malformed key id.
    #[error("\"{id}\" is no key id: 1 to 64 characters of A-Z a-z 0-9 . _ - are allowed")]
    BadId {
        /// The text, escaped.
        id: String,
    },
    /// No such key.
    #[error("no key {id}")]
    NotFound {
        /// The key asked for.
        id: KeyId,
    },
    /// The scheme or digest does not fit the key.
    #[error("key {id} is {kind} and cannot sign with {scheme:?}")]
    Mismatch {
        /// The key.
        id: KeyId,
        /// Its type.
        kind: KeyType,
        /// What was asked of it.
        scheme: SignatureScheme,
    },
    /// A digest of the wrong length.
    #[error("the digest has {got} bytes, its algorithm makes {expected}")]
    DigestLength {
        /// Bytes the algorithm makes.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// This backend cannot make or use such keys.
    #[error("the {backend} key manager cannot {op}: {reason}")]
    Unsupported {
        /// The backend.
        backend: &'static str,
        /// The operation.
        op: &'static str,
        /// Why, and what to use instead.
        reason: String,
    },
    /// A key is there but must not be used, for example because the token would export it.
    #[error("key {id} is refused: {reason}")]
    Refused {
        /// The key.
        id: KeyId,
        /// What was found, and what to do.
        reason: String,
    },
    /// The token, chip or file failed.
    #[error("{op} on key {id} failed")]
    Device {
        /// The operation.
        op: &'static str,
        /// The key, or `*` when it concerns them all.
        id: String,
        /// Whether the same call may succeed later.
        retryable: bool,
        /// The cause.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}
