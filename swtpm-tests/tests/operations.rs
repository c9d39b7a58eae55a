//! What people who run a server rely on: metrics, health, reload and signals of the real process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hardroot_swtpm_tests::site::{AgentSetup, Keys, Site, uid};
use hardroot_swtpm_tests::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

/// GET, over a connection of its own.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn json(address: SocketAddr, path: &str) -> (u16, Value) {
    let (status, body) = get(address, path);
    (status, serde_json::from_str(&body).unwrap())
}

/// A site whose server has metrics and health on ports that the system chose.
fn watched_site(change: impl FnOnce(&mut Site)) -> Site {
    let mut site = Site::new().unwrap();
    let address = site.address;
    site.more = format!(
        "telemetry {{\n    Prometheus {{ host = \"{address}\" port = 0 }}\n}}\nhealth_checks {{\n    listener_enabled = true\n    \
         bind_address = \"{address}\"\n    bind_port = 0\n}}\n"
    );
    change(&mut site);
    site.start_server().unwrap();
    site
}

/// Where the server says that it serves something.
fn said(site: &Site, message: &str) -> SocketAddr {
    let log = site.server.as_ref().unwrap().log();
    let line =
        log.lines().find(|line| line.contains(message)).unwrap_or_else(|| panic!("no {message} in\n{log}"));
    let (_, rest) = line.split_once("address=").unwrap();
    rest.split(' ').next().unwrap().trim_matches('"').parse().unwrap()
}

fn metrics_of(site: &Site) -> SocketAddr {
    said(site, "serving metrics for Prometheus")
}

fn health_of(site: &Site) -> SocketAddr {
    said(site, "serving health checks")
}

/// The value of the first series that begins so.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_server_tells_what_it_does_to_prometheus_and_statsd() {
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let port = collector.local_addr().unwrap().port();
    let site = watched_site(|site| {
        site.more = site.more.replace(
            "telemetry {\n",
            &format!("telemetry {{\n    DogStatsd = [ {{ address = \"127.0.0.1:{port}\" }} ]\n    EnableHostnameLabel = false\n"),
        );
    });
    site.server_command(&["entry", "show"]).unwrap().success().unwrap();
    assert!(!site.server_command(&["entry", "show", "-entryID", "nobody"]).unwrap().ok());
    let (status, text) = get(metrics_of(&site), "/metrics");
    assert_eq!(status, 200);
    for (series, least) in [
        ("spire_server_rpc_entry_v1_entry_list_entries{status=\"OK\"}", 1.0),
        ("spire_server_rpc_entry_v1_entry_get_entry{status=\"NotFound\"}", 1.0),
        ("spire_server_rpc_entry_v1_entry_list_entries_elapsed_time_count{status=\"OK\"}", 1.0),
        ("spire_server_rpc_health_check{status=\"OK\"}", 1.0),
        ("spire_server_datastore_registration_entry_list{status=\"OK\"}", 1.0),
        ("spire_server_started{", 1.0),
        ("spire_server_uptime_in_ms", 1.0),
        // What the start itself did is counted, too.
        ("hardroot_token_operations{operation=\"sign\",result=\"ok\"}", 2.0),
        ("hardroot_token_operations{operation=\"generate\",result=\"ok\"}", 2.0),
        ("spire_server_datastore_bundle_set{status=\"OK\"}", 1.0),
        ("spire_server_ca_manager_x509_ca_prepare{status=\"OK\"}", 1.0),
        ("hardroot_bundle_last_publication_seconds", 0.0),
        ("hardroot_token_reachable", 1.0),
        ("hardroot_ready", 1.0),
        ("hardroot_authority_remaining_seconds", 80_000.0),
        ("hardroot_server_svid_remaining_seconds", 3_000.0),
        ("hardroot_connections_accepted{listener=\"admin\"}", 2.0),
        ("process_resident_memory_bytes", 1_000_000.0),
    ] {
        let found = value(&text, series).unwrap_or_else(|| panic!("{series} is missing in\n{text}"));
        assert!(found >= least, "{series} is {found}");
    }
    // Methods that callers make up are no metrics.
    assert!(!text.contains("made_up"), "{text}");
    let mut bytes = [0; 65_536];
    let seen = wait::until("a datagram with a call", wait::DEADLINE, || {
        let length = collector.recv(&mut bytes)?;
        let lines = String::from_utf8(bytes[..length].to_vec())?;
        Ok(lines.contains("spire_server.rpc.entry.v1.entry.list_entries:1|c|#status:OK").then_some(lines))
    });
    seen.unwrap();
}

fn shim() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    [deps.clone(), deps.parent().unwrap().to_owned()]
        .map(|directory| directory.join("libhardroot_pkcs11_shim.so"))
        .into_iter()
        .find(|path| path.is_file())
        .expect("the shim was not built: run `cargo build --workspace`")
}

#[test]
fn readiness_tells_that_the_token_is_away_and_liveness_stays() {
    // A server SVID of twelve seconds is renewed, and so the token asked, every six.
    let site = watched_site(|site| {
        site.server_module = Some(shim());
        site.server_lines = "    default_x509_svid_ttl = \"12s\"\n".to_owned();
    });
    let address = health_of(&site);
    let (status, ready) = json(address, "/ready");
    assert_eq!(status, 200, "{ready}");
    for part in ["server", "server.ca", "server.ca.rotator", "server.bundle", "catalog.datastore"] {
        assert_eq!(ready[part]["ready"], true, "{part} in {ready}");
    }
    assert_eq!(ready["server.ca"]["keys_in_hardware"], true);
    assert!(ready["server.ca"]["last_signature_age_seconds"].as_i64().unwrap() >= 0);
    assert!(ready["server.ca"]["authority_remaining_seconds"].as_i64().unwrap() > 80_000);
    assert_eq!(get(address, "/nothing").0, 404);
    let published = ready["server.bundle"]["last_publication_age_seconds"].as_i64().unwrap();
    assert!((0..600).contains(&published), "{ready}");

    // CKR_DEVICE_REMOVED
    let control = site.hsm().directory().join("shim-control");
    fs::write(&control, "error=50\n").unwrap();
    let told = wait::until("readiness to turn false", wait::DEADLINE, || {
        let (status, told) = json(address, "/ready");
        Ok((status == 500).then_some(told))
    });
    let told = told.unwrap();
    assert_eq!(told["server.ca"]["ready"], false, "{told}");
    assert!(told["server.ca"]["message"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
    assert_eq!(told["catalog.datastore"]["ready"], true, "{told}");
    let (status, live) = json(address, "/live");
    assert_eq!(status, 200, "a server whose token is away must not be killed for it: {live}");
    // The same truth for gRPC's health, which the command asks.
    let unhealthy = wait::until("healthcheck to fail", wait::DEADLINE, || {
        Ok((!site.server_command(&["healthcheck"])?.ok()).then_some(()))
    });
    unhealthy.unwrap();
    let (_, metrics) = get(metrics_of(&site), "/metrics");
    assert_eq!(value(&metrics, "hardroot_token_reachable"), Some(0.0));

    fs::remove_file(&control).unwrap();
    let back = wait::until("readiness to come back", wait::DEADLINE, || {
        Ok((json(address, "/ready").0 == 200 && site.server_command(&["healthcheck"])?.ok()).then_some(()))
    });
    back.unwrap();
}

#[test]
fn an_idle_token_is_asked_by_a_probe_alone() {
    let site = watched_site(|site| site.server_module = Some(shim()));
    let address = health_of(&site);
    fs::write(site.hsm().directory().join("shim-control"), "error=50\n").unwrap();
    // Nothing was signed since, so nothing is known of it.
    let (status, told) = json(address, "/ready");
    assert_eq!(status, 200, "{told}");
    let (status, told) = json(address, "/ready?probe=1");
    assert_eq!((status, &told["server.ca"]["probed"]), (500, &Value::Bool(true)), "{told}");
    // From now on it is known without a probe.
    assert_eq!(json(address, "/ready").0, 500);
}

#[test]
fn sighup_takes_over_what_can_change_and_names_what_cannot() {
    let mut site = watched_site(|site| {
        site.server_keys = Keys::Memory;
        site.server_lines = "    ratelimit { attestation = true }\n".to_owned();
    });
    let log = |site: &Site| site.server.as_ref().unwrap().log();
    let until = |site: &Site, what: &str| {
        let found = wait::until(what, wait::DEADLINE, || Ok(log(site).contains(what).then_some(())));
        found.unwrap_or_else(|error| panic!("{error}\n{}", log(site)));
    };

    // Level, limits and a node attestor change; a port cannot.
    let before = fs::read_to_string(site.server_config()).unwrap();
    let after = before
        .replace("log_level = \"DEBUG\"", "log_level = \"WARN\"")
        .replace("bind_port = 8081", "bind_port = 8089")
        .replace("attestation = true", "attestation = false")
        .replace(
            "NodeAttestor \"join_token\" { plugin_data {} }",
            "NodeAttestor \"tpm_quote\" { plugin_data {} }",
        );
    fs::write(site.server_config(), &after).unwrap();
    site.server.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
    until(&site, "needs a restart");
    let told = log(&site);
    let line = told.lines().find(|line| line.contains("needs a restart")).unwrap();
    assert!(line.contains("key=server.bind_port") && line.contains("line=4"), "{line}");
    let (_, metrics) = get(metrics_of(&site), "/metrics");
    assert_eq!(value(&metrics, "hardroot_reload{"), Some(1.0), "{metrics}");
    // The agents' door has changed while the port stayed: a join token is of no use any more.
    assert!(site.server_command(&["healthcheck"]).unwrap().ok());

    // A file with faults changes nothing, and all of them are told with their lines.
    let bad = after.replace("bind_port = 8089", "bind_prot = 1\n    ca_ttl = \"soon\"");
    fs::write(site.server_config(), &bad).unwrap();
    site.server.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
    until(&site, "bind_prot");
    let told = log(&site);
    for fault in ["server.conf:4", "bind_prot", "server.conf:5", "ca_ttl"] {
        assert!(told.contains(fault), "{fault} is missing in\n{told}");
    }
    assert!(site.server_command(&["healthcheck"]).unwrap().ok());

    // The level follows the file again, and the good file is taken over.
    fs::write(site.server_config(), &before).unwrap();
    site.server.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
    until(&site, "the configuration was taken over");
    site.stop_server().unwrap();
}

#[test]
fn an_agent_tells_what_it_does_over_its_svid_and_is_ready_while_its_server_is_away() {
    let mut site = Site::new().unwrap();
    site.server_keys = Keys::Memory;
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let setup = AgentSetup::join_token(&site.join_token().unwrap());
    let mut agent = site.agent("agent", setup).unwrap();
    let more = "telemetry {\n    Prometheus {\n        host = \"127.0.0.1\"\n        port = 0\n        tls {\n            \
                use_spire_svid = true\n            authorized_spiffe_ids = [\"spiffe://example.org/prometheus\"]\n        }\n    \
                }\n    EnableHostnameLabel = false\n}\nhealth_checks {\n    listener_enabled = true\n    bind_address = \
                \"127.0.0.1\"\n    bind_port = 0\n}\n";
    let text = fs::read_to_string(agent.config()).unwrap();
    fs::write(agent.config(), format!("{text}{more}")).unwrap();
    agent.start().unwrap();
    let id = site.agent_ids().unwrap().remove(0);
    let selector = format!("unix:uid:{}", uid());
    site.create_entry(&id, "spiffe://example.org/w", &[&selector], &[]).unwrap();
    // The entry comes with the next synchronisation.
    wait::until("the identity", wait::DEADLINE, || Ok(agent.fetch().ok())).unwrap();

    let scraper = site.folder().join("scraper");
    fs::create_dir(&scraper).unwrap();
    let write = scraper.display().to_string();
    let minted = site.server_command(&[
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/prometheus",
        "-write",
        &write,
    ]);
    minted.unwrap().success().unwrap();
    let address = |what: &str| {
        let log = agent.log();
        let line =
            log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what} in\n{log}"));
        let (_, rest) = line.split_once("address=").unwrap();
        rest.split(' ').next().unwrap().trim_matches('"').parse::<SocketAddr>().unwrap()
    };
    let text = scrape_over_tls(address("serving metrics for Prometheus"), &scraper, Some("svid.pem"));
    for (series, least) in [
        ("spire_agent_started{", 1.0),
        ("spire_agent_uptime_in_ms", 1.0),
        ("spire_agent_node_attestor_new_svid{attestor=\"join_token\",status=\"OK\"}", 1.0),
        ("spire_agent_manager_sync_fetch_entries_updates{status=\"OK\"}", 1.0),
        ("spire_agent_manager_sync_fetch_svids_updates{status=\"OK\"}", 1.0),
        ("spire_agent_lru_cache_record_map_size{svid_type=\"x509\"}", 1.0),
        ("spire_agent_lru_cache_svid_map_size{svid_type=\"x509\"}", 1.0),
        ("spire_agent_workload_api_connection ", 1.0),
        ("spire_agent_workload_api_connections ", 0.0),
        ("spire_agent_workload_api_workload_attestation{status=\"OK\"}", 1.0),
        ("spire_agent_workload_api_workload_attestor{attestor=\"unix\",status=\"OK\"}", 1.0),
        ("spire_agent_workload_api_discovered_selectors_count", 1.0),
        ("spire_agent_rpc_workload_api_fetch_x509svid{status=", 1.0),
        ("hardroot_agent_svid_remaining_seconds", 1_000.0),
        ("hardroot_sync_age_seconds", 0.0),
        ("hardroot_token_operations{operation=\"sign\",result=\"ok\"}", 1.0),
        ("hardroot_token_reachable", 1.0),
        ("hardroot_ready", 1.0),
        ("process_resident_memory_bytes", 1_000_000.0),
    ] {
        let found = value(&text, series).unwrap_or_else(|| panic!("{series} is missing in\n{text}"));
        assert!(found >= least, "{series} is {found}");
    }
    let nobody = scrape_over_tls(address("serving metrics for Prometheus"), &scraper, None);
    assert!(!nobody.contains("spire_agent_started"), "{nobody}");

    let health = address("serving health checks");
    let (status, told) = json(health, "/ready");
    assert_eq!((status, &told["agent"]["ready"]), (200, &Value::Bool(true)), "{told}");
    assert!(told["agent"]["svid_remaining_seconds"].as_i64().unwrap() > 1_000, "{told}");
    assert_eq!(told["agent.keys"]["key_manager"], "memory", "{told}");
    site.stop_server().unwrap();
    assert_eq!(
        (json(health, "/ready").0, json(health, "/live").0),
        (200, 200),
        "it serves what is still valid"
    );
}

#[test]
fn an_agent_that_is_not_attested_yet_is_alive_and_not_ready() {
    let mut site = Site::new().unwrap();
    site.server_keys = Keys::Memory;
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let setup = AgentSetup::join_token(&site.join_token().unwrap());
    site.stop_server().unwrap();
    let mut agent = site.agent("agent", setup).unwrap();
    let text = fs::read_to_string(agent.config()).unwrap();
    let more = "health_checks {\n    listener_enabled = true\n    bind_address = \"127.0.0.1\"\n    bind_port = 0\n}\n";
    fs::write(agent.config(), format!("{text}{more}")).unwrap();
    agent.launch().unwrap();
    let address = wait::until("the listener", wait::DEADLINE, || {
        let log = agent.log();
        let line = log.lines().find(|line| line.contains("serving health checks"));
        Ok(line.and_then(|line| {
            line.split_once("address=")?.1.split(' ').next()?.trim_matches('"').parse().ok()
        }))
    });
    let address: SocketAddr = address.unwrap();
    let (status, told) = json(address, "/ready");
    assert_eq!(
        (status, &told["agent"]["message"]),
        (500, &Value::from("the node is not attested")),
        "{told}"
    );
    assert_eq!(json(address, "/live").0, 200);
}

/// What a listener answers to a client that shows these files, or why not.
fn scrape_over_tls(address: SocketAddr, shown: &Path, cert: Option<&str>) -> String {
    let file = |name: &str| shown.join(name).display().to_string();
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-verify_return_error", "-connect", &address.to_string()]);
    client.args(["-CAfile", &file("bundle.pem")]);
    if let Some(cert) = cert {
        client.args(["-cert", &file(cert), "-key", &file("key.pem")]);
    }
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    // A refused client may be gone already.
    let asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    drop(client.stdin.take().unwrap().write_all(asked));
    let output = client.wait_with_output().unwrap();
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn metrics_over_the_servers_svid_are_for_those_who_are_named() {
    let site = watched_site(|site| {
        site.server_keys = Keys::Memory;
        site.more = site.more.replace(
            "port = 0 }\n}\nhealth",
            "port = 0\n        tls {\n            use_spire_svid = true\n            authorized_spiffe_ids = \
             [\"spiffe://example.org/prometheus\"]\n        }\n    }\n}\nhealth",
        );
    });
    let mint = |name: &str| {
        let folder = site.folder().join(name);
        fs::create_dir(&folder).unwrap();
        let id = format!("spiffe://example.org/{name}");
        let write = folder.display().to_string();
        site.server_command(&["x509", "mint", "-spiffeID", &id, "-write", &write])
            .unwrap()
            .success()
            .unwrap();
        folder
    };
    let (named, other) = (mint("prometheus"), mint("somebody"));
    let address = metrics_of(&site);
    let told = scrape_over_tls(address, &named, Some("svid.pem"));
    assert!(told.contains("spire_server_started{"), "{told}");
    for (who, told) in [
        ("another SVID", scrape_over_tls(address, &other, Some("svid.pem"))),
        ("nobody", scrape_over_tls(address, &named, None)),
    ] {
        assert!(!told.contains("spire_server_started"), "{who} was answered: {told}");
    }
    // What it shows is the server's SVID, which another trust domain's bundle does not vouch for.
    let stranger = site.folder().join("stranger");
    fs::create_dir(&stranger).unwrap();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=x",
        ])
        .arg("-keyout")
        .arg(stranger.join("key.pem"))
        .arg("-out")
        .arg(stranger.join("bundle.pem"))
        .output()
        .unwrap();
    assert!(made.status.success());
    let told = scrape_over_tls(address, &stranger, None);
    assert!(told.contains("verify error"), "{told}");
}

#[test]
fn sigusr1_reads_the_attestors_anew_and_writes_metrics_to_the_log() {
    let site = watched_site(|site| site.more.push_str("telemetry {\n    InMem {}\n}\n"));
    site.server.as_ref().unwrap().signal(Signal::SIGUSR1).unwrap();
    let log = || site.server.as_ref().unwrap().log();
    let done = wait::until("the reload", wait::DEADLINE, || {
        Ok(log().contains("node attestors' data was read anew").then_some(()))
    });
    done.unwrap();
    assert!(log().contains("metric=spire_server_uptime_in_ms"), "{}", log());
}

#[test]
fn sigusr2_follows_a_rotated_log_file() {
    let mut site = Site::new().unwrap();
    let file = site.folder().join("hardroot.log");
    site.server_lines = format!("    log_file = \"{}\"\n    log_source_location = true\n", file.display());
    site.start_server().unwrap();
    let rotated = site.folder().join("hardroot.log.1");
    fs::rename(&file, &rotated).unwrap();
    site.server.as_ref().unwrap().signal(Signal::SIGUSR2).unwrap();
    let followed = wait::until("the new file", wait::DEADLINE, || {
        Ok(fs::read_to_string(&file).is_ok_and(|text| text.contains("opened anew")).then_some(()))
    });
    followed.unwrap();
    assert!(fs::read_to_string(&rotated).unwrap().contains("file=server/src/run/"), "source locations");
}

/// The doctor's report: its exit code's verdict and its findings.
fn doctor(site: &Site, flags: &[&str]) -> (bool, Vec<(String, String, String)>) {
    let config = site.server_config().display().to_string();
    let mut arguments = vec!["doctor", "-config", &config, "-output", "json"];
    arguments.extend(flags);
    let ran = site.own_command(&arguments).unwrap();
    let json = ran.json().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = json["findings"].as_array().unwrap().iter();
    let list = findings.map(|f| (text(&f["check"]), text(&f["level"]), text(&f["text"]))).collect();
    (ran.ok(), list)
}

fn has(findings: &[(String, String, String)], check: &str, level: &str, text: &str) {
    let found = findings.iter().any(|(c, l, t)| c == check && l == level && t.contains(text));
    assert!(found, "no {level} \"{text}\" of {check} in {findings:#?}");
}

#[test]
fn the_doctor_finds_a_good_server_fine_running_or_stopped_and_says_what_is_wrong() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut site = Site::new().unwrap();
    let data = site.folder().join("server");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    site.start_server().unwrap();
    let (fine, findings) = doctor(&site, &["-sign"]);
    assert!(fine, "{findings:#?}");
    for (check, text) in [
        ("configuration", "is valid"),
        ("token", "can be used"),
        ("token", "key x509-CA-A cannot leave the token"),
        ("token", "throw-away key was made, signed in"),
        ("database", "schema"),
        ("clock", "possible time"),
        ("server", "runs and is ready"),
        ("server", "TLS port shows its SVID"),
        ("server", "its own SVID is valid for"),
        ("lease", "of this machine is instance"),
        ("certificates", "the stored bundle holds the authority of key x509-CA-A"),
        ("certificates", "; the newest,"),
        ("files", "has mode 0600"),
        ("limits", "files can be open"),
    ] {
        if check == "limits" {
            let pid = format!("of process {}", site.server.as_ref().unwrap().pid());
            assert!(findings.iter().any(|(c, _, t)| c == check && t.contains(&pid)), "{findings:#?}");
        } else {
            has(&findings, check, "fine", text);
        }
    }
    // The doctor leaves nothing behind on the token, and the server goes on.
    assert!(site.server_command(&["healthcheck"]).unwrap().ok());
    site.stop_server().unwrap();
    let (fine, findings) = doctor(&site, &[]);
    assert!(fine, "{findings:#?}");
    has(&findings, "server", "fine", "does not run");
    has(&findings, "lease", "fine", "nobody holds");
    has(&findings, "certificates", "fine", "the stored bundle holds the authority of key x509-CA-A");

    // A PIN that others may read, and a wrong database.
    fs::set_permissions(site.hsm().pin_file(), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(site.folder().join("server/datastore.sqlite3"), "not a database").unwrap();
    let (fine, findings) = doctor(&site, &[]);
    assert!(!fine);
    has(&findings, "files", "fault", "mode 0644");
    has(&findings, "database", "fault", "");
    has(&findings, "token", "fault", "PIN");
    let text = site.own_command(&["doctor", "-config", &site.server_config().display().to_string()]).unwrap();
    assert!(text.stdout.contains("-> chmod 0600"), "{}", text.stdout);
    assert!(!text.stdout.contains('\u{1b}'), "no colours into a pipe");
}
