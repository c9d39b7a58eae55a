//! X.509-SVIDs: reading them, the leaf rules, and validation against a bundle (X509-SVID 2 to 5).

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

use crate::bundle::Bundle;
use crate::certificate::{BadCertificate, Certificate};
use crate::{BadSpiffeId, SpiffeId, TrustDomain, name};

/// Most certificates a chain may have.
pub const MAX_CHAIN_CERTIFICATES: usize = 10;

/// Why a chain is no valid X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadX509Svid {
    /// No certificate.
    #[error("the chain is empty")]
    Empty,
    /// More than [`MAX_CHAIN_CERTIFICATES`].
    #[error("the chain has {count} certificates, at most {MAX_CHAIN_CERTIFICATES} are read")]
    ChainTooLong {
        /// How many.
        count: usize,
    },
    /// A certificate that cannot be read.
    #[error("certificate {index} of the chain (0 is the leaf): {cause}")]
    Certificate {
        /// Its place; the leaf is 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        cause: BadCertificate,
    },
    /// The leaf breaks a rule of X509-SVID.
    #[error("the leaf certificate {0}")]
    Leaf(#[from] LeafFault),
    /// A certificate behind the leaf that may not sign others.
    #[error("certificate {index} of the chain is no signing certificate: it needs cA=true and keyCertSign")]
    NotAnAuthority {
        /// Its place.
        index: usize,
    },
    /// A signing certificate whose own SPIFFE ID has a path (X509-SVID 3.2).
    #[error("certificate {index} of the chain is a signing certificate whose SPIFFE ID has a path")]
    AuthorityWithPath {
        /// Its place.
        index: usize,
    },
    /// The bundle is another trust domain's.
    #[error("{id} cannot be judged by the bundle of {bundle}")]
    ForeignBundle {
        /// The SVID's ID.
        id: SpiffeId,
        /// The bundle's trust domain.
        bundle: TrustDomain,
    },
    /// The bundle has no X.509 authority that could be used now.
    #[error("the bundle of {trust_domain} has no X.509 authority that is valid now")]
    NoAuthority {
        /// The bundle's trust domain.
        trust_domain: TrustDomain,
    },
    /// No path to an authority of the bundle.
    #[error("{id} was not signed by an authority of its trust domain's bundle")]
    Untrusted {
        /// The SVID's ID.
        id: SpiffeId,
    },
    /// The leaf or a certificate above it has expired.
    #[error("{id} has expired, or a certificate above it has")]
    Expired {
        /// The SVID's ID.
        id: SpiffeId,
    },
    /// The leaf or a certificate above it is not valid yet.
    #[error("{id} is not valid yet, or a certificate above it is not: check the clock")]
    NotYetValid {
        /// The SVID's ID.
        id: SpiffeId,
    },
    /// Path validation failed otherwise.
    #[error("path validation of {id} failed: {cause}")]
    Path {
        /// The SVID's ID.
        id: SpiffeId,
        /// What the path validator found.
        #[source]
        cause: webpki::Error,
    },
}

/// Which leaf rule is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafFault {
    /// No URI SAN.
    #[error("has no URI subject alternative name")]
    NoUri,
    /// More than one URI SAN (X509-SVID 2).
    #[error("has {count} URI subject alternative names instead of one")]
    SeveralUris {
        /// How many.
        count: usize,
    },
    /// The URI is no SPIFFE ID.
    #[error("has a URI that is no SPIFFE ID: {0}")]
    Id(#[from] BadSpiffeId),
    /// The SPIFFE ID has no path (X509-SVID 3.1).
    #[error("has the SPIFFE ID of a trust domain, without a path")]
    NoPath,
    /// cA is true (X509-SVID 4.1).
    #[error("is a CA")]
    Ca,
    /// No key usage, or not critical (X509-SVID 4.3).
    #[error("has no critical key usage extension")]
    NoKeyUsage,
    /// digitalSignature is missing (X509-SVID 4.3).
    #[error("does not have the key usage digitalSignature")]
    NoDigitalSignature,
    /// keyCertSign or cRLSign is there (X509-SVID 4.3).
    #[error("has the key usage keyCertSign or cRLSign")]
    SigningKeyUsage,
    /// Extended key usage without serverAuth or clientAuth (X509-SVID 4.4).
    #[error("has an extended key usage without both serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// An empty subject with names that are not critical (RFC 5280 4.1.2.6).
    #[error("has no subject, and its subject alternative name is not critical")]
    NamesNotCritical,
}

/// An X.509-SVID: a chain whose leaf obeys the standard. Whether it is trusted is another question, which
/// [`verify_x509_svid`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct X509Svid {
    /// Whom the leaf names.
    pub id: SpiffeId,
    /// DER certificates, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// First moment of the leaf's validity.
    pub not_before: SystemTime,
    /// Last moment of the leaf's validity.
    pub not_after: SystemTime,
    /// The leaf's serial number, decimal.
    pub serial: String,
    /// The leaf's `SubjectPublicKeyInfo`, DER.
    pub spki_der: Vec<u8>,
    /// The leaf's DNS names.
    pub dns_names: Vec<String>,
    /// The leaf's authority key identifier, where it has one.
    pub authority_key_id: Option<Vec<u8>>,
}

impl X509Svid {
    /// Reads a chain, leaf first, and applies the rules of X509-SVID to the leaf and to the signing
    /// certificates behind it.
    ///
    /// # Errors
    /// See [`BadX509Svid`].
    pub fn parse(chain: Vec<Vec<u8>>) -> Result<Self, BadX509Svid> {
        if chain.len() > MAX_CHAIN_CERTIFICATES {
            return Err(BadX509Svid::ChainTooLong { count: chain.len() });
        }
        let read = |index: usize, der: &[u8]| {
            Certificate::parse(der).map_err(|cause| BadX509Svid::Certificate { index, cause })
        };
        let (first, rest) = chain.split_first().ok_or(BadX509Svid::Empty)?;
        let leaf = read(0, first)?;
        let id = leaf_id(&leaf)?;
        for (index, der) in (1..).zip(rest) {
            check_authority(index, &read(index, der)?)?;
        }
        Ok(Self {
            id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            serial: leaf.serial_decimal(),
            spki_der: leaf.spki_der,
            dns_names: leaf.extensions.names.map(|names| names.dns_names).unwrap_or_default(),
            authority_key_id: leaf.extensions.authority_key_id,
            chain,
        })
    }

    /// The leaf, DER.
    #[must_use]
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map(Vec::as_slice).unwrap_or_default()
    }
}

/// The leaf rules of X509-SVID; gives the ID.
fn leaf_id(leaf: &Certificate) -> Result<SpiffeId, LeafFault> {
    let names = leaf.extensions.names.as_ref().ok_or(LeafFault::NoUri)?;
    let id: SpiffeId = match names.uris.as_slice() {
        [] => return Err(LeafFault::NoUri),
        [uri] => uri.parse()?,
        several => return Err(LeafFault::SeveralUris { count: several.len() }),
    };
    if id.path().is_empty() {
        return Err(LeafFault::NoPath);
    }
    if leaf.extensions.is_ca() {
        return Err(LeafFault::Ca);
    }
    let usage = leaf.extensions.key_usage.filter(|usage| usage.critical).ok_or(LeafFault::NoKeyUsage)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(LeafFault::SigningKeyUsage);
    }
    if !usage.digital_signature() {
        return Err(LeafFault::NoDigitalSignature);
    }
    if leaf.extensions.extended_key_usage.is_some_and(|usage| !(usage.server_auth && usage.client_auth)) {
        return Err(LeafFault::ExtendedKeyUsage);
    }
    if name::is_empty(&leaf.subject_der) && !names.critical {
        return Err(LeafFault::NamesNotCritical);
    }
    Ok(id)
}

fn check_authority(index: usize, certificate: &Certificate) -> Result<(), BadX509Svid> {
    if !certificate.is_authority() {
        return Err(BadX509Svid::NotAnAuthority { index });
    }
    let has_path = |uri: &String| {
        // A lone slash is how some CAs write their trust domain, as SPIFFE's own example does.
        uri.strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(_, path)| !path.is_empty())
    };
    if certificate.extensions.names.as_ref().is_some_and(|names| names.uris.iter().any(has_path)) {
        return Err(BadX509Svid::AuthorityWithPath { index });
    }
    Ok(())
}

/// Validates a chain against the bundle of its ID's trust domain at `now`: RFC 5280 path validation to an
/// authority that is itself valid, and the rules of X509-SVID.
///
/// Tainted authorities still verify: taint stops issuing, only removal from the bundle stops trust.
///
/// # Errors
/// See [`BadX509Svid`].
pub fn verify_x509_svid(
    chain: &[Vec<u8>],
    bundle: &Bundle,
    now: SystemTime,
) -> Result<X509Svid, BadX509Svid> {
    verify_x509_svid_until(chain, bundle, now).map(|(svid, _)| svid)
}

/// As [`verify_x509_svid`], and how long that holds while the bundle stays as it is: until the first certificate of
/// the path ends, the authority's included. Later another path may still be there.
///
/// # Errors
/// See [`BadX509Svid`].
pub fn verify_x509_svid_until(
    chain: &[Vec<u8>],
    bundle: &Bundle,
    now: SystemTime,
) -> Result<(X509Svid, SystemTime), BadX509Svid> {
    verify_with(chain, bundle, now, |_| true)
}

/// Whether a valid SVID hangs on a tainted authority and on no other, so that it must be renewed.
#[must_use]
pub fn is_tainted(chain: &[Vec<u8>], bundle: &Bundle, now: SystemTime) -> bool {
    verify_with(chain, bundle, now, |tainted| !tainted).is_err()
        && verify_with(chain, bundle, now, |tainted| tainted).is_ok()
}

fn verify_with(
    chain: &[Vec<u8>],
    bundle: &Bundle,
    now: SystemTime,
    wanted: impl Fn(bool) -> bool,
) -> Result<(X509Svid, SystemTime), BadX509Svid> {
    let svid = X509Svid::parse(chain.to_vec())?;
    if !svid.id.is_member_of(&bundle.trust_domain) {
        return Err(BadX509Svid::ForeignBundle { id: svid.id, bundle: bundle.trust_domain.clone() });
    }
    let roots: Vec<(CertificateDer<'_>, SystemTime)> = bundle
        .x509_authorities
        .iter()
        .filter(|authority| wanted(authority.tainted))
        .filter_map(|authority| {
            let end = end_of_usable_root(&authority.der, now)?;
            Some((CertificateDer::from(authority.der.as_slice()), end))
        })
        .collect();
    let (anchors, ends): (Vec<TrustAnchor<'_>>, Vec<SystemTime>) = roots
        .iter()
        .filter_map(|(root, end)| Some((webpki::anchor_from_trusted_cert(root).ok()?, *end)))
        .unzip();
    if anchors.is_empty() {
        return Err(BadX509Svid::NoAuthority { trust_domain: bundle.trust_domain.clone() });
    }
    match verify_path(&svid, &anchors, &ends, now) {
        Ok(until) => Ok((svid, until)),
        // An authority of the same name with another key is not the issuer either.
        Err(
            webpki::Error::UnknownIssuer
            | webpki::Error::InvalidSignatureForPublicKey
            | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_),
        ) => Err(BadX509Svid::Untrusted { id: svid.id }),
        Err(webpki::Error::CertExpired { .. }) => Err(BadX509Svid::Expired { id: svid.id }),
        Err(webpki::Error::CertNotValidYet { .. }) => Err(BadX509Svid::NotYetValid { id: svid.id }),
        Err(cause) => Err(BadX509Svid::Path { id: svid.id, cause }),
    }
}

/// When a root ends that may be used now. The path validator looks at an anchor's name and key only, so the rest is
/// looked at here.
fn end_of_usable_root(der: &[u8], now: SystemTime) -> Option<SystemTime> {
    // A root from outside the SPIFFE world may lack the key usage extension; RFC 5280 then sets no limit.
    let may_sign = |root: &Certificate| {
        root.extensions.is_ca() && root.extensions.key_usage.is_none_or(|usage| usage.key_cert_sign())
    };
    let root = Certificate::parse(der).ok()?;
    (may_sign(&root) && root.is_current(now)).then_some(root.not_after)
}

/// Until when the path holds; `ends` are the anchors', in their order.
fn verify_path(
    svid: &X509Svid,
    anchors: &[TrustAnchor<'_>],
    ends: &[SystemTime],
    now: SystemTime,
) -> Result<SystemTime, webpki::Error> {
    let leaf = CertificateDer::from(svid.leaf());
    let intermediates: Vec<CertificateDer<'_>> =
        svid.chain.iter().skip(1).map(|der| CertificateDer::from(der.as_slice())).collect();
    // A clock before 1970 makes everything not valid yet.
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let leaf = webpki::EndEntityCert::try_from(&leaf)?;
    let path = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        anchors,
        &intermediates,
        UnixTime::since_unix_epoch(seconds),
        BothPurposes,
        None,
        None,
    )?;
    let anchor = anchors.iter().zip(ends).find(|(anchor, _)| std::ptr::eq(*anchor, path.anchor()));
    // What cannot be read again is trusted for this moment alone.
    let between = path.intermediate_certificates();
    let between = between.map(|cert| Certificate::parse(&cert.der()).map_or(now, |cert| cert.not_after));
    let until = between.fold(svid.not_after, SystemTime::min);
    Ok(until.min(anchor.map_or(now, |(_, end)| *end)))
}

/// Extended key usage along the path: where it is present it must allow both TLS roles, since an SVID is
/// used as client and as server. The leaf itself is judged more strictly before.
struct BothPurposes;

impl webpki::ExtendedKeyUsageValidator for BothPurposes {
    fn validate(&self, purposes: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut any_purpose, mut listed, mut server, mut client) = (false, false, false, false);
        for purpose in purposes {
            let purpose = purpose?;
            listed = true;
            any_purpose |= purpose == webpki::KeyPurposeId::new(crate::oid::ANY_EXT_KEY_USAGE);
            server |= purpose == webpki::KeyPurposeId::new(crate::oid::SERVER_AUTH);
            client |= purpose == webpki::KeyPurposeId::new(crate::oid::CLIENT_AUTH);
        }
        if !listed || any_purpose || (server && client) {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext {
            required: if server { webpki::KeyUsage::client_auth() } else { webpki::KeyUsage::server_auth() },
            present: Vec::new(),
        }))
    }
}
