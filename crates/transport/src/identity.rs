//! The identity a side of a connection shows, in a slot that starts closed and can be replaced at any time.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hardroot_identity::{BadX509Svid, X509Svid};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::CertificateDer;

/// A certificate chain and the key that goes with it.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    /// DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// Signs for the leaf.
    pub key: Arc<dyn SigningKey>,
}

/// Why a chain and a key make no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadTlsIdentity {
    /// The leaf is no X.509-SVID.
    #[error("the certificate for TLS is no X.509-SVID")]
    Leaf(#[source] BadX509Svid),
    /// The key is another one.
    #[error("the certificate for TLS is for another key than the one at hand; issue it anew")]
    OtherKey,
}

impl TlsIdentity {
    /// Joins a chain and a key after checking that they belong together.
    ///
    /// # Errors
    /// The leaf is no X.509-SVID, or its public key is not `key`'s.
    pub fn new(chain: Vec<Vec<u8>>, key: Arc<dyn SigningKey>) -> Result<Self, BadTlsIdentity> {
        let svid = X509Svid::parse(chain).map_err(BadTlsIdentity::Leaf)?;
        let same = key.public_key().is_some_and(|public| public.as_ref() == svid.spki_der.as_slice());
        if !same {
            return Err(BadTlsIdentity::OtherKey);
        }
        Ok(Self { chain: svid.chain, key })
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        let chain = self.chain.iter().cloned().map(CertificateDer::from).collect();
        Arc::new(CertifiedKey::new(chain, Arc::clone(&self.key)))
    }
}

/// Holds the current identity; empty means that handshakes fail. Storing a new one counts from the next
/// handshake on.
pub type IdentitySlot = Arc<ArcSwapOption<TlsIdentity>>;

/// Shows what is in the slot.
#[derive(Debug)]
pub(crate) struct FromSlot(pub(crate) IdentitySlot);

impl ResolvesServerCert for FromSlot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|identity| identity.certified())
    }
}

impl ResolvesClientCert for FromSlot {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|identity| identity.certified())
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}
