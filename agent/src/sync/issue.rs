//! Workloads' keys, made here, and the check of what the server issues for them.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
};
use hardroot_hsm_keymanager::KeyType;
use hardroot_identity::{
    BadX509Svid, Bundle, DistinguishedName, SignatureAlgorithm, SpiffeId, X509Svid, assemble_csr,
    csr_to_be_signed, verify_x509_svid,
};
use zeroize::Zeroizing;

use crate::cache::AuthorizedEntry;
use crate::source::WorkloadSvid;

/// A workload key could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a {kind} key for a workload")]
pub struct WorkloadKeyError {
    kind: KeyType,
}

/// A workload's key with its CSR. Wiped on drop.
pub struct WorkloadKey {
    pkcs8: Zeroizing<Vec<u8>>,
    spki_der: Vec<u8>,
    csr: Vec<u8>,
}

impl std::fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadKey").field("csr_bytes", &self.csr.len()).finish_non_exhaustive()
    }
}

impl WorkloadKey {
    /// Makes a key of `kind` and a CSR for `id`. RSA takes a good part of a second: not on an async worker.
    ///
    /// # Errors
    /// The kind is not among ec-p256, ec-p384 and rsa-2048, or the system gives no randomness.
    pub fn make(kind: KeyType, id: &SpiffeId) -> Result<Self, WorkloadKeyError> {
        Self::try_make(kind, id).map_err(|Unspecified| WorkloadKeyError { kind })
    }

    fn try_make(kind: KeyType, id: &SpiffeId) -> Result<Self, Unspecified> {
        let subject = DistinguishedName::default_svid().to_der();
        let to_be_signed = |spki: &[u8]| csr_to_be_signed(&subject, spki, Some(id.as_str()));
        let random = SystemRandom::new();
        match kind {
            KeyType::EcP256 | KeyType::EcP384 => {
                let (signing, algorithm) = match kind {
                    KeyType::EcP256 => (&ECDSA_P256_SHA256_ASN1_SIGNING, SignatureAlgorithm::EcdsaSha256),
                    _ => (&ECDSA_P384_SHA384_ASN1_SIGNING, SignatureAlgorithm::EcdsaSha384),
                };
                let key = EcdsaKeyPair::generate(signing)?;
                let public: PublicKeyX509Der<'_> = key.public_key().as_der()?;
                let message = to_be_signed(public.as_ref());
                let signature = key.sign(&random, &message)?;
                Ok(Self {
                    // The document wipes itself; the copy is exact, so that it never moves and leaves a trace.
                    pkcs8: Zeroizing::new(key.to_pkcs8v1()?.as_ref().to_vec()),
                    csr: assemble_csr(&message, algorithm, signature.as_ref()),
                    spki_der: public.as_ref().to_vec(),
                })
            }
            KeyType::Rsa2048 => {
                let key = RsaKeyPair::generate(KeySize::Rsa2048)?;
                let public: PublicKeyX509Der<'_> = key.public_key().as_der()?;
                let message = to_be_signed(public.as_ref());
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, &message, &mut signature)?;
                let pkcs8: Pkcs8V1Der<'_> = key.as_der()?;
                Ok(Self {
                    pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()),
                    csr: assemble_csr(&message, SignatureAlgorithm::RsaSha256, &signature),
                    spki_der: public.as_ref().to_vec(),
                })
            }
            KeyType::Rsa4096 => Err(Unspecified),
        }
    }

    /// The CSR, DER.
    #[must_use]
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }
}

/// Why an issued SVID is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadIssue {
    /// It does not verify against the trust domain's bundle.
    #[error("the issued SVID does not verify: {0}")]
    Svid(#[from] BadX509Svid),
    /// It names another identity than the entry.
    #[error("the issued SVID is for {got}, the entry is for {wanted}")]
    OtherId {
        /// What the certificate says.
        got: SpiffeId,
        /// What the entry says.
        wanted: SpiffeId,
    },
    /// It is for another key.
    #[error("the issued SVID is for another key than the one asked for")]
    OtherKey,
}

/// Checks a chain issued for `entry` and `key`, and joins the two.
pub(crate) fn check_workload_svid(
    entry: &AuthorizedEntry,
    key: WorkloadKey,
    chain: &[Vec<u8>],
    bundle: &Bundle,
    now: SystemTime,
) -> Result<(Arc<WorkloadSvid>, X509Svid), BadIssue> {
    let svid = verify_x509_svid(chain, bundle, now)?;
    if svid.id != entry.spiffe_id {
        return Err(BadIssue::OtherId { got: svid.id, wanted: entry.spiffe_id.clone() });
    }
    if svid.spki_der != key.spki_der {
        return Err(BadIssue::OtherKey);
    }
    Ok((Arc::new(WorkloadSvid::new(svid.chain.clone(), key.pkcs8, svid.not_after)), svid))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hardroot_identity::{Csr, TrustDomain};

    use super::*;
    use crate::testing::TestCa;

    fn entry(path: &str) -> AuthorizedEntry {
        AuthorizedEntry {
            id: "e".into(),
            spiffe_id: format!("spiffe://example.org{path}").parse().unwrap(),
            selectors: vec!["unix:uid:1".parse().unwrap()],
            federates_with: vec![],
            hint: String::new(),
            revision: 0,
            created_at: 0,
            prefetch: true,
            jwt_include_jti: false,
            store_svid: false,
        }
    }

    #[test]
    fn every_kind_of_key_makes_a_good_csr_and_pkcs8() {
        let id: SpiffeId = "spiffe://example.org/web".parse().unwrap();
        for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let key = WorkloadKey::make(kind, &id).unwrap();
            let csr = Csr::parse(key.csr()).unwrap();
            assert!(csr.signature_valid, "{kind}");
            assert_eq!(csr.uris, [id.as_str()]);
            assert_eq!(csr.spki_der, key.spki_der);
            let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.pkcs8.to_vec());
            let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der.into()).unwrap();
            assert_eq!(
                signer.public_key().unwrap().as_ref(),
                key.spki_der.as_slice(),
                "{kind}: both halves belong together"
            );
            assert_eq!(key.pkcs8.capacity(), key.pkcs8.len(), "nothing that could move");
        }
        assert!(WorkloadKey::make(KeyType::Rsa4096, &id).is_err());
    }

    #[test]
    fn only_the_svid_that_was_asked_for_is_used() {
        let td = TrustDomain::new("example.org").unwrap();
        let ca = TestCa::new(&td);
        let now = ca.now();
        let make = |path: &str| WorkloadKey::make(KeyType::EcP256, &entry(path).spiffe_id).unwrap();
        let issue = |key: &WorkloadKey, path: &str| {
            ca.workload(&entry(path).spiffe_id, &key.spki_der, Duration::from_secs(3600))
        };

        let key = make("/web");
        let chain = issue(&key, "/web");
        let (svid, parsed) = check_workload_svid(&entry("/web"), key, &chain, &ca.bundle(), now).unwrap();
        assert_eq!(svid.not_after, parsed.not_after);

        let key = make("/web");
        let other_id = issue(&key, "/other");
        assert!(matches!(
            check_workload_svid(&entry("/web"), key, &other_id, &ca.bundle(), now),
            Err(BadIssue::OtherId { .. })
        ));
        let other_key = issue(&make("/web"), "/web");
        assert!(matches!(
            check_workload_svid(&entry("/web"), make("/web"), &other_key, &ca.bundle(), now),
            Err(BadIssue::OtherKey)
        ));
        let stranger = TestCa::new(&td);
        let key = make("/web");
        let untrusted = stranger.workload(&entry("/web").spiffe_id, &key.spki_der, Duration::from_secs(3600));
        assert!(matches!(
            check_workload_svid(&entry("/web"), key, &untrusted, &ca.bundle(), now),
            Err(BadIssue::Svid(_))
        ));
        let key = make("/web");
        let chain = issue(&key, "/web");
        let later = now + Duration::from_secs(3601);
        assert!(matches!(
            check_workload_svid(&entry("/web"), key, &chain, &ca.bundle(), later),
            Err(BadIssue::Svid(BadX509Svid::Expired { .. }))
        ));
    }
}
