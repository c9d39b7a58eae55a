//! JWT-SVIDs from end to end: fetched by a published client, validated by others, gone with what vouches for them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use std::collections::BTreeSet;

use common::{fetch_id, me, only_agent};
use hardroot_swtpm_tests::daemon::{Ran, binary};
use hardroot_swtpm_tests::site::{Agent, AgentSetup, Keys, Site};
use hardroot_swtpm_tests::wait;
use serde_json::Value;

const APP: &str = "spiffe://example.org/app";

/// A running site with one agent that has an admin socket.
fn site() -> (Site, Agent) {
    let mut site = Site::new().unwrap();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let token = site.join_token().unwrap();
    let mut setup = AgentSetup::join_token(&token);
    setup.keys = Keys::Disk;
    let admin = site.folder().join("agent/private/admin.sock");
    setup.lines.push_str(&format!("    admin_socket_path = \"{}\"\n", admin.display()));
    let mut agent = site.agent("agent", setup).unwrap();
    agent.start().unwrap();
    (site, agent)
}

fn ask(agent: &Agent, words: &[&str]) -> Ran {
    let socket = agent.socket().display().to_string();
    agent.command(&[words, &["-socketPath", &socket]].concat()).unwrap()
}

/// The tokens that this process gets, by identity.
fn fetch(agent: &Agent, audience: &str) -> Vec<(String, String)> {
    let ran = ask(agent, &["api", "fetch", "jwt", "-audience", audience, "-output", "json"]);
    let json = ran.success().unwrap().json().unwrap();
    let text = |svid: &Value, name: &str| svid[name].as_str().unwrap().to_owned();
    let svids = json[0]["svids"].as_array().unwrap();
    svids.iter().map(|svid| (text(svid, "spiffe_id"), text(svid, "svid"))).collect()
}

fn cached(agent: &Agent) -> Value {
    let socket = agent.folder().join("private/admin.sock").display().to_string();
    let ran = agent.command(&["debug", "getinfo", "-output", "json", "-socketPath", &socket]).unwrap();
    ran.success().unwrap().json().unwrap()["cached_jwt_svids_count"].clone()
}

#[test]
fn a_token_is_fetched_validated_kept_and_withdrawn() {
    let (site, agent) = site();
    let parent = only_agent(&site);
    let refused = ask(&agent, &["api", "fetch", "jwt", "-audience", "me"]);
    assert!(!refused.ok() && refused.stderr.contains("code = PermissionDenied"), "{}", refused.stderr);
    let entry = site.create_entry(&parent, APP, &[&me()], &["-hint", "internal"]).unwrap();
    fetch_id(&agent, APP);

    // A published client validates it by the bundle it gets, and has it validated.
    let program = binary("hardroot-workload").unwrap();
    let seen = agent.workload(&program, None, &["jwt", "--audience", "me"]).unwrap();
    assert_eq!(seen.success().unwrap().json().unwrap()["spiffe_id"], APP);

    let first = fetch(&agent, "me");
    assert_eq!((first.len(), first[0].0.as_str()), (1, APP));
    assert_eq!(fetch(&agent, "me"), first, "it is kept");
    assert_eq!(cached(&agent), 1);
    let token = first[0].1.as_str();
    let valid =
        ask(&agent, &["api", "validate", "jwt", "-audience", "me", "-svid", token]).success().unwrap();
    assert!(
        valid
            .stdout
            .starts_with(&format!("SVID is valid.\nSPIFFE ID : {APP}\nClaims    : {{\"aud\":[\"me\"]")),
        "{}",
        valid.stdout
    );
    let swapped = if token.ends_with('A') { "Q" } else { "A" };
    let forged = format!("{}{swapped}{}", &token[..token.len() - 9], &token[token.len() - 8..]);
    for (audience, svid) in [("you", token), ("me", &forged)] {
        let ran = ask(&agent, &["api", "validate", "jwt", "-audience", audience, "-svid", svid]);
        assert!(!ran.ok() && ran.stderr.starts_with("SVID is not valid: "), "{}", ran.stderr);
    }

    // Two audiences, one of two identities, both.
    site.create_entry(&parent, "spiffe://example.org/more", &[&me()], &[]).unwrap();
    fetch_id(&agent, "spiffe://example.org/more");
    let names: BTreeSet<String> = fetch(&agent, "a,b").into_iter().map(|(id, _)| id).collect();
    assert_eq!(names, BTreeSet::from([APP.to_owned(), "spiffe://example.org/more".to_owned()]));
    let one = ask(&agent, &["api", "fetch", "jwt", "-audience", "a", "-spiffeID", APP]).success().unwrap();
    assert!(
        one.stdout.starts_with(&format!("token({APP}):\n\t")) && one.stdout.contains("hint("),
        "{}",
        one.stdout
    );
    let foreign =
        ask(&agent, &["api", "fetch", "jwt", "-audience", "a", "-spiffeID", "spiffe://other.org/x"]);
    assert!(!foreign.ok() && foreign.stderr.contains("code = InvalidArgument"), "{}", foreign.stderr);

    // Withdrawn: nothing of it is handed out any more, and nothing is kept.
    site.server_command(&["entry", "delete", "-entryID", &entry]).unwrap().success().unwrap();
    wait::until("the withdrawal", wait::DEADLINE, || {
        let ran = ask(&agent, &["api", "fetch", "jwt", "-audience", "me", "-spiffeID", APP]);
        Ok(ran.stderr.contains("code = PermissionDenied").then_some(()))
    })
    .unwrap();
    assert!(!agent.log().contains(token), "a token in the log");
}

#[test]
fn tokens_are_renewed_and_outlive_an_outage() {
    let (mut site, agent) = site();
    let parent = only_agent(&site);
    site.create_entry(&parent, APP, &[&me()], &["-jwtSVIDTTL", "20"]).unwrap();
    fetch_id(&agent, APP);
    let first = fetch(&agent, "me");
    wait::until("another token after half of its life", wait::DEADLINE, || {
        Ok((fetch(&agent, "me") != first).then_some(()))
    })
    .unwrap();
    site.stop_server().unwrap();
    let kept = fetch(&agent, "me");
    // Past half of its life the server is asked in vain, and past its end there is none.
    let end = wait::until("the end of the last token", wait::DEADLINE, || {
        let ran = ask(&agent, &["api", "fetch", "jwt", "-audience", "me", "-timeout", "25s"]);
        if ran.ok() {
            assert!(ran.stdout.contains(&kept[0].1), "where should another one come from?");
            return Ok(None);
        }
        Ok(Some(ran.stderr))
    })
    .unwrap();
    assert!(end.contains("code = Unavailable desc = could not fetch JWT-SVID"), "{end}");
    assert!(agent.log().contains("the one that is still valid is handed out"));
}
