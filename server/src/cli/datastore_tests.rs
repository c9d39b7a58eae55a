//! `datastore` and `migrate-from-spire` on every engine: what they print, what they touch, how they end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::path::Path;

use serde_json::{Value, json};

use super::tests::{Ran, run};
use crate::datastore::sql_tests::On;
use crate::datastore::{
    DatabaseConfig, Engine, Entries as _, EntryFilter, Host, Place, SCHEMA_VERSION, SqlStore, Tls,
};
use crate::migrate::tests::spire_database;

const ENGINES: [On; 3] = [On::Sqlite, On::Postgres, On::MariaDb];

/// The connection string of a database; its password is in a file beside.
fn connection(database: &DatabaseConfig) -> String {
    match &database.place {
        Place::File(path) => path.display().to_string(),
        Place::Server(server) => {
            let Host::Tcp { name, port } = &server.primary.host else { panic!("no address") };
            assert_eq!(server.primary.tls, Tls::Prefer);
            let (user, database) = (server.primary.user.as_ref().unwrap(), &server.primary.database);
            match server.engine {
                Engine::Postgres => {
                    format!("host={name} port={port} dbname={database} user={user} sslmode=disable")
                }
                _ => format!("{user}@tcp({name}:{port})/{database}?parseTime=true&tls=false"),
            }
        }
    }
}

/// A server's configuration with a database.
fn configuration(dir: &Path, name: &str, database: &DatabaseConfig) -> String {
    let (connection, engine) = (connection(database), database.engine().name());
    let mut data = format!("database_type = \"{engine}\"\n      connection_string = \"{connection}\"\n");
    if let Place::Server(server) = &database.place {
        let file = dir.join("password");
        let password = server.primary.password.as_ref().unwrap().expose_str().unwrap();
        hardroot_runtime::state::write_atomic(&file, password.as_bytes(), 0o600).unwrap();
        data.push_str(&format!("      password_file = \"{}\"\n", file.display()));
    }
    let path = dir.join(name);
    let data_dir = dir.join("data");
    std::fs::write(
        &path,
        format!(
            "server {{\n  trust_domain = \"example.org\"\n  data_dir = \"{}\"\n  allow_software_keys = true\n}}\nplugins {{\n  \
             DataStore \"sql\" {{\n    plugin_data {{\n      {data}    }}\n  }}\n  KeyManager \"memory\" {{\n    plugin_data {{}}\n  }}\n}}\n",
            data_dir.display()
        ),
    )
    .unwrap();
    path.display().to_string()
}

/// Everything in a directory: names, contents.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap_or_default()))
        .collect();
    all.sort();
    all
}

struct Case {
    dir: tempfile::TempDir,
    database: DatabaseConfig,
    config: String,
}

impl Case {
    fn new(on: On) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = on.database(dir.path());
        let config = configuration(dir.path(), "server.conf", &database);
        Self { dir, database, config }
    }

    async fn datastore(&self, arguments: &[&str]) -> Ran {
        let mut all = vec!["hardroot-server", "datastore"];
        all.extend(arguments);
        all.extend(["-config", &self.config]);
        run(&all).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let out = self.datastore(&[arguments, &["-output", "json"]].concat()).await.ok();
        assert_eq!(out.lines().count(), 1, "{out}");
        serde_json::from_str(&out).unwrap()
    }

    async fn entries(&self) -> u64 {
        let store = SqlStore::open(&self.database).await.unwrap();
        let count = store.count_entries(&EntryFilter::default()).await.unwrap();
        store.close().await;
        count
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

async fn fill(database: &DatabaseConfig) {
    let store = SqlStore::open(database).await.unwrap();
    for n in 0..3 {
        store
            .create_entry(crate::datastore::sql_tests::entry(&format!("/e{n}"), "/p", &["unix:uid:1"]))
            .await
            .unwrap();
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_a_migration_changes_nothing() {
    for on in ENGINES {
        let case = Case::new(on);
        let before = files(case.dir.path());
        let planned = json!({ "dry_run": true, "schema": SCHEMA_VERSION, "schema_before": 0 });
        assert_eq!(case.json(&["migrate", "-dryRun"]).await, planned, "{on:?}");
        let text = case.datastore(&["migrate", "-dryRun"]).await.ok();
        assert_eq!(
            text,
            format!("The schema would be brought from 0 to {SCHEMA_VERSION}; nothing was done.\n")
        );
        assert!(SqlStore::look(&case.database).await.unwrap().is_none(), "{on:?}: nothing was made");
        assert_eq!(files(case.dir.path()), before, "{on:?}");

        let done = json!({ "dry_run": false, "schema": SCHEMA_VERSION, "schema_before": 0 });
        assert_eq!(case.json(&["migrate"]).await, done);
        let text = case.datastore(&["migrate"]).await.ok();
        assert_eq!(text, format!("The schema is up to date ({SCHEMA_VERSION}).\n"));
        let before = files(case.dir.path());
        let text = case.datastore(&["migrate", "-dryRun"]).await.ok();
        assert_eq!(text, format!("The schema is up to date ({SCHEMA_VERSION}).\n"));
        assert_eq!(files(case.dir.path()), before, "{on:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_is_there_and_touches_nothing() {
    for on in ENGINES {
        let case = Case::new(on);
        let nothing = case.datastore(&["status"]).await;
        if on == On::Sqlite {
            assert!(nothing.failed().contains("datastore.sqlite3"));
        } else {
            assert!(nothing.ok().contains(&format!("none yet; this program makes {SCHEMA_VERSION}")));
        }
        fill(&case.database).await;
        let before = files(case.dir.path());
        let status = case.json(&["status"]).await;
        assert_eq!(status["engine"], case.database.engine().name());
        assert_eq!(
            (&status["schema"], &status["known_schema"]),
            (&json!(SCHEMA_VERSION), &json!(SCHEMA_VERSION))
        );
        assert_eq!((&status["rows"]["entries"], &status["changes"]), (&json!(3), &json!(3)));
        assert!(status["bytes"].as_i64().unwrap() > 0 && status["server_version"].is_string());
        let text = case.datastore(&["status"]).await.ok();
        assert!(text.contains("Changes so far : 3\n") && text.contains("entry_selectors"), "{text}");
        assert_eq!(files(case.dir.path()), before, "{on:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_and_restore_tell_what_they_did_and_lose_nothing_when_refused() {
    for on in ENGINES {
        let case = Case::new(on);
        fill(&case.database).await;
        let file = case.path("backup");
        let made = case.json(&["backup", "-out", &file]).await;
        let version = (&made["schema"], &made["format"], &made["engine"], &made["file"]);
        let expected =
            (&json!(SCHEMA_VERSION), &json!("portable"), &json!(case.database.engine().name()), &json!(file));
        assert_eq!(version, expected);
        assert_eq!(made["rows"], 6, "three entries with a selector each");
        assert!(case.datastore(&["backup", "-out", &file]).await.failed().contains("is there already"));

        // Progress is for who watches, or asks.
        let ran = case.datastore(&["backup", "-out", &case.path("second"), "-progress"]).await;
        assert_eq!(ran.err, "Wrote 3 rows of entries\nWrote 3 rows of entry_selectors\n");
        assert_eq!(ran.out, format!("Wrote 6 rows to {}.\n", case.path("second")));

        let full = case.datastore(&["restore", "-in", &file]).await.failed();
        assert!(full.contains("the database is not empty: entries has 3 rows"), "{full}");
        let whole = std::fs::read_to_string(&file).unwrap();
        let damaged = case.path("damaged");
        std::fs::write(&damaged, whole.replace("/e1", "/x1")).unwrap();
        let refused = case.datastore(&["restore", "-in", &damaged, "-force"]).await.failed();
        assert!(refused.contains("is no whole backup"), "{refused}");
        assert_eq!(case.entries().await, 3, "nothing was lost");

        let mut restored = case.json(&["restore", "-in", &file, "-force"]).await;
        restored["made_at"] = made["made_at"].clone();
        assert_eq!(restored, made);
        let ran = case.datastore(&["restore", "-in", &file, "-force", "-progress"]).await;
        assert_eq!(ran.err, "Restored 3 rows of entries\nRestored 3 rows of entry_selectors\n");
        assert!(ran.out.starts_with(&format!("Restored 6 rows from {file}, made from ")), "{}", ran.out);
        assert_eq!(case.entries().await, 3);
        let absent = case.datastore(&["restore", "-in", &case.path("no")]).await.failed();
        assert!(absent.contains("/no: No such file"), "{absent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_from_spire_changes_nothing_anywhere() {
    for on in ENGINES {
        let theirs = tempfile::tempdir().unwrap();
        let spire = spire_database(on, theirs.path()).await;
        let case = Case::new(on);
        let old = configuration(case.dir.path(), "spire.conf", &spire);
        let (new, database) = (case.path("new.conf"), connection(&case.database));
        let migrate = async |more: &[&str]| {
            let command =
                ["hardroot-server", "migrate-from-spire", "-config", &old, "-out", &new, "-database"];
            run(&[command.as_slice(), &[database.as_str(), "-output", "json"], more].concat()).await
        };
        // One entry of SPIRE's is broken, so each run ends with that said.
        let brought = |ran: Ran| {
            assert!(ran.outcome.unwrap_err().ends_with("could not be taken"));
            serde_json::from_str::<Value>(&ran.out).unwrap()["data"]["entries"].clone()
        };
        let before = (files(case.dir.path()), files(theirs.path()));
        let planned = brought(migrate(&["-dryRun"]).await);
        assert_eq!((files(case.dir.path()), files(theirs.path())), before, "{on:?}");
        assert!(SqlStore::look(&case.database).await.unwrap().is_none(), "{on:?}: no table was made");
        let done = brought(migrate(&[]).await);
        assert_eq!(planned, done, "a dry run says what then happens");
        assert_eq!(files(theirs.path()), before.1, "{on:?}: SPIRE's are only read");

        let before = files(case.dir.path());
        let version = SqlStore::open(&case.database).await.unwrap().entries_version().await.unwrap();
        let again = brought(migrate(&["-dryRun"]).await);
        assert_eq!(again["created"], 0);
        assert_eq!(again["unchanged"], done["created"]);
        if on != On::Sqlite {
            assert_eq!(files(case.dir.path()), before, "{on:?}");
        }
        let store = SqlStore::open(&case.database).await.unwrap();
        assert_eq!(store.entries_version().await.unwrap(), version);
    }
}

#[tokio::test]
async fn an_agents_configuration_is_told_with_the_right_command() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("agent.conf"), dir.path().join("new.conf"));
    std::fs::write(&old, "agent {\n  trust_domain = \"example.org\"\n}\nplugins {\n}\n").unwrap();
    let (old, new) = (old.display().to_string(), new.display().to_string());
    let ran = run(&["hardroot-server", "migrate-from-spire", "-config", &old, "-out", &new]).await;
    assert_eq!(
        ran.failed(),
        format!(
            "{old} is the configuration of SPIRE's agent: give it to `hardroot-agent migrate-from-spire -config {old}`"
        )
    );
    assert!(!Path::new(&new).exists());
}
