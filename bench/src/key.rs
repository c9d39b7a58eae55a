//! The one software key that all simulated agents and workloads share.
//!
//! A server treats each request alike, whoever's key is in it: it verifies the CSR and signs. Sharing the key makes the
//! preparation of thousands of agents cheap and takes nothing away from the server's work; the load generator itself still
//! signs each TLS handshake and each proof.

use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use hardroot_identity::{DistinguishedName, SignatureAlgorithm, assemble_csr, csr_to_be_signed};
use rustls::sign::SigningKey;
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::error::BenchError;

/// See the module.
pub struct SharedKey {
    raw: EcdsaKeyPair,
    tls: Arc<dyn SigningKey>,
    spki_der: Vec<u8>,
    csr: Vec<u8>,
}

impl SharedKey {
    /// Makes a P-256 key and a CSR with it.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn make() -> Result<Self, BenchError> {
        let failed = |reason: String| BenchError::Crypto { op: "making the agents' key", reason };
        let library = |_unspecified: Unspecified| failed("the cryptographic library refused".to_owned());
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(library)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(library)?;
        let raw = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())
            .map_err(|error| failed(error.to_string()))?;
        let tls = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(
            &PrivatePkcs8KeyDer::from(pkcs8.as_ref()).clone_key().into(),
        )
        .map_err(|error| failed(error.to_string()))?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(library)?;
        let spki_der = public.as_ref().to_vec();
        let message = csr_to_be_signed(&DistinguishedName::default_svid().to_der(), &spki_der, None);
        let signature = pair.sign(&SystemRandom::new(), &message).map_err(library)?;
        let csr = assemble_csr(&message, SignatureAlgorithm::EcdsaSha256, signature.as_ref());
        Ok(Self { raw, tls, spki_der, csr })
    }

    /// For TLS.
    #[must_use]
    pub fn tls(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.tls)
    }

    /// `SubjectPublicKeyInfo`, DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// A PKCS#10 request (RFC 2986) that asks for no names: servers take the key and nothing else from it.
    #[must_use]
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// ECDSA over the SHA-256 of `message`: r and s, each without leading zeros.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn sign_raw(&self, message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Unspecified> {
        let made = self.raw.sign(&SystemRandom::new(), message)?;
        let (r, s) = made.as_ref().split_at_checked(32).ok_or(Unspecified)?;
        let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        Ok((number(r), number(s)))
    }
}
