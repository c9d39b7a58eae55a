//! The load generator against the real server: small runs of every scenario, and a server that refuses or goes away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::process::{Command, Stdio};
use std::time::Duration;

use hardroot_bench::authority::prepare;
use hardroot_swtpm_tests::daemon::{Ran, binary};
use hardroot_swtpm_tests::site::{Keys, PORT, Site, TRUST_DOMAIN};
use hardroot_swtpm_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A running server that lets simulated agents in, configured by what `prepare` wrote.
fn site() -> Site {
    let mut site = Site::new().unwrap();
    site.server_keys = Keys::Memory;
    let made = prepare(&site.folder().join("bench")).unwrap();
    let snippet = std::fs::read_to_string(made.snippet).unwrap();
    // The blocks of the file as it stands: what it says must be what a server takes.
    let inside = |name: &str| {
        let (_, rest) = snippet.split_once(&format!("{name} {{\n")).unwrap();
        rest.split_once("\n}\n").unwrap().0.to_owned() + "\n"
    };
    site.server_lines = inside("server");
    site.attestors.push_str(&inside("plugins"));
    site.start_server().unwrap();
    site
}

fn command(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("hardroot-bench").unwrap());
    command
        .args(arguments)
        .arg("-trustDomain")
        .arg(TRUST_DOMAIN)
        .arg("-socketPath")
        .arg(site.server_socket());
    if !matches!(arguments[0], "entries" | "clean") {
        if !arguments.contains(&"-dir") {
            command.arg("-dir").arg(site.folder().join("bench"));
        }
        command.arg("-serverAddress").arg(format!("{}:{PORT}", site.address));
    }
    command
}

fn bench(site: &Site, arguments: &[&str]) -> Ran {
    Ran::of(&command(site, arguments).output().unwrap())
}

fn report(site: &Site, arguments: &[&str]) -> Value {
    let pid = site.server.as_ref().unwrap().pid().to_string();
    let all = [arguments, &["-output", "json", "-serverPid", &pid]].concat();
    bench(site, &all).success().unwrap().json().unwrap()
}

fn operation<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = report["operations"].as_array().unwrap().iter().find(|operation| operation["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn done(report: &Value, name: &str) -> u64 {
    let operation = operation(report, name);
    assert_eq!(operation["failed"], 0, "{operation}");
    operation["done"].as_u64().unwrap()
}

fn figure(report: &Value, name: &str) -> f64 {
    let found = report["figures"].as_array().unwrap().iter().find(|figure| figure["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))["value"].as_f64().unwrap()
}

#[test]
fn twenty_agents_in_every_scenario() {
    let site = site();
    let made = bench(&site, &["entries", "-agents", "20", "-perAgent", "2"]).success().unwrap();
    assert!(made.stdout.contains("Entries created  : 40"), "{}", made.stdout);
    let again = bench(&site, &["entries", "-agents", "20", "-perAgent", "2"]).success().unwrap();
    assert!(again.stdout.contains("Already there    : 40"), "{}", again.stdout);

    let attest = report(&site, &["attest", "-agents", "20", "-rate", "20", "-duration", "2s"]);
    assert!(done(&attest, "attest") > 15, "{attest}");
    assert!(attest["server"]["resident_most_mib"].as_f64().unwrap() > 1.0);

    let svg = site.folder().join("steady.svg");
    let path = svg.display().to_string();
    let steady = [
        "steady",
        "-agents",
        "20",
        "-syncInterval",
        "500ms",
        "-duration",
        "3s",
        "-fetchRate",
        "10",
        "-jwtRate",
        "5",
        "-svg",
        &path,
    ];
    let steady = report(&site, &steady);
    // Each agent six times, and one more or less at the ends.
    assert!((100..=140).contains(&done(&steady, "sync")), "{steady}");
    assert!(done(&steady, "x509") > 10 && done(&steady, "jwt") > 3);
    assert!(std::fs::read_to_string(&svg).unwrap().contains("<polyline"));
    let by_get = ["steady", "-agents", "5", "-sync", "get", "-syncInterval", "500ms", "-duration", "1s"];
    assert!(done(&report(&site, &by_get), "sync") >= 8);

    let closed = ["issue", "-agents", "4", "-closedLoop", "-batch", "5", "-duration", "1s", "-warmUp", "0s"];
    let closed = report(&site, &closed);
    assert_eq!(operation(&closed, "x509")["items"].as_u64().unwrap(), 5 * done(&closed, "x509"));
    let open =
        ["issue", "-agents", "4", "-rate", "100", "-batch", "10", "-duration", "2s", "-arrivals", "constant"];
    assert_eq!(done(&report(&site, &open), "x509"), 20, "the plan is kept");

    let storm = report(&site, &["storm", "-agents", "20", "-calm", "0s"]);
    assert_eq!(figure(&storm, "agents healed"), 20.0);
    // An SVID for each agent and two workloads.
    assert_eq!(figure(&storm, "SVIDs issued to agents and workloads"), 60.0);

    let churn = [
        "churn",
        "-agents",
        "3",
        "-rate",
        "8",
        "-duration",
        "2s",
        "-syncInterval",
        "200ms",
        "-arrivals",
        "constant",
    ];
    let polled = report(&site, &churn);
    assert_eq!((done(&polled, "change"), done(&polled, "heard")), (16, 16));

    // Pushed, news does not wait for anybody's interval.
    let pushed: Vec<_> =
        churn.iter().copied().filter(|part| !matches!(*part, "-syncInterval" | "200ms")).collect();
    let pushed = report(&site, &[&pushed[..], &["-sync", "push"]].concat());
    assert_eq!((done(&pushed, "change"), done(&pushed, "heard")), (16, 16));
    let storm = report(&site, &["storm", "-agents", "20", "-calm", "0s", "-sync", "push"]);
    assert_eq!(figure(&storm, "agents healed"), 20.0);
    let steady =
        report(&site, &["steady", "-agents", "5", "-sync", "push", "-duration", "1s", "-fetchRate", "10"]);
    assert!(done(&steady, "x509") > 3, "{steady}");

    let cleaned = bench(&site, &["clean"]).success().unwrap();
    assert_eq!(cleaned.stdout, "Entries deleted  : 40\nAgents evicted   : 20\n");
}

#[test]
fn join_tokens_serve_too() {
    let site = site();
    for _run in 0..2 {
        let attest = report(
            &site,
            &["attest", "-attestor", "join_token", "-agents", "6", "-rate", "50", "-duration", "2s"],
        );
        assert_eq!(done(&attest, "attest"), 5, "each token once");
    }
}

#[test]
fn what_stops_a_run_is_told_with_what_to_do() {
    let mut site = site();
    let refused = |arguments: &[&str], parts: &[&str]| {
        let ran = bench(&site, arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        for part in parts {
            assert!(ran.stderr.contains(part), "{part} is missing in {}", ran.stderr);
        }
    };
    refused(&["issue", "-agents", "2"], &["no entries", "hardroot-bench entries"]);
    refused(&["storm", "-agents", "2", "-attestor", "join_token"], &["x509pop"]);
    // An authority the server does not know.
    let other = site.folder().join("other").display().to_string();
    prepare(std::path::Path::new(&other)).unwrap();
    refused(&["attest", "-agents", "2", "-dir", &other], &["could not join", "ca.pem"]);
    site.stop_server().unwrap();
    let ran = bench(&site, &["attest", "-agents", "2"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("is the server running"), "{ran:?}");
}

#[test]
fn a_server_that_goes_away_is_in_the_report_and_so_is_a_run_that_is_broken_off() {
    let mut site = site();
    let arguments = [
        "steady",
        "-agents",
        "5",
        "-syncInterval",
        "200ms",
        "-duration",
        "10m",
        "-progress",
        "-output",
        "json",
        "-timeout",
        "2s",
    ];
    let mut child = command(&site, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let mut follow = |wanted: &dyn Fn(&str) -> bool| {
        loop {
            line.clear();
            let read = std::io::BufRead::read_line(&mut progress, &mut line).unwrap();
            assert!(read > 0, "the run ended too early");
            if wanted(&line) {
                return;
            }
        }
    };
    follow(&|line| line.starts_with("steady") && line.contains("agents 5"));
    site.stop_server().unwrap();
    follow(&|line| !line.trim_end().ends_with("failed 0"));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = wait::until("the end", Duration::from_secs(20), || Ok(child.try_wait()?)).unwrap();
    assert_eq!(status.code(), Some(130));
    let report: Value = serde_json::from_reader(child.stdout.take().unwrap()).unwrap();
    assert_eq!(report["interrupted"], true);
    let sync = operation(&report, "sync");
    assert!(sync["done"].as_u64().unwrap() > 0 && sync["failed"].as_u64().unwrap() > 0, "{sync}");
    assert!(sync["failures"][0]["reason"].as_str().unwrap().len() > 5, "{sync}");
}
