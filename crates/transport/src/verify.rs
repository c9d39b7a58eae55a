//! Certificate verifiers: SPIFFE IDs and bundles instead of DNS names and a root store (X509-SVID 5).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_identity::{BadX509Svid, Bundle, SpiffeId, TrustDomain, X509Svid, verify_x509_svid_until};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::bundles::BundleSource;
use crate::config::ServerTrust;

/// Why a peer's certificate is not trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The leaf is no X.509-SVID.
    #[error("the peer's certificate is no X.509-SVID: {0}")]
    NotSvid(#[source] BadX509Svid),
    /// No bundle for its trust domain.
    #[error("there is no bundle for the peer's trust domain {trust_domain}")]
    NoBundle {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// The chain does not lead to the bundle, or is not valid now.
    #[error("the certificate of {id} does not hold: {cause}")]
    Chain {
        /// Whose certificate it says it is.
        id: SpiffeId,
        /// What is wrong.
        #[source]
        cause: BadX509Svid,
    },
    /// Somebody else.
    #[error("the peer is {found}, expected {expected}")]
    OtherId {
        /// Who was expected.
        expected: SpiffeId,
        /// Who is there.
        found: SpiffeId,
    },
    /// The peer's certificate is over (seen on a connection that outlived it).
    #[error("the certificate of {id} has expired")]
    Expired {
        /// Whose.
        id: SpiffeId,
    },
}

impl TrustError {
    fn into_rustls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

/// What a chain was found to be.
pub(crate) struct Judgement {
    pub(crate) svid: X509Svid,
    /// By which it was judged.
    pub(crate) bundle: Arc<Bundle>,
    /// How long it holds while the bundle stays as it is.
    pub(crate) until: SystemTime,
}

/// Judges a chain by the bundle of the trust domain that its leaf names.
pub(crate) fn judge(
    chain: &[Vec<u8>],
    bundles: &dyn BundleSource,
    now: SystemTime,
) -> Result<Judgement, TrustError> {
    let claimed = X509Svid::parse(chain.to_vec()).map_err(TrustError::NotSvid)?.id;
    let trust_domain = claimed.trust_domain();
    let Some(bundle) = bundles.bundle(&trust_domain) else {
        return Err(TrustError::NoBundle { trust_domain });
    };
    match verify_x509_svid_until(chain, &bundle, now) {
        Ok((svid, until)) => Ok(Judgement { svid, bundle, until }),
        Err(cause) => Err(TrustError::Chain { id: claimed, cause }),
    }
}

fn der_chain(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    std::iter::once(leaf).chain(intermediates).map(|der| der.to_vec()).collect()
}

fn system_time(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

/// Client certificates: asked for, not required; one that is there must hold.
pub(crate) struct ClientVerifier {
    pub(crate) bundles: Arc<dyn BundleSource>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // SPIFFE clients have one identity; naming roots would leak every federated authority.
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        judge(&der_chain(leaf, intermediates), &*self.bundles, system_time(now))
            .map(|_| ClientCertVerified::assertion())
            .map_err(TrustError::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Server certificates: exactly one SPIFFE ID is right.
pub(crate) struct ServerVerifier {
    pub(crate) expected: SpiffeId,
    pub(crate) trust: ServerTrust,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl ServerVerifier {
    fn verify(&self, chain: Vec<Vec<u8>>, now: SystemTime) -> Result<(), TrustError> {
        let found = match &self.trust {
            ServerTrust::Bundle(bundles) => judge(&chain, &**bundles, now)?.svid.id,
            ServerTrust::InsecureBootstrap => X509Svid::parse(chain).map_err(TrustError::NotSvid)?.id,
        };
        if found == self.expected {
            Ok(())
        } else {
            Err(TrustError::OtherId { expected: self.expected.clone(), found })
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(der_chain(leaf, intermediates), system_time(now))
            .map(|()| ServerCertVerified::assertion())
            .map_err(TrustError::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
