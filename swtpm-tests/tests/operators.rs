//! What operators see: bad configurations, exit codes, secrets that stay secret.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use std::fs;

use common::token_site;
use hardroot_swtpm_tests::site::{AgentSetup, Keys, Site};

#[test]
fn every_fault_of_a_server_configuration_is_told_at_once_with_its_line() {
    let site = Site::new().unwrap();
    let path = site.folder().join("bad.conf");
    fs::write(
        &path,
        "server {\n  trust_domain = \"Example.ORG\"\n  bind_prot = 8081\n  ca_ttl = \"soon\"\n}\nplugins {\n  KeyManager \"memory\" { plugin_data {} }\n}\n",
    )
    .unwrap();
    let ran = site.server_command(&["validate", "-config", path.to_str().unwrap()]);
    let ran = ran.unwrap();
    assert!(!ran.ok());
    let text = format!("{}{}", ran.stdout, ran.stderr);
    for expected in ["bad.conf:2", "bad.conf:3", "bind_prot", "bad.conf:4", "ca_ttl", "allow_software_keys"] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
}

#[test]
fn every_fault_of_an_agent_configuration_is_told_at_once_with_its_line() {
    let site = Site::new().unwrap();
    let agent = site.agent("agent", AgentSetup::join_token("t")).unwrap();
    let path = site.folder().join("bad.conf");
    fs::write(
        &path,
        "agent {\n  trust_domain = \"example.org\"\n  server_adress = \"x\"\n  server_port = \"many\"\n}\nplugins {\n  NodeAttestor \"nope\" { plugin_data {} }\n}\n",
    )
    .unwrap();
    let ran = agent.command(&["validate", "-config", path.to_str().unwrap()]).unwrap();
    assert!(!ran.ok());
    let text = format!("{}{}", ran.stdout, ran.stderr);
    for expected in ["bad.conf:3", "server_adress", "bad.conf:4", "nope", "KeyManager"] {
        assert!(text.contains(expected), "{expected} is missing in:\n{text}");
    }
}

#[test]
fn each_daemon_knows_the_others_configuration() {
    let site = Site::new().unwrap();
    let agent = site.agent("agent", AgentSetup::join_token("t")).unwrap();
    let path = site.folder().join("spire-server.conf");
    fs::write(&path, "server {\n  trust_domain = \"example.org\"\n}\n").unwrap();
    let path = path.display().to_string();
    let ran = agent.command(&["migrate-from-spire", "-config", &path, "-dryRun"]).unwrap();
    assert!(!ran.ok());
    let right = format!("give it to `hardroot-server migrate-from-spire -config {path}`");
    assert!(ran.stderr.contains(&right) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
}

#[test]
fn software_keys_need_permission_and_are_said_aloud() {
    let mut site = Site::new().unwrap();
    site.server_keys = Keys::Memory;
    site.start_server().unwrap();
    let log = site.server.as_ref().unwrap().log();
    assert!(log.lines().any(|line| line.contains("level=warning") && line.contains("software")), "{log}");
}

#[test]
fn pins_and_tokens_are_in_no_log() {
    let (mut site, agent) = token_site();
    let token = agent.config();
    let token = fs::read_to_string(token).unwrap();
    let token = token.split("join_token = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let pin = fs::read_to_string(site.hsm().pin_file()).unwrap().trim().to_owned();
    site.stop_server().unwrap();
    let server = fs::read_to_string(site.folder().join("server.log")).unwrap();
    assert!(!server.contains(&pin), "the PIN is in the server's log");
    // The agent ID holds the token by SPIRE's rule; beyond that it must not be told.
    let beyond = |log: &str| log.replace(&format!("/spire/agent/join_token/{token}"), "").contains(&token);
    assert!(!beyond(&server), "the join token is in the server's log");
    assert!(!beyond(&agent.log()), "the join token is in the agent's log");
}

#[test]
fn a_second_server_on_the_same_socket_is_refused() {
    let (site, _agent) = token_site();
    let config = site.server_config().display().to_string();
    let second = std::process::Command::new(hardroot_swtpm_tests::daemon::binary("hardroot-server").unwrap())
        .args(["run", "-config", &config])
        .envs(site.environment())
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(site.server_command(&["healthcheck"]).unwrap().ok(), "the first one must not suffer");
}
