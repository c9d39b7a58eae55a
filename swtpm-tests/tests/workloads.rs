//! What workloads see: entries that come, change and go while they watch; who gets nothing; hostile callers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use common::{Watch, fetch_id, ids, me, only_agent, serial, token_site};
use hardroot_api::workload::X509svidRequest;
use hardroot_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hardroot_swtpm_tests::daemon::binary;
use hardroot_swtpm_tests::site::uid;
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

const APP: &str = "spiffe://example.org/app";

#[test]
fn entries_come_change_and_go_while_a_workload_watches() {
    let (site, agent) = token_site();
    let parent = only_agent(&site);
    let entry = site.create_entry(&parent, APP, &[&me()], &[]).unwrap();
    fetch_id(&agent, APP);
    let mut watch = Watch::open(&agent);
    let first = watch.next();
    assert_eq!(ids(&first), [APP]);

    // A second identity.
    let second =
        site.create_entry(&parent, "spiffe://example.org/more", &[&me()], &["-hint", "internal"]).unwrap();
    let update = watch.next();
    assert_eq!(ids(&update).len(), 2, "{update}");

    // A change that needs a new SVID.
    site.server_command(&[
        "entry",
        "update",
        "-entryID",
        &entry,
        "-parentID",
        &parent,
        "-spiffeID",
        APP,
        "-selector",
        &me(),
        "-dns",
        "app.example.org",
    ])
    .unwrap()
    .success()
    .unwrap();
    let changed = watch.next();
    assert_ne!(
        changed["svids"].as_array().unwrap().iter().map(|s| s["serial"].clone()).collect::<Vec<_>>(),
        update["svids"].as_array().unwrap().iter().map(|s| s["serial"].clone()).collect::<Vec<_>>()
    );

    // One goes, then the last: the stream ends with PermissionDenied.
    site.server_command(&["entry", "delete", "-entryID", &second]).unwrap().success().unwrap();
    assert_eq!(ids(&watch.next()), [APP]);
    site.server_command(&["entry", "delete", "-entryID", &entry]).unwrap().success().unwrap();
    let end = watch.next().to_string().to_lowercase();
    assert!(end.contains("permission") || end.contains("identity"), "{end}");
}

#[test]
fn svids_rotate_before_they_expire_and_each_verifies() {
    let (site, agent) = token_site();
    let parent = only_agent(&site);
    site.create_entry(&parent, APP, &[&me()], &["-x509SVIDTTL", "12"]).unwrap();
    fetch_id(&agent, APP);
    let mut watch = Watch::open(&agent);
    let (first, second, third) = (watch.next(), watch.next(), watch.next());
    assert_ne!(serial(&first), serial(&second));
    assert_ne!(serial(&second), serial(&third));

    let out = agent.folder().join("out");
    fs::create_dir_all(&out).unwrap();
    let folder = out.display().to_string();
    let ran =
        agent.workload(&binary("hardroot-workload").unwrap(), None, &["fetch", "--write", &folder]).unwrap();
    ran.success().unwrap();
    let verified = std::process::Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(out.join("bundle.pem"))
        .arg(out.join("svid.pem"))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn path_and_digest_decide_who_is_who() {
    let (site, agent) = token_site();
    let parent = only_agent(&site);
    let folder = site.folder().join("bin");
    fs::create_dir_all(&folder).unwrap();
    let (real, copy) = (folder.join("real"), folder.join("copy"));
    for path in [&real, &copy] {
        fs::copy(binary("hardroot-workload").unwrap(), path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::OpenOptions::new().append(true).open(&copy).unwrap().write_all(b"x").unwrap();
    let digest = std::process::Command::new("sha256sum").arg(&real).output().unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap()[..64].to_owned();
    site.create_entry(
        &parent,
        "spiffe://example.org/by-path",
        &[&format!("unix:path:{}", real.display())],
        &[],
    )
    .unwrap();
    site.create_entry(&parent, "spiffe://example.org/by-digest", &[&format!("unix:sha256:{digest}")], &[])
        .unwrap();

    hardroot_swtpm_tests::wait::until("both identities", hardroot_swtpm_tests::wait::DEADLINE, || {
        let ran = agent.workload(&real, None, &["fetch", "--timeout", "5"])?;
        Ok((ids(&ran.json()?).len() == 2).then_some(()))
    })
    .unwrap();
    let ran = agent.workload(&copy, None, &["fetch", "--timeout", "5"]).unwrap();
    assert!(!ran.ok(), "another file got: {}", ran.stdout);
}

#[test]
fn another_user_gets_nothing() {
    let (site, agent) = token_site();
    let parent = only_agent(&site);
    if uid() == 0 {
        site.create_entry(&parent, APP, &["unix:uid:61001", "unix:gid:61001"], &[]).unwrap();
        let program = site.folder().join("program");
        fs::copy(binary("hardroot-workload").unwrap(), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        hardroot_swtpm_tests::wait::until("the right user", hardroot_swtpm_tests::wait::DEADLINE, || {
            let ran = agent.workload(&program, Some(61001), &["fetch", "--timeout", "5"])?;
            Ok(ran.ok().then_some(()))
        })
        .unwrap();
        let ran = agent.workload(&program, Some(61002), &["fetch", "--timeout", "5"]).unwrap();
        assert!(!ran.ok(), "{}", ran.stdout);
        assert!(!agent.workload(&program, None, &["fetch", "--timeout", "5"]).unwrap().ok());
    } else {
        // Only root can become somebody else: here the entry is for somebody else instead.
        let entry = site.create_entry(&parent, APP, &[&format!("unix:uid:{}", uid() + 1)], &[]).unwrap();
        let mine = site.create_entry(&parent, "spiffe://example.org/mine", &[&me()], &[]).unwrap();
        let seen = fetch_id(&agent, "spiffe://example.org/mine");
        assert_eq!(ids(&seen), ["spiffe://example.org/mine"], "entry {entry} is not ours, {mine} is");
    }
}

async fn client(socket: &std::path::Path) -> SpiffeWorkloadApiClient<tonic::transport::Channel> {
    let channel =
        Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap().connect().await.unwrap();
    SpiffeWorkloadApiClient::new(channel)
}

fn request(headers: &[(&'static str, &str)]) -> tonic::Request<X509svidRequest> {
    let mut request = tonic::Request::new(X509svidRequest {});
    for (name, value) in headers {
        request.metadata_mut().append(*name, MetadataValue::try_from(*value).unwrap());
    }
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn the_security_header_must_be_there_once_and_exactly() {
    let (_site, agent) = tokio::task::spawn_blocking(token_site).await.unwrap();
    let mut api = client(&agent.socket()).await;
    let name = "workload.spiffe.io";
    for headers in [vec![], vec![(name, "True")], vec![(name, "false")], vec![(name, "true"), (name, "true")]]
    {
        let status = api.fetch_x509svid(request(&headers)).await.map(|_| ()).expect_err("must be refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{headers:?}: {status}");
    }
    let status = match api.fetch_x509svid(request(&[(name, "true")])).await {
        Ok(answer) => answer.into_inner().message().await.expect_err("no entry"),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_callers_harm_nobody_else() {
    // Both ends of a thousand sockets, and other tests beside this one: more than the usual limit of a user.
    let _files = hardroot_bench::process::raise_open_files();
    let (site, agent) = tokio::task::spawn_blocking(token_site).await.unwrap();
    let parent = only_agent(&site);
    site.create_entry(&parent, APP, &[&me()], &[]).unwrap();
    fetch_id(&agent, APP);

    // Hundreds of sockets that say nothing or half a thing, from the same user as the honest workload.
    let mut silent = Vec::new();
    for n in 0..400 {
        let Ok(mut stream) = UnixStream::connect(agent.socket()) else { break };
        if n % 2 == 0 {
            drop(stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM"));
        }
        silent.push(stream);
    }
    // Giant metadata.
    let mut api = client(&agent.socket()).await;
    let giant = "x".repeat(1 << 20);
    assert!(api.fetch_x509svid(request(&[("workload.spiffe.io", "true"), ("giant", &giant)])).await.is_err());

    let seen = tokio::task::spawn_blocking(move || {
        let seen = fetch_id(&agent, APP);
        (seen, agent)
    });
    assert_eq!(ids(&seen.await.unwrap().0), [APP]);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_streams_are_nothing_special() {
    let _files = hardroot_bench::process::raise_open_files();
    let (site, agent) = tokio::task::spawn_blocking(token_site).await.unwrap();
    let parent = only_agent(&site);
    let entry = site.create_entry(&parent, APP, &[&me()], &[]).unwrap();
    fetch_id(&agent, APP);
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let mut api = client(&agent.socket()).await;
        let mut stream =
            api.fetch_x509svid(request(&[("workload.spiffe.io", "true")])).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().svids.len(), 1);
        streams.push((api, stream));
    }
    site.create_entry(&parent, "spiffe://example.org/more", &[&me()], &[]).unwrap();
    for (_, stream) in &mut streams {
        assert_eq!(stream.message().await.unwrap().unwrap().svids.len(), 2);
    }
    assert!(!entry.is_empty());
}
