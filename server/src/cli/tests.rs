//! The commands against a server on a socket: what they print, and how they end. Scripts depend on both.

use std::path::PathBuf;

use super::*;
use crate::api::testing::{Issuing, Site, at, id};
use crate::datastore::{Entries, Nodes};

const A: &str = "spiffe://example.org/spire/agent/tpm_quote/a";

pub(super) struct Ran {
    pub(super) out: String,
    pub(super) err: String,
    pub(super) outcome: Result<(), String>,
}

impl Ran {
    pub(super) fn ok(self) -> String {
        assert_eq!(self.outcome, Ok(()), "{}", self.err);
        assert_eq!(self.err, "");
        self.out
    }

    pub(super) fn failed(self) -> String {
        self.outcome.unwrap_err()
    }
}

pub(super) struct Shell {
    site: Site,
    pub(super) socket: PathBuf,
}

impl Shell {
    pub(super) async fn new() -> Self {
        let site = Site::new().await;
        let socket = site.serve(true).await;
        Self { site, socket }
    }

    pub(super) async fn run(&self, arguments: &[&str]) -> Ran {
        run_at(&self.socket, arguments).await
    }
}

async fn run_at(socket: &std::path::Path, arguments: &[&str]) -> Ran {
    let socket = socket.display().to_string();
    let mut all = vec!["hardroot-server"];
    all.extend(arguments);
    all.extend(["-socketPath", socket.as_str()]);
    run(&all).await
}

pub(super) async fn run(arguments: &[&str]) -> Ran {
    let parsed = parse::<Cli>(arguments.iter().map(OsString::from));
    let command = match parsed {
        Ok(Cli { command: Top::Client(command) }) => command,
        Ok(_) => panic!("{arguments:?} talks to no server"),
        Err(error) => panic!("{error}"),
    };
    let mut screen = Screen::default();
    let outcome = command.execute(&mut screen).await.map_err(|error| error.to_string());
    Ran { out: screen.out, err: screen.err, outcome }
}

fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments =
        vec!["entry", "create", "-entryID", "e1", "-parentID", A, "-spiffeID", "spiffe://example.org/db"];
    arguments.extend(["-selector", "unix:uid:1000", "-selector", "unix:gid:1000"]);
    arguments.extend(more);
    arguments
}

#[test]
fn the_command_line_is_consistent() {
    definition().debug_assert();
}

#[test]
fn every_command_and_flag_explains_itself() {
    fn walk(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
        for flag in command.get_arguments() {
            assert!(flag.get_help().is_some(), "{} {} says nothing", command.get_name(), flag.get_id());
        }
        command.get_subcommands().for_each(walk);
    }
    walk(&definition());
}

#[test]
fn one_dash_and_two_are_the_same() {
    for dashes in ["-", "--"] {
        let flag = |name: &str| format!("{dashes}{name}");
        let arguments = [
            "hardroot-server".to_owned(),
            "entry".to_owned(),
            "show".to_owned(),
            flag("spiffeID"),
            "spiffe://example.org/a".to_owned(),
            flag("downstream=false"),
            flag("output=json"),
        ];
        assert!(parse::<Cli>(arguments.map(OsString::from)).is_ok());
    }
}

#[tokio::test]
async fn entry_create_prints_the_entry() {
    let shell = Shell::new().await;
    let out = shell.run(&create(&[])).await.ok();
    assert_eq!(
        out,
        "Entry ID                : e1\n\
         SPIFFE ID               : spiffe://example.org/db\n\
         Parent ID               : spiffe://example.org/spire/agent/tpm_quote/a\n\
         Revision                : 0\n\
         X509-SVID TTL           : default\n\
         JWT-SVID TTL            : default\n\
         Selector                : unix:gid:1000\n\
         Selector                : unix:uid:1000\n\
         \n"
    );
}

#[tokio::test]
async fn every_field_of_an_entry_has_its_label() {
    let shell = Shell::new().await;
    let der = crate::api::testing::authority_der();
    let pem = shell.socket.with_file_name("foreign.pem");
    std::fs::write(&pem, hardroot_identity::pem_encode([&der])).unwrap();
    let path = pem.display().to_string();
    assert_eq!(
        shell.run(&["bundle", "set", "-id", "other.test", "-path", &path]).await.ok(),
        "bundle set.\n"
    );
    let more = [
        "-downstream",
        "-admin",
        "-x509SVIDTTL",
        "3600",
        "-jwtSVIDTTL=60",
        "-entryExpiry",
        "4102444800",
        "-federatesWith",
        "spiffe://other.test",
        "-dns",
        "db.example",
        "-hint",
        "internal",
        "-disableX509SVIDPrefetch",
        "-jwtSVIDIncludeJTI",
    ];
    let out = shell.run(&create(&more)).await.ok();
    assert_eq!(
        out,
        "Entry ID                : e1\n\
         SPIFFE ID               : spiffe://example.org/db\n\
         Parent ID               : spiffe://example.org/spire/agent/tpm_quote/a\n\
         Revision                : 0\n\
         Downstream              : true\n\
         X509-SVID TTL           : 3600\n\
         JWT-SVID TTL            : 60\n\
         Expiration time         : 2100-01-01 00:00:00 +0000 UTC\n\
         Selector                : unix:gid:1000\n\
         Selector                : unix:uid:1000\n\
         FederatesWith           : other.test\n\
         DNS name                : db.example\n\
         Admin                   : true\n\
         Hint                    : internal\n\
         DisableX509SvidPrefetch : true\n\
         JwtSvidIncludeJti       : true\n\
         \n"
    );
}

#[tokio::test]
async fn entry_json_has_spires_names() {
    let shell = Shell::new().await;
    let out = shell.run(&create(&["-output", "json"])).await.ok();
    assert_eq!(
        out,
        "{\"results\":[{\"entry\":{\"admin\":false,\"created_at\":\"1700000000\",\"dns_names\":[],\
         \"downstream\":false,\"expires_at\":\"0\",\"federates_with\":[],\"hint\":\"\",\"id\":\"e1\",\
         \"jwt_svid_ttl\":0,\"parent_id\":{\"path\":\"/spire/agent/tpm_quote/a\",\"trust_domain\":\"example.org\"},\
         \"revision_number\":\"0\",\"selectors\":[{\"type\":\"unix\",\"value\":\"gid:1000\"},{\"type\":\"unix\",\
         \"value\":\"uid:1000\"}],\"spiffe_id\":{\"path\":\"/db\",\"trust_domain\":\"example.org\"},\
         \"store_svid\":false,\"x509_svid_ttl\":0},\"status\":{\"code\":0,\"message\":\"OK\"}}]}\n"
    );
    let out = shell.run(&["entry", "count", "-output", "json"]).await.ok();
    assert_eq!(out, "{\"count\":1}\n");
    let out = shell.run(&["entry", "delete", "-entryID", "e1", "-output", "json"]).await.ok();
    assert_eq!(out, "{\"results\":[{\"id\":\"e1\",\"status\":{\"code\":0,\"message\":\"OK\"}}]}\n");
}

#[tokio::test]
async fn an_entry_that_is_refused_is_shown_with_the_reason() {
    let shell = Shell::new().await;
    shell.run(&create(&[])).await.ok();
    let ran = shell.run(&create(&[])).await;
    assert_eq!(ran.out, "");
    assert!(
        ran.err.starts_with(
            "Failed to create the following entry (code: AlreadyExists, msg: \"similar entry already exists\"):\n\
             Entry ID                : e1\n"
        ),
        "{}",
        ran.err
    );
    assert_eq!(ran.failed(), "failed to create one or more entries");
    let ran = shell.run(&create(&["-output", "json"])).await;
    assert!(ran.out.contains("\"code\":6"));
    assert_eq!(ran.failed(), "failed to create one or more entries");
}

#[tokio::test]
async fn flags_that_do_not_fit_are_told_as_spire_tells_them() {
    let shell = Shell::new().await;
    let base = ["entry", "create"];
    for (flags, text) in [
        (vec![], "at least one selector is required"),
        (vec!["-selector", "a:b"], "a parent ID is required if the node flag is not set"),
        (vec!["-selector", "a:b", "-parentID", A], "a SPIFFE ID is required"),
        (
            vec!["-selector", "ab", "-parentID", A, "-spiffeID", "spiffe://example.org/x"],
            "selector \"ab\" must be formatted as type:value",
        ),
        (
            vec![
                "-selector",
                "a:b",
                "-parentID",
                A,
                "-spiffeID",
                "spiffe://example.org/x",
                "-x509SVIDTTL",
                "-1",
            ],
            "a positive x509-SVID TTL is required",
        ),
        (
            vec![
                "-selector",
                "a:b",
                "-node",
                "-federatesWith",
                "x.test",
                "-spiffeID",
                "spiffe://example.org/x",
            ],
            "node entries can not federate",
        ),
    ] {
        let arguments: Vec<_> = base.iter().copied().chain(flags).collect();
        assert_eq!(shell.run(&arguments).await.failed(), text);
    }
    for (arguments, text) in [
        (vec!["entry", "update", "-selector", "a:b"], "entry ID is required"),
        (vec!["entry", "delete"], "an entry ID is required"),
        (
            vec!["entry", "show", "-entryID", "x", "-spiffeID", A],
            "the -entryID flag can't be combined with others",
        ),
        (
            vec!["entry", "show", "-selector", "a:b", "-matchSelectorsOn", "like"],
            "match behavior \"like\" unknown",
        ),
        (vec!["agent", "show"], "a SPIFFE ID is required"),
        (vec!["bundle", "delete"], "id is required"),
        (vec!["bundle", "set"], "id flag is required"),
    ] {
        assert_eq!(shell.run(&arguments).await.failed(), text);
    }
}

#[tokio::test]
async fn a_node_entry_has_the_server_as_parent() {
    let shell = Shell::new().await;
    let arguments = [
        "entry",
        "create",
        "-node",
        "-spiffeID",
        "spiffe://example.org/rack",
        "-selector",
        "tpm_quote:vendor:x",
    ];
    let out = shell.run(&arguments).await.ok();
    assert!(out.contains("Parent ID               : spiffe://example.org/spire/server\n"), "{out}");
}

#[tokio::test]
async fn entry_show_and_count_filter() {
    let shell = Shell::new().await;
    shell.run(&create(&[])).await.ok();
    let second = [
        "entry",
        "create",
        "-parentID",
        A,
        "-spiffeID",
        "spiffe://example.org/a",
        "-downstream",
        "-selector",
        "unix:uid:0",
    ];
    shell.run(&second).await.ok();
    let out = shell.run(&["entry", "show"]).await.ok();
    assert!(out.starts_with("Found 2 entries\nEntry ID                : "), "{out}");
    let at = |text: &str| out.find(text).unwrap();
    assert!(at("example.org/a\n") < at("example.org/db\n"), "in order of identities");
    for (flags, count) in [
        (vec!["-selector", "unix:uid:1000"], 1),
        (vec!["-selector", "unix:uid:1000", "-matchSelectorsOn", "exact"], 0),
        (vec!["-selector", "unix:uid:1000", "-selector", "unix:uid:0", "-matchSelectorsOn", "any"], 2),
        (vec!["-downstream"], 1),
        (vec!["-downstream=false"], 2),
        (vec!["-parentID", A], 2),
        (vec!["-spiffeID", "spiffe://example.org/db"], 1),
        (vec!["-hint", "none"], 0),
    ] {
        let arguments: Vec<_> = ["entry", "count"].into_iter().chain(flags).collect();
        let noun = if count == 1 { "entry" } else { "entries" };
        assert_eq!(
            shell.run(&arguments).await.ok(),
            format!("{count} registration {noun}\n"),
            "{arguments:?}"
        );
    }
    let out = shell.run(&["entry", "show", "-entryID", "e1"]).await.ok();
    assert!(out.starts_with("Found 1 entry\nEntry ID                : e1\n"), "{out}");
    let error = shell.run(&["entry", "show", "-entryID", "none"]).await.failed();
    assert_eq!(error, "error fetching entry ID none: rpc error: code = NotFound desc = entry not found");
}

#[tokio::test]
async fn entry_update_replaces_and_keeps_the_other_attribute() {
    let shell = Shell::new().await;
    shell.run(&create(&["-disableX509SVIDPrefetch"])).await.ok();
    let arguments = [
        "entry",
        "update",
        "-entryID",
        "e1",
        "-parentID",
        A,
        "-spiffeID",
        "spiffe://example.org/db2",
        "-selector",
        "unix:uid:7",
        "-jwtSVIDIncludeJTI",
    ];
    let out = shell.run(&arguments).await.ok();
    assert_eq!(
        out,
        "Entry ID                : e1\n\
         SPIFFE ID               : spiffe://example.org/db2\n\
         Parent ID               : spiffe://example.org/spire/agent/tpm_quote/a\n\
         Revision                : 1\n\
         X509-SVID TTL           : default\n\
         JWT-SVID TTL            : default\n\
         Selector                : unix:uid:7\n\
         DisableX509SvidPrefetch : true\n\
         JwtSvidIncludeJti       : true\n\
         \n"
    );
}

#[tokio::test]
async fn entries_come_from_files() {
    let shell = Shell::new().await;
    let data = shell.socket.with_file_name("entries.json");
    let path = data.display().to_string();
    let write = |text: &str| std::fs::write(&data, text).unwrap();
    write(&format!(
        r#"{{"entries":[{{"entry_id":"f1","spiffe_id":"spiffe://example.org/f","parent_id":"{A}",
            "selectors":[{{"type":"unix","value":"uid:1"}}],"x509_svid_ttl":60,"entryExpiry":4102444800}},
            {{"spiffe_id":"spiffe://example.org/spire/agent/x","parent_id":"{A}",
            "selectors":[{{"type":"unix","value":"uid:1"}}]}}]}}"#
    ));
    let ran = shell.run(&["entry", "create", "-data", &path]).await;
    assert!(ran.out.contains("Entry ID                : f1\n") && ran.out.contains(": 60\n"), "{}", ran.out);
    assert!(ran.err.contains("code: InvalidArgument") && ran.err.contains("(none)"), "{}", ran.err);
    assert_eq!(ran.failed(), "failed to create one or more entries");
    for bad in [r#"{"entries":[{"spiffe_id":"spiffe://example.org/f","selector":[]}]}"#, "{}", "[", ""] {
        write(bad);
        let error = shell.run(&["entry", "create", "-data", &path]).await.failed();
        assert!(error.starts_with(&format!("parsing {path}: ")), "{error}");
    }
    write(r#"{"ids":["f1","f2"]}"#);
    let ran = shell.run(&["entry", "delete", "-file", &path]).await;
    assert_eq!(
        ran.out,
        "Deleted entry with ID: f1\n\n\n\n\nDeleted 1 entries successfully, but failed to delete 1 entries\n"
    );
    assert_eq!(
        ran.err,
        "Failed to delete entry with ID f2 (code: NotFound, msg: \"entry not found\"), item 2\n\
         2 items: 1 deleted, 1 not found, 0 failed\n"
    );
    assert_eq!(ran.failed(), "failed to delete one or more entries");
    let error = shell.run(&["entry", "create", "-data", "/no/such/file"]).await.failed();
    assert!(error.starts_with("reading /no/such/file: "), "{error}");
}

#[tokio::test]
async fn agents_are_listed_and_shown() {
    let shell = Shell::new().await;
    assert_eq!(shell.run(&["agent", "list"]).await.ok(), "No attested agents found\n");
    shell.site.node("/spire/agent/tpm_quote/a", "tpm_quote", "42", &["tpm_quote:vendor:x"]).await;
    shell.site.store.set_agent_version(&id("/spire/agent/tpm_quote/a"), "0.1.0").await.unwrap();
    let block = "SPIFFE ID         : spiffe://example.org/spire/agent/tpm_quote/a\n\
         Attestation type  : tpm_quote\n\
         Expiration time   : 2023-11-14 23:13:20 +0000 UTC\n\
         Serial number     : 42\n\
         Can re-attest     : true\n\
         Agent version     : 0.1.0\n\
         \n";
    assert_eq!(shell.run(&["agent", "list"]).await.ok(), format!("Found 1 attested agent:\n\n{block}"));
    assert_eq!(
        shell.run(&["agent", "show", "-spiffeID", A]).await.ok(),
        format!(
            "Found an attested agent given its SPIFFE ID\n\n{block}Selectors         : tpm_quote:vendor:x\n"
        )
    );
    assert_eq!(
        shell.run(&["agent", "show", "-spiffeID", A, "-output", "json"]).await.ok(),
        "{\"agent_version\":\"0.1.0\",\"attestation_type\":\"tpm_quote\",\"banned\":false,\"can_reattest\":true,\
         \"id\":{\"path\":\"/spire/agent/tpm_quote/a\",\"trust_domain\":\"example.org\"},\
         \"selectors\":[{\"type\":\"tpm_quote\",\"value\":\"vendor:x\"}],\"x509svid_expires_at\":\"1700003600\",\
         \"x509svid_serial_number\":\"42\"}\n"
    );
    let json = shell.run(&["agent", "list", "-output", "json"]).await.ok();
    assert!(
        json.starts_with("{\"agents\":[{\"agent_version\":") && json.ends_with("\"next_page_token\":\"\"}\n")
    );
    assert_eq!(shell.run(&["agent", "count", "-banned", "true"]).await.ok(), "0 attested agents\n");
    assert_eq!(shell.run(&["agent", "count", "-canReattest", "true"]).await.ok(), "1 attested agent\n");
    let before = ["agent", "count", "-expiresBefore", "2023-11-14 23:13:21 +0000 +00"];
    assert_eq!(shell.run(&before).await.ok(), "1 attested agent\n");
    let error = shell.run(&["agent", "count", "-expiresBefore", "soon"]).await.failed();
    assert!(error.starts_with("date is not valid: "), "{error}");
}

#[tokio::test]
async fn agents_are_banned_and_evicted() {
    let shell = Shell::new().await;
    shell.site.node("/spire/agent/tpm_quote/a", "tpm_quote", "42", &[]).await;
    assert_eq!(shell.run(&["agent", "ban", "-spiffeID", A]).await.ok(), "Agent banned successfully\n");
    let out = shell.run(&["agent", "list"]).await.ok();
    assert!(out.contains("Banned            : true\n") && !out.contains("Serial number"), "{out}");
    assert_eq!(shell.run(&["agent", "evict", "-spiffeID", A]).await.ok(), "Agent evicted successfully\n");
    for verb in ["evict", "ban", "show"] {
        let error = shell.run(&["agent", verb, "-spiffeID", A]).await.failed();
        assert_eq!(error, "rpc error: code = NotFound desc = agent not found");
    }
    shell.site.node("/spire/agent/tpm_quote/a", "tpm_quote", "42", &[]).await;
    assert_eq!(shell.run(&["agent", "ban", "-spiffeID", A, "-output", "json"]).await.ok(), "{}\n");
}

#[tokio::test]
async fn purge_removes_only_what_is_long_expired_and_can_come_back() {
    let shell = Shell::new().await;
    shell.site.node("/spire/agent/tpm_quote/a", "tpm_quote", "1", &[]).await;
    shell.site.node("/spire/agent/join_token/t", "join_token", "2", &[]).await;
    let ten_years = ["agent", "purge", "-expiredFor", "876000h"];
    assert_eq!(shell.run(&ten_years).await.ok(), "No agents to purge.\n");
    let out = shell.run(&["agent", "purge", "-expiredFor", "1h", "-dryRun"]).await.ok();
    assert_eq!(
        out,
        format!("Found 1 expired agent\n\n\nAgents that can be purged:\nSPIFFE ID         : {A}\n")
    );
    let out = shell.run(&["agent", "purge", "-expiredFor", "1h"]).await.ok();
    assert_eq!(out, format!("Found 1 expired agent\n\nAgents purged:\nSPIFFE ID         : {A}\n"));
    assert_eq!(shell.run(&["agent", "count"]).await.ok(), "1 attested agent\n");
    let out = shell.run(&["agent", "purge", "-output", "json"]).await.ok();
    assert_eq!(out, "{\"expired_agents\":[]}\n");
}

#[tokio::test]
async fn tokens() {
    let shell = Shell::new().await;
    let out = shell.run(&["token", "generate"]).await.ok();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 2);
    let token = lines[0].strip_prefix("Token: ").unwrap();
    assert_eq!(token.len(), 36);
    assert_eq!(lines[1], "Warning: Missing SPIFFE ID.");
    let out =
        shell.run(&["token", "generate", "-ttl", "60", "-spiffeID", "spiffe://example.org/x"]).await.ok();
    assert_eq!(out.lines().count(), 1);
    let out = shell.run(&["token", "generate", "-output", "json"]).await.ok();
    assert!(out.starts_with("{\"expires_at\":\"1700000600\",\"value\":\""), "{out}");
    let error = shell.run(&["token", "generate", "-ttl", "0"]).await.failed();
    assert_eq!(error, "rpc error: code = InvalidArgument desc = ttl is required, you must provide one");
}

#[tokio::test]
async fn bundles() {
    let shell = Shell::new().await;
    let der = crate::api::testing::authority_der();
    let pem = hardroot_identity::pem_encode([&der]);
    let file = shell.socket.with_file_name("bundle.pem");
    std::fs::write(&file, &pem).unwrap();
    let path = file.display().to_string();
    assert_eq!(shell.run(&["bundle", "list"]).await.ok(), "");
    let arguments = ["bundle", "set", "-id", "spiffe://other.test", "-path", &path];
    assert_eq!(shell.run(&arguments).await.ok(), "bundle set.\n");
    let frame = "*".repeat(40);
    assert_eq!(shell.run(&["bundle", "list"]).await.ok(), format!("{frame}\n* other.test\n{frame}\n{pem}"));
    assert_eq!(shell.run(&["bundle", "list", "-id", "other.test"]).await.ok(), pem);
    let document = shell.run(&["bundle", "list", "-id", "other.test", "-format", "spiffe"]).await.ok();
    assert!(document.starts_with("{\n    \"keys\": [\n        {\n"), "{document}");
    std::fs::write(&file, &document).unwrap();
    let arguments = ["bundle", "set", "-id", "third.test", "-path", &path, "-format", "SPIFFE"];
    assert_eq!(shell.run(&arguments).await.ok(), "bundle set.\n");
    assert_eq!(shell.run(&["bundle", "list", "-id", "third.test"]).await.ok(), pem);
    assert_eq!(shell.run(&["bundle", "count"]).await.ok(), "2 bundles\n");
    assert_eq!(shell.run(&["bundle", "count", "-output", "json"]).await.ok(), "{\"count\":2}\n");
    assert_eq!(shell.run(&["bundle", "delete", "-id", "third.test"]).await.ok(), "bundle deleted.\n");
    let error = shell.run(&["bundle", "delete", "-id", "third.test"]).await.failed();
    assert_eq!(error, "failed to delete federated bundle \"third.test\": bundle not found");
    let error =
        shell.run(&["bundle", "set", "-id", "example.org", "-path", &path, "-format", "spiffe"]).await;
    assert_eq!(
        error.failed(),
        "failed to set federated bundle: setting a federated bundle for the server's own trust domain is not allowed"
    );
    std::fs::write(&file, "nothing").unwrap();
    let error = shell.run(&["bundle", "set", "-id", "x.test", "-path", &path]).await.failed();
    assert!(error.starts_with("unable to parse bundle data: "), "{error}");
    let error = shell.run(&["bundle", "show"]).await.failed();
    assert_eq!(error, "rpc error: code = NotFound desc = bundle not found");
    let stored = hardroot_api::spire::common::Bundle {
        trust_domain_id: "spiffe://example.org".into(),
        root_cas: vec![hardroot_api::spire::common::Certificate { der_bytes: der, tainted_key: false }],
        ..Default::default()
    };
    use crate::datastore::Bundles;
    let data = prost::Message::encode_to_vec(&stored);
    shell.site.store.put_bundle(&crate::api::testing::own(), &data, None).await.unwrap();
    assert_eq!(shell.run(&["bundle", "show"]).await.ok(), pem);
    let json: serde_json::Value =
        serde_json::from_str(&shell.run(&["bundle", "show", "-output", "json"]).await.ok()).unwrap();
    assert_eq!(json["trust_domain"], "example.org");
    assert_eq!(json["x509_authorities"][0]["tainted"], false);
    assert_eq!(json["sequence_number"], "0");
}

#[tokio::test]
async fn tpms_are_enrolled_by_hash_certificate_or_key() {
    let shell = Shell::new().await;
    assert_eq!(shell.run(&["tpm", "list"]).await.ok(), "No enrolled TPMs found\n");
    let hash = "ab".repeat(32);
    let enroll = ["tpm", "enroll", "-ekHash", &hash, "-note", "rack 4", "-agentPath", "/gateways/g1"];
    let block = format!(
        "EK hash           : {hash}\n\
         Agent path        : /spire/agent/gateways/g1\n\
         Note              : rack 4\n\
         Enrolled at       : 2023-11-14 22:13:20 +0000 UTC\n\
         \n"
    );
    assert_eq!(shell.run(&enroll).await.ok(), format!("TPM enrolled\n\n{block}"));
    assert_eq!(shell.run(&["tpm", "list"]).await.ok(), format!("Found 1 enrolled TPM:\n\n{block}"));
    assert_eq!(shell.run(&["tpm", "show", "-ekHash", &hash]).await.ok(), block);
    assert_eq!(
        shell.run(&["tpm", "list", "-output", "json"]).await.ok(),
        format!(
            "{{\"enrolments\":[{{\"agent_path\":\"/gateways/g1\",\"created_at\":\"1700000000\",\
             \"ek_hash\":\"{hash}\",\"note\":\"rack 4\"}}]}}\n"
        )
    );
    let error = shell.run(&enroll).await.failed();
    assert!(error.starts_with("rpc error: code = AlreadyExists desc = failed to enrol TPM: "), "{error}");
    // The same key by its certificate and by itself, as PEM and DER.
    let certificate = crate::api::testing::authority_der();
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let spki = parsed.tbs_certificate.subject_pki.raw.to_vec();
    let expected = crate::audit::sha256_hex(&spki);
    let file = shell.socket.with_file_name("ek");
    let path = file.display().to_string();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &spki);
    let key_pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
    let mut padded = certificate.clone();
    padded.extend([0xff; 16]);
    for (flag, bytes) in [
        ("-ekCert", certificate.clone()),
        ("-ekCert", padded),
        ("-ekCert", hardroot_identity::pem_encode([&certificate]).into_bytes()),
        ("-ekPub", spki),
        ("-ekPub", key_pem.clone().into_bytes()),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let out = shell.run(&["tpm", "enroll", flag, &path, "-output", "json"]).await.ok();
        assert!(out.contains(&expected), "{flag}: {out}");
        assert_eq!(shell.run(&["tpm", "remove", flag, &path]).await.ok(), "TPM enrolment removed\n");
    }
    std::fs::write(&file, key_pem).unwrap();
    let error = shell.run(&["tpm", "enroll", "-ekCert", &path]).await.failed();
    assert_eq!(error, format!("parsing {path}: it holds a PUBLIC KEY, not a CERTIFICATE"));
    std::fs::write(&file, [0x30, 0x03, 1, 2]).unwrap();
    for flag in ["-ekCert", "-ekPub"] {
        assert!(shell.run(&["tpm", "enroll", flag, &path]).await.failed().starts_with("parsing "));
    }
    let both = ["hardroot-server", "tpm", "enroll", "-ekHash", "x", "-ekPub", "y"];
    assert!(parse::<Cli>(both.map(OsString::from)).is_err());
}

#[tokio::test]
async fn health() {
    let shell = Shell::new().await;
    assert_eq!(shell.run(&["healthcheck"]).await.ok(), "Server is healthy.\n");
    assert_eq!(
        shell.run(&["healthcheck", "-verbose", "-shallow"]).await.ok(),
        "Checking server health...\nServer is healthy.\n"
    );
    let site = Site::new().await;
    let socket = site.serve(false).await.display().to_string();
    let ran = run(&["hardroot-server", "healthcheck", "-socketPath", &socket]).await;
    assert_eq!(ran.failed(), "server is unhealthy: server returned status \"NOT_SERVING\"");
    let ran = run(&["hardroot-server", "healthcheck", "-socketPath", "/no/such.sock"]).await;
    assert_eq!(ran.failed(), "server is unhealthy: unable to determine health");
}

#[tokio::test]
async fn no_server_is_told_with_the_socket() {
    let ran = run(&["hardroot-server", "entry", "show", "-socketPath", "/no/such.sock"]).await;
    let error = ran.failed();
    assert!(error.starts_with("cannot reach the server at /no/such.sock: "), "{error}");
    assert!(error.contains("-socketPath"), "{error}");
}

#[tokio::test]
async fn a_value_cannot_add_a_line() {
    let shell = Shell::new().await;
    shell.run(&create(&["-hint", "a\nAdmin                   : true"])).await.ok();
    let out = shell.run(&["entry", "show"]).await.ok();
    assert!(out.contains("Hint                    : a\\nAdmin"), "{out}");
    assert_eq!(out.matches("\nAdmin").count(), 0);
    let entry = shell.site.store.entry("e1").await.unwrap().unwrap();
    assert_eq!(
        entry.created_at,
        i64::try_from(at(0).elapsed().unwrap().as_secs().min(1_700_000_000)).unwrap()
    );
}

fn mode_of(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The key of a PKCS#8 PEM text, as it can be loaded.
fn key_of(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap();
    let signing = &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let key = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(signing, &der).unwrap();
    let spki: aws_lc_rs::encoding::PublicKeyX509Der<'_> =
        aws_lc_rs::encoding::AsDer::as_der(aws_lc_rs::signature::KeyPair::public_key(&key)).unwrap();
    spki.as_ref().to_vec()
}

#[tokio::test]
async fn x509_mint_prints_or_writes_svid_key_and_bundle() {
    let issuing = Issuing::new().await;
    let socket = issuing.serve().await;
    let mint = [
        "x509",
        "mint",
        "-spiffeID",
        "spiffe://example.org/job",
        "-dns",
        "a.example.org",
        "-dns=b.example.org",
    ];
    let out = run_at(&socket, &mint).await.ok();
    let (svid, rest) = out.strip_prefix("X509-SVID:\n").unwrap().split_once("\nPrivate key:\n").unwrap();
    let (key, roots) = rest.split_once("\nRoot CAs:\n").unwrap();
    let roots = roots.strip_suffix("\n").unwrap();
    let chain = hardroot_identity::pem_decode(svid.as_bytes()).unwrap();
    let parsed = hardroot_identity::X509Svid::parse(chain).unwrap();
    assert_eq!(parsed.id.path(), "/job");
    assert_eq!(parsed.dns_names, ["a.example.org", "b.example.org"]);
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n") && key.ends_with("-----END PRIVATE KEY-----\n"));
    assert_eq!(key_of(key), parsed.spki_der);
    assert_eq!(run_at(&socket, &["bundle", "show"]).await.ok(), roots);

    let json = run_at(&socket, &[&mint[..], &["-output", "json"]].concat()).await.ok();
    assert!(json.starts_with("{\"x509_svid\":[\"MI"), "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>().len(), 3);
    assert!(json["private_key"].is_string() && json["root_cas"].as_array().unwrap().len() == 1);

    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("key.pem"), "an old key that everybody may read").unwrap();
    let path = directory.path().display().to_string();
    // How long the answer took does not matter here.
    let out = run_at(&socket, &[&mint[..], &["-write", &path, "-ttl", "1m"]].concat()).await.out;
    let wanted = format!(
        "X509-SVID written to {path}/svid.pem\nPrivate key written to {path}/key.pem\nRoot CAs written to {path}/bundle.pem\n"
    );
    assert_eq!(out, wanted);
    let modes = ["svid.pem", "key.pem", "bundle.pem"].map(|name| mode_of(&at(name)));
    assert_eq!(modes, [0o644, 0o600, 0o644]);
    let chain = hardroot_identity::pem_decode(&std::fs::read(at("svid.pem")).unwrap()).unwrap();
    let written = hardroot_identity::X509Svid::parse(chain).unwrap();
    assert_eq!(key_of(&std::fs::read_to_string(at("key.pem")).unwrap()), written.spki_der);
    let life = written.not_after.duration_since(written.not_before).unwrap();
    assert_eq!(life.as_secs(), 70);
}

#[tokio::test]
async fn jwt_mint_prints_or_writes_the_token() {
    let issuing = Issuing::new().await;
    let socket = issuing.serve().await;
    let mint =
        ["jwt", "mint", "-spiffeID", "spiffe://example.org/job", "-audience", "db", "-audience", "cache"];
    let out = run_at(&socket, &mint).await.ok();
    let token = out.strip_suffix("\n").unwrap();
    assert_eq!(token.split('.').count(), 3);
    let json = run_at(&socket, &[&mint[..], &["-ttl", "90s", "-output", "json"]].concat()).await.out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let svid = &json["svid"];
    let seconds = |name: &str| svid[name].as_str().unwrap().parse::<i64>().unwrap();
    assert_eq!(seconds("expires_at") - seconds("issued_at"), 90);
    assert_eq!(svid["id"], serde_json::json!({"trust_domain": "example.org", "path": "/job"}));
    assert_eq!((svid["hint"].as_str(), svid.as_object().unwrap().len()), (Some(""), 5));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token").display().to_string();
    let out = run_at(&socket, &[&mint[..], &["-write", &path]].concat()).await.ok();
    assert_eq!(out, format!("JWT-SVID written to {path}\n"));
    assert_eq!(mode_of(path.as_ref()), 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap().split('.').count(), 3);
}

#[tokio::test]
async fn what_cannot_be_minted_is_told_as_spire_tells_it() {
    let issuing = Issuing::new().await;
    let socket = issuing.serve().await;
    let id = "spiffe://example.org/job";
    let reserved = "spiffe://example.org/spire/x";
    for (arguments, text) in [
        (&["x509", "mint"][..], "spiffeID must be specified"),
        (&["x509", "mint", "-spiffeID", "example.org/job"], "scheme is missing or invalid"),
        (
            &["x509", "mint", "-spiffeID", reserved],
            "unable to mint SVID: rpc error: code = InvalidArgument desc = CSR URI SAN is invalid: \"spiffe://example.org/spire/x\" is not a workload in trust domain \"example.org\"; path is in the reserved namespace",
        ),
        (
            &["x509", "mint", "-spiffeID", id, "-ttl", "600000h"],
            "invalid value for TTL: 2160000000 seconds are too many",
        ),
        (&["jwt", "mint", "-audience", "db"], "spiffeID must be specified"),
        (&["jwt", "mint", "-spiffeID", "example.org/job"], "at least one audience must be specified"),
        (&["jwt", "mint", "-spiffeID", "example.org/job", "-audience", "db"], "scheme is missing or invalid"),
        (
            &["wit", "mint", "-spiffeID", id],
            "unable to mint SVID: rpc error: code = Unimplemented desc = WIT functionality is disabled",
        ),
    ] {
        assert_eq!(run_at(&socket, arguments).await.failed(), text);
    }
    let error =
        run_at(&socket, &["jwt", "mint", "-spiffeID", id, "-audience", "db", "-write", "/proc/none/x"]).await;
    assert!(error.failed().starts_with("unable to write token: "));
}

#[tokio::test]
async fn a_lifetime_that_was_cut_is_told() {
    let issuing = Issuing::new().await;
    let socket = issuing.serve().await;
    let id = "spiffe://example.org/job";
    for (arguments, what) in [
        (&["x509", "mint", "-spiffeID", id, "-ttl", "48h"][..], "X509-SVID"),
        (&["jwt", "mint", "-spiffeID", id, "-audience", "db", "-ttl", "48h"], "JWT-SVID"),
    ] {
        let ran = run_at(&socket, arguments).await;
        assert_eq!(ran.outcome, Ok(()));
        let prefix = format!("{what} lifetime was capped shorter than specified ttl; expires \"20");
        assert!(ran.err.starts_with(&prefix) && ran.err.ends_with("Z\"\n"), "{}", ran.err);
    }
}

#[tokio::test]
async fn many_entries_come_in_batches_and_failures_are_told_by_item() {
    let shell = Shell::new().await;
    let data = shell.socket.with_file_name("many.json");
    let path = data.display().to_string();
    let entry = |number: usize| {
        let domain = if number == 700 { "other.test" } else { "example.org" };
        format!(
            r#"{{"entry_id":"m{number}","spiffe_id":"spiffe://{domain}/m{number}","parent_id":"{A}",
            "selectors":[{{"type":"unix","value":"uid:1"}}]}}"#
        )
    };
    let list = |count| (1..=count).map(entry).collect::<Vec<_>>().join(",\n");
    // A mistake at the end: nothing is created.
    std::fs::write(&data, format!("{{\"entries\":[{},{{\"hints\":1}}]}}", list(600))).unwrap();
    let error = shell.run(&["entry", "create", "-data", &path]).await.failed();
    assert!(
        error.contains("item 601: unknown field `hints`") && error.contains(" at line 1200 column "),
        "{error}"
    );
    assert_eq!(shell.run(&["entry", "count"]).await.ok(), "0 registration entries\n");
    std::fs::write(&data, format!("{{\"entries\":[{}]}}", list(1203))).unwrap();
    let ran = shell.run(&["entry", "create", "-data", &path]).await;
    assert_eq!(ran.out.matches("Entry ID                : m").count(), 1202);
    assert!(
        ran.err.contains("Item                    : 700\nEntry ID                : m700\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.ends_with("1203 items: 1202 created, 1 failed\n"), "{}", ran.err);
    assert_eq!(ran.failed(), "failed to create one or more entries");
    // Again: what exists is told, or not.
    let ran = shell.run(&["entry", "create", "-data", &path, "-output", "json"]).await;
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let results = answer["results"].as_array().unwrap();
    assert_eq!((results.len(), results[699]["status"]["code"].as_i64()), (1203, Some(3)));
    assert_eq!(results.iter().filter(|result| result["status"]["code"] == 6).count(), 1202);
    assert!(ran.err.ends_with("1203 items: 0 created, 1202 exist already, 1 failed\n"));
    std::fs::write(&data, format!("{{\"entries\":[{}]}}", list(699))).unwrap();
    let again = ["entry", "create", "-data", &path, "-ignoreExisting", "-quiet"];
    assert_eq!(shell.run(&again).await.ok(), "");
    // What is shown can be read back.
    let shown = shell.run(&["entry", "show", "-output", "json"]).await.ok();
    std::fs::write(&data, shown).unwrap();
    let ran = shell.run(&["entry", "update", "-data", &path, "-quiet"]).await;
    assert_eq!(
        (ran.ok(), shell.site.store.entry("m1").await.unwrap().unwrap().revision_number),
        (String::new(), 1)
    );
    let ids: Vec<_> = (1..=1203).map(|number| format!("\"m{number}\"")).collect();
    std::fs::write(&data, format!("{{\"ids\":[{}]}}", ids.join(","))).unwrap();
    let ran = shell.run(&["entry", "delete", "-file", &path, "-quiet", "-ignoreMissing"]).await;
    assert_eq!(ran.ok(), "");
    assert_eq!(shell.run(&["entry", "count"]).await.ok(), "0 registration entries\n");
}
