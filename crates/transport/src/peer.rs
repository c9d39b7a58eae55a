//! Who is at the other end of a TLS connection, and whether that still holds.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hardroot_identity::{Bundle, SpiffeId};

use crate::bundles::BundleSource;
use crate::verify::{Judgement, TrustError, judge};

/// The peer of a connection. It is the request extension `Arc<PeerInfo>` of every RPC on it.
#[derive(Debug)]
pub struct PeerInfo {
    /// Its address: as observed, or as a trusted proxy said.
    pub addr: SocketAddr,
    /// The proxy that passed the connection on and said `addr`.
    pub via: Option<SocketAddr>,
    /// The chain it showed, DER, leaf first; empty when it showed none.
    pub cert_chain: Vec<Vec<u8>>,
    /// The ID in its certificate, which was verified in the handshake; see [`recheck`] for later.
    pub id: Option<SpiffeId>,
    /// The leaf's serial number, decimal.
    pub leaf_serial: Option<String>,
    /// When the leaf ends.
    pub leaf_not_after: Option<SystemTime>,
    judged: Mutex<Option<Judged>>,
}

#[derive(Debug)]
struct Judged {
    bundle: Arc<Bundle>,
    at: SystemTime,
    /// The first end of a certificate on the path to the authority.
    until: SystemTime,
}

impl Judged {
    /// Whether a chain that was judged then need not be judged again now. A clock that was set back says nothing.
    fn holds(&self, bundle: &Arc<Bundle>, now: SystemTime) -> bool {
        Arc::ptr_eq(&self.bundle, bundle) && self.at <= now && now <= self.until
    }
}

impl PeerInfo {
    /// A peer without a certificate.
    #[must_use]
    pub fn anonymous(addr: SocketAddr) -> Self {
        Self {
            addr,
            via: None,
            cert_chain: Vec::new(),
            id: None,
            leaf_serial: None,
            leaf_not_after: None,
            judged: Mutex::new(None),
        }
    }

    /// A peer that showed `chain`, which is judged here.
    ///
    /// # Errors
    /// The chain is not trusted.
    pub fn from_chain(
        addr: SocketAddr,
        chain: Vec<Vec<u8>>,
        bundles: &dyn BundleSource,
        now: SystemTime,
    ) -> Result<Self, TrustError> {
        let Judgement { svid, bundle, until } = judge(&chain, bundles, now)?;
        Ok(Self {
            addr,
            via: None,
            cert_chain: chain,
            id: Some(svid.id),
            leaf_serial: Some(svid.serial),
            leaf_not_after: Some(svid.not_after),
            judged: Mutex::new(Some(Judged { bundle, at: now, until })),
        })
    }

    /// A peer whose `chain` rustls has just accepted; it is judged in full at the first [`recheck`].
    pub(crate) fn from_handshake(
        addr: SocketAddr,
        via: Option<SocketAddr>,
        chain: Vec<Vec<u8>>,
    ) -> Result<Self, TrustError> {
        if chain.is_empty() {
            return Ok(Self { via, ..Self::anonymous(addr) });
        }
        let svid = hardroot_identity::X509Svid::parse(chain).map_err(TrustError::NotSvid)?;
        Ok(Self {
            addr,
            via,
            cert_chain: svid.chain,
            id: Some(svid.id),
            leaf_serial: Some(svid.serial),
            leaf_not_after: Some(svid.not_after),
            judged: Mutex::new(None),
        })
    }
}

/// Judges a connection's certificate again, for connections outlive bundles and certificates: call it at every
/// RPC that relies on the peer's ID. A peer without a certificate has nothing to be judged and passes.
///
/// The signatures are checked when the bundle is another one than last time, or a certificate on the path has ended; in
/// between it costs a comparison of pointers and of the expiry.
///
/// # Errors
/// The leaf has expired, the bundle is gone, or the chain no longer leads to it.
pub fn recheck(peer: &PeerInfo, bundles: &dyn BundleSource, now: SystemTime) -> Result<(), TrustError> {
    let Some(id) = &peer.id else { return Ok(()) };
    if peer.leaf_not_after.is_none_or(|end| now > end) {
        return Err(TrustError::Expired { id: id.clone() });
    }
    let trust_domain = id.trust_domain();
    let Some(current) = bundles.bundle(&trust_domain) else {
        return Err(TrustError::NoBundle { trust_domain });
    };
    if lock(&peer.judged).as_ref().is_some_and(|judged| judged.holds(&current, now)) {
        return Ok(());
    }
    let Judgement { bundle, until, .. } = judge(&peer.cert_chain, bundles, now)?;
    *lock(&peer.judged) = Some(Judged { bundle, at: now, until });
    Ok(())
}

/// What is behind the lock is replaced whole, so a panic elsewhere cannot leave it half-written.
fn lock(judged: &Mutex<Option<Judged>>) -> std::sync::MutexGuard<'_, Option<Judged>> {
    judged.lock().unwrap_or_else(PoisonError::into_inner)
}
