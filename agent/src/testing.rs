//! What several tests of this crate need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hardroot_hsm_keymanager::{
    Custody, Digest, KeyError, KeyId, KeyInfo, KeyManager, KeyType, PublicKey, SignatureScheme,
};

/// Software keys.
pub(crate) fn memory_keys() -> Arc<dyn KeyManager> {
    Arc::new(hardroot_hsm_keymanager::memory::MemoryKeyManager::new())
}

/// A memory key manager that may say it is hardware, and counts its signatures.
pub(crate) struct CountingKeys {
    inner: Arc<dyn KeyManager>,
    hardware: bool,
    signed: AtomicUsize,
}

impl CountingKeys {
    pub(crate) fn new(hardware: bool) -> Self {
        Self { inner: memory_keys(), hardware, signed: AtomicUsize::new(0) }
    }

    pub(crate) fn signatures(&self) -> usize {
        self.signed.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl KeyManager for CountingKeys {
    fn custody(&self) -> Custody {
        Custody { hardware: self.hardware, ..self.inner.custody() }
    }

    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        self.inner.generate(id, kind).await
    }

    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        self.inner.find(id).await
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        self.inner.list().await
    }

    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        self.signed.fetch_add(1, Ordering::SeqCst);
        self.inner.sign(id, scheme, digest).await
    }

    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        self.inner.destroy(id).await
    }
}

/// A certificate authority of a trust domain, for tests.
pub(crate) struct TestCa {
    key: aws_lc_rs::signature::EcdsaKeyPair,
    der: Vec<u8>,
    trust_domain: hardroot_identity::TrustDomain,
    now: std::time::SystemTime,
}

impl TestCa {
    pub(crate) fn new(trust_domain: &hardroot_identity::TrustDomain) -> Self {
        // 2026-01-01
        Self::at(trust_domain, std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_767_225_600))
    }

    pub(crate) fn at(trust_domain: &hardroot_identity::TrustDomain, now: std::time::SystemTime) -> Self {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
        use hardroot_identity::{DistinguishedName, Template};

        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let subject = DistinguishedName::default_ca();
        let spki = spki(&key);
        let day = std::time::Duration::from_secs(86_400 * 365);
        let template = Template::SelfSignedCa { subject: &subject };
        let der = sign(&key, template, &trust_domain.id(), &spki, now, day, None);
        Self { key, der, trust_domain: trust_domain.clone(), now }
    }

    /// The CA's own public key, for SVIDs that are for nobody's key.
    pub(crate) fn spki(&self) -> Vec<u8> {
        spki(&self.key)
    }

    pub(crate) fn now(&self) -> std::time::SystemTime {
        self.now
    }

    pub(crate) fn bundle(&self) -> hardroot_identity::Bundle {
        let mut bundle = hardroot_identity::Bundle::new(self.trust_domain.clone());
        bundle.sequence_number = 1;
        bundle.x509_authorities =
            vec![hardroot_identity::X509Authority { der: self.der.clone(), tainted: false }];
        bundle
    }

    pub(crate) fn agent(
        &self,
        id: &hardroot_identity::SpiffeId,
        spki_der: &[u8],
        ttl: std::time::Duration,
    ) -> Vec<Vec<u8>> {
        self.agent_at(id, spki_der, self.now, ttl)
    }

    pub(crate) fn agent_at(
        &self,
        id: &hardroot_identity::SpiffeId,
        spki_der: &[u8],
        now: std::time::SystemTime,
        ttl: std::time::Duration,
    ) -> Vec<Vec<u8>> {
        let issuer = hardroot_identity::Issuer::from_certificate(&self.der).unwrap();
        vec![sign(&self.key, hardroot_identity::Template::Agent, id, spki_der, now, ttl, Some(&issuer))]
    }

    pub(crate) fn workload(
        &self,
        id: &hardroot_identity::SpiffeId,
        spki_der: &[u8],
        ttl: std::time::Duration,
    ) -> Vec<Vec<u8>> {
        self.workload_at(id, spki_der, self.now, ttl)
    }

    pub(crate) fn workload_at(
        &self,
        id: &hardroot_identity::SpiffeId,
        spki_der: &[u8],
        now: std::time::SystemTime,
        ttl: std::time::Duration,
    ) -> Vec<Vec<u8>> {
        let issuer = hardroot_identity::Issuer::from_certificate(&self.der).unwrap();
        let template = hardroot_identity::Template::Workload { dns_names: &[] };
        vec![sign(&self.key, template, id, spki_der, now, ttl, Some(&issuer))]
    }
}

fn spki(key: &aws_lc_rs::signature::EcdsaKeyPair) -> Vec<u8> {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::signature::KeyPair;
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    der.as_ref().to_vec()
}

fn sign(
    key: &aws_lc_rs::signature::EcdsaKeyPair,
    template: hardroot_identity::Template<'_>,
    id: &hardroot_identity::SpiffeId,
    spki_der: &[u8],
    now: std::time::SystemTime,
    ttl: std::time::Duration,
    issuer: Option<&hardroot_identity::Issuer>,
) -> Vec<u8> {
    static SERIAL: AtomicUsize = AtomicUsize::new(1);
    let serial = (SERIAL.fetch_add(1, Ordering::SeqCst) as u128).to_be_bytes();
    let algorithm = hardroot_identity::SignatureAlgorithm::EcdsaSha256;
    let tbs =
        hardroot_identity::certificate(template, id, spki_der, serial, now, ttl, issuer, algorithm).unwrap();
    let signature = key.sign(&aws_lc_rs::rand::SystemRandom::new(), tbs.to_be_signed()).unwrap();
    tbs.assemble(signature.as_ref()).unwrap()
}

/// The public half (`SubjectPublicKeyInfo`, DER) of a fresh P-256 key, and the key.
pub(crate) fn jwt_key() -> (Vec<u8>, aws_lc_rs::signature::EcdsaKeyPair) {
    let key =
        aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING)
            .unwrap();
    (spki(&key), key)
}
