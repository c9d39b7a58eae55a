//! The binary as an operator meets it: outputs, exit codes, stopping.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A bundle with one authority that nobody needs to trust: the server is away in these tests.
const BUNDLE: &str = r#"{"keys":[{"use":"x509-svid","kty":"EC","crv":"P-256",
"x":"4SW6d-J79QuBdpdkiTvfg2AWA3k1I_aNEc7EEPhsofg","y":"x","x5c":["AA=="]}]}"#;

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration whose server is a port that is bound and never answers.
    fn config(&self, port: u16, bundle: &Path) -> PathBuf {
        let admin = self.path("private/admin.sock");
        let text = format!(
            "agent {{\n    trust_domain = \"example.org\"\n    server_address = \"127.0.0.1\"\n    server_port = {port}\n    \
             data_dir = \"{}\"\n    socket_path = \"{}\"\n    admin_socket_path = \"{}\"\n    trust_bundle_path = \"{}\"\n    allow_software_keys = true\n    \
             join_token = \"some-token\"\n}}\nplugins {{\n    KeyManager \"memory\" {{ plugin_data {{}} }}\n    \
             NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n    WorkloadAttestor \"unix\" {{ plugin_data {{}} }}\n}}\n",
            self.path("data").display(),
            self.path("public/agent.sock").display(),
            admin.display(),
            bundle.display(),
        );
        let path = self.path("agent.conf");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn bundle(&self) -> PathBuf {
        let path = self.path("bundle.pem");
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
        path
    }
}

fn agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hardroot-agent")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A port on which somebody listens and says nothing.
fn silent_server() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

struct Running {
    child: Child,
    log: Receiver<String>,
}

impl Running {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hardroot-agent"))
            .args(["run", "-config", config.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, log) = channel();
        // Reads to the end, so that the agent never waits for somebody to read its log.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        Self { child, log }
    }

    /// Waits for a line of the log.
    fn says(&self, what: &str) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).unwrap_or_else(|_| panic!("never said: {what}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn stop(&mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap().code().expect("an exit code")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn validate_tells_every_fault_or_that_there_is_none() {
    let node = Node::new();
    let config = node.config(1, Path::new("/b"));
    for dashes in ["-config", "--config"] {
        let good = agent(&["validate", dashes, config.to_str().unwrap()]);
        assert_eq!(text(&good.stdout), "Hardroot agent configuration file is valid.\n");
        assert_eq!(good.status.code(), Some(0));
    }
    let broken = std::fs::read_to_string(&config)
        .unwrap()
        .replace("data_dir", "data_dri")
        .replace("\"memory\"", "\"magic\"");
    std::fs::write(&config, broken).unwrap();
    let bad = agent(&["validate", "-config", config.to_str().unwrap()]);
    let told = text(&bad.stderr);
    assert_eq!(bad.status.code(), Some(1));
    let name = config.display();
    assert!(told.starts_with("Hardroot agent configuration file is invalid:\n"), "{told}");
    assert!(
        told.contains(&format!("{name}:5: unknown key `data_dri` in agent; did you mean `data_dir`?")),
        "{told}"
    );
    assert!(
        told.contains("agent.data_dir is required") && told.contains("there is no such key manager"),
        "{told}"
    );
    assert!(!told.contains("some-token"), "a secret is never repeated: {told}");
}

#[test]
fn each_failure_of_run_has_its_exit_code_and_one_sentence() {
    let node = Node::new();
    let missing = agent(&["run", "-config", "/nowhere/agent.conf"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nowhere/agent.conf"));

    let config = node.config(1, &node.path("missing.pem"));
    let config = config.to_str().unwrap();
    let no_bundle = agent(&["run", "-config", config]);
    assert_eq!(no_bundle.status.code(), Some(7), "{}", text(&no_bundle.stderr));
    assert!(text(&no_bundle.stderr).contains("missing.pem"));

    std::fs::write(node.path("missing.pem"), BUNDLE).unwrap();
    assert_eq!(agent(&["run", "-config", config]).status.code(), Some(7), "not in the format pem");

    std::fs::write(node.path("file"), b"").unwrap();
    let no_dir = agent(&["run", "-config", config, "-dataDir", node.path("file/x").to_str().unwrap()]);
    assert_eq!(no_dir.status.code(), Some(3), "{}", text(&no_dir.stderr));

    let usage = agent(&["run", "-noSuchFlag"]);
    assert_eq!(usage.status.code(), Some(1));
    assert_eq!(agent(&["--version"]).status.code(), Some(0));
}

#[test]
fn an_agent_without_its_server_answers_unavailable_and_stops_in_seconds() {
    let node = Node::new();
    let (_listener, port) = silent_server();
    let config = node.config(port, &node.bundle());
    let mut running = Running::start(&config);
    let socket = node.path("public/agent.sock");
    let socket_flag = socket.to_str().unwrap();
    running.says("starting the Workload API");

    let fetched = agent(&["api", "fetch", "x509", "-socketPath", socket_flag]);
    assert_eq!(fetched.status.code(), Some(1));
    assert!(
        text(&fetched.stderr).starts_with("rpc error: code = Unavailable desc = "),
        "{}",
        text(&fetched.stderr)
    );
    let health = agent(&["healthcheck", "-socketPath", socket_flag]);
    assert_eq!(health.status.code(), Some(1));
    assert!(text(&health.stderr).starts_with("Agent is unhealthy: "), "{}", text(&health.stderr));

    let second = agent(&["run", "-config", config.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(3), "another agent has the directory: {}", text(&second.stderr));

    let asked = Instant::now();
    assert_eq!(running.stop(), 0);
    assert!(asked.elapsed() < Duration::from_secs(5), "took {:?}", asked.elapsed());
    let kept = std::fs::read_dir(node.path("data")).unwrap();
    let names: Vec<String> = kept.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["agent.lock"], "nothing was stored, least of all a key");
}

#[test]
fn commands_without_an_agent_say_so() {
    let node = Node::new();
    let socket = node.path("none.sock");
    let socket = socket.to_str().unwrap();
    let fetched = agent(&["api", "fetch", "-socketPath", socket]);
    assert_eq!(fetched.status.code(), Some(1));
    assert!(text(&fetched.stderr).contains(socket), "{}", text(&fetched.stderr));
    let health = agent(&["healthcheck", "-socketPath", socket, "-verbose"]);
    assert_eq!(text(&health.stdout), "Checking agent health...\n");
    let told = text(&health.stderr);
    assert!(
        told.starts_with("Failed to check health: ")
            && told.ends_with("Agent is unhealthy: unable to determine health\n"),
        "{told}"
    );
    let tpm = agent(&["tpm", "show", "-device", "/nowhere/tpm0"]);
    assert_eq!(tpm.status.code(), Some(1));
    assert!(text(&tpm.stderr).contains("/nowhere/tpm0"), "{}", text(&tpm.stderr));
}

#[test]
fn the_admin_socket_shows_the_agent_and_changes_its_log() {
    let node = Node::new();
    let (_listener, port) = silent_server();
    let mut running = Running::start(&node.config(port, &node.bundle()));
    running.says("starting the admin API");
    let socket = node.path("private/admin.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o770);
    let ask = |words: &[&str]| {
        let ran = agent(&[words, &["-socketPath", socket.to_str().unwrap()]].concat());
        (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
    };
    let level = |current: &str| {
        (Some(0), format!("Logger Level : {current}\nLaunch Level : info\n\n"), String::new())
    };
    assert_eq!(ask(&["logger", "get"]), level("info"));
    assert_eq!(ask(&["logger", "set", "-level", "DEBUG"]), level("debug"));
    assert!(running.says("log level changed").contains("new_level=debug"));
    assert_eq!(ask(&["logger", "get"]), level("debug"));
    assert_eq!(ask(&["logger", "reset"]), level("info"));
    let (code, _, told) = ask(&["logger", "set", "-level", "loud"]);
    assert_eq!((code, told.as_str()), (Some(1), "Error: the value \"loud\" is not a valid setting\n"));
    let (code, _, told) = ask(&["logger", "set"]);
    assert_eq!((code, told.as_str()), (Some(1), "Error: a value (-level) must be set\n"));
    let (code, info, _) = ask(&["debug", "getinfo"]);
    assert_eq!(code, Some(0));
    assert!(info.starts_with("Agent Debug Info:\n  Uptime:") && info.contains("(never)"), "{info}");
    let (_, info, _) = ask(&["debug", "getinfo", "-output", "json"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!((&info["last_sync_success"], &info["svid_chain"]), (&"0".into(), &serde_json::json!([])));
    assert_eq!(running.stop(), 0);
    let (code, _, told) = ask(&["debug", "getinfo"]);
    assert!(code == Some(1) && told.contains("admin_socket_path"), "{told}");
}

#[test]
fn the_configuration_is_read_anew_on_sighup_and_sigusr1() {
    let node = Node::new();
    let (_listener, port) = silent_server();
    let config = node.config(port, &node.bundle());
    let mut running = Running::start(&config);
    running.says("starting the admin API");
    let good = std::fs::read_to_string(&config).unwrap();
    let with = |line: &str| good.replace("agent {\n", &format!("agent {{\n    {line}\n"));
    std::fs::write(&config, with("log_level = \"DEBUG\"")).unwrap();
    running.signal(Signal::SIGHUP);
    assert!(running.says("configuration read anew").contains("log_level=debug was=info"));
    std::fs::write(&config, with("log_levle = \"ERROR\"")).unwrap();
    running.signal(Signal::SIGUSR1);
    let told = running.says("the configuration has faults: nothing is changed");
    assert!(told.contains("log_levle") && !told.contains("some-token"), "{told}");
    std::fs::write(&config, good.clone()).unwrap();
    running.signal(Signal::SIGUSR1);
    assert!(running.says("configuration read anew").contains("log_level=info was=debug"));
    assert_eq!(running.stop(), 0);
}

#[test]
fn the_log_file_is_opened_anew_on_sigusr2() {
    let node = Node::new();
    let (_listener, port) = silent_server();
    let config = node.config(port, &node.bundle());
    let log = node.path("agent.log");
    let with_file = std::fs::read_to_string(&config)
        .unwrap()
        .replace("agent {\n", &format!("agent {{\n    log_file = \"{}\"\n", log.display()));
    std::fs::write(&config, with_file).unwrap();
    let mut running = Running::start(&config);
    let socket = node.path("private/admin.sock");
    let ask = |words: &[&str]| agent(&[words, &["-socketPath", socket.to_str().unwrap()]].concat());
    until("the admin socket answers", || ask(&["logger", "get"]).status.success());
    std::fs::rename(&log, node.path("agent.log.1")).unwrap();
    running.signal(Signal::SIGUSR2);
    until("there is a new log file", || log.exists());
    assert!(ask(&["logger", "set", "-level", "warn"]).status.success());
    assert!(ask(&["logger", "reset"]).status.success());
    let said = |path: &Path| std::fs::read_to_string(path).unwrap().contains("log level changed");
    assert!(said(&log) && !said(&node.path("agent.log.1")), "what comes later is in the new file");
    assert_eq!(running.stop(), 0);
}

/// Looks again each time other threads have had their turn, until it is so or the time is up.
fn until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}
