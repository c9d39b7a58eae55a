use std::fs;
use std::path::Path;
use std::time::Duration;

use hardroot_hsm_keymanager::KeyType;
use tempfile::TempDir;

use super::*;

const SAMPLE: &str = include_str!("../../../conf/server/server.conf");

/// The sample's files, in a directory of the test.
fn site() -> TempDir {
    let site = tempfile::tempdir().unwrap();
    for file in ["token.pin", "module.so", "owner.auth", "key.auth"] {
        fs::write(site.path().join(file), "x").unwrap();
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&key).unwrap().pem();
    for file in ["tpm-manufacturers.pem", "nodes-ca.pem"] {
        fs::write(site.path().join(file), &pem).unwrap();
    }
    site
}

fn placed(text: &str, site: &Path) -> String {
    text.replace("/usr/lib/softhsm/libsofthsm2.so", &site.join("module.so").display().to_string())
        .replace("/etc/hardroot", &site.display().to_string())
}

fn faults(text: &str) -> Vec<String> {
    match ServerConfig::parse(text, "server.conf") {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(ToOwned::to_owned).collect(),
    }
}

/// A small valid configuration with more lines in `server` and in `plugins`.
fn with(server: &str, plugins: &str) -> String {
    format!(
        "server {{\n  trust_domain = \"example.org\"\n  data_dir = \"/d\"\n  allow_software_keys = true\n{server}\n}}\n\
         plugins {{\n  DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\" connection_string = \"/d/x\" }} }}\n\
         {plugins}\n}}\n"
    )
}

const MEMORY: &str = "  KeyManager \"memory\" {}";

#[test]
fn the_sample_is_valid_and_says_the_defaults() {
    let site = site();
    let config = ServerConfig::parse(&placed(SAMPLE, site.path()), "server.conf").unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!((config.bind_address.as_str(), config.bind_port), ("0.0.0.0", 8081));
    assert_eq!(config.socket_path, Path::new("/tmp/spire-server/private/api.sock"));
    assert_eq!(config.ca_ttl, Duration::from_secs(86_400));
    assert_eq!(config.default_x509_svid_ttl, Duration::from_secs(3_600));
    assert_eq!(config.agent_ttl, config.default_x509_svid_ttl);
    assert_eq!(config.ca_key_type, KeyType::EcP256);
    assert_eq!(config.ca_subject, DistinguishedName::default_ca());
    assert!(
        config.audit_log_enabled
            && config.audit_log_required
            && config.limit_attestation
            && config.limit_signing
    );
    assert!(!config.allow_software_keys);
    assert_eq!(config.key_manager.name(), "pkcs11");
    assert!(config.attestors.join_token && config.attestors.tpm_quote.is_some());
    assert_eq!(config.attestors.tpm_quote.unwrap().pcrs.pcrs(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn every_option_of_the_sample_is_known() {
    let site = site();
    let sample = placed(SAMPLE, site.path());
    let options: Vec<usize> = sample
        .lines()
        .enumerate()
        .filter(|(_, line)| line.trim_start().starts_with("#= "))
        .map(|(number, _)| number)
        .collect();
    assert!(options.len() > 25);
    for option in options {
        let text: String = sample
            .lines()
            .enumerate()
            .map(|(number, line)| {
                let line = if number == option { line.replace("#= ", "") } else { line.to_owned() };
                format!("{line}\n")
            })
            .collect();
        let told = faults(&text);
        assert!(told.is_empty(), "{}: {told:?}", sample.lines().nth(option).unwrap());
    }
}

#[test]
fn every_fault_is_told_at_once_with_its_line() {
    let text = "server {\n  trust_domain = \"Example.org\"\n  bind_prot = 1\n  ca_ttl = \"soon\"\n  agent_ttl = \"0s\"\n  \
                ca_key_type = \"dsa\"\n  admin_ids = [\"nobody\"]\n}\nplugins {\n  KeyManager \"memory\" {}\n  \
                NodeAttestor \"aws_iid\" {}\n}\nextra = 1\n";
    let told = faults(text);
    for (line, about) in [
        (2, "trust_domain"),
        (3, "bind_prot"),
        (4, "ca_ttl"),
        (5, "agent_ttl"),
        (6, "ca_key_type"),
        (7, "admin_ids"),
        (1, "data_dir"),
        (9, "DataStore"),
        (10, "allow_software_keys"),
        (11, "node attestor"),
        (13, "extra"),
    ] {
        let prefix = format!("server.conf:{line}");
        assert!(
            told.iter().any(|fault| fault.starts_with(&prefix) && fault.contains(about)),
            "{about} on line {line} is missing in {told:#?}"
        );
    }
}

#[test]
fn jwt_settings_have_defaults_and_can_be_switched_off() {
    let jwt = |keys: &str| ServerConfig::parse(&with(keys, MEMORY), "server.conf").unwrap().jwt;
    let default =
        JwtSettings { key_type: KeyType::EcP256, issuer: None, default_ttl: Duration::from_secs(300) };
    assert_eq!(jwt(""), Some(default.clone()));
    assert_eq!(jwt("ca_key_type = \"rsa-2048\"").unwrap().key_type, KeyType::Rsa2048);
    let told = jwt(
        "ca_key_type = \"rsa-2048\"\n jwt_key_type = \"ec-p384\"\n jwt_issuer = \"https://i\"\n default_jwt_svid_ttl = \"1m\"",
    );
    assert_eq!(
        told,
        Some(JwtSettings {
            key_type: KeyType::EcP384,
            issuer: Some("https://i".to_owned()),
            default_ttl: Duration::from_secs(60),
        })
    );
    assert_eq!(jwt("jwt_issuer = \"\""), Some(default));
    assert_eq!(jwt("disable_jwt_svids = true"), None);
    let told = faults(&with("disable_jwt_svids = true\n jwt_key_type = \"ed25519\"", MEMORY));
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn what_is_not_supported_is_refused_with_a_reason() {
    for key in [
        "profiling_enabled = true",
        "federation { bundle_endpoint { port = 8443 } }",
        "experimental { cache_reload_interval = \"1s\" }",
    ] {
        let told = faults(&with(key, MEMORY));
        assert_eq!(told.len(), 1, "{key}: {told:?}");
        assert!(told[0].starts_with("server.conf:5"), "{told:?}");
    }
    for plugin in [
        "  UpstreamAuthority \"disk\" { plugin_data {} }",
        "  Notifier \"k8sbundle\" {}",
        "  BundlePublisher \"aws_s3\" {}",
        "  CredentialComposer \"uniqueid\" {}",
        "  NodeAttestor \"x\" { plugin_cmd = \"/bin/x\" }",
        "  NodeAttestor \"aws_iid\" {}",
    ] {
        assert!(!faults(&with("", &format!("{MEMORY}\n{plugin}"))).is_empty(), "{plugin}");
    }
    assert_eq!(faults(&format!("{}telemetry {{ M3 = [{{}}] }}\n", with("", MEMORY))).len(), 1);
}

#[test]
fn telemetry_and_health_checks_are_read() {
    let text = format!(
        "{}telemetry {{ Prometheus {{ port = 9988 }} }}\nhealth_checks {{ listener_enabled = true }}\n",
        with("  log_source_location = true", MEMORY)
    );
    let config = ServerConfig::parse(&text, "server.conf").unwrap();
    assert!(config.telemetry.prometheus.is_some_and(|prometheus| prometheus.port == 9988));
    assert!(config.health_checks.listener_enabled && config.log_source_location);
    let config = ServerConfig::parse(&with("", MEMORY), "server.conf").unwrap();
    assert!(
        !config.telemetry.is_on() && !config.health_checks.listener_enabled && !config.log_source_location
    );
}

#[test]
fn software_keys_need_to_be_asked_for() {
    assert!(faults(&with("", MEMORY)).is_empty());
    for manager in [MEMORY, "  KeyManager \"disk\" { plugin_data { keys_path = \"/k\" } }"] {
        let without = with("", manager).replace("allow_software_keys = true", "allow_software_keys = false");
        let told = faults(&without);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("allow_software_keys = true"), "{told:?}");
    }
}

#[test]
fn there_is_one_key_manager_and_one_datastore() {
    assert!(!faults(&with("", "")).is_empty());
    assert!(!faults(&with("", &format!("{MEMORY}\n{MEMORY}"))).is_empty());
    let disabled = "  KeyManager \"disk\" { enabled = false plugin_data { keys_path = \"/k\" } }";
    assert!(faults(&with("", &format!("{MEMORY}\n{disabled}"))).is_empty());
}

#[test]
fn files_that_are_needed_must_be_readable() {
    let pkcs11 = "  KeyManager \"pkcs11\" { plugin_data { module_path = \"/no/module\" token_label = \"t\" pin_file = \"/no/pin\" } }";
    let told = faults(&with("", pkcs11));
    assert_eq!(told.len(), 2, "{told:?}");
    let quote = format!(
        "{MEMORY}\n  NodeAttestor \"tpm_quote\" {{ plugin_data {{ endorsement_ca_path = \"/no/ca\" }} }}"
    );
    assert_eq!(faults(&with("", &quote)).len(), 1);
}

#[test]
fn attestors_are_checked() {
    for (attestor, fine) in [
        ("NodeAttestor \"tpm_quote\" {}", true),
        ("NodeAttestor \"tpm_quote\" { plugin_data { pcrs = [0, 7, 7, 23] } }", true),
        ("NodeAttestor \"tpm_quote\" { plugin_data { pcrs = [24] } }", false),
        ("NodeAttestor \"tpm_quote\" { plugin_data { pcrs = [] } }", false),
        ("NodeAttestor \"tpm_quote\" { plugin_data { enrolment = \"endorsement\" } }", false),
        ("NodeAttestor \"tpm_quote\" { plugin_data { require_certificate = true } }", false),
        ("NodeAttestor \"x509pop\" {}", false),
        ("NodeAttestor \"x509pop\" { plugin_data { mode = \"spiffe\" } }", true),
        (
            "NodeAttestor \"x509pop\" { plugin_data { mode = \"spiffe\" agent_path_template = \"{{ bad\" } }",
            false,
        ),
        ("NodeAttestor \"join_token\" { plugin_data { nope = 1 } }", false),
        ("NodeAttestor \"join_token\" {}\n NodeAttestor \"join_token\" {}", false),
    ] {
        let told = faults(&with("", &format!("{MEMORY}\n  {attestor}")));
        assert_eq!(told.is_empty(), fine, "{attestor}: {told:?}");
    }
}

#[test]
fn json_is_read_too() {
    let text = r#"{"server": {"trust_domain": "example.org", "data_dir": "/d", "allow_software_keys": true},
        "plugins": {"DataStore": {"sql": {"plugin_data": {"database_type": "sqlite3", "connection_string": "/d/x"}}},
                    "KeyManager": {"memory": {"plugin_data": {}}}, "NodeAttestor": [{"join_token": {}}]}}"#;
    let config = ServerConfig::parse(text, "server.json").unwrap();
    assert!(config.attestors.join_token);
}

#[test]
fn the_environment_is_used_only_when_asked_for() {
    let site = site();
    let path = site.path().join("server.conf");
    let home = std::env::var("HOME").unwrap_or_default();
    fs::write(&path, with("  log_file = \"$HOME/log\"", MEMORY)).unwrap();
    let plain = ServerConfig::load(&path, false).unwrap();
    assert_eq!(plain.log_file.unwrap(), Path::new("$HOME/log"));
    let expanded = ServerConfig::load(&path, true).unwrap();
    assert_eq!(expanded.log_file.unwrap(), Path::new(&format!("{home}/log")));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_is_survived(text in "[a-z_{}\"= \\n\\[\\],0-9]{0,200}") {
        drop(ServerConfig::parse(&text, "server.conf"));
        drop(ServerConfig::parse(&with(&text, MEMORY), "server.conf"));
        drop(ServerConfig::parse(&with("", &text), "server.conf"));
    }
}

/// `with`, on a database server.
fn on_server(kind: &str, lines: &str) -> String {
    with("", MEMORY).replace(
        "database_type = \"sqlite3\" connection_string = \"/d/x\"",
        &format!("\n database_type = \"{kind}\"\n{lines}\n"),
    )
}

#[test]
fn database_servers_as_spire_configures_them() {
    use crate::datastore::{Engine, Place, Tls};
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        hardroot_emulators::softhsm::private_file(&path, content).unwrap();
        path.display().to_string()
    };
    let read = |kind, lines: &str| {
        let config = ServerConfig::parse(&on_server(kind, lines), "server.conf").unwrap().database;
        let warnings = config.warnings();
        let Place::Server(server) = config.place else { panic!("a file") };
        (*server, warnings, config.outage_staleness)
    };
    let (server, warnings, staleness) = read(
        "postgres",
        " connection_string = \"dbname=h user=u password=canary host=db.test\"\n \
         ro_connection_string = \"dbname=h host=replica.test\"\n max_open_conns = 7\n max_idle_conns = 50\n \
         conn_max_lifetime = \"1h\"\n outage_staleness = \"2m\"",
    );
    assert_eq!((server.engine, server.primary.tls), (Engine::Postgres, Tls::Require));
    assert!(server.replica.is_some() && server.primary.password.is_some());
    assert_eq!((server.pooling.max_open_conns, server.pooling.max_idle_conns), (7, 7));
    assert_eq!(server.pooling.conn_max_lifetime, Some(Duration::from_secs(3_600)));
    assert_eq!(staleness, Duration::from_secs(120));
    let told = warnings.join("\n");
    assert!(
        told.contains("password_file") && told.contains("root_ca_path") && !told.contains("canary"),
        "{told}"
    );

    let (ca, key) = (file("ca.pem", "x"), file("key.pem", "x"));
    let connection = file("connection", "u:secret@tcp(db.test)/h\n");
    let (server, warnings, _) = read(
        "mysql",
        &format!(
            " connection_string_file = \"{connection}\"\n root_ca_path = \"{ca}\"\n client_cert_path = \"{ca}\"\n \
             client_key_path = \"{key}\"\n password_file = \"{key}\""
        ),
    );
    assert_eq!((server.engine, server.primary.tls), (Engine::MySql, Tls::Verify));
    assert!(server.primary.client.is_some() && server.primary.password_file.is_some());
    assert!(warnings.is_empty(), "{warnings:?}");

    for (kind, lines, why) in [
        ("postgres", "", "connection_string or connection_string_file is required"),
        ("postgres", " connection_string = \"dbname=h password=canary port=x\"", "port"),
        ("oracle", " connection_string = \"x\"", "sqlite3, postgres, mysql"),
        ("aws_postgres", " connection_string = \"x\"", "IAM"),
        ("mysql", " connection_string = \"/h\"\n client_cert_path = \"/nowhere\"", "belong together"),
        ("mysql", " connection_string = \"/h\"\n max_open_conns = 0", "max_open_conns"),
        ("mysql", " connection_string = \"/h\"\n outage_staleness = \"25h\"", "outage_staleness"),
        (
            "mysql",
            " connection_string = \"/h\"\n connection_string_file = \"/nowhere\"",
            "exclude each other",
        ),
        ("sqlite3", " connection_string = \"/d/x\"\n root_ca_path = \"/ca\"", "belongs to database servers"),
        ("sqlite3", " connection_string = \"file:x?mode=memory\"", "without file:"),
    ] {
        let told = faults(&on_server(kind, lines)).join("\n");
        assert!(told.contains(why) && !told.contains("canary"), "{kind} {lines}: {told}");
    }
}

#[test]
fn agents_are_removed_only_when_it_is_asked_for() {
    let rule = |text: &str| ServerConfig::parse(&with(text, MEMORY), "server.conf").unwrap().prune_agents;
    assert_eq!(rule(""), None);
    assert_eq!(
        rule("prune_attested_nodes_expired_for = \"720h\""),
        Some(PruneAgents { expired_for: Duration::from_secs(720 * 3600), batch: 1000, and_tofu: false })
    );
    let told = rule(
        "prune_attested_nodes_expired_for = \"1h\"\n prune_attested_nodes_batch_size = 5\n prune_tofu_nodes = true",
    );
    assert_eq!(told, Some(PruneAgents { expired_for: Duration::from_secs(3600), batch: 5, and_tofu: true }));
    assert_eq!(faults(&with("prune_tofu_nodes = true", MEMORY)).len(), 1, "the time is needed");
}
