use super::*;

const GOOD: &str = r#"
agent {
    trust_domain = "example.org"
    server_address = "127.0.0.1"
    server_port = "8081"
    data_dir = "/var/lib/a"
    trust_bundle_path = "/etc/b.pem"
    allow_software_keys = true
}
plugins {
    KeyManager "disk" { plugin_data { directory = "/keys" } }
    NodeAttestor "join_token" { plugin_data {} }
    WorkloadAttestor "unix" { plugin_data {} }
}
"#;

fn read(text: &str) -> Result<AgentConfig, Faults> {
    read_with(text, &Overrides::default())
}

fn read_with(text: &str, overrides: &Overrides) -> Result<AgentConfig, Faults> {
    decode(&Document::parse(text).unwrap(), "agent.conf", overrides)
}

fn faults(text: &str) -> String {
    read(text).expect_err("faults").to_string()
}

#[test]
fn defaults_are_spires() {
    let config = read(GOOD).unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!(config.server(), "127.0.0.1:8081");
    assert_eq!(config.socket_path, PathBuf::from(DEFAULT_SOCKET_PATH));
    assert_eq!(config.bootstrap, Bootstrap::Bundle { path: "/etc/b.pem".into(), format: BundleFormat::Pem });
    assert_eq!(config.workload_key_type, KeyType::EcP256);
    assert_eq!(config.cache_size, 1000);
    assert_eq!(config.sync_interval, Duration::from_secs(5));
    assert!(matches!(config.key_manager, KeyManagerConfig::Disk { directory } if *directory == *"/keys"));
    assert_eq!(config.node_attestor, NodeAttestorConfig::JoinToken);
    assert_eq!(config.unix, UnixConfig::default());
    assert_eq!(
        config.log,
        LogConfig { file: None, level: LogLevel::Info, format: LogFormat::Text, source_location: false }
    );
    assert!(config.join_token.is_none() && config.tpm.is_none());
}

#[test]
fn the_sample_file_is_valid() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/agent/agent.conf"));
    let config = load(path, None, &Overrides::default()).unwrap();
    assert_eq!(config.node_attestor, NodeAttestorConfig::TpmQuote);
    assert_eq!(config.tpm.unwrap().tcti, "device:/dev/tpmrm0");
    assert!(config.unix.discover_workload_path);
}

#[test]
fn every_fault_is_told_with_its_line() {
    let text = r#"agent {
    trust_domain = "Example Org"
    server_port = 70000
    data_dri = "/x"
    trust_bundle_url = "https://x"
    sds { default_svid_name = "x" }
    experimental { sync_interval = "1ms" broker {} }
    workload_x509_svid_key_type = "rsa-4096"
}
plugins {
    KeyManager "disk" { plugin_data { directory = "/keys" } }
    NodeAttestor "tpm_quote" { plugin_data { typo = 1 } }
    WorkloadAttestor "docker" { plugin_cmd = "x" plugin_data { a = 1 } }
}
telemetry { M3 = [ { address = "a:1" env = "x" } ] }
health_checks { bind_port = 70000 }
"#;
    let told = faults(text);
    for expected in [
        "agent.conf:2: agent.trust_domain",
        "agent.conf:3: agent.server_port",
        "agent.conf:4: unknown key `data_dri`",
        "agent.conf:5: agent.trust_bundle_url is not supported",
        "agent.conf:6: agent.sds is not supported",
        "agent.conf:7: agent.experimental.sync_interval",
        "agent.conf:7: agent.experimental.broker is not supported",
        "agent.conf:8: agent.workload_x509_svid_key_type",
        "agent.server_address is required",
        "agent.data_dir is required",
        "agent.trust_bundle_path is required",
        "agent.conf:11: plugins.KeyManager \"disk\": software keys can be copied",
        "agent.conf:12: plugins.NodeAttestor \"tpm_quote\": needs the block agent.tpm",
        "agent.conf:12: plugins.NodeAttestor \"tpm_quote\": needs KeyManager \"tpm\"",
        "unknown key `typo`",
        "agent.conf:13: plugins.WorkloadAttestor \"docker\": there is no such workload attestor",
        "plugin_cmd is not supported",
        "a WorkloadAttestor is required",
        "agent.conf:15: telemetry.M3 is not supported",
        "agent.conf:16: health_checks.bind_port",
    ] {
        assert!(told.contains(expected), "missing: {expected}\n{told}");
    }
}

#[test]
fn software_keys_need_consent() {
    let without = GOOD.replace("allow_software_keys = true", "");
    assert!(faults(&without).contains("set agent.allow_software_keys = true"));
    let memory = without
        .replace("\"disk\" { plugin_data { directory = \"/keys\" } }", "\"memory\" { plugin_data {} }");
    assert!(faults(&memory).contains("software keys"));
}

#[test]
fn the_command_line_wins() {
    let overrides = Overrides {
        data_dir: Some("/d".into()),
        join_token: Some(Zeroizing::new(" tok\n".into())),
        log_format: Some("json".into()),
        log_level: Some("DEBUG".into()),
        server_address: Some("::1".into()),
        server_port: Some(1),
        socket_path: Some("/s".into()),
        trust_domain: Some("spiffe://other.org".into()),
        trust_bundle_path: Some("/t".into()),
        trust_bundle_format: Some("spiffe".into()),
        ..Overrides::default()
    };
    let config = read_with(GOOD, &overrides).unwrap();
    assert_eq!(config.server(), "[::1]:1");
    assert_eq!(config.trust_domain.as_str(), "other.org");
    assert_eq!((config.data_dir, config.socket_path), ("/d".into(), "/s".into()));
    assert_eq!(config.bootstrap, Bootstrap::Bundle { path: "/t".into(), format: BundleFormat::Spiffe });
    assert_eq!(config.join_token, Some(JoinToken::Value(Zeroizing::new("tok".into()))));
    assert_eq!(
        config.log,
        LogConfig { file: None, level: LogLevel::Debug, format: LogFormat::Json, source_location: false }
    );
    let bare = GOOD.replace("server_address = \"127.0.0.1\"", "");
    assert!(read_with(&bare, &overrides).is_ok(), "what the command line gives need not be in the file");
    let bad = Overrides {
        trust_bundle_format: Some("x".into()),
        log_format: Some("x".into()),
        log_level: Some("x".into()),
        trust_domain: Some("x y".into()),
        ..Overrides::default()
    };
    let told = read_with(GOOD, &bad).expect_err("faults").to_string();
    for flag in ["-trustBundleFormat", "-logFormat", "-logLevel", "-trustDomain"] {
        assert!(told.contains(flag), "{told}");
    }
}

#[test]
fn contradictions_are_faults() {
    let with = |extra: &str| {
        faults(&GOOD.replace("allow_software_keys = true", &format!("allow_software_keys = true\n{extra}")))
    };
    assert!(with("insecure_bootstrap = true").contains("together with trust_bundle_path"));
    assert!(with("join_token = \"a\"\njoin_token_file = \"/b\"").contains("only one of join_token"));
    assert!(with("tpm {}").contains("device (such as"));
    assert!(with("tpm { device = \"/dev/tpm0\" tcti = \"x:\" }").contains("only one of device and tcti"));
    assert!(with("disable_workload_api = true").contains("serves nobody"));
    assert!(with("disable_sds_api = false").contains("no Envoy SDS"));
    assert!(with("rebootstrap_mode = \"auto\"").contains("only \"never\""));
    assert!(with("experimental { use_sync_authorized_entries = false }").contains("always uses"));
    assert!(with(&format!("socket_path = \"/{}\"", "x".repeat(107))).contains("at most 107 bytes"));
    let two = GOOD.replace(
        "NodeAttestor \"join_token\"",
        "NodeAttestor \"x509pop\" { plugin_data {} }\nNodeAttestor \"join_token\"",
    );
    let told = faults(&two);
    assert!(told.contains("exactly one NodeAttestor"), "{told}");
    assert!(
        told.contains("certificate_path is required") && told.contains("private_key_path (a PEM file)"),
        "{told}"
    );
}

#[test]
fn harmless_settings_of_spire_are_taken() {
    let text = GOOD.replace(
        "allow_software_keys = true",
        "allow_software_keys = true\ndisable_sds_api = true\ndisable_workload_api = false\nrebootstrap_mode = \"never\"\n\
         rebootstrap_delay = \"10m\"\nx509_svid_cache_max_size = 0\nexperimental { use_sync_authorized_entries = true require_pq_kem = false }",
    );
    assert_eq!(read(&text).unwrap().cache_size, DEFAULT_CACHE_SIZE);
}

#[test]
fn a_plugin_that_is_switched_off_is_not_there() {
    let text = GOOD.replace(
        "KeyManager \"disk\"",
        "KeyManager \"exotic\" { enabled = false plugin_cmd = \"x\" plugin_data { y = 1 } }\nKeyManager \"disk\"",
    );
    assert_eq!(read(&text).unwrap().key_manager.name(), "disk");
}

#[test]
fn pkcs11_and_x509pop_are_read() {
    let text = GOOD
        .replace(
            "KeyManager \"disk\" { plugin_data { directory = \"/keys\" } }",
            "KeyManager \"pkcs11\" { plugin_data { module_path = \"/m.so\" token_label = \"t\" pin_file = \"/pin\" } }",
        )
        .replace(
            "NodeAttestor \"join_token\" { plugin_data {} }",
            "NodeAttestor \"x509pop\" { plugin_data { certificate_path = \"/c\" private_key_id = \"node\" } }",
        );
    let config = read(&text).unwrap();
    let KeyManagerConfig::Pkcs11 { token, instance } = config.key_manager else { panic!("pkcs11") };
    assert_eq!((token.token_label.as_deref(), instance.as_str()), (Some("t"), "agent"));
    let NodeAttestorConfig::X509Pop(pop) = config.node_attestor else { panic!("x509pop") };
    assert_eq!(pop.key, X509PopKey::KeyManager("node".into()));
    let pin = text.replace("pin_file = \"/pin\"", "pin = \"1234\"");
    let told = faults(&pin);
    assert!(told.contains("use pin_file") && !told.contains("1234"), "a secret is never repeated: {told}");
}

#[test]
fn a_join_token_is_never_shown() {
    let config = read(
        &GOOD.replace("allow_software_keys = true", "allow_software_keys = true\njoin_token = \"hush\""),
    )
    .unwrap();
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn tokens_verifiers_and_the_admin_socket_are_configured_as_in_spire() {
    let with = |lines: &str| {
        GOOD.replace("allow_software_keys = true", &format!("allow_software_keys = true\n{lines}"))
    };
    let config = read(GOOD).unwrap();
    assert_eq!((config.jwt_cache_size, config.jwt_cache_hit_timeout), (1000, Duration::from_secs(5)));
    assert!(config.admin_socket_path.is_none() && !config.allow_unauthenticated_verifiers);
    let config = read(&with(
        "admin_socket_path = \"/run/private/admin.sock\"\nsocket_path = \"/run/public/api.sock\"\n\
         jwt_svid_cache_max_size = 7\nallow_unauthenticated_verifiers = true\n\
         experimental { jwt_svid_cache_hit_timeout = \"29s\" }",
    ))
    .unwrap();
    assert_eq!((config.jwt_cache_size, config.jwt_cache_hit_timeout), (7, Duration::from_secs(29)));
    assert_eq!(config.admin_socket_path, Some("/run/private/admin.sock".into()));
    assert!(config.allow_unauthenticated_verifiers);
    for bad in ["4s", "30s"] {
        let told = faults(&with(&format!("experimental {{ jwt_svid_cache_hit_timeout = \"{bad}\" }}")));
        assert!(told.contains("at least 5s and less than 30s"), "{told}");
    }
    for path in ["/run/api.sock", "/run/private/api.sock"] {
        let lines = format!("socket_path = \"/run/public.sock\"\nadmin_socket_path = \"{path}\"");
        assert!(faults(&with(&lines)).contains("must not be in the directory of socket_path"), "{path}");
    }
}
