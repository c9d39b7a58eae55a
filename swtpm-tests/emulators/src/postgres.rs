//! A PostgreSQL server of a test's own, from Debian's `postgresql`.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::daemon::{self, Daemon, Identity, ServerTls, run};
use crate::error::EmulatorError;

const PROGRAM: &str = "postgres";
const PACKAGE: &str = "postgresql";
const PORT: u16 = 5432;

/// A running server. Any number of tests can have a database each in it.
pub struct Postgres {
    daemon: Daemon,
    identity: Identity,
    ip: Ipv4Addr,
    bin: PathBuf,
    next: AtomicU32,
}

impl Postgres {
    /// The superuser, whose password is [`Self::PASSWORD`].
    pub const USER: &'static str = "hardroot";
    /// The password.
    pub const PASSWORD: &'static str = "p@ss word/4711";

    /// Makes and starts a server.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start() -> Result<Self, EmulatorError> {
        Self::make(None::<fn(Ipv4Addr) -> ServerTls>)
    }

    /// As [`Self::start`] with what `tls` makes for its address, and over the network only with TLS and a client certificate.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_tls(tls: impl FnOnce(Ipv4Addr) -> ServerTls) -> Result<Self, EmulatorError> {
        Self::make(Some(tls))
    }

    fn make(tls: Option<impl FnOnce(Ipv4Addr) -> ServerTls>) -> Result<Self, EmulatorError> {
        let identity = Identity::of("postgres");
        let directory = daemon::directory("postgres-", &identity)?;
        let bin = binaries();
        let text = |path: &Path| path.display().to_string();
        let (data, password) = (directory.join("data"), directory.join("password"));
        std::fs::write(&password, Self::PASSWORD).map_err(crate::error::io("write a password"))?;
        identity.own(&password)?;
        let init = identity.command(
            &text(&bin.join("initdb")),
            &[
                "-D",
                &text(&data),
                "-U",
                Self::USER,
                "--pwfile",
                &text(&password),
                "-E",
                "UTF8",
                "--locale=C",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--no-sync",
                "-N",
            ],
        );
        run("initdb", PACKAGE, &init)?;
        let ip = daemon::address(PROGRAM, PORT)?;
        let settings = [
            format!("listen_addresses={ip}"),
            format!("port={PORT}"),
            format!("unix_socket_directories={}", text(&directory)),
            "fsync=off".to_owned(),
            "max_connections=300".to_owned(),
            "shared_buffers=32MB".to_owned(),
            "shared_preload_libraries=pg_stat_statements".to_owned(),
            "pg_stat_statements.max=1000".to_owned(),
        ];
        let mut arguments = vec!["-D".to_owned(), text(&data)];
        arguments.extend(settings.iter().flat_map(|setting| ["-c".to_owned(), setting.clone()]));
        if let Some(tls) = tls {
            let [ca, certificate, key] = daemon::write_tls(&directory, &identity, &tls(ip))?;
            for setting in [
                "ssl=on".to_owned(),
                format!("ssl_ca_file={}", text(&ca)),
                format!("ssl_cert_file={}", text(&certificate)),
                format!("ssl_key_file={}", text(&key)),
            ] {
                arguments.extend(["-c".to_owned(), setting]);
            }
            let rules =
                "local all all trust\nhostssl all all 127.0.0.0/8 scram-sha-256 clientcert=verify-ca\n";
            std::fs::write(data.join("pg_hba.conf"), rules).map_err(crate::error::io("write pg_hba.conf"))?;
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let command = identity.command(&text(&bin.join("postgres")), &arguments);
        let daemon = Daemon::new(PROGRAM, directory, command);
        let mut server = Self { daemon, identity, ip, bin, next: AtomicU32::new(0) };
        server.start_again()?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.ip, PORT).into()
    }

    /// The folder of its Unix socket, where no password is asked for.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        self.daemon.directory()
    }

    /// Makes an empty database and returns its name.
    ///
    /// # Errors
    /// The server refuses.
    pub fn create_database(&self) -> Result<String, EmulatorError> {
        let name = format!("test{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    /// Runs SQL as the superuser; what it prints, a line for each row.
    ///
    /// # Errors
    /// The server refuses.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, EmulatorError> {
        let host = self.daemon.directory().display().to_string();
        let arguments =
            ["-h", &host, "-U", Self::USER, "-d", database, "-v", "ON_ERROR_STOP=1", "-qAtX", "-c", sql];
        run("psql", PACKAGE, &self.identity.command(&self.bin.join("psql").display().to_string(), &arguments))
    }

    /// Begins to count the statements that each database is sent, from zero.
    ///
    /// # Errors
    /// The server refuses.
    pub fn count_statements(&self) -> Result<(), EmulatorError> {
        self.sql("postgres", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")?;
        self.sql("postgres", "SELECT pg_stat_statements_reset()").map(drop)
    }

    /// The statements that `database` was sent since [`Self::count_statements`], beginnings and ends of transactions included: how
    /// often, and their texts without values; the most frequent first. What [`Self::sql`] sends to other databases does not count.
    ///
    /// # Errors
    /// The server refuses.
    pub fn statements(&self, database: &str) -> Result<Vec<(u64, String)>, EmulatorError> {
        let sql = format!(
            "SELECT calls || ' ' || regexp_replace(query, '[[:space:]]+', ' ', 'g') FROM pg_stat_statements s
             JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = '{database}' ORDER BY calls DESC, query"
        );
        let rows = self.sql("postgres", &sql)?;
        Ok(rows
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(calls, text)| Some((calls.parse().ok()?, text.to_owned())))
            .collect())
    }

    /// Ends the server in order; its data stay for [`Self::start_again`].
    pub fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Starts the server after [`Self::stop`].
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start_again(&mut self) -> Result<(), EmulatorError> {
        let address = self.address();
        let socket = self.daemon.directory().join(format!(".s.PGSQL.{PORT}"));
        let probe = self.identity.command(
            &self.bin.join("pg_isready").display().to_string(),
            &["-q", "-h", &self.daemon.directory().display().to_string()],
        );
        self.daemon.start(|| {
            socket.exists()
                && TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
                && run("pg_isready", PACKAGE, &probe).is_ok()
        })
    }

    /// What the server wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

/// Debian keeps each version's programs in a folder of its own.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> =
        versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").is_file()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from("/usr/bin"))
}
