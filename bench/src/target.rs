//! The server under load: where it is, how it is recognised, and connections to it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hardroot_identity::{Bundle, SpiffeId, TrustDomain};
use hardroot_transport::{
    BundleSet, BundleSource, ConnectOptions, ServerTrust, TlsIdentity, client_config, connect,
};
use tonic::Request;
use tonic::transport::Channel;

use crate::error::CallError;

/// Largest message that is taken from the server, in bytes.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// The name of a simulated node, also the last part of its agent's ID.
#[must_use]
pub fn agent_name(index: usize) -> String {
    format!("hardroot-bench-{index}")
}

/// How simulated agents prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attestor {
    /// By a certificate of the authority that `hardroot-bench prepare` made.
    #[default]
    X509pop,
    /// By a token that is made through the admin socket for each of them.
    JoinToken,
}

impl Attestor {
    /// Its name on the wire and in agents' IDs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X509pop => hardroot_node_attestors::x509pop::NAME,
            Self::JoinToken => hardroot_node_attestors::join_token::NAME,
        }
    }

    /// The path of the ID of agent `index`.
    #[must_use]
    pub fn agent_path(self, index: usize) -> String {
        format!("/spire/agent/{}/{}", self.name(), agent_name(index))
    }
}

impl std::str::FromStr for Attestor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "x509pop" => Ok(Self::X509pop),
            "join_token" => Ok(Self::JoinToken),
            _ => Err("the attestor is `x509pop` or `join_token`".to_owned()),
        }
    }
}

impl std::fmt::Display for Attestor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// See the module.
pub struct Target {
    address: String,
    trust_domain: TrustDomain,
    server_id: SpiffeId,
    bundles: Arc<BundleSet>,
    timeout: Duration,
}

impl Target {
    /// The server at `address` (`host:port`), recognised by `bundle`; each connection and each call may take `timeout`.
    ///
    /// # Errors
    /// The trust domain is too long for a server ID.
    pub fn new(
        address: String,
        bundle: Bundle,
        timeout: Duration,
    ) -> Result<Self, hardroot_identity::BadSpiffeId> {
        let trust_domain = bundle.trust_domain.clone();
        Ok(Self {
            address,
            server_id: SpiffeId::new(&trust_domain, "/spire/server")?,
            trust_domain,
            bundles: Arc::new(BundleSet::new([bundle])),
            timeout,
        })
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How long a call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A new connection, showing this identity or none.
    ///
    /// # Errors
    /// The server is away, or one side does not trust the other.
    pub async fn connect(&self, identity: Option<TlsIdentity>) -> Result<Channel, CallError> {
        let trust = ServerTrust::Bundle(Arc::clone(&self.bundles) as Arc<dyn BundleSource>);
        let slot = identity.map(|identity| Arc::new(ArcSwapOption::from_pointee(identity)));
        let options = ConnectOptions {
            timeout: self.timeout,
            user_agent: concat!("hardroot-bench/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..ConnectOptions::default()
        };
        Ok(connect(&self.address, client_config(self.server_id.clone(), trust, slot), options).await?)
    }

    /// A request with this target's deadline, which the server is told of.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// Runs a call with this target's deadline; it is counted against this side, too, for a server that has gone away in
    /// silence.
    ///
    /// # Errors
    /// Those of the call, and its time is over.
    pub async fn within<T>(
        &self,
        rpc: &'static str,
        call: impl Future<Output = Result<T, CallError>> + Send,
    ) -> Result<T, CallError> {
        tokio::time::timeout(self.timeout, call)
            .await
            .unwrap_or(Err(CallError::TimedOut { rpc, limit: self.timeout }))
    }
}
