//! A disk that is full (fault 11): files that may not grow any more, in running processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use std::fs;
use std::process::Command;

use common::{fetch_id, fetch_until, me, only_agent, serial, token_site};
use hardroot_swtpm_tests::site::{Agent, AgentSetup, Keys, Site};
use hardroot_swtpm_tests::wait;

const APP: &str = "spiffe://example.org/app";
const OTHER: &str = "spiffe://example.org/other";

/// From now on no file of this process grows, as if no disk had room; or all may again.
fn disk(pid: u32, full: bool) {
    // The soft limit alone: a process may not raise its hard one again.
    let limit = if full { "--fsize=0:" } else { "--fsize=unlimited:" };
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), limit]).status().unwrap();
    assert!(set.success());
}

fn server(site: &Site) -> u32 {
    site.server.as_ref().unwrap().pid()
}

fn agent_pid(agent: &Agent) -> u32 {
    agent.daemon.as_ref().unwrap().pid()
}

/// Whoever has an SVID is served, what must be written is refused with a reason and loses nothing, and with room again all
/// goes on without a restart. Without room for its audit line no SVID is issued.
#[test]
fn a_server_without_room_serves_what_it_has_and_says_why_it_writes_nothing() {
    let (site, agent) = token_site();
    let parent = only_agent(&site);
    site.create_entry(&parent, APP, &[&me()], &[]).unwrap();
    let before = serial(&fetch_id(&agent, APP));
    let held = site.server_command(&["entry", "show", "-output", "json"]).unwrap().success().unwrap().stdout;

    disk(server(&site), true);
    let create = ["entry", "create", "-parentID", &parent, "-spiffeID", OTHER, "-selector", &me()];
    let refused = site.server_command(&create).unwrap();
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(!refused.ok(), "{said}");
    assert!(said.contains("disk"), "what is wrong: {said}");
    let shown = site.server_command(&["entry", "show", "-output", "json"]).unwrap().success().unwrap().stdout;
    assert_eq!(shown, held, "nothing is lost");
    assert!(site.server_command(&["healthcheck"]).unwrap().ok(), "it serves");
    assert_eq!(serial(&fetch_id(&agent, APP)), before);
    let minted = site.server_command(&["x509", "mint", "-spiffeID", OTHER]).unwrap();
    assert!(!minted.ok(), "no audit line, no certificate: {}{}", minted.stdout, minted.stderr);

    disk(server(&site), false);
    site.server_command(&create).unwrap().success().unwrap();
    fetch_id(&agent, OTHER);
    site.server_command(&["x509", "mint", "-spiffeID", OTHER]).unwrap().success().unwrap();
    assert!(site.server.as_ref().unwrap().log().contains("MintX509SVID"), "audited again");
}

/// Whoever prefers availability to the record: workloads' SVIDs are renewed all the while.
#[test]
fn without_audit_log_required_a_full_disk_stops_no_renewal() {
    let mut site = Site::new().unwrap();
    site.server_lines = "    audit_log_required = false\n".to_owned();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let mut setup = AgentSetup::join_token(&site.join_token().unwrap());
    setup.keys = Keys::Disk;
    let mut agent = site.agent("agent", setup).unwrap();
    agent.start().unwrap();
    site.create_entry(&only_agent(&site), APP, &[&me()], &["-x509SVIDTTL", "20"]).unwrap();
    let mut last = serial(&fetch_id(&agent, APP));
    disk(server(&site), true);
    for _ in 0..2 {
        let next =
            fetch_until(&agent, "a renewed SVID", |seen| !serial(seen).is_empty() && serial(seen) != last);
        last = serial(&next);
    }
    disk(server(&site), false);
    site.create_entry(&only_agent(&site), OTHER, &[&me()], &[]).unwrap();
    fetch_id(&agent, OTHER);
}

/// An agent renews its own SVID although it can store nothing, serves on, and stores it when there is room, so that a
/// restart finds it: its join token is used up.
#[test]
fn an_agent_without_room_goes_on_and_stores_its_svid_when_it_can() {
    let mut site = Site::new().unwrap();
    site.server_lines = "    agent_ttl = \"40s\"\n".to_owned();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let mut setup = AgentSetup::join_token(&site.join_token().unwrap());
    setup.keys = Keys::Disk;
    let mut agent = site.agent("agent", setup).unwrap();
    agent.start().unwrap();
    site.create_entry(&only_agent(&site), APP, &[&me()], &[]).unwrap();
    fetch_id(&agent, APP);
    let file = agent.data().join("agent-svid.json");
    let stored = fs::read(&file).unwrap();
    let renewals = |site: &Site| site.server.as_ref().unwrap().log().matches("RenewAgent").count();

    disk(agent_pid(&agent), true);
    let before = renewals(&site);
    wait::until("a renewal", wait::DEADLINE, || Ok((renewals(&site) > before).then_some(()))).unwrap();
    fetch_id(&agent, APP);
    assert_eq!(fs::read(&file).unwrap(), stored, "the old file is whole");

    disk(agent_pid(&agent), false);
    wait::until("it is stored", wait::DEADLINE, || Ok((fs::read(&file)? != stored).then_some(()))).unwrap();
    agent.daemon.take().unwrap().kill().unwrap();
    agent.start().unwrap();
    fetch_id(&agent, APP);
}
