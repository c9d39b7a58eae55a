//! The server's half.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use hardroot_identity::{Bundle, Selector, SpiffeId, TrustDomain, pem_decode, verify_x509_svid};

use super::certificate::{Certificate, KeyKind, fingerprint, percent_decoded};
use super::chain::issuers_of;
use super::proof::{ecdsa_holds, rsa_holds};
use super::wire::{MAX_CERTIFICATES, Payload, Response};
use super::{Challenge, NAME, NONCE, combined};
use crate::template::{BadTemplate, Template, Value};
use crate::{AttestError, AttestedNode, ServerAttestor, ServerContext, ServerSession, Step};

/// Largest RSA modulus that can be checked at all, in bits.
const LARGEST_RSA: usize = 8_192;
/// Smallest RSA modulus that can be checked, in bits.
const SMALLEST_RSA: usize = 2_048;

/// Why the attestor cannot work as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadX509popConfig {
    /// A file of root certificates cannot be used.
    #[error("the CA bundle {} cannot be used: {reason}", path.display())]
    CaBundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No root at all.
    #[error("x509pop needs at least one root certificate in ca_bundle_path or ca_bundle_paths")]
    NoRoots,
    /// The template is malformed or outside what is understood.
    #[error("agent_path_template: {0}")]
    Template(#[from] BadTemplate),
    /// A limit out of bounds.
    #[error("{key} = {value} is out of bounds: {min} to {max} is possible")]
    Limit {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        value: usize,
        /// Least value.
        min: usize,
        /// Greatest value.
        max: usize,
    },
}

/// Reads PEM files of root certificates.
///
/// # Errors
/// A file cannot be read or holds no usable certificate.
pub fn read_roots<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<Vec<u8>>, BadX509popConfig> {
    let mut roots = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        let bad = |reason| BadX509popConfig::CaBundle { path: path.to_owned(), reason };
        let text = fs::read(path).map_err(|error| bad(error.to_string()))?;
        let found = pem_decode(&text).map_err(|error| bad(error.to_string()))?;
        if found.is_empty() {
            return Err(bad("there is no certificate in it".to_owned()));
        }
        for der in &found {
            Certificate::parse(der).map_err(|reason| bad(format!("a certificate is malformed: {reason}")))?;
        }
        roots.extend(found);
    }
    Ok(roots)
}

/// Gives the current bundle of the server's own trust domain.
pub type OwnBundle = Arc<dyn Fn() -> Option<Arc<Bundle>> + Send + Sync>;

/// Which certificates are trusted.
#[derive(Clone)]
pub enum X509popTrust {
    /// Those of an outside PKI (`mode = "external_pki"`): its roots, DER.
    ExternalPki {
        /// Root certificates, DER.
        roots: Vec<Vec<u8>>,
    },
    /// X.509-SVIDs of the server's own trust domain (`mode = "spiffe"`).
    Spiffe {
        /// The trust domain's bundle.
        bundle: OwnBundle,
        /// What the ID's path must begin with; a `/` at its end is added when missing.
        prefix: String,
    },
}

/// What is asked of certificates beyond trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509popPolicy {
    /// `agent_path_template`; none means the fingerprint, or in mode spiffe what follows the prefix.
    pub agent_path_template: Option<String>,
    /// Certificates between leaf and root that a node may send (1 to 31).
    pub max_intermediates: usize,
    /// Largest RSA modulus in the chain, in bits (2048 to 8192).
    pub max_rsa_key_size: usize,
    /// The leaf must name the address that the node comes from.
    pub verify_client_ip: bool,
}

impl Default for X509popPolicy {
    fn default() -> Self {
        Self {
            agent_path_template: None,
            max_intermediates: 4,
            max_rsa_key_size: LARGEST_RSA,
            verify_client_ip: false,
        }
    }
}

/// Judges x509pop.
#[derive(Clone)]
pub struct X509popServer(Arc<Settings>);

struct Settings {
    trust: X509popTrust,
    template: Template,
    policy: X509popPolicy,
}

impl X509popServer {
    /// Checks the settings.
    ///
    /// # Errors
    /// See [`BadX509popConfig`].
    pub fn new(policy: X509popPolicy, mut trust: X509popTrust) -> Result<Self, BadX509popConfig> {
        let within = |key, value: usize, min, max| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(BadX509popConfig::Limit { key, value, min, max })
            }
        };
        within("max_intermediates", policy.max_intermediates, 1, MAX_CERTIFICATES - 1)?;
        within("max_rsa_key_size", policy.max_rsa_key_size, SMALLEST_RSA, LARGEST_RSA)?;
        let usual = match &mut trust {
            X509popTrust::ExternalPki { roots } if roots.is_empty() => return Err(BadX509popConfig::NoRoots),
            X509popTrust::ExternalPki { .. } => "/{{ .PluginName }}/{{ .Fingerprint }}",
            X509popTrust::Spiffe { prefix, .. } => {
                if !prefix.ends_with('/') {
                    prefix.push('/');
                }
                "/{{ .PluginName }}/{{ .SVIDPathTrimmed }}"
            }
        };
        let template = Template::parse(policy.agent_path_template.as_deref().unwrap_or(usual))?;
        Ok(Self(Arc::new(Settings { trust, template, policy })))
    }
}

fn malformed(what: &'static str, reason: impl ToString) -> AttestError {
    AttestError::Malformed { what, reason: reason.to_string() }
}

fn rejected(reason: &'static str, detail: impl Into<String>) -> AttestError {
    AttestError::Rejected { reason, detail: detail.into() }
}

fn unavailable(op: &'static str, cause: &str) -> AttestError {
    AttestError::Unavailable { op, cause: cause.into() }
}

#[async_trait::async_trait]
impl ServerAttestor for X509popServer {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn begin(&self, context: &ServerContext, payload: &[u8]) -> Result<Step, AttestError> {
        let settings = &*self.0;
        let chain = settings.read_chain(payload)?;
        let trusted = settings.judge(&chain, context)?;
        let leaf = chain
            .into_iter()
            .next()
            .ok_or_else(|| malformed("x509pop payload", "no certificate to attest"))?;
        settings.check_address(&leaf, context)?;
        if !leaf.digital_signature {
            return Err(rejected(
                "x509pop_no_digital_signature",
                "the certificate's key usage lacks digitalSignature, so it may not prove possession",
            ));
        }
        let mut nonce = [0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_unspecified| {
            unavailable("making a challenge", "the operating system gave no random bytes")
        })?;
        let challenge = match leaf.key {
            KeyKind::Rsa { .. } => Challenge::Rsa(nonce.to_vec()),
            KeyKind::Ec(_) => Challenge::Ecdsa(nonce.to_vec()),
            KeyKind::Other => {
                return Err(rejected(
                    "x509pop_key_type",
                    "the certificate's key is neither RSA nor EC (P-256, P-384, P-521)",
                ));
            }
        };
        let node = settings.node(&context.trust_domain, &leaf, &trusted, payload)?;
        let session = Session { nonce, leaf, node };
        Ok(Step::Challenge(challenge.to_json(), Box::new(session)))
    }
}

/// What a trusted chain says.
struct Trusted {
    /// Every certificate behind the leaf, DER.
    issuers: Vec<Vec<u8>>,
    /// In mode spiffe, the ID's path without the prefix.
    svid_path: String,
}

impl Settings {
    /// Counts and sizes come first: no cryptography for what is out of bounds.
    fn read_chain(&self, payload: &[u8]) -> Result<Vec<Certificate>, AttestError> {
        let payload = Payload::from_json(payload).map_err(|error| malformed("x509pop payload", error))?;
        let count = payload.certificates.len();
        if count == 0 {
            return Err(malformed("x509pop payload", "no certificate to attest"));
        }
        if count - 1 > self.policy.max_intermediates {
            return Err(malformed(
                "x509pop payload",
                format!(
                    "too many intermediate certificates: {}, at most {}",
                    count - 1,
                    self.policy.max_intermediates
                ),
            ));
        }
        let mut chain = Vec::with_capacity(count);
        for (at, der) in payload.certificates.iter().enumerate() {
            let which = || if at == 0 { "leaf".to_owned() } else { format!("intermediate {}", at - 1) };
            let cert = Certificate::parse(der).map_err(|reason| {
                malformed("x509pop payload", format!("the {} certificate cannot be read: {reason}", which()))
            })?;
            if let KeyKind::Rsa { bits } = cert.key
                && bits > self.policy.max_rsa_key_size
            {
                return Err(malformed(
                    "x509pop payload",
                    format!(
                        "the {} certificate's key size is too large: {bits} bits, at most {}",
                        which(),
                        self.policy.max_rsa_key_size
                    ),
                ));
            }
            chain.push(cert);
        }
        Ok(chain)
    }

    fn judge(&self, chain: &[Certificate], context: &ServerContext) -> Result<Trusted, AttestError> {
        let (roots, svid_path) = match &self.trust {
            X509popTrust::ExternalPki { roots } => (roots.clone(), String::new()),
            X509popTrust::Spiffe { bundle, prefix } => {
                let bundle = bundle().ok_or_else(|| {
                    unavailable(
                        "reading the trust bundle",
                        "the server has no bundle of its own trust domain yet",
                    )
                })?;
                let ders: Vec<Vec<u8>> = chain.iter().map(|cert| cert.der.clone()).collect();
                let svid = verify_x509_svid(&ders, &bundle, context.now)
                    .map_err(|error| rejected("x509pop_chain_untrusted", error.to_string()))?;
                let path = svid.id.path().strip_prefix(prefix.as_str()).ok_or_else(|| {
                    rejected(
                        "x509pop_svid_prefix",
                        format!("the path of {} does not begin with {prefix}", svid.id),
                    )
                })?;
                let roots = bundle.x509_authorities.iter().map(|authority| authority.der.clone()).collect();
                (roots, path.to_owned())
            }
        };
        let (leaf, intermediates) =
            chain.split_first().ok_or_else(|| malformed("x509pop payload", "no certificate to attest"))?;
        let intermediates: Vec<Vec<u8>> = intermediates.iter().map(|cert| cert.der.clone()).collect();
        let issuers = issuers_of(&leaf.der, &intermediates, &roots, context.now).map_err(|reason| {
            rejected("x509pop_chain_untrusted", format!("certificate verification failed: {reason}"))
        })?;
        Ok(Trusted { issuers, svid_path })
    }

    fn check_address(&self, leaf: &Certificate, context: &ServerContext) -> Result<(), AttestError> {
        if !self.policy.verify_client_ip {
            return Ok(());
        }
        let peer = context
            .peer
            .ok_or_else(|| unavailable("verifying the client's address", "the address is not known"))?
            .to_canonical();
        if leaf.ips.contains(&peer) {
            return Ok(());
        }
        Err(rejected(
            "x509pop_client_ip_mismatch",
            format!(
                "client IP {peer} does not match any IP address in the certificate; is there a NAT or proxy between?"
            ),
        ))
    }

    fn node(
        &self,
        trust_domain: &TrustDomain,
        leaf: &Certificate,
        trusted: &Trusted,
        payload: &[u8],
    ) -> Result<AttestedNode, AttestError> {
        let sans = san_selectors(leaf, trust_domain)?;
        let mut fields = leaf.template_fields();
        let values: BTreeMap<String, Value> =
            sans.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        fields.extend([
            ("SerialNumberHex", leaf.serial_hex().into()),
            ("Fingerprint", fingerprint(&leaf.der).into()),
            ("PluginName", NAME.into()),
            ("TrustDomain", trust_domain.as_str().into()),
            ("SVIDPathTrimmed", trusted.svid_path.clone().into()),
            ("URISanSelectors", Value::Map(values)),
        ]);
        let agent_id = self
            .template
            .render(&Value::record("the attestation data", fields))
            .map_err(|error| error.to_string())
            .and_then(|path| agent_id(trust_domain, &path))
            .map_err(|reason| {
                rejected(
                    "x509pop_agent_path",
                    format!("agent_path_template makes no agent ID of this certificate: {reason}"),
                )
            })?;
        let mut values = Vec::new();
        values.extend(leaf.common_name.iter().map(|name| format!("subject:cn:{name}")));
        values.extend(trusted.issuers.iter().map(|der| format!("ca:fingerprint:{}", fingerprint(der))));
        values.push(format!("serialnumber:{}", leaf.serial_hex()));
        values.extend(sans.iter().map(|(key, value)| format!("san:{key}:{value}")));
        let selectors = values
            .into_iter()
            .map(|value| Selector::new(NAME, value))
            .collect::<Result<_, _>>()
            .map_err(|error| malformed("x509pop certificate", error))?;
        Ok(AttestedNode {
            agent_id,
            selectors,
            can_reattest: true,
            evidence_digest: hex::encode(digest(&SHA256, payload)),
            record: None,
            audit: vec![
                ("certificate_sha1", fingerprint(&leaf.der)),
                ("certificate_serial", leaf.serial_hex()),
            ],
        })
    }
}

fn agent_id(trust_domain: &TrustDomain, path: &str) -> Result<SpiffeId, String> {
    if !path.starts_with('/') {
        return Err(format!("\"{}\" does not begin with a slash", path.escape_default()));
    }
    SpiffeId::new(trust_domain, &format!("/spire/agent{path}"))
        .map_err(|error| format!("\"{}\": {error}", path.escape_default()))
}

/// `x509pop://<trust domain>/<key>/<value>` among the URIs; the last one of a key counts.
fn san_selectors(
    leaf: &Certificate,
    trust_domain: &TrustDomain,
) -> Result<BTreeMap<String, String>, AttestError> {
    let mut selectors = BTreeMap::new();
    for uri in &leaf.uris {
        let Some(rest) = uri.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case(NAME)) else {
            continue;
        };
        let Some(path) = rest.1.strip_prefix(trust_domain.as_str()).filter(|path| path.starts_with('/'))
        else {
            continue;
        };
        let (path, _query) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
        let path = percent_decoded(path)
            .ok_or_else(|| malformed("x509pop certificate", "a URI has a malformed percent escape"))?;
        match path.trim_matches('/').split_once('/') {
            Some((key, value)) if !value.is_empty() => {
                selectors.insert(key.to_owned(), value.to_owned());
            }
            _ => tracing::warn!(%uri, "x509pop: the URI has no /key/value, so it makes no selector"),
        }
    }
    Ok(selectors)
}

struct Session {
    nonce: [u8; NONCE],
    leaf: Certificate,
    node: AttestedNode,
}

#[async_trait::async_trait]
impl ServerSession for Session {
    async fn respond(self: Box<Self>, response: &[u8]) -> Result<Step, AttestError> {
        let response = Response::from_json(response).map_err(|error| malformed("x509pop response", error))?;
        let nonce = |nonce: &[u8]| {
            <[u8; NONCE]>::try_from(nonce).map_err(|_length| {
                malformed(
                    "x509pop response",
                    format!("the nonce has {} bytes, expected {NONCE}", nonce.len()),
                )
            })
        };
        let expected = |kind: &str| malformed("x509pop response", format!("expecting {kind} response"));
        let holds = match self.leaf.key {
            KeyKind::Rsa { .. } => {
                let answer = response.rsa.ok_or_else(|| expected("RSA"))?;
                rsa_holds(
                    &self.leaf.spki_der,
                    &combined(&self.nonce, &nonce(&answer.nonce)?),
                    &answer.signature,
                )
            }
            KeyKind::Ec(curve) => {
                let answer = response.ecdsa.ok_or_else(|| expected("ECDSA"))?;
                let digest = combined(&self.nonce, &nonce(&answer.nonce)?);
                ecdsa_holds(curve, &self.leaf.spki_der, &digest, &answer.r, &answer.s)
            }
            KeyKind::Other => false,
        };
        if holds {
            return Ok(Step::Attested(self.node));
        }
        Err(rejected(
            "x509pop_signature",
            "the response is not signed by the certificate's key over this challenge",
        ))
    }
}
