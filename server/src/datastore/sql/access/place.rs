//! Where a database is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hardroot_runtime::secret::Secret;

use super::Engine;
use crate::datastore::StoreError;

/// The database of a server.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Where it is.
    pub place: Place,
    /// Whether the schema is left as it is; an older one is refused then.
    pub disable_migration: bool,
    /// While the database is away: how old what is in memory may get and still serve agents that were
    /// authorised. Zero serves nobody.
    pub outage_staleness: Duration,
}

/// `outage_staleness` unless the configuration says otherwise.
pub const OUTAGE_STALENESS: Duration = Duration::from_secs(15 * 60);

impl DatabaseConfig {
    /// A SQLite file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::File(path.into()), disable_migration: false, outage_staleness: OUTAGE_STALENESS }
    }

    /// What an operator should change, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let Place::Server(server) = &self.place else { return Vec::new() };
        let mut warnings = Vec::new();
        for endpoint in [Some(&server.primary), server.replica.as_ref()].into_iter().flatten() {
            if endpoint.password_in_config {
                warnings.push(format!(
                    "the password for {endpoint} stands in the configuration: move it to a file and set \
                     password_file or connection_string_file"
                ));
            }
            let local = match &endpoint.host {
                Host::Socket(_) => true,
                Host::Tcp { name, .. } => {
                    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
                }
            };
            if !local && endpoint.tls != Tls::Verify {
                warnings.push(format!(
                    "the connection to {endpoint} does not prove who answers: set root_ca_path (or sslmode=verify-full)"
                ));
            }
        }
        warnings
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match &self.place {
            Place::File(_) => Engine::Sqlite,
            Place::Server(server) => server.engine,
        }
    }
}

/// A file or a server.
#[derive(Debug, Clone)]
pub enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A database server.
    Server(Box<ServerDatabase>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(server) => server.primary.fmt(f),
        }
    }
}

/// A database on a server.
#[derive(Debug, Clone)]
pub struct ServerDatabase {
    /// PostgreSQL or MySQL.
    pub engine: Engine,
    /// Where to write, and to read what decides something.
    pub primary: Endpoint,
    /// A replica for reads that may be some moments old.
    pub replica: Option<Endpoint>,
    /// Limits of the pools, of each alike.
    pub pooling: Pooling,
}

/// Limits of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Pooling {
    /// Connections at most, 1 to 10,000.
    pub max_open_conns: u32,
    /// Idle connections that are kept.
    pub max_idle_conns: u32,
    /// How old a connection gets; without limit when absent.
    pub conn_max_lifetime: Option<Duration>,
}

impl Default for Pooling {
    /// 20 connections: a server needs few, and PostgreSQL grants 100 to all its clients together.
    fn default() -> Self {
        Self { max_open_conns: 20, max_idle_conns: 20, conn_max_lifetime: None }
    }
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Over the network.
    Tcp {
        /// Name or address.
        name: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket; for PostgreSQL its folder.
    Socket(PathBuf),
}

/// What TLS has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// No TLS.
    Disable,
    /// TLS if the server has it; whoever is in between can prevent it.
    Prefer,
    /// TLS with whoever answers.
    Require,
    /// TLS with a server whose certificate is trusted and for its host name.
    Verify,
}

/// One server and one database in it. `Debug` and `Display` show no password.
#[derive(Clone)]
pub struct Endpoint {
    /// The server.
    pub host: Host,
    /// The user; the engine's default when absent.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Whether the password stands in the configuration itself.
    pub password_in_config: bool,
    /// The file that holds the password; it counts before `password`.
    pub password_file: Option<PathBuf>,
    /// The database.
    pub database: String,
    /// What TLS has to prove.
    pub tls: Tls,
    /// Certificates of the authorities that may vouch for the server, PEM.
    pub root_ca: Option<PathBuf>,
    /// Certificate and key of this client, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp { name, port } => write!(f, "{name}:{port}/{}", self.database),
            Host::Socket(path) => write!(f, "{}/{}", path.display(), self.database),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("host", &self.host)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The password, from its file or as it was given.
    pub(super) fn secret(&self) -> Result<Option<String>, StoreError> {
        let read;
        let secret = match (&self.password_file, &self.password) {
            (Some(path), _) => {
                read = hardroot_runtime::secret::read(path).map_err(|cause| StoreError::Database {
                    op: "read the password file",
                    cause: Box::new(cause),
                })?;
                Some(&read)
            }
            (None, given) => given.as_ref(),
        };
        let text = |secret: &Secret| {
            secret
                .expose_str()
                .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
                .ok_or(StoreError::Database { op: "read the password", cause: "it is not UTF-8".into() })
        };
        secret.map(text).transpose()
    }
}
