//! A client that speaks the server API as an agent does, without being our agent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwapOption;
use hardroot_api::spire::api::server::agent::v1::agent_client::AgentClient;
use hardroot_api::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, attest_agent_request, attest_agent_response,
};
use hardroot_api::spire::api::types::AttestationData;
use hardroot_identity::{Bundle, SpiffeId, TrustDomain};
use hardroot_transport::{
    BundleSet, BundleSource, ConnectOptions, ServerTrust, TlsIdentity, client_config, connect,
};
use rustls::ClientConfig;
use rustls_pki_types::PrivateKeyDer;
use tonic::transport::Channel;

use crate::site::{PORT, Site, TRUST_DOMAIN};

/// Joins with a token and returns a channel that shows the agent's SVID.
///
/// # Errors
/// The server refuses.
pub async fn join(site: &Site, token: &str) -> Result<Channel> {
    let options = ConnectOptions { timeout: Duration::from_secs(20), ..ConnectOptions::default() };
    Ok(connect(&format!("{}:{PORT}", site.address), joined(site, token).await?, options).await?)
}

/// How somebody without an identity connects to the site's server.
///
/// # Errors
/// There is no bootstrap bundle.
pub fn nobody(site: &Site) -> Result<Arc<ClientConfig>> {
    let (server, trust) = trust(site)?;
    Ok(client_config(server, trust, None))
}

fn trust(site: &Site) -> Result<(SpiffeId, ServerTrust)> {
    let trust_domain = TrustDomain::new(TRUST_DOMAIN)?;
    let pem = std::fs::read(site.folder().join("bootstrap.pem"))?;
    let bundle = Bundle::from_pem(trust_domain.clone(), &pem)?;
    let bundles: Arc<dyn BundleSource> = Arc::new(BundleSet::new([bundle]));
    Ok((SpiffeId::new(&trust_domain, "/spire/server")?, ServerTrust::Bundle(bundles)))
}

/// Joins with a token: how the agent connects from now on.
///
/// # Errors
/// The server refuses.
pub async fn joined(site: &Site, token: &str) -> Result<Arc<ClientConfig>> {
    let address = format!("{}:{PORT}", site.address);
    let (server, trust) = trust(site)?;
    let key = rcgen::KeyPair::generate()?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key)?;
    let anonymous =
        connect(&address, client_config(server.clone(), trust.clone(), None), ConnectOptions::default())
            .await?;
    let params = attest_agent_request::Params {
        data: Some(AttestationData { r#type: "join_token".into(), payload: token.as_bytes().to_vec() }),
        params: Some(AgentX509svidParams { csr: csr.der().to_vec() }),
    };
    let first = AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) };
    let answer = AgentClient::new(anonymous)
        .attest_agent(tokio_stream::iter([first]))
        .await?
        .into_inner()
        .message()
        .await?;
    let Some(attest_agent_response::Step::Result(result)) = answer.and_then(|answer| answer.step) else {
        bail!("the server did not answer a join token with a result")
    };
    let chain = result.svid.context("no SVID")?.cert_chain;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
    let identity = Arc::new(ArcSwapOption::from_pointee(TlsIdentity::new(chain, key)?));
    Ok(client_config(server, trust, Some(identity)))
}
