//! An installation in a temporary folder: one server, any number of agents, the emulators they use.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use hardroot_emulators::softhsm::{self, SoftHsm};
use hardroot_emulators::{MySql, Postgres};
use tempfile::TempDir;

use crate::daemon::{Daemon, Ran, binary};

/// The trust domain of every site.
pub const TRUST_DOMAIN: &str = "example.org";
/// Every server's port; each has an address of its own.
pub const PORT: u16 = 8081;

/// Where a daemon's own keys live.
#[derive(Debug, Clone)]
pub enum Keys {
    /// The site's SoftHSM token.
    Pkcs11,
    /// A TPM behind this TCTI.
    Tpm(String),
    /// In memory: evaluation only.
    Memory,
    /// In a file: evaluation only.
    Disk,
}

/// A site.
pub struct Site {
    /// The running server.
    pub server: Option<Daemon>,
    /// `plugins {}` content besides data store and key manager: the node attestors.
    pub attestors: String,
    /// More lines for `server {}`.
    pub server_lines: String,
    /// Blocks beside `server {}` and `plugins {}`.
    pub more: String,
    /// Where the server keeps its keys.
    pub server_keys: Keys,
    /// The PKCS#11 module of the server, if not SoftHSM itself.
    pub server_module: Option<PathBuf>,
    /// Its `sessions`, if not the default.
    pub server_sessions: Option<u32>,
    /// Lines for the data store's `plugin_data {}`; a SQLite file in the server's folder if none.
    pub database: Option<String>,
    /// The server's address.
    pub address: Ipv4Addr,
    /// Where agents connect, if not to the server itself.
    pub front: Option<SocketAddr>,
    hsm: SoftHsm,
    folder: TempDir,
}

impl Site {
    /// A site that is not started yet: keys in SoftHSM, join tokens as the only attestor.
    ///
    /// # Errors
    /// SoftHSM is missing, or files cannot be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hardroot-site-").tempdir().context("site folder")?;
        // Workloads run under other users and must reach the agent's socket.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            server: None,
            attestors: "    NodeAttestor \"join_token\" { plugin_data {} }\n".to_owned(),
            server_lines: String::new(),
            more: String::new(),
            server_keys: Keys::Pkcs11,
            server_module: None,
            server_sessions: None,
            database: None,
            address: unused_address(PORT)?,
            front: None,
            hsm: SoftHsm::start()?,
            folder,
        })
    }

    /// The site's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the database `name` of an emulated server of this kind (`postgres`, `mysql`) behind the site's server, which
    /// connects to `address`; `more` are further lines of the data store's.
    ///
    /// # Errors
    /// The password's file cannot be written.
    pub fn place_on(&mut self, kind: &str, address: SocketAddr, name: &str, more: &str) -> Result<()> {
        let password = self.folder().join("database-password");
        softhsm::private_file(&password, Postgres::PASSWORD)?;
        let connection = match kind {
            "postgres" => format!(
                "host={} port={} dbname={name} user={} sslmode=disable",
                address.ip(),
                address.port(),
                Postgres::USER
            ),
            _ => format!("{}@tcp({address})/{name}?parseTime=true&tls=false", MySql::USER),
        };
        self.database = Some(format!(
            "            database_type = \"{kind}\"\n            connection_string = \"{connection}\"\n            \
             password_file = \"{}\"\n{more}",
            password.display()
        ));
        Ok(())
    }

    /// The site's PKCS#11 token.
    #[must_use]
    pub fn hsm(&self) -> &SoftHsm {
        &self.hsm
    }

    /// The PKCS#11 module that the server uses.
    #[must_use]
    pub fn module(&self) -> &Path {
        self.server_module.as_deref().unwrap_or(self.hsm.module())
    }

    /// Puts a module between server and SoftHSM that makes each signature `delay` longer.
    ///
    /// # Errors
    /// It was not built, or its control file cannot be written.
    pub fn slow_token(&mut self, delay: std::time::Duration) -> Result<()> {
        let (_, conf) = self.hsm.env();
        fs::write(conf.with_file_name("shim-control"), format!("delay={}", delay.as_millis()))?;
        let own = std::env::current_exe().context("finding this program")?;
        let name = "libhardroot_pkcs11_shim.so";
        let found =
            own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
        self.server_module =
            Some(found.context("the PKCS#11 shim is not built: cargo build -p hardroot-pkcs11-shim")?);
        Ok(())
    }

    /// The environment that SoftHSM needs.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, PathBuf)> {
        let (name, path) = self.hsm.env();
        vec![(name.to_owned(), path)]
    }

    /// The server's admin socket.
    #[must_use]
    pub fn server_socket(&self) -> PathBuf {
        self.folder().join("server/api.sock")
    }

    /// The server's configuration file, as last written.
    #[must_use]
    pub fn server_config(&self) -> PathBuf {
        self.folder().join("server.conf")
    }

    /// Writes the server's configuration from this site's fields.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_server_config(&self) -> Result<()> {
        let data = self.folder().join("server");
        fs::create_dir_all(&data)?;
        let keys = self.key_manager(&self.server_keys, &data);
        let software = matches!(self.server_keys, Keys::Memory | Keys::Disk);
        let file = || {
            let data = data.display();
            format!(
                "            database_type = \"sqlite3\"\n            connection_string = \"{data}/datastore.sqlite3\"\n"
            )
        };
        let database = self.database.clone().unwrap_or_else(file);
        let text = format!(
            "server {{\n    trust_domain = \"{TRUST_DOMAIN}\"\n    bind_address = \"{}\"\n    bind_port = {PORT}\n    \
             data_dir = \"{data}\"\n    socket_path = \"{}\"\n    log_level = \"DEBUG\"\n{}{}}}\n\n\
             plugins {{\n    DataStore \"sql\" {{\n        plugin_data {{\n{database}        }}\n    }}\n{keys}{}}}\n{}",
            self.address,
            self.server_socket().display(),
            if software { "    allow_software_keys = true\n" } else { "" },
            self.server_lines,
            self.attestors,
            self.more,
            data = data.display(),
        );
        fs::write(self.server_config(), text).context("writing server.conf")
    }

    fn key_manager(&self, keys: &Keys, data: &Path) -> String {
        match keys {
            Keys::Pkcs11 => format!(
                "    KeyManager \"pkcs11\" {{\n        plugin_data {{\n            module_path = \"{}\"\n            \
                 token_label = \"{}\"\n            pin_file = \"{}\"\n{}        }}\n    }}\n",
                self.module().display(),
                SoftHsm::TOKEN,
                self.hsm.pin_file().display(),
                self.server_sessions
                    .map(|count| format!("            sessions = {count}\n"))
                    .unwrap_or_default()
            ),
            Keys::Tpm(tcti) => format!(
                "    KeyManager \"tpm\" {{\n        plugin_data {{\n            directory = \"{}/keys\"\n            \
                 tcti = \"{tcti}\"\n        }}\n    }}\n",
                data.display()
            ),
            Keys::Memory => "    KeyManager \"memory\" { plugin_data {} }\n".to_owned(),
            Keys::Disk => format!(
                "    KeyManager \"disk\" {{\n        plugin_data {{\n            keys_path = \"{}/keys.json\"\n        }}\n    }}\n",
                data.display()
            ),
        }
    }

    /// Writes the configuration, starts the server and waits until it is healthy.
    ///
    /// # Errors
    /// It did not come up; the error holds the end of its log.
    pub fn start_server(&mut self) -> Result<()> {
        self.write_server_config()?;
        let config = self.server_config().display().to_string();
        let mut server = Daemon::start(
            "hardroot-server",
            &["run", "-config", &config],
            &self.environment(),
            &self.folder().join("server.log"),
        )?;
        let ready = || self.server_command(&["healthcheck"]).is_ok_and(|ran| ran.ok());
        server.wait_ready(ready)?;
        self.server = Some(server);
        Ok(())
    }

    /// Processor time the server has used so far, to a hundredth of a second.
    ///
    /// # Errors
    /// It is not running, or /proc does not tell.
    pub fn server_time(&self) -> Result<std::time::Duration> {
        let pid = self.server.as_ref().context("the server is not running")?.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // User and system time are fields 14 and 15 (proc(5)), in ticks of which Linux shows 100 a second.
        let (_, fields) = stat.rsplit_once(')').context("no process name")?;
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(std::time::Duration::from_millis(10 * ticks.iter().sum::<u64>()))
    }

    /// Stops the server (SIGTERM).
    ///
    /// # Errors
    /// It did not end, or not with 0.
    pub fn stop_server(&mut self) -> Result<()> {
        let server = self.server.take().context("the server is not running")?;
        let status = server.stop()?;
        anyhow::ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    /// Runs `hardroot-server` with these arguments and this server's socket.
    ///
    /// # Errors
    /// It cannot be run. A non-zero exit is no error here.
    pub fn server_command(&self, arguments: &[&str]) -> Result<Ran> {
        let output = Command::new(binary("hardroot-server")?)
            .args(arguments)
            .arg("-socketPath")
            .arg(self.server_socket())
            .envs(self.environment())
            .output()
            .context("running hardroot-server")?;
        Ok(Ran::of(&output))
    }

    /// Runs a command of `hardroot-server` that does not take `-socketPath`.
    ///
    /// # Errors
    /// It cannot be run. A non-zero exit is no error here.
    pub fn own_command(&self, arguments: &[&str]) -> Result<Ran> {
        let output = Command::new(binary("hardroot-server")?)
            .args(arguments)
            .envs(self.environment())
            .output()
            .context("running hardroot-server")?;
        Ok(Ran::of(&output))
    }

    /// Writes the bundle of the running server where agents look for it.
    ///
    /// # Errors
    /// The server does not tell it.
    pub fn write_bundle(&self) -> Result<PathBuf> {
        let bundle = self.server_command(&["bundle", "show", "-format", "pem"])?.success()?;
        let path = self.folder().join("bootstrap.pem");
        fs::write(&path, bundle.stdout)?;
        Ok(path)
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// The server refuses.
    pub fn join_token(&self) -> Result<String> {
        let ran = self.server_command(&["token", "generate"])?.success()?;
        let token = ran.stdout.trim().strip_prefix("Token: ").context("no token")?;
        Ok(token.lines().next().unwrap_or_default().to_owned())
    }

    /// Creates an entry and returns its id.
    ///
    /// # Errors
    /// The server refuses.
    pub fn create_entry(&self, parent: &str, id: &str, selectors: &[&str], more: &[&str]) -> Result<String> {
        let mut arguments = vec!["entry", "create", "-parentID", parent, "-spiffeID", id, "-output", "json"];
        for selector in selectors {
            arguments.extend(["-selector", selector]);
        }
        arguments.extend(more);
        let json = self.server_command(&arguments)?.success()?.json()?;
        let id = json.pointer("/results/0/entry/id").and_then(|v| v.as_str());
        Ok(id.with_context(|| format!("no entry id in {json}"))?.to_owned())
    }

    /// The agent IDs the server knows.
    ///
    /// # Errors
    /// The server refuses.
    pub fn agent_ids(&self) -> Result<Vec<String>> {
        let json = self.server_command(&["agent", "list", "-output", "json"])?.success()?.json()?;
        let agents = json.pointer("/agents").and_then(|v| v.as_array()).cloned().unwrap_or_default();
        Ok(agents
            .iter()
            .map(|agent| {
                let text = |path| agent.pointer(path).and_then(|v| v.as_str()).unwrap_or_default();
                format!("spiffe://{}{}", text("/id/trust_domain"), text("/id/path"))
            })
            .collect())
    }

    /// An agent of this site, not started yet.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub fn agent(&self, name: &str, setup: AgentSetup) -> Result<Agent> {
        let folder = self.folder().join(name);
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let agent = Agent { daemon: None, folder, environment: self.environment() };
        agent.write_config(self, &setup)?;
        Ok(agent)
    }
}

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct AgentSetup {
    /// Where its key lives.
    pub keys: Keys,
    /// The TPM for `agent { tpm {} }`, if any.
    pub tpm: Option<String>,
    /// The `NodeAttestor` block.
    pub attestor: String,
    /// More lines for `agent {}`.
    pub lines: String,
    /// The bootstrap bundle; the site's own if none.
    pub bundle: Option<PathBuf>,
}

impl AgentSetup {
    /// Key and proof in the TPM behind this TCTI.
    #[must_use]
    pub fn tpm(tcti: &str) -> Self {
        Self {
            keys: Keys::Tpm(tcti.to_owned()),
            tpm: Some(tcti.to_owned()),
            attestor: "    NodeAttestor \"tpm_quote\" { plugin_data {} }\n".to_owned(),
            lines: String::new(),
            bundle: None,
        }
    }

    /// A key in memory and a join token.
    #[must_use]
    pub fn join_token(token: &str) -> Self {
        Self {
            keys: Keys::Memory,
            tpm: None,
            attestor: "    NodeAttestor \"join_token\" { plugin_data {} }\n".to_owned(),
            lines: format!("    join_token = \"{token}\"\n"),
            bundle: None,
        }
    }
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// The running daemon.
    pub daemon: Option<Daemon>,
    folder: PathBuf,
    environment: Vec<(String, PathBuf)>,
}

impl Agent {
    /// The agent's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The Workload API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("public/api.sock")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("agent.conf")
    }

    /// Writes the configuration.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self, site: &Site, setup: &AgentSetup) -> Result<()> {
        let data = self.data();
        let mut lines = setup.lines.clone();
        if matches!(setup.keys, Keys::Memory | Keys::Disk) {
            lines.push_str("    allow_software_keys = true\n");
        }
        if let Some(tcti) = &setup.tpm {
            writeln!(lines, "    tpm {{\n        tcti = \"{tcti}\"\n    }}")?;
        }
        let keys = match &setup.keys {
            // The agent's TPM is named once, in agent { tpm {} }.
            Keys::Tpm(_) => format!(
                "    KeyManager \"tpm\" {{\n        plugin_data {{\n            directory = \"{}/keys\"\n        }}\n    }}\n",
                data.display()
            ),
            Keys::Disk => format!(
                "    KeyManager \"disk\" {{\n        plugin_data {{\n            directory = \"{}\"\n        }}\n    }}\n",
                data.display()
            ),
            other => site.key_manager(other, &data),
        };
        let server = site.front.unwrap_or_else(|| (site.address, PORT).into());
        let bundle = setup.bundle.clone().unwrap_or_else(|| site.folder().join("bootstrap.pem"));
        let text = format!(
            "agent {{\n    trust_domain = \"{TRUST_DOMAIN}\"\n    data_dir = \"{}\"\n    server_address = \"{}\"\n    \
             server_port = {}\n    socket_path = \"{}\"\n    trust_bundle_path = \"{}\"\n    log_level = \"DEBUG\"\n{lines}}}\n\n\
             plugins {{\n{keys}{}    WorkloadAttestor \"unix\" {{\n        plugin_data {{\n            \
             discover_workload_path = true\n        }}\n    }}\n}}\n",
            data.display(),
            server.ip(),
            server.port(),
            self.socket().display(),
            bundle.display(),
            setup.attestor,
        );
        fs::write(self.config(), text).context("writing agent.conf")
    }

    /// Starts the agent without waiting for anything.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        let config = self.config().display().to_string();
        let log = self.folder.join("agent.log");
        self.daemon =
            Some(Daemon::start("hardroot-agent", &["run", "-config", &config], &self.environment, &log)?);
        Ok(())
    }

    /// Starts the agent and waits until its Workload API serves.
    ///
    /// # Errors
    /// It did not come up; the error holds the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let socket = self.socket();
        let mut daemon = self.daemon.take().context("not launched")?;
        daemon.wait_ready(|| {
            let status = binary("hardroot-agent").and_then(|program| {
                Ok(Command::new(program).args(["healthcheck", "-socketPath"]).arg(&socket).output()?)
            });
            status.is_ok_and(|output| output.status.success())
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Stops the agent (SIGTERM).
    ///
    /// # Errors
    /// It did not end, or not with 0.
    pub fn stop(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("the agent is not running")?;
        let status = daemon.stop()?;
        anyhow::ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// The running daemon.
    ///
    /// # Errors
    /// It is not running.
    pub fn running(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().context("the agent is not running")
    }

    /// Everything the agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// Runs `hardroot-agent` with these arguments.
    ///
    /// # Errors
    /// It cannot be run. A non-zero exit is no error here.
    pub fn command(&self, arguments: &[&str]) -> Result<Ran> {
        let output = Command::new(binary("hardroot-agent")?).args(arguments).output()?;
        Ok(Ran::of(&output))
    }

    /// Runs the test workload (`hardroot-workload`, or a copy of it) against this agent.
    ///
    /// # Errors
    /// It cannot be run. A non-zero exit is no error here.
    pub fn workload(&self, program: &Path, user: Option<u32>, arguments: &[&str]) -> Result<Ran> {
        let mut command = match user {
            Some(uid) => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--"]);
                command.arg(program);
                command
            }
            None => Command::new(program),
        };
        let (first, rest) = arguments.split_first().context("no workload command")?;
        command.arg(first).arg("--socket").arg(self.socket()).args(rest);
        Ok(Ran::of(&command.output().with_context(|| format!("running {}", program.display()))?))
    }

    /// Fetches with the test workload as the current user: the update it saw.
    ///
    /// # Errors
    /// No identity came in time.
    pub fn fetch(&self) -> Result<serde_json::Value> {
        self.workload(&binary("hardroot-workload")?, None, &["fetch"])?.success()?.json()
    }
}

/// The effective user id, for selectors.
#[must_use]
pub fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// A loopback address on which `port` is free. Never `127.0.0.1`.
///
/// # Errors
/// Every candidate is in use.
pub fn unused_address(port: u16) -> Result<Ipv4Addr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Emulators take addresses from 127.0.0.2 up by process id; servers stay apart in the upper half.
    (0..1024)
        .map(|_| {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let spread = (std::process::id() ^ (n / 250).wrapping_mul(40503)) & 0x7fff;
            Ipv4Addr::from(0x7f80_0000 | (spread << 8) | (2 + n % 250))
        })
        .find(|address| TcpListener::bind((*address, port)).is_ok())
        .context("no unused loopback address")
}
