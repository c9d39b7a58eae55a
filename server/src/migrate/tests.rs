//! A database as SPIRE 1.15 makes it, on each engine, brought here once, twice, and after changes on both sides.

use std::time::{Duration, UNIX_EPOCH};

use hardroot_api::spire::common;
use hardroot_api::spire::server::journal;
use hardroot_migration::Action;
use prost::Message as _;

use super::*;
use crate::datastore::raw::{Engine, Pools};
use crate::datastore::sql_tests::On;
use crate::datastore::{
    Bundles as _, Entries as _, EntryMask, JoinTokens as _, Journals as _, Nodes as _, Redeemed, SqlStore,
};

const NOW: u64 = 1_800_000_000;

/// The tables that matter, with the columns and types that SPIRE's library gives them.
fn schema(engine: Engine) -> String {
    let (key, time, flag, blob) = match engine {
        Engine::Sqlite => ("integer primary key autoincrement", "datetime", "bool", "blob"),
        Engine::Postgres => ("serial primary key", "timestamp with time zone", "boolean", "bytea"),
        Engine::MySql => {
            ("int unsigned not null auto_increment primary key", "datetime NULL", "boolean", "mediumblob")
        }
    };
    let text = if engine == Engine::Postgres { "text" } else { "varchar(255)" };
    let number = if engine == Engine::MySql { "int" } else { "integer" };
    let base = format!("id {key}, created_at {time}, updated_at {time}");
    let quote = if engine == Engine::MySql { "`" } else { "\"" };
    [
        format!("CREATE TABLE migrations ({base}, version {number}, code_version {text})"),
        format!("CREATE TABLE bundles ({base}, trust_domain {text} NOT NULL, data {blob})"),
        format!(
            "CREATE TABLE registered_entries ({base}, entry_id {text}, spiffe_id {text}, parent_id {text}, ttl {number}, admin {flag}, \
             downstream {flag}, expiry bigint, revision_number bigint, store_svid {flag}, hint {text}, jwt_svid_ttl {number}, \
             additional_attributes {blob})"
        ),
        format!("CREATE TABLE selectors ({base}, registered_entry_id {number}, {quote}type{quote} {text}, value {text})"),
        format!("CREATE TABLE dns_names ({base}, registered_entry_id {number}, value {text})"),
        format!("CREATE TABLE federated_registration_entries (bundle_id {number}, registered_entry_id {number})"),
        format!(
            "CREATE TABLE attested_node_entries ({base}, spiffe_id {text}, data_type {text}, serial_number {text}, expires_at {time}, \
             new_serial_number {text}, new_expires_at {time}, can_reattest {flag}, agent_version {text})"
        ),
        format!("CREATE TABLE node_resolver_map_entries ({base}, spiffe_id {text}, {quote}type{quote} {text}, value {text})"),
        format!(
            "CREATE TABLE federated_trust_domains ({base}, trust_domain {text} NOT NULL, bundle_endpoint_url {text}, \
             bundle_endpoint_profile {text}, endpoint_spiffe_id {text}, implicit {flag})"
        ),
        format!("CREATE TABLE join_tokens ({base}, token {text}, expiry bigint)"),
        format!(
            "CREATE TABLE ca_journals ({base}, data {blob}, active_x509_authority_id {text}, active_jwt_authority_id {text})"
        ),
    ]
    .join(";\n")
}

fn blob(engine: Engine, bytes: &[u8]) -> String {
    let digits = hex::encode(bytes);
    if engine == Engine::Postgres { format!("'\\x{digits}'") } else { format!("X'{digits}'") }
}

/// A time as SPIRE's drivers store it.
fn time(engine: Engine, seconds: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap();
    let (date, clock) = (at.date(), at.time());
    let zone = if engine == Engine::MySql { "" } else { "+00:00" };
    format!("'{date} {:02}:{:02}:{:02}{zone}'", clock.hour(), clock.minute(), clock.second())
}

fn bundle(name: &str, root: &[u8]) -> common::Bundle {
    common::Bundle {
        trust_domain_id: name.to_owned(),
        root_cas: vec![common::Certificate { der_bytes: root.to_vec(), tainted_key: false }],
        jwt_signing_keys: vec![common::PublicKey {
            kid: "their-kid".into(),
            pkix_bytes: b"key".to_vec(),
            ..Default::default()
        }],
        sequence_number: 7,
        ..common::Bundle::default()
    }
}

/// SPIRE's rows: two entries that matter, one that expired, one that is broken; an agent in the middle of a renewal, a banned one, a
/// dead one; two tokens.
fn rows(engine: Engine) -> String {
    let (yes, no) = ("true", "false");
    let (now, later) = (time(engine, NOW - 1000), time(engine, NOW + 1000));
    let own = blob(engine, &bundle("spiffe://example.org", b"their root").encode_to_vec());
    let other = blob(engine, &bundle("spiffe://other.test", b"other root").encode_to_vec());
    let journal = journal::Entries::default().encode_to_vec();
    let journal = blob(engine, &[journal.as_slice(), &[0x0a, 0x00]].concat());
    let (expired, valid) = (NOW - 1, NOW + 600);
    let attributes = blob(engine, &[0x08, 1, 0x10, 1]);
    let none = blob(engine, &[]);
    let kind = if engine == Engine::MySql { "`type`" } else { "\"type\"" };
    format!(
        "INSERT INTO migrations (version, code_version) VALUES (25, '1.15.3');
         INSERT INTO bundles (trust_domain, data) VALUES ('spiffe://example.org', {own});
         INSERT INTO bundles (trust_domain, data) VALUES ('spiffe://other.test', {other});
         INSERT INTO registered_entries (created_at, entry_id, spiffe_id, parent_id, ttl, admin, downstream, expiry, revision_number,
            store_svid, hint, jwt_svid_ttl, additional_attributes) VALUES
            ({now}, 'e-1', 'spiffe://example.org/web', 'spiffe://example.org/spire/agent/x509pop/a', 60, {yes}, {no}, 0, 3, {no}, 'front', 30,
             {attributes});
         INSERT INTO registered_entries (created_at, entry_id, spiffe_id, parent_id, ttl, admin, downstream, expiry, revision_number,
            store_svid, hint, jwt_svid_ttl, additional_attributes) VALUES
            ({now}, 'e-2', 'spiffe://example.org/db', 'spiffe://example.org/spire/server', NULL, {no}, {yes}, {valid}, 0, NULL, NULL, NULL, NULL),
            ({now}, 'e-3', 'spiffe://example.org/old', 'spiffe://example.org/spire/server', 0, {no}, {no}, {expired}, 0, {no}, '', 0, {none}),
            ({now}, 'e-4', 'spiffe://example.org/b/../r', 'spiffe://example.org/spire/server', 0, {no}, {no}, 0, 0, {no}, '', 0, {none});
         INSERT INTO selectors (registered_entry_id, {kind}, value) VALUES (2, 'unix', 'gid:2'), (1, 'unix', 'uid:1'), (1, 'unix', 'path:/b:c'),
            (3, 'unix', 'uid:3'), (4, 'unix', 'uid:4'), (99, 'unix', 'uid:99');
         INSERT INTO dns_names (registered_entry_id, value) VALUES (1, 'b.test'), (1, 'a b'), (1, 'a.test'),
            (2, 'x.w.test'), (2, '*.w.test');
         INSERT INTO federated_registration_entries (bundle_id, registered_entry_id) VALUES (2, 1);
         INSERT INTO attested_node_entries (spiffe_id, data_type, serial_number, expires_at, new_serial_number, new_expires_at, can_reattest,
            agent_version) VALUES
            ('spiffe://example.org/spire/agent/x509pop/a', 'x509pop', '11', {later}, '12', {later}, {yes}, '1.15.3'),
            ('spiffe://example.org/spire/agent/x509pop/bad', 'x509pop', '', {later}, '', NULL, {yes}, NULL),
            ('spiffe://example.org/spire/agent/join_token/gone', 'join_token', '13', {now}, '', NULL, {no}, '');
         INSERT INTO node_resolver_map_entries (spiffe_id, {kind}, value) VALUES
            ('spiffe://example.org/spire/agent/x509pop/a', 'x509pop', 'subject:cn:a');
         INSERT INTO federated_trust_domains (trust_domain, bundle_endpoint_url, bundle_endpoint_profile, endpoint_spiffe_id, implicit) VALUES
            ('other.test', 'https://other.test/bundle', 'https_spiffe', 'spiffe://other.test/spire/server', {no}),
            ('web.test', 'https://web.test/bundle', 'https_web', '', {no});
         INSERT INTO join_tokens (token, expiry) VALUES ('still-good', {valid}), ('too-late', {expired});
         INSERT INTO ca_journals (data, active_x509_authority_id, active_jwt_authority_id) VALUES ({journal}, 'aabb', 'k');
         INSERT INTO ca_journals (data, active_x509_authority_id, active_jwt_authority_id) VALUES ({none}, '', '')"
    )
}

async fn run(on: On, config: &DatabaseConfig, text: &str) {
    if on == On::Sqlite {
        // The file that SPIRE would have made.
        let Place::File(path) = &config.place else { panic!("no file") };
        std::fs::File::options().append(true).create(true).open(path).unwrap();
    }
    let pools = Pools::open(config).await.unwrap();
    let mut session = pools.writer("test").await.unwrap();
    for statement in text.split(";\n") {
        session
            .script("test", statement.trim())
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    drop(session);
    pools.close().await;
}

/// A database as a SPIRE server leaves it.
pub(crate) async fn spire_database(on: On, dir: &Path) -> DatabaseConfig {
    let from = on.database(dir);
    run(on, &from, &schema(from.engine())).await;
    run(on, &from, &rows(from.engine())).await;
    from
}

struct Case {
    from: DatabaseConfig,
    store: SqlStore,
    _dirs: [tempfile::TempDir; 2],
}

impl Case {
    async fn new(on: On) -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let from = spire_database(on, dirs[0].path()).await;
        let store = SqlStore::open(&on.database(dirs[1].path())).await.unwrap();
        Self { from, store, _dirs: dirs }
    }

    async fn bring(&self, overwrite: bool, dry_run: bool) -> Imported {
        let source = Source::read(&self.from).await.unwrap();
        let options = Options {
            trust_domain: "example.org".parse().unwrap(),
            now: UNIX_EPOCH + Duration::from_secs(NOW),
            overwrite,
            dry_run,
        };
        import(&source, &self.store, options, &mut |_, _, _| {}).await.unwrap()
    }
}

fn td(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

async fn everything_is_brought_once(on: On) {
    let case = Case::new(on).await;
    let planned = case.bring(false, true).await;
    assert_eq!(case.store.count_entries(&Default::default()).await.unwrap(), 0, "a dry run writes nothing");
    let done = case.bring(false, false).await;
    let created = |count: Count| (count.found, count.created, count.skipped, count.failed);
    assert_eq!(created(done.bundles), (2, 2, 0, 0));
    assert_eq!(created(done.federation_relationships), (2, 2, 0, 0));
    assert_eq!(created(done.entries), (4, 2, 1, 1));
    assert_eq!(created(done.agents), (3, 2, 1, 0));
    assert_eq!(created(done.join_tokens), (2, 1, 1, 0));
    assert_eq!(created(done.journals), (2, 1, 1, 0));
    assert_eq!((done.faults.len(), done.faults[0].key.as_str()), (1, "e-4"));
    assert_eq!(planned, done, "a dry run says what then happens");

    let web = case.store.entry("e-1").await.unwrap().unwrap();
    assert_eq!(web.spiffe_id.as_str(), "spiffe://example.org/web");
    let selectors: Vec<String> = web.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, ["unix:path:/b:c", "unix:uid:1"]);
    assert_eq!(web.dns_names, ["b.test", "a.test"], "the order counts: the first is the common name");
    assert_eq!((web.x509_svid_ttl, web.jwt_svid_ttl, web.hint.as_str()), (60, 30, "front"));
    assert!(web.admin && !web.downstream && web.disable_x509_svid_prefetch && web.jwt_svid_include_jti);
    assert_eq!(web.federates_with, [td("other.test")]);
    assert_eq!(web.created_at, i64::try_from(NOW - 1000).unwrap());
    let db = case.store.entry("e-2").await.unwrap().unwrap();
    assert!(db.downstream && db.hint.is_empty() && !db.store_svid);
    assert_eq!(db.dns_names, ["*.w.test"]);
    let trimmed: Vec<_> = done.trimmed.iter().map(|part| (part.key.as_str(), part.why.as_str())).collect();
    assert!(
        matches!(trimmed.as_slice(), [("e-1", one), ("e-2", two)]
        if one.contains("without its DNS name \"a b\"") && two.contains("without its DNS name \"x.w.test\"")),
        "{trimmed:?}"
    );

    let agent = |name: &str| format!("spiffe://example.org/spire/agent/x509pop/{name}").parse().unwrap();
    let node = case.store.node(&agent("a")).await.unwrap().unwrap();
    assert_eq!((node.serial_number.as_str(), node.new_serial_number.as_str()), ("11", "12"));
    assert_eq!(node.expires_at, UNIX_EPOCH + Duration::from_secs(NOW + 1000));
    assert_eq!((node.agent_version.as_str(), node.selectors.len(), node.can_reattest), ("1.15.3", 1, true));
    assert!(case.store.node(&agent("bad")).await.unwrap().unwrap().is_banned());
    let at = UNIX_EPOCH + Duration::from_secs(NOW);
    let redeemed = case.store.redeem_join_token("still-good", "key", at).await.unwrap();
    assert!(matches!(redeemed, Redeemed::First), "{redeemed:?}");
    assert!(case.store.find_journal(&["aabb".into()]).await.unwrap().is_some());
}

async fn a_second_time_changes_nothing(on: On) {
    let case = Case::new(on).await;
    case.bring(false, false).await;
    let again = case.bring(false, false).await;
    for (name, count) in again.counts() {
        assert_eq!((count.created, count.updated, count.differs), (0, 0, 0), "{name}");
        assert_eq!(count.unchanged + count.skipped + count.failed, count.found, "{name}");
    }
}

async fn what_changed_here_stays_unless_overwritten(on: On) {
    let case = Case::new(on).await;
    case.bring(false, false).await;
    let mut web = case.store.entry("e-1").await.unwrap().unwrap();
    web.hint = "ours".into();
    case.store.update_entry(web, &EntryMask::ALL).await.unwrap();
    let agent = "spiffe://example.org/spire/agent/x509pop/a".parse().unwrap();
    case.store.promote_serial(&agent, "12").await.unwrap();
    let ours = bundle("spiffe://other.test", b"newer").encode_to_vec();
    let (_, revision) = case.store.bundle(&td("other.test")).await.unwrap().unwrap();
    case.store.put_bundle(&td("other.test"), &ours, Some(revision)).await.unwrap();

    let again = case.bring(false, false).await;
    assert_eq!((again.entries.differs, again.agents.differs, again.bundles.differs), (1, 1, 1));
    assert_eq!(case.store.entry("e-1").await.unwrap().unwrap().hint, "ours");
    assert_eq!(case.store.node(&agent).await.unwrap().unwrap().serial_number, "12");

    let forced = case.bring(true, false).await;
    assert_eq!((forced.entries.updated, forced.bundles.updated), (1, 1));
    assert_eq!(case.store.entry("e-1").await.unwrap().unwrap().hint, "front");
}

async fn our_own_authorities_stay_beside_theirs(on: On) {
    let case = Case::new(on).await;
    let mut ours = bundle("spiffe://example.org", b"our root");
    ours.jwt_signing_keys.clear();
    case.store.put_bundle(&td("example.org"), &ours.encode_to_vec(), None).await.unwrap();
    let done = case.bring(false, false).await;
    assert_eq!((done.bundles.created, done.bundles.updated), (1, 1));
    let (data, _) = case.store.bundle(&td("example.org")).await.unwrap().unwrap();
    let merged = common::Bundle::decode(data.as_slice()).unwrap();
    let roots: Vec<&[u8]> = merged.root_cas.iter().map(|root| root.der_bytes.as_slice()).collect();
    assert_eq!(roots, [b"our root".as_slice(), b"their root"]);
    assert_eq!(merged.jwt_signing_keys.len(), 1);
    assert!(merged.sequence_number > 7);
    assert_eq!(case.bring(false, false).await.bundles.unchanged, 2);
}

async fn a_ban_by_spire_counts_here_and_one_of_ours_is_never_undone(on: On) {
    let case = Case::new(on).await;
    case.bring(false, false).await;
    let a = "spiffe://example.org/spire/agent/x509pop/a".parse().unwrap();
    case.store.ban_node(&a).await.unwrap();
    let forced = case.bring(true, false).await;
    assert_eq!(forced.agents.differs, 1);
    assert!(case.store.node(&a).await.unwrap().unwrap().is_banned());
    case.store.delete_node(&a).await.unwrap();
    case.bring(false, false).await;
    run(on, &case.from, "UPDATE attested_node_entries SET serial_number = '', new_serial_number = '' WHERE serial_number = '11'").await;
    assert_eq!(case.bring(false, false).await.agents.updated, 1);
    assert!(case.store.node(&a).await.unwrap().unwrap().is_banned());
}

async fn another_database_is_refused(on: On) {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ours = on.database(dirs[0].path());
    SqlStore::open(&ours).await.unwrap().close().await;
    let refused = |outcome: Result<Source, SourceError>| match outcome {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was read"),
    };
    assert!(refused(Source::read(&ours).await).contains("is not SPIRE's"));
    let newer = on.database(dirs[1].path());
    run(on, &newer, &schema(newer.engine())).await;
    run(on, &newer, "INSERT INTO migrations (version, code_version) VALUES (26, '2.0.0')").await;
    assert!(refused(Source::read(&newer).await).contains("schema 26"));
}

macro_rules! on_every_engine {
    ($($name:ident,)*) => {
        mod sqlite { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::On::Sqlite).await; } )* }
        mod postgres { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::On::Postgres).await; } )* }
        mod mariadb { $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::On::MariaDb).await; } )* }
    };
}

on_every_engine! {
    everything_is_brought_once,
    a_second_time_changes_nothing,
    what_changed_here_stays_unless_overwritten,
    our_own_authorities_stay_beside_theirs,
    a_ban_by_spire_counts_here_and_one_of_ours_is_never_undone,
    another_database_is_refused,
}

/// SPIRE's sample, with what this server has no counterpart for.
const SPIRES: &str = r#"
server {
    bind_address = "127.0.0.1"
    bind_port = "8081"
    trust_domain = "example.org"
    data_dir = "./.data"
    log_level = "DEBUG"
    ca_ttl = "48h"
    profiling_enabled = true
}
plugins {
    DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "./.data/datastore.sqlite3" } }
    KeyManager "disk" { plugin_data { keys_path = "./.data/keys.json" } }
    NodeAttestor "k8s_psat" { plugin_data { clusters = { c = { service_account_allow_list = ["a:b"] } } } }
    UpstreamAuthority "disk" { plugin_data { key_file_path = "ca.key" cert_file_path = "ca.crt" } }
}
"#;

#[test]
fn a_configuration_of_spires_becomes_one_that_is_right_here() {
    let old = Document::parse(SPIRES).unwrap();
    let converted = convert(&old, "server.conf", None);
    let config = crate::config::ServerConfig::parse(&converted.text, "new")
        .unwrap_or_else(|e| panic!("{e}\n{}", converted.text));
    assert!(!converted.report.is_undecided(), "{}", converted.report.table());
    assert_eq!((config.bind_port, config.ca_ttl), (8081, Duration::from_secs(48 * 3600)));
    assert!(config.allow_software_keys && config.attestors.join_token);
    let Place::File(path) = &config.database.place else { panic!("no file") };
    assert_eq!(path, Path::new("./.data/hardroot.sqlite3"));
    let removed: Vec<&str> = converted
        .report
        .changes
        .iter()
        .filter(|change| change.action == Action::Removed)
        .map(|change| change.setting.as_str())
        .collect();
    assert!(removed.contains(&"server.profiling_enabled"), "{removed:?}");
    assert!(removed.contains(&"plugins.NodeAttestor \"k8s_psat\""), "{removed:?}");
    assert!(removed.contains(&"plugins.UpstreamAuthority \"disk\""), "{removed:?}");
    let Place::File(spires) = database(&old, Path::new("server.conf")).unwrap().place else {
        panic!("no file")
    };
    assert_eq!(spires, Path::new("./.data/datastore.sqlite3"));
}

#[test]
fn spires_connection_strings_are_understood() {
    let with = |kind: &str, connection: &str| {
        let text = format!(
            "plugins {{ DataStore \"sql\" {{ plugin_data {{\n database_type = \"{kind}\"\n connection_string = \"{connection}\"\n}} }} }}"
        );
        database(&Document::parse(&text).unwrap(), Path::new("c"))
    };
    for (connection, path) in [
        ("file:./data/x.sqlite3?cache=shared", "./data/x.sqlite3"),
        ("file:///var/x.sqlite3", "/var/x.sqlite3"),
        ("/var/x.sqlite3", "/var/x.sqlite3"),
    ] {
        let Place::File(found) = with("sqlite3", connection).unwrap().place else { panic!("no file") };
        assert_eq!(found, Path::new(path), "{connection}");
    }
    assert_eq!(with("postgres", "dbname=spire user=u host=h").unwrap().engine(), Engine::Postgres);
    assert_eq!(with("mysql", "u:p@tcp(h:3306)/spire?parseTime=true").unwrap().engine(), Engine::MySql);
    let error = with("mysql", "canary").unwrap_err().to_string();
    assert!(error.contains("connection_string") && !error.contains("canary"), "{error}");
    assert!(database(&Document::parse("plugins {}").unwrap(), Path::new("c")).is_err());
}

#[test]
fn a_cloud_key_manager_has_to_be_decided() {
    let text = SPIRES.replace(
        "KeyManager \"disk\" { plugin_data { keys_path = \"./.data/keys.json\" } }",
        "KeyManager \"aws_kms\" { plugin_data { region = \"r\" } }",
    );
    let converted = convert(&Document::parse(&text).unwrap(), "server.conf", None);
    assert!(converted.report.is_undecided());
    assert!(converted.text.contains("KeyManager \"pkcs11\" {"), "{}", converted.text);
    assert!(!converted.text.contains("aws_kms\" {"));
}
