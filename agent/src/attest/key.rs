//! The agent's own key: where it is, and its CSR.
//!
//! A hardware key stays the same over retries and renewals, for it cannot be copied; a software key is made
//! anew in the other slot at each renewal.

use std::sync::Arc;

use hardroot_hsm_keymanager::{
    Digest, HashAlgorithm, KeyError, KeyId, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_identity::{
    BadPublicKey, Csr, DistinguishedName, SignatureAlgorithm, assemble_csr, csr_to_be_signed,
};

/// The key ids the agent's key alternates between.
const SLOTS: [&str; 2] = ["agent-svid-A", "agent-svid-B"];

/// A key of the agent's, in its key manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentKey {
    /// Its id.
    pub id: KeyId,
    /// Its public half.
    pub public: PublicKey,
}

/// Why there is no key or no CSR.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentKeyError {
    /// The key manager failed.
    #[error("the agent's key manager failed")]
    Keys(#[from] KeyError),
    /// The public key is of a kind that cannot sign a CSR.
    #[error("the agent's key cannot sign a CSR")]
    Kind(#[from] BadPublicKey),
}

/// The agent's keys in a key manager.
#[derive(Clone)]
pub struct AgentKeys {
    manager: Arc<dyn KeyManager>,
}

impl AgentKeys {
    /// Uses this key manager.
    #[must_use]
    pub fn new(manager: Arc<dyn KeyManager>) -> Self {
        Self { manager }
    }

    /// The key manager.
    #[must_use]
    pub fn manager(&self) -> &Arc<dyn KeyManager> {
        &self.manager
    }

    fn slots() -> Result<[KeyId; 2], KeyError> {
        let [a, b] = SLOTS;
        Ok([KeyId::new(a)?, KeyId::new(b)?])
    }

    /// The key whose public half is `spki_der`, if the key manager has it.
    ///
    /// # Errors
    /// The key manager failed.
    pub async fn holding(&self, spki_der: &[u8]) -> Result<Option<AgentKey>, AgentKeyError> {
        for id in Self::slots()? {
            if let Some(public) = self.manager.find(&id).await?
                && public.spki_der == spki_der
            {
                return Ok(Some(AgentKey { id, public }));
            }
        }
        Ok(None)
    }

    /// The key to attest with when there is no valid SVID: one that is there already (so that a retry, also after
    /// a restart, shows the same key), or a new one.
    ///
    /// # Errors
    /// The key manager failed.
    pub async fn for_first_use(&self) -> Result<AgentKey, AgentKeyError> {
        let [a, b] = Self::slots()?;
        for id in [&a, &b] {
            if let Some(public) = self.manager.find(id).await?
                && public.kind == KeyType::EcP256
            {
                return Ok(AgentKey { id: id.clone(), public });
            }
        }
        self.make(a).await
    }

    /// The key for the SVID after `current`: the same in hardware, a new one in the other slot in software, and the same
    /// there, too, when no new one can be made.
    ///
    /// # Errors
    /// The slots' names are none, which is no more than a mistake in this program.
    pub async fn for_renewal(&self, current: &AgentKey) -> Result<AgentKey, AgentKeyError> {
        if self.manager.custody().hardware {
            return Ok(current.clone());
        }
        let [a, b] = Self::slots()?;
        match self.make(if current.id == a { b } else { a }).await {
            Ok(key) => Ok(key),
            // An SVID with the old key is worth more than one that has expired: a full disk must not cost the node its identity.
            Err(error) => {
                tracing::warn!(
                    error = %error,
                    key_id = %current.id,
                    "no new key can be made; the agent's SVID is renewed with the old one"
                );
                Ok(current.clone())
            }
        }
    }

    async fn make(&self, id: KeyId) -> Result<AgentKey, AgentKeyError> {
        let public = self.manager.generate(&id, KeyType::EcP256).await?;
        tracing::info!(key_id = %id, key_manager = self.manager.custody().backend, "agent key made");
        Ok(AgentKey { id, public })
    }

    /// The CSR for a key: `kept` if it is that key's and whole, else one signed now. SPIRE's subject, no names: the
    /// server decides who the agent is.
    ///
    /// # Errors
    /// The key manager failed.
    pub async fn csr(&self, key: &AgentKey, kept: Option<&[u8]>) -> Result<Vec<u8>, AgentKeyError> {
        if let Some(kept) = kept
            && let Ok(csr) = Csr::parse(kept)
            && csr.spki_der == key.public.spki_der
            && csr.signature_valid
        {
            return Ok(kept.to_vec());
        }
        let algorithm = SignatureAlgorithm::for_key(&key.public.spki_der)?;
        let subject = DistinguishedName::default_svid().to_der();
        let to_be_signed = csr_to_be_signed(&subject, &key.public.spki_der, None);
        let (hash, scheme) = match algorithm {
            SignatureAlgorithm::EcdsaSha384 => (HashAlgorithm::Sha384, SignatureScheme::Ecdsa),
            SignatureAlgorithm::RsaSha256 => (HashAlgorithm::Sha256, SignatureScheme::RsaPkcs1),
            _ => (HashAlgorithm::Sha256, SignatureScheme::Ecdsa),
        };
        let signature = self.manager.sign(&key.id, scheme, &Digest::of(hash, &to_be_signed)).await?;
        Ok(assemble_csr(&to_be_signed, algorithm, &signature))
    }
}

#[cfg(test)]
mod tests {
    use hardroot_hsm_keymanager::Custody;

    use super::*;
    use crate::testing::{CountingKeys, memory_keys};

    #[tokio::test]
    async fn a_csr_is_signed_once_and_kept() {
        let counting = Arc::new(CountingKeys::new(true));
        let keys = AgentKeys::new(counting.clone());
        let key = keys.for_first_use().await.unwrap();
        let csr = keys.csr(&key, None).await.unwrap();
        let parsed = Csr::parse(&csr).unwrap();
        assert!(parsed.signature_valid && parsed.uris.is_empty() && parsed.dns_names.is_empty());
        assert_eq!(parsed.spki_der, key.public.spki_der);
        assert_eq!(parsed.subject_der, DistinguishedName::default_svid().to_der());
        let signatures = counting.signatures();
        assert_eq!(keys.csr(&key, Some(&csr)).await.unwrap(), csr);
        assert_eq!(counting.signatures(), signatures, "the kept one is used");
        let mut damaged = csr.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        keys.csr(&key, Some(&damaged)).await.unwrap();
        assert_eq!(counting.signatures(), signatures + 1, "a damaged one is not");
    }

    #[tokio::test]
    async fn a_hardware_key_stays_and_a_software_key_changes_slots() {
        let hardware = AgentKeys::new(Arc::new(CountingKeys::new(true)));
        let key = hardware.for_first_use().await.unwrap();
        assert_eq!(hardware.for_renewal(&key).await.unwrap(), key);

        let software = AgentKeys::new(memory_keys());
        assert_eq!(software.manager().custody(), Custody { hardware: false, ..software.manager().custody() });
        let a = software.for_first_use().await.unwrap();
        let b = software.for_renewal(&a).await.unwrap();
        assert_eq!((a.id.as_str(), b.id.as_str()), ("agent-svid-A", "agent-svid-B"));
        assert_eq!(software.for_renewal(&b).await.unwrap().id, a.id);
        assert!(software.holding(&b.public.spki_der).await.unwrap().is_some());
        assert!(software.holding(&a.public.spki_der).await.unwrap().is_none(), "slot A was made anew");
    }

    #[tokio::test]
    async fn a_retry_uses_the_same_key() {
        let keys = AgentKeys::new(memory_keys());
        let first = keys.for_first_use().await.unwrap();
        assert_eq!(keys.for_first_use().await.unwrap(), first);
    }
}
