//! The binary as an operator meets it: outputs, exit codes, stopping.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
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
        let text = format!(
            "agent {{\n    trust_domain = \"example.org\"\n    server_address = \"127.0.0.1\"\n    server_port = {port}\n    \
             data_dir = \"{}\"\n    socket_path = \"{}\"\n    trust_bundle_path = \"{}\"\n    allow_software_keys = true\n    \
             join_token = \"some-token\"\n}}\nplugins {{\n    KeyManager \"memory\" {{ plugin_data {{}} }}\n    \
             NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n    WorkloadAttestor \"unix\" {{ plugin_data {{}} }}\n}}\n",
            self.path("data").display(),
            self.path("agent.sock").display(),
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

struct Running(Child);

impl Running {
    fn start(config: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_hardroot-agent"))
            .args(["run", "-config", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn stop(&mut self) -> i32 {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code().expect("an exit code")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait_for(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
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
    let socket = node.path("agent.sock");
    let socket_flag = socket.to_str().unwrap();
    wait_for("the socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok());

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
