//! A MariaDB server of a test's own, from Debian's `mariadb-server`.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::daemon::{self, Daemon, Identity, ServerTls, run};
use crate::error::EmulatorError;

const PROGRAM: &str = "mariadbd";
const PACKAGE: &str = "mariadb-server";
const PORT: u16 = 3306;

/// A running server. Any number of tests can have a database each in it.
pub struct MySql {
    daemon: Daemon,
    ip: Ipv4Addr,
    next: AtomicU32,
}

impl MySql {
    /// A user who may do everything, whose password is [`Self::PASSWORD`].
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

    /// As [`Self::start`] with what `tls` makes for its address, and the user has to show a client certificate over TLS.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_tls(tls: impl FnOnce(Ipv4Addr) -> ServerTls) -> Result<Self, EmulatorError> {
        Self::make(Some(tls))
    }

    fn make(tls: Option<impl FnOnce(Ipv4Addr) -> ServerTls>) -> Result<Self, EmulatorError> {
        let with_tls = tls.is_some();
        let identity = Identity::of("mysql");
        let directory = daemon::directory("mariadb-", &identity)?;
        let text = |path: &Path| path.display().to_string();
        let data = directory.join("data");
        let init = identity.command(
            "mariadb-install-db",
            &[
                "--no-defaults",
                &format!("--datadir={}", text(&data)),
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
        );
        run("mariadb-install-db", PACKAGE, &init)?;
        let ip = daemon::address(PROGRAM, PORT)?;
        let mut arguments = vec![
            "--no-defaults".to_owned(),
            format!("--datadir={}", text(&data)),
            format!("--socket={}", text(&directory.join("socket"))),
            format!("--pid-file={}", text(&directory.join("pid"))),
            format!("--bind-address={ip}"),
            format!("--port={PORT}"),
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            "--innodb-buffer-pool-size=32M".to_owned(),
            "--max-connections=300".to_owned(),
            "--skip-name-resolve".to_owned(),
        ];
        if let Some(tls) = tls {
            let [ca, certificate, key] = daemon::write_tls(&directory, &identity, &tls(ip))?;
            arguments.push(format!("--ssl-ca={}", text(&ca)));
            arguments.push(format!("--ssl-cert={}", text(&certificate)));
            arguments.push(format!("--ssl-key={}", text(&key)));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let command = identity.command("mariadbd", &arguments);
        let daemon = Daemon::new(PROGRAM, directory, command);
        let mut server = Self { daemon, ip, next: AtomicU32::new(0) };
        server.start_again()?;
        let user = format!("{}@'%'", Self::USER);
        server.sql(
            "mysql",
            &format!(
                "CREATE USER {user} IDENTIFIED BY '{}' {}; GRANT ALL ON *.* TO {user}",
                Self::PASSWORD,
                if with_tls { "REQUIRE X509" } else { "" }
            ),
        )?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.ip, PORT).into()
    }

    fn socket(&self) -> PathBuf {
        self.daemon.directory().join("socket")
    }

    /// Makes an empty database and returns its name.
    ///
    /// # Errors
    /// The server refuses.
    pub fn create_database(&self) -> Result<String, EmulatorError> {
        let name = format!("test{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.sql("mysql", &format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    /// Runs SQL as root; what it prints, a line for each row.
    ///
    /// # Errors
    /// The server refuses.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, EmulatorError> {
        let socket = format!("--socket={}", self.socket().display());
        let words = ["mariadb", "--no-defaults", &socket, "-uroot", "-N", "-B", "-e", sql, database];
        run("mariadb", "mariadb-client", &words.map(str::to_owned))
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
        let (address, socket) = (self.address(), format!("--socket={}", self.socket().display()));
        let probe = ["mariadb", "--no-defaults", &socket, "-uroot", "-e", "SELECT 1"].map(str::to_owned);
        self.daemon.start(|| {
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
                && run("mariadb", "mariadb-client", &probe).is_ok()
        })
    }

    /// What the server wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}
