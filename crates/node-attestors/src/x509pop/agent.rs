//! The agent's half.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hardroot_hsm_keymanager::{Digest, HashAlgorithm, KeyId, KeyManager, PublicKey, SignatureScheme};
use hardroot_identity::{Certificate, pem_decode};

use super::file_key::FileKey;
use super::wire::{Challenge, EcdsaResponse, Payload, Response, RsaResponse};
use super::{NAME, NONCE, combined};
use crate::{AgentAttestor, AgentSession, AttestError, AttestationSubject};

/// Where the key of the node's certificate is.
#[derive(Clone)]
pub enum NodeKey {
    /// In a PEM file.
    File(PathBuf),
    /// In a key manager: a PKCS#11 token or the TPM.
    Managed {
        /// The key manager.
        keys: Arc<dyn KeyManager>,
        /// The key's name there.
        id: KeyId,
    },
}

/// Attests with the node's certificate. Files are read at each attempt, so a renewed certificate counts.
pub struct X509popAgent {
    certificate_path: PathBuf,
    intermediates_path: Option<PathBuf>,
    key: NodeKey,
}

/// Something about our own certificate or key; the text says what and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(String);

fn unavailable(op: &'static str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AttestError {
    AttestError::Unavailable { op, cause: cause.into() }
}

impl X509popAgent {
    /// With the certificate in `certificate_path` (PEM, leaf first, intermediates may follow), further
    /// intermediates in `intermediates_path`, and the leaf's key.
    #[must_use]
    pub fn new(certificate_path: PathBuf, intermediates_path: Option<PathBuf>, key: NodeKey) -> Self {
        Self { certificate_path, intermediates_path, key }
    }

    fn chain(&self) -> Result<Vec<Vec<u8>>, AttestError> {
        let mut chain = certificates(&self.certificate_path)?;
        if let Some(path) = &self.intermediates_path {
            chain.extend(certificates(path)?);
        }
        Ok(chain)
    }

    async fn signer(&self) -> Result<(Signer, Vec<u8>), AttestError> {
        match &self.key {
            NodeKey::File(path) => {
                let op = "reading the node's key";
                let key = FileKey::read(path).map_err(|error| unavailable(op, error))?;
                let spki =
                    key.spki_der().ok_or_else(|| unavailable(op, "its public half cannot be encoded"))?;
                Ok((Signer::File(key), spki))
            }
            NodeKey::Managed { keys, id } => {
                let op = "finding the node's key";
                let public = keys.find(id).await.map_err(|error| unavailable(op, error))?;
                let public = public.ok_or_else(|| {
                    unavailable(
                        op,
                        Broken(format!("there is no key {id} in the {} key manager", keys.custody().backend)),
                    )
                })?;
                let spki = public.spki_der.clone();
                Ok((Signer::Managed { keys: Arc::clone(keys), id: id.clone(), public }, spki))
            }
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, AttestError> {
    let op = "reading the node's certificate";
    let broken = |reason: String| unavailable(op, Broken(format!("{}: {reason}", path.display())));
    let text = fs::read(path).map_err(|error| broken(error.to_string()))?;
    let found = pem_decode(&text).map_err(|error| broken(error.to_string()))?;
    if found.is_empty() { Err(broken("there is no certificate in it".to_owned())) } else { Ok(found) }
}

#[async_trait::async_trait]
impl AgentAttestor for X509popAgent {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn begin(
        &self,
        _subject: &AttestationSubject,
    ) -> Result<(Vec<u8>, Box<dyn AgentSession>), AttestError> {
        let certificates = self.chain()?;
        let (signer, spki) = self.signer().await?;
        let leaf = certificates.first().map(Vec::as_slice).unwrap_or_default();
        let broken = |reason: String| {
            unavailable(
                "using the node's certificate",
                Broken(format!("{}: {reason}", self.certificate_path.display())),
            )
        };
        let leaf = Certificate::parse(leaf).map_err(|error| broken(error.to_string()))?;
        if leaf.spki_der != spki {
            return Err(broken(
                "its first certificate is for another key than the configured one".to_owned(),
            ));
        }
        Ok((Payload { certificates }.to_json(), Box::new(Session(signer))))
    }
}

enum Signer {
    File(FileKey),
    Managed { keys: Arc<dyn KeyManager>, id: KeyId, public: PublicKey },
}

impl Signer {
    fn is_rsa(&self) -> bool {
        match self {
            Self::File(key) => key.is_rsa(),
            Self::Managed { public, .. } => !public.kind.is_ec(),
        }
    }

    async fn sign(&self, digest: &aws_lc_rs::digest::Digest) -> Result<Vec<u8>, AttestError> {
        let op = "signing the challenge with the node's key";
        match self {
            Self::File(key) => {
                key.sign(digest).ok_or_else(|| unavailable(op, "the cryptographic library refused"))
            }
            Self::Managed { keys, id, .. } => {
                let scheme = if self.is_rsa() { SignatureScheme::RsaPss } else { SignatureScheme::Ecdsa };
                let digest = Digest::from_bytes(HashAlgorithm::Sha256, digest.as_ref())
                    .map_err(|error| unavailable(op, error))?;
                keys.sign(id, scheme, &digest).await.map_err(|error| unavailable(op, error))
            }
        }
    }
}

struct Session(Signer);

#[async_trait::async_trait]
impl AgentSession for Session {
    async fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, AttestError> {
        let malformed = |reason: String| AttestError::Malformed { what: "x509pop challenge", reason };
        let (rsa, asked) =
            match Challenge::from_json(challenge).map_err(|error| malformed(error.to_string()))? {
                Challenge::Rsa(nonce) => (true, nonce),
                Challenge::Ecdsa(nonce) => (false, nonce),
            };
        if rsa != self.0.is_rsa() {
            return Err(malformed(
                "it is for another kind of key than the node's certificate has".to_owned(),
            ));
        }
        let asked = <[u8; NONCE]>::try_from(asked.as_slice())
            .map_err(|_length| malformed(format!("the nonce has {} bytes, expected {NONCE}", asked.len())))?;
        let mut nonce = [0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_unspecified| {
            unavailable("answering the challenge", "the operating system gave no random bytes")
        })?;
        let signature = self.0.sign(&combined(&asked, &nonce)).await?;
        let response = if rsa {
            Response { rsa: Some(RsaResponse { nonce: nonce.to_vec(), signature }), ecdsa: None }
        } else {
            let (r, s) = integers(&signature)
                .ok_or_else(|| unavailable("answering the challenge", "the key made no ECDSA signature"))?;
            Response { rsa: None, ecdsa: Some(EcdsaResponse { nonce: nonce.to_vec(), r, s }) }
        };
        Ok(response.to_json())
    }
}

/// The two numbers of an ECDSA signature in DER (RFC 3279 2.2.3), without leading zeros.
fn integers(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (content, rest) = element(0x30, der)?;
    let (r, after) = element(0x02, content)?;
    let (s, end) = element(0x02, after)?;
    let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    (rest.is_empty() && end.is_empty()).then(|| (number(r), number(s)))
}

/// Content of a DER element shorter than 256 bytes, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (length, rest) = match rest.split_first()? {
        (0x81, rest) => rest.split_first()?,
        (short, rest) if *short < 0x80 => (short, rest),
        _ => return None,
    };
    if *found != tag { None } else { rest.split_at_checked(usize::from(*length)) }
}
