//! Changes are pushed to agents: their interval of polls is an hour here, so nothing comes by a poll.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use common::{Watch, fetch_id, ids, me, only_agent};
use hardroot_api::spire::api::types::entry::AdditionalAttributes;
use hardroot_api::spire::api::types::{Entry, Spiffeid};
use hardroot_bench::operator::Operator;
use hardroot_bench::target::Attestor;
use hardroot_emulators::{Line, Postgres, TcpProxy};
use hardroot_identity::{SpiffeId, TrustDomain};
use hardroot_swtpm_tests::site::{Agent, AgentSetup, Keys, PORT, Site};
use hardroot_swtpm_tests::wait;
use nix::sys::signal::Signal;

const ONE: &str = "spiffe://example.org/one";
const TWO: &str = "spiffe://example.org/two";
const THREE: &str = "spiffe://example.org/three";
const FOUR: &str = "spiffe://example.org/four";

fn agent(site: &Site, name: &str) -> Agent {
    let mut setup = AgentSetup::join_token(&site.join_token().unwrap());
    setup.keys = Keys::Disk;
    setup.lines.push_str("    experimental {\n        sync_interval = \"1h\"\n    }\n");
    let mut agent = site.agent(name, setup).unwrap();
    agent.start().unwrap();
    agent
}

/// Reads updates until the stream shows this identity, or shows it no more.
fn next_with(watch: &mut Watch, id: &str, shown: bool) {
    while ids(&watch.next()).iter().any(|one| one == id) != shown {}
}

#[test]
fn a_change_reaches_an_open_stream_and_a_restarted_server_goes_on() {
    let mut site = Site::new().unwrap();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let agent = agent(&site, "agent");
    let id = only_agent(&site);
    site.create_entry(&id, ONE, &[&me()], &[]).unwrap();
    fetch_id(&agent, ONE);
    let mut watch = Watch::open(&agent);
    let two = site.create_entry(&id, TWO, &[&me()], &[]).unwrap();
    next_with(&mut watch, TWO, true);
    site.server_command(&["entry", "delete", "-entryID", &two]).unwrap().success().unwrap();
    next_with(&mut watch, TWO, false);

    site.stop_server().unwrap();
    site.start_server().unwrap();
    site.create_entry(&id, THREE, &[&me()], &[]).unwrap();
    next_with(&mut watch, THREE, true);

    site.server_command(&["agent", "ban", "-spiffeID", &id]).unwrap().success().unwrap();
    wait::until("the agent learns of its ban", wait::DEADLINE, || {
        Ok(agent.log().contains("banned").then_some(()))
    })
    .unwrap();
}

#[test]
fn an_agent_that_stands_still_holds_up_nobody_and_catches_up() {
    let mut site = Site::new().unwrap();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let mut still = agent(&site, "still");
    let still_id = only_agent(&site);
    let quick = agent(&site, "quick");
    let quick_id = site.agent_ids().unwrap().into_iter().find(|id| *id != still_id).unwrap();
    for id in [&still_id, &quick_id] {
        site.create_entry(id, ONE, &[&me()], &[]).unwrap();
    }
    fetch_id(&still, ONE);
    fetch_id(&quick, ONE);
    still.running().unwrap().signal(Signal::SIGSTOP).unwrap();
    for id in [&still_id, &quick_id] {
        site.create_entry(id, TWO, &[&me()], &[]).unwrap();
    }
    fetch_id(&quick, TWO);
    still.running().unwrap().signal(Signal::SIGCONT).unwrap();
    fetch_id(&still, TWO);
}

/// Reads updates until the stream shows these identities and no others.
fn next_of(watch: &mut Watch, wanted: &[&str]) {
    loop {
        let mut seen = ids(&watch.next());
        seen.sort();
        if seen == wanted {
            return;
        }
    }
}

/// Entries that make telling everything anew heavy; no workload of this machine has their selectors.
const MANY: usize = 2_000;

fn fill(site: &Site, parent: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let own = TrustDomain::new("example.org").unwrap();
        let operator = Operator::connect(&site.server_socket(), own).await.unwrap();
        let parent: SpiffeId = parent.parse().unwrap();
        let id = Spiffeid { trust_domain: "example.org".into(), path: parent.path().to_owned() };
        let entry = |n: usize| Entry {
            parent_id: Some(id.clone()),
            additional_attributes: Some(AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                ..AdditionalAttributes::default()
            }),
            ..operator.entry(Attestor::JoinToken, 0, &format!("/many/{n}"), n)
        };
        for first in (0..MANY).step_by(500) {
            let made = operator.create((first..first + 500).map(entry).collect()).await.unwrap();
            assert!(made.iter().all(Result::is_ok));
        }
    });
}

#[test]
fn an_agent_goes_from_one_server_to_another_and_is_told_only_what_changed() {
    let postgres = Postgres::start().unwrap();
    let name = postgres.create_database().unwrap();
    let (mut one, mut two) = (Site::new().unwrap(), Site::new().unwrap());
    for site in [&mut one, &mut two] {
        site.place_on("postgres", postgres.address(), &name, "").unwrap();
        site.start_server().unwrap();
    }
    // Both servers' authorities are in the bundle now.
    let bundle = two.write_bundle().unwrap();
    std::fs::copy(bundle, one.folder().join("bootstrap.pem")).unwrap();
    let line = TcpProxy::start((one.address, PORT).into()).unwrap();
    one.front = Some(line.address());
    let agent = agent(&one, "agent");
    let id = only_agent(&one);
    fill(&one, &id);
    one.create_entry(&id, ONE, &[&me()], &[]).unwrap();
    let two_id = one.create_entry(&id, TWO, &[&me()], &[]).unwrap();
    fetch_id(&agent, TWO);
    let everything = line.passed();
    let mut watch = Watch::open(&agent);

    // What changes while the agent is with nobody.
    line.set(Line::Cut);
    one.stop_server().unwrap();
    two.create_entry(&id, THREE, &[&me()], &[]).unwrap();
    two.server_command(&["entry", "delete", "-entryID", &two_id]).unwrap().success().unwrap();
    line.lead_to((two.address, PORT).into());
    line.set(Line::Up);
    next_of(&mut watch, &[ONE, THREE]);
    let moved = line.passed() - everything;
    // And while it is connected.
    let four = two.create_entry(&id, FOUR, &[&me()], &[]).unwrap();
    next_of(&mut watch, &[FOUR, ONE, THREE]);

    // Back again.
    one.start_server().unwrap();
    line.lead_to((one.address, PORT).into());
    two.stop_server().unwrap();
    one.server_command(&["entry", "delete", "-entryID", &four]).unwrap().success().unwrap();
    next_of(&mut watch, &[ONE, THREE]);
    let both = line.passed() - everything;
    assert!(everything > 150_000, "{everything} bytes: everything is too little to be noticed");
    assert!(moved < 40_000 && both < 80_000, "{moved} and {both} bytes: everything was told again");
}
