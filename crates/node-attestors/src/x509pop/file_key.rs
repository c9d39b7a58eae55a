//! A node's key in a PEM file: PKCS#8, SEC 1 or PKCS#1, without a passphrase.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Digest, SHA384};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA256_ASN1_SIGNING,
    EcdsaKeyPair, KeyPair, RSA_PSS_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Largest key file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadKeyFile {
    /// It cannot be read.
    #[error("the private key {} cannot be read: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Everybody can read it.
    #[error("the private key {} is open to every user (mode {mode:o}); run: chmod o-rwx {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key that can be used here.
    #[error("the private key {} cannot be used: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A private key in memory, wiped when dropped (by aws-lc).
pub(super) enum FileKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    P521(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl FileKey {
    /// Reads the first private key in a PEM file.
    pub(super) fn read(path: &Path) -> Result<Self, BadKeyFile> {
        let failed = |cause| BadKeyFile::Read { path: path.to_owned(), cause };
        let mut file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(BadKeyFile::Exposed { path: path.to_owned(), mode });
        }
        // The whole capacity at once: a growing buffer would leave unwiped copies behind.
        let mut text = Zeroizing::new(String::with_capacity(usize::try_from(MAX_FILE).unwrap_or(usize::MAX)));
        Read::by_ref(&mut file).take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        Self::from_pem(&text).map_err(|reason| BadKeyFile::Content { path: path.to_owned(), reason })
    }

    pub(super) fn from_pem(text: &str) -> Result<Self, &'static str> {
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            let Some((_, rest)) = text.split_once(&format!("-----BEGIN {label}-----")) else { continue };
            let Some((body, _)) = rest.split_once(&format!("-----END {label}-----")) else {
                return Err("its PEM block has no end");
            };
            if body.contains("ENCRYPTED") {
                return Err(
                    "it is encrypted; decrypt it (openssl pkey), for nobody is there to type a passphrase",
                );
            }
            let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
            base64.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
            let mut der = Zeroizing::new(vec![0; base64.len()]);
            let length = STANDARD
                .decode_slice(base64.as_bytes(), &mut der)
                .map_err(|_error| "its base64 is malformed")?;
            der.truncate(length);
            return Self::from_der(label, &der);
        }
        if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            return Err(
                "it is encrypted; decrypt it (openssl pkey), for nobody is there to type a passphrase",
            );
        }
        Err("there is no PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY in it")
    }

    fn from_der(label: &str, der: &[u8]) -> Result<Self, &'static str> {
        let ec = |algorithm| match label {
            "PRIVATE KEY" => EcdsaKeyPair::from_pkcs8(algorithm, der).ok(),
            "EC PRIVATE KEY" => EcdsaKeyPair::from_private_key_der(algorithm, der).ok(),
            _ => None,
        };
        if let Some(key) = ec(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Self::P256) {
            return Ok(key);
        }
        if let Some(key) = ec(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Self::P384) {
            return Ok(key);
        }
        if let Some(key) = ec(&ECDSA_P521_SHA256_ASN1_SIGNING).map(Self::P521) {
            return Ok(key);
        }
        let rsa = match label {
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(der).ok(),
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).ok(),
            _ => None,
        };
        rsa.map(Self::Rsa).ok_or("it is neither EC (P-256, P-384, P-521) nor RSA (2048 to 8192 bits)")
    }

    pub(super) fn is_rsa(&self) -> bool {
        matches!(self, Self::Rsa(_))
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub(super) fn spki_der(&self) -> Option<Vec<u8>> {
        let der: Result<PublicKeyX509Der<'static>, _> = match self {
            Self::P256(pair) | Self::P384(pair) | Self::P521(pair) => pair.public_key().as_der(),
            Self::Rsa(pair) => pair.public_key().as_der(),
        };
        der.ok().map(|der| der.as_ref().to_vec())
    }

    /// Signs a SHA-256 digest: ECDSA in DER, or RSASSA-PSS with a salt as long as the hash.
    pub(super) fn sign(&self, digest: &Digest) -> Option<Vec<u8>> {
        match self {
            Self::P256(pair) | Self::P521(pair) => {
                pair.sign_digest(digest).ok().map(|made| made.as_ref().to_vec())
            }
            Self::P384(pair) => {
                // The library signs a SHA-384 digest with this curve. ECDSA takes the digest as a number, so
                // the shorter one is the same number with zeros in front.
                let padded = [&[0; 16], digest.as_ref()].concat();
                let digest = Digest::import_less_safe(&padded, &SHA384).ok()?;
                pair.sign_digest(&digest).ok().map(|made| made.as_ref().to_vec())
            }
            Self::Rsa(pair) => {
                let mut made = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PSS_SHA256, digest, &mut made).ok()?;
                Some(made)
            }
        }
    }
}
