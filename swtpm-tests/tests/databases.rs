//! The server on PostgreSQL and MariaDB, and what happens when the database is slow, away, older or damaged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{fetch_id, fetch_until, ids, me, only_agent, serial};
use hardroot_emulators::{Line, MySql, Postgres, TcpProxy};
use hardroot_swtpm_tests::daemon::binary;
use hardroot_swtpm_tests::site::{Agent, AgentSetup, Keys, Site};
use hardroot_swtpm_tests::wait;

const APP: &str = "spiffe://example.org/app";

/// A site whose database is `name` behind `address`.
fn site_on(kind: &str, address: SocketAddr, name: &str, more: &str) -> Site {
    let mut site = Site::new().unwrap();
    site.place_on(kind, address, name, more).unwrap();
    site
}

/// A PostgreSQL server of this test's own, a line to it, and a site on it that is started.
fn postgres_site(more: &str) -> (Postgres, TcpProxy, Site) {
    let postgres = Postgres::start().unwrap();
    let name = postgres.create_database().unwrap();
    let line = TcpProxy::start(postgres.address()).unwrap();
    let mut site = site_on("postgres", line.address(), &name, more);
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    (postgres, line, site)
}

fn agent(site: &Site, name: &str) -> Agent {
    let mut setup = AgentSetup::join_token(&site.join_token().unwrap());
    setup.keys = Keys::Disk;
    site.agent(name, setup).unwrap()
}

/// An entry whose SVIDs are renewed every few seconds.
fn short_lived(site: &Site, parent: &str) -> String {
    site.create_entry(parent, APP, &[&me()], &["-x509SVIDTTL", "20"]).unwrap()
}

/// The next SVID that the agent gets from the server.
fn next_serial(agent: &Agent, last: &str) -> String {
    let update =
        fetch_until(agent, "a renewed SVID", |seen| !serial(seen).is_empty() && serial(seen) != last);
    serial(&update)
}

#[test]
fn mariadb_carries_a_site() {
    let mariadb = MySql::start().unwrap();
    let name = mariadb.create_database().unwrap();
    let mut site = site_on("mysql", mariadb.address(), &name, "");
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let mut agent = agent(&site, "agent");
    agent.start().unwrap();
    let id = only_agent(&site);
    site.create_entry(&id, APP, &[&me()], &[]).unwrap();
    fetch_id(&agent, APP);
    let log = fs::read_to_string(site.folder().join("server.log")).unwrap();
    assert!(!log.contains(MySql::PASSWORD), "the password is in the log");
    site.stop_server().unwrap();
    site.start_server().unwrap();
    assert_eq!(only_agent(&site), id);
}

/// What prepares a connection: asked once for each, and one more is opened when two statements fall together.
const PREPARES: &str = "SELECT set_config(";

/// What a server and its agent ask a database for while nothing changes: the version, the lease, the bundles, each with
/// one statement, and nothing for the agent.
#[test]
fn an_idle_server_asks_for_next_to_nothing() {
    let postgres = Postgres::start().unwrap();
    let name = postgres.create_database().unwrap();
    let mut site = Site::new().unwrap();
    site.place_on("postgres", postgres.address(), &name, "").unwrap();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let mut agent = agent(&site, "agent");
    agent.start().unwrap();
    site.create_entry(&only_agent(&site), APP, &[&me()], &[]).unwrap();
    fetch_id(&agent, APP);
    // What was done before may still ask.
    postgres.count_statements().unwrap();
    wait::until("a renewed lease", wait::DEADLINE, || leases(&postgres, &name, 1)).unwrap();
    postgres.count_statements().unwrap();
    wait::until("two more", wait::DEADLINE, || leases(&postgres, &name, 2)).unwrap();
    let seen = postgres.statements(&name).unwrap();
    let allowed = [
        "SELECT value AS n FROM counters",
        "UPDATE server_leases SET",
        "SELECT data, revision FROM bundles",
        "SELECT trust_domain, data FROM bundles",
        PREPARES,
    ];
    for (calls, text) in &seen {
        assert!(allowed.iter().any(|one| text.starts_with(one)), "{calls} x {text}");
    }
    let calls_of = |start: &str| {
        seen.iter().filter(|(_, text)| text.starts_with(start)).map(|(calls, _)| *calls).sum::<u64>()
    };
    let (followed, opened) = (calls_of(allowed[0]), calls_of(PREPARES));
    let others = calls_of("") - followed - opened;
    assert!(followed > 10 && others <= 6 && opened <= 2, "{seen:#?}");
}

/// Whether a lease was renewed so often since statements are counted.
fn leases(postgres: &Postgres, database: &str, times: u64) -> anyhow::Result<Option<()>> {
    let seen = postgres.statements(database)?;
    Ok(seen
        .iter()
        .any(|(calls, text)| *calls >= times && text.starts_with("UPDATE server_leases"))
        .then_some(()))
}

/// Fault 6: agents that were authorised go on, others wait, nothing is switched, and it heals by itself.
#[test]
fn while_the_database_is_away_authorised_agents_are_served() {
    let (_postgres, line, site) = postgres_site("");
    let mut first = agent(&site, "first");
    let mut second = agent(&site, "second");
    first.start().unwrap();
    short_lived(&site, &only_agent(&site));
    let before = serial(&fetch_id(&first, APP));
    let bundle = site.server_command(&["bundle", "show"]).unwrap().success().unwrap().stdout;

    line.set(Line::Cut);
    let during = next_serial(&first, &before);
    let later = next_serial(&first, &during);
    let refused = site.server_command(&["entry", "delete", "-entryID", "x"]).unwrap();
    assert!(!refused.ok());
    let text = format!("{}{}", refused.stdout, refused.stderr);
    assert!(text.contains("Unavailable") || text.contains("away"), "{text}");
    second.launch().unwrap();
    wait::until("the second agent is told", wait::DEADLINE, || {
        Ok(second.log().to_lowercase().contains("unavailable").then_some(()))
    })
    .unwrap();

    line.set(Line::Up);
    wait::until("the second agent joins", wait::DEADLINE, || {
        Ok(site.agent_ids().is_ok_and(|ids| ids.len() == 2).then_some(()))
    })
    .unwrap();
    next_serial(&first, &later);
    let after = site.server_command(&["bundle", "show"]).unwrap().success().unwrap().stdout;
    assert_eq!(after, bundle, "no authority was switched");
}

/// Fault 6, the bound: memory serves no longer than it is told to.
#[test]
fn memory_serves_no_longer_than_its_bound() {
    let (_postgres, line, site) = postgres_site("            outage_staleness = \"3s\"\n");
    let mut agent = agent(&site, "agent");
    agent.start().unwrap();
    short_lived(&site, &only_agent(&site));
    fetch_id(&agent, APP);
    line.set(Line::Cut);
    wait::until("the agent is refused", wait::DEADLINE, || {
        Ok(agent.log().to_lowercase().contains("unavailable").then_some(()))
    })
    .unwrap();
    line.set(Line::Up);
    let last = serial(&fetch_id(&agent, APP));
    next_serial(&agent, &last);
}

/// A database that does not answer at all costs no more than one that refuses.
#[test]
fn a_silent_database_is_as_good_as_none() {
    let (_postgres, line, site) = postgres_site("");
    let mut agent = agent(&site, "agent");
    agent.start().unwrap();
    short_lived(&site, &only_agent(&site));
    let before = serial(&fetch_id(&agent, APP));
    line.set(Line::Silent);
    let during = next_serial(&agent, &before);
    line.set(Line::Up);
    next_serial(&agent, &during);
    assert!(line.accepted() < 200, "{} connections: a storm", line.accepted());
}

/// Fault 8: every answer takes its time, and calls still end.
#[test]
fn a_slow_database_is_waited_for_and_not_run_over() {
    let (_postgres, line, site) = postgres_site("            max_open_conns = 4\n");
    let mut agent = agent(&site, "agent");
    agent.start().unwrap();
    let id = only_agent(&site);
    line.set(Line::Slow(Duration::from_millis(700)));
    short_lived(&site, &id);
    let before = serial(&fetch_id(&agent, APP));
    let connections = line.accepted();
    next_serial(&agent, &before);
    let calls: Vec<_> = (0..12)
        .map(|_| {
            let mut command = Command::new(binary("hardroot-server").unwrap());
            command.args(["entry", "show", "-socketPath"]).arg(site.server_socket());
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut call in calls {
        call.wait().unwrap();
    }
    line.set(Line::Up);
    site.server_command(&["entry", "show"]).unwrap().success().unwrap();
    assert!(line.accepted() - connections < 60, "{} connections", line.accepted() - connections);
}

/// Runs a `datastore` command with the site's configuration.
fn datastore(site: &Site, arguments: &[&str]) -> String {
    let output = Command::new(binary("hardroot-server").unwrap())
        .arg("datastore")
        .args(arguments)
        .arg("-config")
        .arg(site.server_config())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fault 7: a failover that lost everything since the server started. It publishes its authority again, under
/// the running server, and makes no new one.
#[test]
fn an_authority_that_a_failover_lost_is_published_again() {
    let postgres = Postgres::start().unwrap();
    let name = postgres.create_database().unwrap();
    let mut site = site_on("postgres", postgres.address(), &name, "");
    site.write_server_config().unwrap();
    datastore(&site, &["migrate"]);
    let old = site.folder().join("old.jsonl").display().to_string();
    datastore(&site, &["backup", "-out", &old]);
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let shown = |site: &Site| site.server_command(&["bundle", "show"]).unwrap().success().unwrap().stdout;
    let bundle = shown(&site);
    let mut first = agent(&site, "first");
    first.start().unwrap();

    datastore(&site, &["restore", "-in", &old, "-force"]);
    assert_eq!(postgres.sql(&name, "SELECT count(*) FROM bundles").unwrap().trim(), "0");
    wait::until("the authority is published again", wait::DEADLINE, || {
        Ok((postgres.sql(&name, "SELECT count(*) FROM bundles")?.trim() == "1").then_some(()))
    })
    .unwrap();
    assert_eq!(shown(&site), bundle, "the same authorities, no new ones");
    wait::until("so is the journal", wait::DEADLINE, || {
        Ok((postgres.sql(&name, "SELECT count(*) FROM journals")?.trim() == "1").then_some(()))
    })
    .unwrap();
    assert!(site.agent_ids().unwrap().is_empty(), "the lost agent is unknown");
    let mut second = agent(&site, "second");
    second.start().unwrap();
    site.create_entry(&only_agent(&site), APP, &[&me()], &[]).unwrap();
    fetch_id(&second, APP);
    // A restart finds its authority.
    site.stop_server().unwrap();
    site.start_server().unwrap();
    assert_eq!(shown(&site), bundle);
}

/// Faults 10 and 44: another schema is refused with one sentence; damaged rows authorise nobody.
#[test]
fn another_schema_is_refused_and_damaged_rows_authorise_nobody() {
    let (postgres, _line, mut site) = postgres_site("");
    let mut agent = agent(&site, "agent");
    agent.start().unwrap();
    let id = only_agent(&site);
    site.create_entry(&id, APP, &[&me()], &[]).unwrap();
    site.create_entry(&id, "spiffe://example.org/other", &[&me()], &[]).unwrap();
    fetch_until(&agent, "both", |seen| ids(seen).len() == 2);
    site.stop_server().unwrap();

    postgres.sql("test0", "UPDATE hardroot_schema SET version = version + 1").unwrap();
    let error = format!("{:#}", site.start_server().unwrap_err());
    assert!(error.contains("run the newer hardroot-server"), "{error}");
    assert!(error.contains("exit status: 4"), "{error}");
    postgres.sql("test0", "UPDATE hardroot_schema SET version = version - 1").unwrap();

    postgres
        .sql("test0", "DELETE FROM entry_selectors WHERE entry = (SELECT id FROM entries WHERE spiffe_id = 'spiffe://example.org/other')")
        .unwrap();
    site.start_server().unwrap();
    fetch_until(&agent, "the undamaged one alone", |seen| ids(seen) == [APP]);
    let log = fs::read_to_string(site.folder().join("server.log")).unwrap();
    assert!(log.contains("it has no selectors"), "the damaged row is named");
}

/// Fault 45: an entry that is made again under its old id is another one.
#[test]
fn an_entry_made_again_with_the_same_id_reaches_the_workload() {
    let (_postgres, _line, site) = postgres_site("");
    let mut agent = agent(&site, "agent");
    agent.start().unwrap();
    let id = only_agent(&site);
    for n in 0..4 {
        let identity = format!("spiffe://example.org/app-{n}");
        site.create_entry(&id, &identity, &[&me()], &["-entryID", "same"]).unwrap();
        fetch_until(&agent, &identity, |seen| ids(seen) == [identity.as_str()]);
        site.server_command(&["entry", "delete", "-entryID", "same"]).unwrap().success().unwrap();
    }
}

/// A server that is killed in the middle of writes leaves entries that are whole or not there.
#[test]
fn a_killed_server_leaves_nothing_half_done() {
    let (postgres, _line, mut site) = postgres_site("");
    for round in 0..3 {
        let data = site.folder().join(format!("entries-{round}.json"));
        let entries: Vec<_> = (0..400)
            .map(|n| {
                serde_json::json!({
                    "spiffe_id": format!("spiffe://example.org/k{round}-{n}"),
                    "parent_id": "spiffe://example.org/parent",
                    "selectors": [
                        { "type": "unix", "value": "uid:1" },
                        { "type": "unix", "value": "gid:1" },
                        { "type": "unix", "value": "user:a" }
                    ]
                })
            })
            .collect();
        fs::write(&data, serde_json::json!({ "entries": entries }).to_string()).unwrap();
        let mut create = Command::new(binary("hardroot-server").unwrap())
            .args(["entry", "create", "-data"])
            .arg(&data)
            .arg("-socketPath")
            .arg(site.server_socket())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let before: u64 = count(&postgres, "entries");
        wait::until("some are written", wait::DEADLINE, || {
            Ok((count(&postgres, "entries") > before + 20).then_some(()))
        })
        .unwrap();
        site.server.take().unwrap().kill().unwrap();
        create.wait().unwrap();
        site.start_server().unwrap();
        let entries = count(&postgres, "entries");
        assert_eq!(count(&postgres, "entry_selectors"), 3 * entries, "whole entries alone");
        assert_eq!(
            count(&postgres, "changes WHERE kind = 0"),
            entries,
            "each with its line in the log of changes"
        );
        site.server_command(&["entry", "show"]).unwrap().success().unwrap();
    }
}

fn count(postgres: &Postgres, table: &str) -> u64 {
    postgres.sql("test0", &format!("SELECT count(*) FROM {table}")).unwrap().trim().parse().unwrap()
}

/// From SQLite to PostgreSQL with the commands that operators have.
#[test]
fn a_site_moves_from_sqlite_to_postgres() {
    let mut site = Site::new().unwrap();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let mut agent = agent(&site, "agent");
    agent.start().unwrap();
    let id = only_agent(&site);
    site.create_entry(&id, APP, &[&me()], &[]).unwrap();
    fetch_id(&agent, APP);
    site.stop_server().unwrap();
    let file: PathBuf = site.folder().join("backup.jsonl");
    datastore(&site, &["backup", "-out", file.to_str().unwrap()]);

    let postgres = Postgres::start().unwrap();
    let name = postgres.create_database().unwrap();
    site.place_on("postgres", postgres.address(), &name, "").unwrap();
    site.write_server_config().unwrap();
    datastore(&site, &["restore", "-in", file.to_str().unwrap()]);
    let status = datastore(&site, &["status"]);
    assert!(status.contains("postgres 15") && status.contains("entries"), "{status}");
    site.start_server().unwrap();
    assert_eq!(only_agent(&site), id);
    let last = serial(&fetch_id(&agent, APP));
    assert!(!last.is_empty());
    site.create_entry(&id, "spiffe://example.org/new", &[&me()], &[]).unwrap();
    fetch_id(&agent, "spiffe://example.org/new");
}
