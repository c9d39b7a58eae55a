//! `DataStore "sql"`: SPIRE's options, and files for what is secret.

use std::path::PathBuf;
use std::time::Duration;

use hardroot_config::Block;
use hardroot_runtime::secret;

use super::connection::{self, BadConnection};
use super::plugins::readable;
use crate::datastore::{
    DatabaseConfig, Endpoint, Engine, OUTAGE_STALENESS, Place, Pooling, ServerDatabase, Tls,
};

/// The longest `outage_staleness`.
const LONGEST_STALENESS: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn decode(data: &Block<'_>) -> Option<DatabaseConfig> {
    let kind = data.required_string("database_type");
    let disable_migration = data.bool_or("disable_migration", false);
    let outage_staleness = data.duration("outage_staleness").unwrap_or(OUTAGE_STALENESS);
    if outage_staleness > LONGEST_STALENESS {
        data.fault(
            "outage_staleness",
            "must be at most 24h: until then a ban by another server goes unnoticed",
        );
    }
    let place = match kind.as_str() {
        "sqlite3" => Some(file(data)),
        "postgres" => server(data, Engine::Postgres),
        "mysql" => server(data, Engine::MySql),
        "aws_postgres" | "aws_mysql" => {
            data.fault(
                "database_type",
                "IAM authentication is not supported; use postgres or mysql with a password_file",
            );
            None
        }
        "" => None,
        _ => {
            data.fault("database_type", "must be one of sqlite3, postgres, mysql");
            None
        }
    };
    Some(DatabaseConfig { place: place?, disable_migration, outage_staleness })
}

/// The database of a SPIRE server, from its configuration; what else that says is not judged.
pub(super) fn spires(data: &Block<'_>) -> Option<DatabaseConfig> {
    if data.string("database_type").as_deref() != Some("sqlite3") {
        return decode(data);
    }
    let connection = data.required_string("connection_string");
    let path = connection.strip_prefix("file:").map_or(connection.as_str(), |uri| {
        let uri = uri.split_once('?').map_or(uri, |(path, _)| path);
        uri.strip_prefix("//").unwrap_or(uri)
    });
    Some(DatabaseConfig::file(path))
}

fn file(data: &Block<'_>) -> Place {
    let path = data.required_path("connection_string");
    if path.to_string_lossy().starts_with("file:") || path.to_string_lossy().contains('?') {
        data.fault("connection_string", "is the path of a file, without file: and without parameters");
    }
    for key in [
        "ro_connection_string",
        "connection_string_file",
        "ro_connection_string_file",
        "password_file",
        "root_ca_path",
        "client_cert_path",
        "client_key_path",
    ] {
        data.unsupported(key, "belongs to database servers, and this is a file; remove it");
    }
    for key in ["max_open_conns", "max_idle_conns", "conn_max_lifetime"] {
        data.unsupported(key, "connections to the file are managed by the server; remove it");
    }
    Place::File(path)
}

fn server(data: &Block<'_>, engine: Engine) -> Option<Place> {
    let primary = endpoint(data, engine, "connection_string", "connection_string_file");
    if !data.has("connection_string") && !data.has("connection_string_file") {
        data.fault_here("connection_string or connection_string_file is required");
    }
    let replica = endpoint(data, engine, "ro_connection_string", "ro_connection_string_file");
    let common = Common {
        password_file: path(data, "password_file"),
        root_ca: path(data, "root_ca_path"),
        client: client(data),
    };
    let pooling = pooling(data);
    let primary = common.fill(primary?);
    let replica = replica.map(|endpoint| common.fill(endpoint));
    Some(Place::Server(Box::new(ServerDatabase { engine, primary, replica, pooling })))
}

/// What the primary and the replica share, unless their connection strings say otherwise.
struct Common {
    password_file: Option<PathBuf>,
    root_ca: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
}

impl Common {
    fn fill(&self, mut endpoint: Endpoint) -> Endpoint {
        endpoint.password_file = self.password_file.clone();
        if self.root_ca.is_some() {
            endpoint.root_ca.clone_from(&self.root_ca);
        }
        if self.client.is_some() {
            endpoint.client.clone_from(&self.client);
        }
        // Whoever names an authority wants it to be asked, and a client certificate needs TLS.
        if endpoint.root_ca.is_some() && endpoint.tls != Tls::Disable {
            endpoint.tls = Tls::Verify;
        } else if endpoint.client.is_some() && endpoint.tls == Tls::Prefer {
            endpoint.tls = Tls::Require;
        }
        endpoint
    }
}

fn endpoint(data: &Block<'_>, engine: Engine, key: &str, file_key: &str) -> Option<Endpoint> {
    let (inline, file) = (data.secret(key), path(data, file_key));
    let (text, key, in_config) = match (inline, file) {
        (Some(_), Some(_)) => {
            data.fault(file_key, format_args!("{key} and {file_key} exclude each other"));
            return None;
        }
        (Some(text), None) => (text.to_string(), key, true),
        (None, Some(path)) => match secret::read(&path).map(|text| text.expose_str().map(str::to_owned)) {
            Ok(Some(text)) => (text.trim().to_owned(), file_key, false),
            Ok(None) => {
                data.fault(file_key, "does not name a text");
                return None;
            }
            Err(error) => {
                data.fault(file_key, format_args!("cannot be read: {error}"));
                return None;
            }
        },
        (None, None) => return None,
    };
    let parsed = match engine {
        Engine::MySql => connection::mysql(&text),
        _ => connection::postgres(&text),
    };
    match parsed {
        Ok(mut endpoint) => {
            endpoint.password_in_config = in_config && endpoint.password.is_some();
            Some(endpoint)
        }
        Err(BadConnection(why)) => {
            data.fault(key, why);
            None
        }
    }
}

fn path(data: &Block<'_>, key: &str) -> Option<PathBuf> {
    let path = data.path(key);
    if let Some(path) = &path {
        readable(data, key, path);
    }
    path
}

fn client(data: &Block<'_>) -> Option<(PathBuf, PathBuf)> {
    match (path(data, "client_cert_path"), path(data, "client_key_path")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            data.fault_here("client_cert_path and client_key_path belong together");
            None
        }
    }
}

fn pooling(data: &Block<'_>) -> Pooling {
    let default = Pooling::default();
    let number = |key, least| data.int_in(key, least..=10_000).and_then(|n| u32::try_from(n).ok());
    let max_open_conns = number("max_open_conns", 1).unwrap_or(default.max_open_conns);
    Pooling {
        max_open_conns,
        max_idle_conns: number("max_idle_conns", 0).unwrap_or(default.max_idle_conns).min(max_open_conns),
        conn_max_lifetime: data.duration("conn_max_lifetime").filter(|lifetime| !lifetime.is_zero()),
    }
}
