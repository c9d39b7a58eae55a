//! What every command prints, in both outputs, held by text files in server/tests/golden. `make golden` writes
//! them anew; the difference is then read like any other change.
//!
//! In them `$` begins a command, `!` a line of standard error, and `[1]` is the exit code where it is not 0.

use std::path::{Path, PathBuf};

use clap::Command as Clap;

use super::*;
use crate::api::testing::{Issuing, Site, id, own};
use crate::datastore::{Bundles as _, Nodes as _};

/// Set to write the files instead of comparing with them.
const WRITE: &str = "HARDROOT_WRITE_GOLDEN";
const AGENT: &str = "spiffe://example.org/spire/agent/tpm_quote/a";

/// A server, and everything that was asked of it.
struct Session {
    site: Site,
    socket: PathBuf,
    text: String,
}

impl Session {
    async fn new() -> Self {
        let site = Site::new().await;
        let socket = site.serve(true).await;
        Self { site, socket, text: String::new() }
    }

    /// A file with this content; `{name}` in a command stands for its path.
    fn file(&mut self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
        for line in content.lines() {
            self.text.push_str(&format!("{name}: {line}\n"));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.socket.with_file_name(name)
    }

    /// Runs a command line without quotes; `~` stands for a space within a value.
    async fn run(&mut self, line: &str) {
        let directory = self.socket.parent().unwrap().display().to_string();
        let mut arguments = vec!["hardroot-server".to_owned()];
        arguments.extend(line.split(' ').map(|part| match part.strip_prefix('{') {
            Some(name) => self.path(name.strip_suffix('}').unwrap()).display().to_string(),
            None => part.replace('~', " "),
        }));
        if !line.contains("-socketPath")
            && !line.ends_with("-spiffeID")
            && (line.contains(' ') || line == "healthcheck")
        {
            arguments.extend(["-socketPath".to_owned(), self.socket.display().to_string()]);
        }
        let mut screen = Screen::default();
        let (outcome, code) = match parse::<Cli>(arguments.iter().map(OsString::from)) {
            Err(refused) => (Err(refused.to_string().trim_end().to_owned()), refused.code()),
            Ok(Cli { command: Top::Client(command) }) => match command.execute(&mut screen).await {
                Ok(()) => (Ok(()), 0),
                Err(error) => (Err(format!("Error: {error}")), 1),
            },
            Ok(_) => panic!("{line} talks to no server"),
        };
        self.text.push_str(&format!("$ {line}\n{}", screen.out));
        if !screen.out.is_empty() && !screen.out.ends_with('\n') {
            self.text.push('\n');
        }
        let error = outcome.err().unwrap_or_default();
        for line in screen.err.lines().chain(error.lines()) {
            self.text.push_str(format!("! {line}").trim_end());
            self.text.push('\n');
        }
        if code != 0 {
            self.text.push_str(&format!("[{code}]\n"));
        }
        self.text = self.text.replace(&directory, "DIR");
    }

    /// Runs a command in both outputs.
    async fn both(&mut self, line: &str) {
        self.run(line).await;
        self.run(&format!("{line} -output json")).await;
    }

    /// Compares with the file, or writes it.
    fn end(self, name: &str) {
        compare(name, &without_uuids(&self.text));
    }
}

/// Ids that the server makes up, as `UUID`.
fn without_uuids(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((at, word)) = rest.char_indices().find_map(|(at, _)| {
        rest.get(at..at + 36).filter(|word| uuid::Uuid::try_parse(word).is_ok()).map(|word| (at, word))
    }) {
        out.push_str(&rest[..at]);
        out.push_str("UUID");
        rest = &rest[at + word.len()..];
    }
    out + rest
}

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    let line = held.lines().zip(text.lines()).position(|(held, new)| held != new);
    let line = line.unwrap_or_else(|| held.lines().count().min(text.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_owned();
    assert!(
        held == text,
        "{} line {}:\n  held: {}\n  now:  {}\nIf that is meant, `make golden` writes the files anew.",
        path.display(),
        line + 1,
        at(&held),
        at(text)
    );
}

fn entry(name: &str, more: &str) -> String {
    format!(
        "entry create -entryID {name} -parentID {AGENT} -spiffeID spiffe://example.org/{name} -selector unix:uid:1000{more}"
    )
}

/// A fixed authority, so that what is printed stays the same.
const AUTHORITY: &str = include_str!("../../tests/golden/authority.pem");

/// Every command with its flags and their defaults.
#[test]
fn the_surface() {
    fn walk(path: &str, command: &Clap, text: &mut String) {
        let path = format!("{path} {}", command.get_name());
        let path = path.trim_start();
        if command.get_subcommands().next().is_none() {
            text.push_str(&format!("{path}\n"));
        }
        for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
            let name = flag.get_long().map_or_else(|| flag.get_id().to_string(), |long| format!("-{long}"));
            let value =
                flag.get_value_names().filter(|_| flag.get_num_args().is_none_or(|n| n.min_values() > 0));
            let value =
                value.and_then(|names| names.first()).map(|name| format!(" {name}")).unwrap_or_default();
            let many =
                if matches!(flag.get_action(), clap::ArgAction::Append) { " (repeatable)" } else { "" };
            let default: Vec<_> = flag.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
            let default =
                if default.is_empty() { String::new() } else { format!(" [{}]", default.join(" ")) };
            text.push_str(&format!("  {name}{value}{many}{default}\n"));
        }
        command.get_subcommands().for_each(|below| walk(path, below, text));
    }
    let mut text = String::new();
    walk("", &definition(), &mut text);
    compare("surface.txt", &text);
}

#[tokio::test]
async fn mistakes() {
    let mut session = Session::new().await;
    for line in [
        "entry",
        "entry nope",
        "nope",
        "entry show -nope x",
        "entry show -spiffeID",
        "entry show extra",
        "entry show -downstream true",
        "entry show -output xml",
        "entry create -x509SVIDTTL soon",
        "bundle show -format der",
        "agent purge -expiredFor soon",
        "entry show -socketPath /no/such.sock",
        "healthcheck -verbose -socketPath /no/such.sock",
        "entry show -instance a",
    ] {
        session.run(line).await;
    }
    session.end("mistakes.txt");
}

#[tokio::test]
async fn entries() {
    let mut session = Session::new().await;
    session.site.store.put_bundle(&"other.test".parse().unwrap(), &foreign(), None).await.unwrap();
    session.both("entry show").await;
    session.both("entry count").await;
    session.run(&entry("e1", "")).await;
    session
        .run(&entry(
            "e2",
            " -selector unix:gid:1000 -downstream -admin -storeSVID=false -x509SVIDTTL 3600 -jwtSVIDTTL=60 \
             -entryExpiry 4102444800 -federatesWith spiffe://other.test -dns db.example -dns a.example \
             -hint in~ternal -disableX509SVIDPrefetch -jwtSVIDIncludeJTI",
        ))
        .await;
    session.run(&entry("e3", " -storeSVID -output json")).await;
    session.run("entry create -node -spiffeID spiffe://example.org/rack -selector tpm_quote:vendor:x").await;
    session.both(&entry("e1", "")).await;
    session.both("entry show").await;
    session.both("entry show -entryID e2").await;
    session.both("entry show -entryID none").await;
    for filter in [
        "-downstream",
        "-downstream=false",
        "-selector unix:uid:1000",
        "-selector unix:uid:1000 -matchSelectorsOn exact",
        "-selector unix:uid:1000 -matchSelectorsOn like",
        "-selector unix",
        "-federatesWith other.test",
        "-federatesWith other.test -matchFederatesWithOn exact",
        "-hint in~ternal",
        "-spiffeID spiffe://example.org/e1",
        "-parentID spiffe://example.org/spire/server",
        "-spiffeID x",
    ] {
        session.run(&format!("entry count {filter}")).await;
    }
    session.run("entry show -entryID e1 -hint x").await;
    let update = "entry update -entryID e1 -parentID spiffe://example.org/p -spiffeID spiffe://example.org/new -selector unix:uid:7";
    session.both(update).await;
    session.run(&format!("{update} -jwtSVIDIncludeJTI")).await;
    session.both(&update.replace("e1", "none")).await;
    for line in [
        "entry create",
        "entry create -selector a:b",
        "entry create -selector a:b -node",
        "entry create -selector a:b -node -federatesWith x.test",
        "entry create -selector a:b -parentID spiffe://example.org/p",
        "entry create -selector a:b -parentID spiffe://example.org/p -spiffeID x",
        "entry create -selector ab -parentID spiffe://example.org/p -spiffeID spiffe://example.org/x",
        "entry create -selector a:b -parentID spiffe://example.org/p -spiffeID spiffe://example.org/x -x509SVIDTTL -1",
        "entry create -selector a:b -parentID spiffe://example.org/p -spiffeID spiffe://example.org/x -jwtSVIDTTL -1",
        "entry create -selector a:b -parentID spiffe://example.org/p -spiffeID spiffe://other.test/x",
        "entry update",
        "entry update -entryID e1",
        "entry update -entryID e1 -selector a:b",
        "entry update -entryID e1 -selector a:b -parentID spiffe://example.org/p",
        "entry delete",
    ] {
        session.run(line).await;
    }
    session.run("entry delete -entryID e1").await;
    session.run("entry delete -entryID e2 -output json").await;
    session.both("entry delete -entryID none").await;
    session.end("entry.txt");
}

#[tokio::test]
async fn entries_from_files() {
    let mut session = Session::new().await;
    session.file(
        "entries.json",
        r#"{"entries": [
  {"entry_id": "f1", "spiffe_id": "spiffe://example.org/f1", "parent_id": "spiffe://example.org/p",
   "selectors": [{"type": "unix", "value": "uid:1"}], "x509_svid_ttl": 60, "entryExpiry": 4102444800},
  {"entry_id": "f2", "spiffe_id": "spiffe://other.test/f2", "parent_id": "spiffe://example.org/p",
   "selectors": [{"type": "unix", "value": "uid:1"}]},
  {"entry_id": "f3", "spiffe_id": "spiffe://example.org/f3", "parent_id": "spiffe://example.org/p",
   "selectors": [{"type": "unix", "value": "uid:1"}]}
]}
"#,
    );
    session.run("entry create -data {entries.json}").await;
    session.run("entry create -data {entries.json} -output json").await;
    session.run("entry create -data {entries.json} -quiet -ignoreExisting").await;
    session.run("entry update -data {entries.json}").await;
    session.run("entry update -data {entries.json} -quiet -output json").await;
    session.file("ids.json", r#"{"ids": ["f1", "f2", "f3"]}"#);
    session.run("entry delete -file {ids.json}").await;
    session.run("entry delete -file {ids.json}").await;
    session.run("entry delete -file {ids.json} -output json").await;
    session.run("entry delete -file {ids.json} -ignoreMissing -quiet").await;
    for (name, content) in [
        (
            "typo.json",
            "{\"entries\": [\n  {\"spiffe_id\": \"spiffe://example.org/a\",\n   \"selector\": []}]}",
        ),
        ("id.json", "{\"entries\": [\n  {\"spiffe_id\": \"example.org/a\"}]}"),
        ("comma.json", "{\"entries\": [\n  {\"hint\": \"a\"\n   \"admin\": true}]}"),
        ("cut.json", "{\"entries\": [\n  {\"hint\": \"a\""),
        ("list.json", "[]"),
        ("none.json", "{\"entries\": []}"),
    ] {
        session.file(name, content);
        session.run(&format!("entry create -data {{{name}}}")).await;
    }
    session.run("entry create -data {missing.json}").await;
    session.end("entry-files.txt");
}

#[tokio::test]
async fn agents() {
    let mut session = Session::new().await;
    session.both("agent list").await;
    session.both("agent count").await;
    session
        .site
        .node("/spire/agent/tpm_quote/a", "tpm_quote", "42", &["tpm_quote:vendor:x", "tpm_quote:pcr:7"])
        .await;
    session.site.node("/spire/agent/join_token/t", "join_token", "43", &[]).await;
    session.site.store.set_agent_version(&id("/spire/agent/tpm_quote/a"), "0.1.0").await.unwrap();
    session.both("agent list").await;
    session.both("agent count").await;
    session.both(&format!("agent show -spiffeID {AGENT}")).await;
    for filter in [
        "-attestationType tpm_quote",
        "-canReattest true",
        "-canReattest false",
        "-canReattest maybe",
        "-banned true",
        "-selector tpm_quote:vendor:x",
        "-selector tpm_quote:vendor:x -matchSelectorsOn exact",
        "-selector x",
        "-expiresBefore 2023-11-14~23:13:21~+0000~+00",
        "-expiresBefore soon",
    ] {
        session.run(&format!("agent count {filter}")).await;
    }
    session.both("agent purge -dryRun").await;
    session.both(&format!("agent ban -spiffeID {AGENT}")).await;
    session.run("agent list -banned true").await;
    session.run("agent purge").await;
    session.both("agent purge").await;
    session.both("agent evict -spiffeID spiffe://example.org/spire/agent/join_token/t").await;
    session.run("agent evict -spiffeID spiffe://example.org/spire/agent/join_token/t").await;
    for verb in ["show", "evict", "ban"] {
        session.run(&format!("agent {verb}")).await;
        session.run(&format!("agent {verb} -spiffeID x")).await;
        session.run(&format!("agent {verb} -spiffeID {AGENT}")).await;
    }
    session.end("agent.txt");
}

fn foreign() -> Vec<u8> {
    stored("spiffe://other.test")
}

fn stored(trust_domain_id: &str) -> Vec<u8> {
    let certificate = hardroot_identity::pem_decode(AUTHORITY.as_bytes()).unwrap().remove(0);
    prost::Message::encode_to_vec(&hardroot_api::spire::common::Bundle {
        trust_domain_id: trust_domain_id.into(),
        root_cas: vec![hardroot_api::spire::common::Certificate {
            der_bytes: certificate,
            tainted_key: false,
        }],
        ..Default::default()
    })
}

#[tokio::test]
async fn bundles() {
    let mut session = Session::new().await;
    session.both("bundle show").await;
    session.site.store.put_bundle(&own(), &stored("spiffe://example.org"), None).await.unwrap();
    session.both("bundle show").await;
    session.run("bundle show -format spiffe").await;
    session.both("bundle list").await;
    std::fs::write(session.path("bundle.pem"), AUTHORITY).unwrap();
    session.run("bundle set -id other.test -path {bundle.pem}").await;
    session.run("bundle set -id spiffe://third.test -path {bundle.pem} -format PEM -output json").await;
    session.both("bundle list").await;
    session.run("bundle list -format spiffe").await;
    session.both("bundle list -id other.test").await;
    session.run("bundle list -id none.test").await;
    session.both("bundle count").await;
    session.file("bundle.json", "nothing");
    for line in [
        "bundle set",
        "bundle set -id other.test -path {bundle.json}",
        "bundle set -id other.test -path {bundle.json} -format spiffe",
        "bundle set -id other.test -path {none}",
        "bundle set -id example.org -path {bundle.pem}",
        "bundle set -id NOT! -path {bundle.pem}",
        "bundle delete",
        "bundle delete -id other.test -mode forget",
    ] {
        session.run(line).await;
    }
    session.run(&entry("f", " -federatesWith other.test")).await;
    session.run("bundle delete -id other.test").await;
    session.run("bundle delete -id other.test -mode dissociate").await;
    session.run("bundle delete -id third.test -mode delete -output json").await;
    session.both("bundle delete -id third.test").await;
    session.end("bundle.txt");
}

#[tokio::test]
async fn tokens() {
    let mut session = Session::new().await;
    session.both("token generate").await;
    session.both("token generate -ttl 60 -spiffeID spiffe://example.org/x").await;
    session.run("token generate -ttl 0").await;
    session.run("token generate -ttl -5").await;
    session.run("token generate -ttl 99999999999").await;
    session.run("token generate -spiffeID x").await;
    session.run("token generate -spiffeID spiffe://other.test/x").await;
    session.end("token.txt");
}

#[tokio::test]
async fn tpms() {
    let mut session = Session::new().await;
    let hash = "ab".repeat(32);
    session.both("tpm list").await;
    session.run(&format!("tpm enroll -ekHash {hash} -note rack~4 -agentPath /gateways/g1")).await;
    session.run(&format!("tpm enroll -ekHash {} -output json", "cd".repeat(32))).await;
    session.run(&format!("tpm enroll -ekHash {hash}")).await;
    session.both("tpm list").await;
    session.both(&format!("tpm show -ekHash {hash}")).await;
    session.both(&format!("tpm remove -ekHash {hash}")).await;
    session.run("tpm show -ekHash 12").await;
    session.run("tpm enroll").await;
    session.end("tpm.txt");
}

#[tokio::test]
async fn federation() {
    let mut session = Session::new().await;
    session.both("federation list").await;
    std::fs::write(session.path("bundle.pem"), AUTHORITY).unwrap();
    let create = "federation create -bundleEndpointURL https://f.test/bundle -bundleEndpointProfile";
    session.run(&format!("{create} https_web -trustDomain a.test")).await;
    session.run(&format!("{create} https_web -trustDomain a.test")).await;
    let spiffe = format!("{create} https_spiffe -endpointSpiffeID spiffe://b.test/spire/server -trustDomain");
    session.run(&format!("{spiffe} b.test -trustDomainBundlePath {{bundle.pem}} -output json")).await;
    session.file(
        "relationships.json",
        r#"{"federationRelationships": [
  {"trustDomain": "c.test", "bundleEndpointURL": "https://c.test/b", "bundleEndpointProfile": "https_web"},
  {"trustDomain": "d.test", "bundleEndpointURL": "http://d.test/b", "bundleEndpointProfile": "https_web"}
]}"#,
    );
    session.run("federation create -data {relationships.json}").await;
    session.both("federation list").await;
    session.both("federation show -trustDomain b.test").await;
    session.both(&format!("{} https_web -trustDomain a.test", create.replace("create", "update"))).await;
    session.run(&format!("{} https_web -trustDomain none.test", create.replace("create", "update"))).await;
    for line in [
        "federation create",
        "federation create -trustDomain a.test",
        "federation create -trustDomain a.test -bundleEndpointURL https://a.test/b",
        "federation create -trustDomain a.test -bundleEndpointURL https://a.test/b -bundleEndpointProfile other",
        "federation create -trustDomain e.test -bundleEndpointURL https://a.test/b -bundleEndpointProfile https_spiffe",
        "federation show",
        "federation show -trustDomain none.test",
        "federation refresh",
        "federation refresh -id none.test",
        "federation delete",
        "federation delete -id none.test",
        "federation delete -id a.test",
        "federation delete -id b.test -output json",
    ] {
        session.run(line).await;
    }
    session.end("federation.txt");
}

#[tokio::test]
async fn log_levels() {
    let mut session = Session::new().await;
    session.both("logger get").await;
    session.both("logger set -level debug").await;
    session.run("logger set -level WARN").await;
    session.run("logger set").await;
    session.run("logger set -level loud").await;
    session.both("logger reset").await;
    session.end("logger.txt");
}

#[tokio::test]
async fn minting() {
    let issuing = Issuing::new().await;
    let socket = issuing.serve().await;
    let mut session = Session { site: issuing.site, socket, text: String::new() };
    session.both("x509 mint -spiffeID spiffe://example.org/job -dns a.example").await;
    std::fs::create_dir(session.path("minted")).unwrap();
    session.run("x509 mint -spiffeID spiffe://example.org/job -write {minted}").await;
    session.both("jwt mint -spiffeID spiffe://example.org/job -audience db -audience cache").await;
    for line in [
        "x509 mint",
        "x509 mint -spiffeID x",
        "x509 mint -spiffeID spiffe://other.test/job",
        "x509 mint -spiffeID spiffe://example.org/job -ttl soon",
        "jwt mint",
        "jwt mint -audience db",
        "jwt mint -spiffeID spiffe://example.org/job",
        "jwt mint -spiffeID spiffe://other.test/job -audience db",
    ] {
        session.run(line).await;
    }
    session.text = without_secrets(&session.text);
    session.end("mint.txt");
}

/// Certificates, keys, tokens and times, which are new each time, as dots.
fn without_secrets(text: &str) -> String {
    let mut out = String::new();
    let mut within = false;
    for line in text.lines() {
        if line.starts_with("-----END") {
            out.push_str("...\n");
            within = false;
        }
        if !within {
            let opaque = |c: char| c.is_ascii_alphanumeric() || "+/=-_.".contains(c);
            let mut rest = line;
            while !rest.is_empty() {
                let word = rest.find(|c| !opaque(c)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(word.max(rest.chars().next().unwrap().len_utf8()));
                let number = word.len() == 10 && word.bytes().all(|b| b.is_ascii_digit());
                let secret = word.len() > 70 && !word.starts_with("--");
                out.push_str(if number || secret { "..." } else { word });
                rest = after;
            }
            out.push('\n');
        }
        within |= line.starts_with("-----BEGIN");
    }
    out
}

#[tokio::test]
async fn health() {
    let mut session = Session::new().await;
    session.run("healthcheck").await;
    session.run("healthcheck -shallow -verbose").await;
    session.end("healthcheck.txt");
}
