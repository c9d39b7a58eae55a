//! The Workload API: gRPC over a local socket that anybody on the machine may open.
//!
//! `connection` accepts, knows the peer and bounds what it may use; `session` attests it and watches its identities; `answers`
//! makes the messages, `push` sends them; `service` is the protocol.

mod answers;
mod claims;
mod connection;
mod idle;
mod limits;
mod push;
mod service;
mod session;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hardroot_runtime::clock::{Clock, SystemClock};
use hardroot_runtime::shutdown::Shutdown;
use hardroot_transport::UdsError;

use crate::attestors::WorkloadAttestor;
use crate::source::{IdentitySource, JwtSubject};

pub use limits::Limits;
pub use push::Encoded;

/// The mode of the socket: every user may ask; who gets what is decided by attestation.
const SOCKET_MODE: u32 = 0o777;

/// How far the clocks of a token's issuer and ours may differ.
pub(crate) const LEEWAY: Duration = Duration::from_secs(5);

/// Why the Workload API could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadApiError {
    /// The socket could not be opened.
    #[error(transparent)]
    Socket(#[from] UdsError),
    /// The description of the services could not be built.
    #[error("the gRPC reflection service cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The listening socket broke.
    #[error("the Workload API socket cannot be used any more")]
    Listener(#[source] io::Error),
}

/// Why there is no JWT-SVID: the server cannot sign now, and nothing is cached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JwtUnavailable(pub String);

/// Where JWT-SVIDs come from.
#[async_trait]
pub trait JwtSource: Send + Sync {
    /// A token (compact serialisation) for an identity and one or more audiences.
    ///
    /// # Errors
    /// There is none now.
    async fn fetch(&self, subject: &JwtSubject, audience: &[String]) -> Result<String, JwtUnavailable>;
}

/// What is served, to whom, within which bounds.
#[derive(Clone)]
pub struct WorkloadApi {
    source: Arc<dyn IdentitySource>,
    attestors: Arc<[Arc<dyn WorkloadAttestor>]>,
    jwt: Arc<dyn JwtSource>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    foreign_claims: Arc<BTreeSet<String>>,
    verifiers: bool,
}

impl WorkloadApi {
    /// An API over sources of identities and JWT-SVIDs and the configured attestors, on the system's clock.
    #[must_use]
    pub fn new(
        source: Arc<dyn IdentitySource>,
        jwt: Arc<dyn JwtSource>,
        attestors: Vec<Arc<dyn WorkloadAttestor>>,
    ) -> Self {
        Self {
            source,
            attestors: attestors.into(),
            jwt,
            clock: Arc::new(SystemClock),
            limits: Limits::default(),
            foreign_claims: Arc::default(),
            verifiers: false,
        }
    }

    /// With other bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With another clock for judging tokens.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// With `allowed_foreign_jwt_claims`: what ValidateJWTSVID shows of tokens of other trust domains beside sub, exp and aud.
    #[must_use]
    pub fn with_foreign_claims(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.foreign_claims = Arc::new(names.into_iter().collect());
        self
    }

    /// With `allow_unauthenticated_verifiers`: whether programs without an identity get the own trust domain's
    /// bundle. Tokens of the own trust domain are validated for everybody.
    #[must_use]
    pub fn with_verifiers(mut self, allowed: bool) -> Self {
        self.verifiers = allowed;
        self
    }

    /// Serves on a socket until `shutdown` is requested; open streams then end with Unavailable.
    ///
    /// A socket nobody answers is replaced, one that answers is an error. Missing directories are made with mode 0755.
    ///
    /// # Errors
    /// The socket cannot be opened or used.
    pub async fn serve(self, socket_path: &Path, shutdown: Shutdown) -> Result<(), WorkloadApiError> {
        let socket = hardroot_transport::bind_uds(socket_path, SOCKET_MODE)?;
        connection::serve(self, &socket, shutdown).await
    }
}
