//! TLS of the Prometheus listener, as `Prometheus.tls` says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hardroot_identity::{SpiffeId, X509Svid};
use hardroot_transport::{TlsOptions, server_config, server_config_showing};
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsConfig;
use crate::http::{Judge, Tls};
use crate::service::Identity;

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadTls {
    /// A file is no PEM of the wanted kind.
    #[error("{path} cannot be used as {what}: {why}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// rustls refuses the combination.
    #[error("the certificate and key cannot be used")]
    Rustls(#[source] rustls::Error),
}

/// The same certificate for everybody.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Builds it. HTTP/1.1 needs no ALPN, and clients that offer it do without an answer.
pub(crate) fn build(config: &TlsConfig, identity: &Identity) -> Result<Tls, BadTls> {
    let by_id = !config.authorized_spiffe_ids.is_empty();
    let built = match (&config.files, &config.client_ca_file) {
        (None, _) => server_config(Arc::clone(&identity.svid), Arc::clone(&identity.bundles)),
        (Some((cert, key)), None) if by_id => {
            let resolver = Arc::new(Always(certified(cert, key)?));
            server_config_showing(resolver, Arc::clone(&identity.bundles), TlsOptions::default())
        }
        (Some((cert, key)), client_ca) => Arc::new(web(certified(cert, key)?, client_ca.as_deref())?),
    };
    let mut tls = ServerConfig::clone(&built);
    tls.alpn_protocols.clear();
    let judge = by_id.then(|| judge_of(config.authorized_spiffe_ids.iter().cloned().collect()));
    Ok(Tls { config: Arc::new(tls), judge })
}

/// Whether a client, whose chain was verified in the handshake, is one of `ids`.
fn judge_of(ids: BTreeSet<SpiffeId>) -> Judge {
    Arc::new(move |chain: &[CertificateDer<'static>]| {
        let chain: Vec<Vec<u8>> = chain.iter().map(|der| der.to_vec()).collect();
        !chain.is_empty() && X509Svid::parse(chain).is_ok_and(|svid| ids.contains(&svid.id))
    })
}

fn bad(path: &Path, what: &'static str) -> impl FnOnce(String) -> BadTls {
    let path = path.to_owned();
    move |why| BadTls::File { path, what, why }
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = read.map_err(|error| bad(path, what)(error.to_string()))?;
    if all.is_empty() { Err(bad(path, what)("it holds no certificate".to_owned())) } else { Ok(all) }
}

fn certified(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, BadTls> {
    let chain = certificates(cert, "certificate")?;
    let key_der =
        PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, "private key")(error.to_string()))?;
    let signing = any_supported_type(&key_der).map_err(|error| bad(key, "private key")(error.to_string()))?;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(|error| bad(key, "key of the certificate")(error.to_string()))?;
    Ok(Arc::new(certified))
}

fn web(certified: Arc<CertifiedKey>, client_ca: Option<&Path>) -> Result<ServerConfig, BadTls> {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(BadTls::Rustls)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path, "client CA")? {
                roots.add(root).map_err(|error| bad(path, "client CA")(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| bad(path, "client CA")(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    Ok(builder.with_cert_resolver(Arc::new(Always(certified))))
}
