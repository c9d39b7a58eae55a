//! Calls that are well-formed and too much: huge batches and messages, hostile CSRs, a token that is slow, an agent
//! that is banned while it is connected.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "tests fail loudly"
)]

#[path = "hostile/raw.rs"]
mod raw;
#[path = "hostile/scene.rs"]
mod scene;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use hardroot_api::spire::api::server::bundle::v1::GetBundleRequest;
use hardroot_api::spire::api::server::bundle::v1::bundle_client::BundleClient;
use hardroot_api::spire::api::server::entry::v1::entry_client::EntryClient;
use hardroot_api::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, GetAuthorizedEntriesRequest,
};
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use hardroot_api::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, MintX509svidRequest, NewX509svidParams,
};
use hardroot_api::spire::api::types::{Entry, Selector, Spiffeid};
use hardroot_identity::{SignatureAlgorithm, X509Svid, assemble_csr, csr_to_be_signed};
use hardroot_swtpm_tests::site::{PORT, Site};
use hardroot_swtpm_tests::wait;
use hardroot_transport::{ConnectOptions, connect, uds_channel};
use nix::sys::signal::Signal;
use scene::Scene;
use tonic::Code;

/// gRPC's own limit.
const MESSAGE: usize = 4 << 20;
const ITEMS: usize = 100_000;

#[test]
fn batches_of_a_hundred_thousand() {
    let scene = Scene::new("");
    let admin = scene.runtime.block_on(uds_channel(&scene.site.server_socket())).unwrap();
    let mut entries = EntryClient::new(admin).max_decoding_message_size(64 << 20);
    scene.survives("BatchCreateEntry of as many small entries as a message holds", async |_| {
        let path = |path: String| Some(Spiffeid { trust_domain: "example.org".to_owned(), path });
        let entry = |n| Entry {
            spiffe_id: path(format!("/{n}")),
            parent_id: path("/p".to_owned()),
            ..Entry::default()
        };
        let mine: Vec<_> = (0..MESSAGE / 60).map(entry).collect();
        let count = mine.len();
        let request = BatchCreateEntryRequest { entries: mine, output_mask: None };
        let results = entries.batch_create_entry(request).await.unwrap().into_inner().results;
        assert_eq!(results.len(), count);
        // They have no selectors.
        assert!(
            results.iter().all(|result| result.status.as_ref().unwrap().code == Code::InvalidArgument as i32)
        );
    });
    scene.survives("BatchDeleteEntry of 100,000 ids", async |_| {
        let ids = (0..ITEMS).map(|n| format!("{n:036}")).collect();
        let results =
            entries.batch_delete_entry(BatchDeleteEntryRequest { ids }).await.unwrap().into_inner().results;
        assert_eq!(results.len(), ITEMS);
        assert!(results.iter().all(|result| result.status.as_ref().unwrap().code == Code::NotFound as i32));
    });
    // Nobody decodes these: each empty item would be a structure of dozens or hundreds of bytes.
    let many = Entry { selectors: vec![Selector::default(); 500_000], ..Entry::default() };
    for (what, empty) in [
        ("100,000 empty entries", vec![Entry::default(); ITEMS]),
        ("two million empty entries", vec![Entry::default(); 2_000_000]),
        ("an entry with 500,000 empty selectors", vec![many]),
    ] {
        scene.survives(what, async |_| {
            for _ in 0..5 {
                let request = BatchCreateEntryRequest { entries: empty.clone(), output_mask: None };
                let refused = entries.batch_create_entry(request).await.unwrap_err();
                assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
            }
        });
    }
    let mut svids = SvidClient::new(scene.channel());
    scene.survives("BatchNewX509SVID of 100,000", async |_| {
        let params = vec![NewX509svidParams { entry_id: "x".to_owned(), csr: vec![0; 30] }; ITEMS];
        let refused = svids.batch_new_x509svid(BatchNewX509svidRequest { params }).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    });
}

#[test]
fn the_signing_limit_follows_the_file_at_a_sighup() {
    let mut site = Site::new().unwrap();
    site.server_lines = "    ratelimit {\n        signing = true\n    }\n".to_owned();
    let scene = Scene::of(site);
    let mut client = SvidClient::new(scene.channel());
    // More than a second's worth at once is refused, without anybody having to wait.
    let mut ask = || {
        let params = vec![NewX509svidParams { entry_id: "x".to_owned(), csr: vec![0; 30] }; 501];
        scene.runtime.block_on(client.batch_new_x509svid(BatchNewX509svidRequest { params }))
    };
    let reload = |from: &str, to: &str, times: usize| {
        let path = scene.site.server_config();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let server = scene.site.server.as_ref().unwrap();
        server.signal(Signal::SIGHUP).unwrap();
        let taken = wait::until("the reload", wait::DEADLINE, || {
            Ok((server.log().matches("the configuration was taken over").count() >= times).then_some(()))
        });
        taken.unwrap();
    };
    assert_eq!(ask().unwrap_err().code(), Code::ResourceExhausted);
    reload("signing = true", "signing = false", 1);
    assert_eq!(ask().unwrap().into_inner().results.len(), 501);
    reload("signing = false", "signing = true", 2);
    assert_eq!(ask().unwrap_err().code(), Code::ResourceExhausted);
}

#[test]
fn messages_up_to_four_mebibytes_and_not_beyond() {
    let scene = Scene::new("");
    let admin = scene.runtime.block_on(uds_channel(&scene.site.server_socket())).unwrap();
    let mut entries = EntryClient::new(admin).max_decoding_message_size(64 << 20);
    // A field of this length has a tag and four bytes of length before it.
    let request = |bytes: usize| BatchDeleteEntryRequest { ids: vec!["x".repeat(bytes - 5)] };
    scene.survives("messages of 4 MiB", async |_| {
        for _ in 0..20 {
            entries.batch_delete_entry(request(MESSAGE)).await.unwrap();
        }
    });
    scene.survives("messages over 4 MiB", async |_| {
        for _ in 0..20 {
            let refused = entries.batch_delete_entry(request(MESSAGE + 1)).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        }
    });
    let nobody = scene.runtime.block_on(async {
        let address = format!("{}:{PORT}", scene.site.address);
        connect(&address, Arc::clone(&scene.nobody), ConnectOptions::default()).await.unwrap()
    });
    scene.survives("100 large messages of nobody at once", async |_| {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let channel = nobody.clone();
            all.spawn(async move {
                let mut entries = EntryClient::new(channel.clone());
                let request = BatchDeleteEntryRequest { ids: vec!["x".repeat(MESSAGE / 2)] };
                let denied = entries.batch_delete_entry(request).await.unwrap_err();
                assert_eq!(denied.code(), Code::PermissionDenied);
                BundleClient::new(channel).get_bundle(GetBundleRequest::default()).await.unwrap();
            });
        }
        while let Some(one) = all.join_next().await {
            one.unwrap();
        }
    });
}

/// The shim as this build made it, beside the test or one level up.
fn shim() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    [deps.clone(), deps.parent().unwrap().to_owned()]
        .map(|directory| directory.join("libhardroot_pkcs11_shim.so"))
        .into_iter()
        .find(|path| path.is_file())
        .expect("the shim was not built")
}

/// A scene whose token counts its signatures and can be made slow.
fn shimmed() -> Scene {
    let mut site = Site::new().unwrap();
    site.server_module = Some(shim());
    Scene::of(site)
}

fn signatures(scene: &Scene) -> usize {
    let log = fs::read_to_string(scene.site.hsm().directory().join("shim-log")).unwrap();
    log.lines().filter(|line| *line == "C_Sign").count()
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], &content].concat()
}

/// An RSA key of 16,384 bits that nobody has, and a signature to match.
fn huge_rsa() -> Vec<u8> {
    let modulus = [&[0][..], &[0xd5; 2_048]].concat();
    let key = der(0x30, &[&der(0x02, &[&modulus]), &[0x02, 3, 1, 0, 1]]);
    let algorithm = hex::decode("300d06092a864886f70d0101010500").unwrap();
    let spki = der(0x30, &[&algorithm, &der(0x03, &[&[0], &key])]);
    let signed = csr_to_be_signed(&[0x30, 0], &spki, None);
    assemble_csr(&signed, SignatureAlgorithm::RsaSha256, &[0x55; 2_048])
}

/// A CSR that `openssl req` makes with these arguments.
fn openssl_csr(arguments: &[&str]) -> Vec<u8> {
    let common = ["req", "-new", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=x", "-outform", "DER"];
    let output = Command::new("openssl").args(common).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn csr(names: Vec<String>, uri: Option<&str>) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.subject_alt_names.extend(uri.map(|uri| rcgen::SanType::URI(uri.try_into().unwrap())));
    params.serialize_request(&key).unwrap().der().to_vec()
}

#[test]
fn hostile_csrs_never_reach_the_token() {
    let scene = shimmed();
    let id = scene.site.agent_ids().unwrap().remove(0);
    let entry = scene.site.create_entry(&id, "spiffe://example.org/w", &["unix:uid:1"], &[]).unwrap();
    let mut client = SvidClient::new(scene.channel());
    let mut ask = |csr: Vec<u8>| {
        let params = vec![NewX509svidParams { entry_id: entry.clone(), csr }];
        let answer = scene.runtime.block_on(client.batch_new_x509svid(BatchNewX509svidRequest { params }));
        let result = answer.unwrap().into_inner().results.remove(0);
        (result.status.unwrap(), result.svid)
    };
    let good = csr(vec![], None);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut other_key = good.clone();
    // The key of another CSR under the signature of this one: somebody else's key claimed as one's own.
    let point = |bytes: &[u8]| bytes.windows(4).position(|w| w == [0x03, 0x42, 0x00, 0x04]).unwrap() + 4;
    let (from, at) = (csr(vec![], None), point(&good));
    other_key[at..at + 64].copy_from_slice(&from[point(&from)..][..64]);
    let many = |n: usize| csr((0..n).map(|n| format!("host-{n}.example.org")).collect(), None);
    let before = signatures(&scene);
    let mut trailing = good.clone();
    trailing.push(0);
    for (what, csr) in [
        ("a bad signature", forged),
        ("somebody else's key", other_key),
        ("RSA of 16,384 bits", huge_rsa()),
        ("RSA of 1,024 bits", openssl_csr(&["-newkey", "rsa:1024"])),
        ("a weak curve", openssl_csr(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp224r1"])),
        ("10,000 names", many(10_000)),
        ("200 names", many(200)),
        ("a trailing byte", trailing),
        ("half of it", good[..good.len() / 2].to_vec()),
        ("no bytes of sense", vec![0x30; 20_000]),
    ] {
        let (status, svid) = ask(csr);
        assert_eq!(status.code, Code::InvalidArgument as i32, "{what}: {}", status.message);
        assert!(svid.is_none() && !status.message.is_empty(), "{what}");
    }
    assert_eq!(signatures(&scene), before, "a refused CSR cost a signature");
    // A foreign ID in a CSR means nothing: the entry's is signed.
    let (status, svid) = ask(csr(vec!["evil.example.org".to_owned()], Some("spiffe://other.org/admin")));
    assert_eq!(status.code, 0, "{}", status.message);
    assert_eq!(signatures(&scene), before + 1);
    let svid = X509Svid::parse(svid.unwrap().cert_chain).unwrap();
    assert_eq!(svid.id.to_string(), "spiffe://example.org/w");
    // Where the CSR's own ID counts, a foreign one is refused.
    let admin = scene.runtime.block_on(uds_channel(&scene.site.server_socket())).unwrap();
    for foreign in ["spiffe://other.org/admin", "spiffe://example.org/spire/server", "spiffe://example.org"] {
        let request = MintX509svidRequest { csr: csr(vec![], Some(foreign)), ttl: 0 };
        let refused =
            scene.runtime.block_on(SvidClient::new(admin.clone()).mint_x509svid(request)).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{foreign}: {refused:?}");
    }
    assert_eq!(signatures(&scene), before + 1);
}

#[test]
fn a_slow_token_holds_back_handshakes_and_nobody_else() {
    let scene = shimmed();
    let control = scene.site.hsm().directory().join("shim-control");
    fs::write(control.with_extension("new"), "hang=400\n").unwrap();
    fs::rename(control.with_extension("new"), &control).unwrap();
    let before = signatures(&scene);
    scene.survives("12 handshakes with a token that takes 400 ms", async |scene| {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (address, config) = (format!("{}:{PORT}", scene.site.address), Arc::clone(&scene.nobody));
            all.spawn(async move { connect(&address, config, ConnectOptions::default()).await });
        }
        while let Some(one) = all.join_next().await {
            drop(one.unwrap().expect("every handshake is done in its time"));
        }
    });
    assert!(signatures(&scene) >= before + 12);
    // A worker that waited for the token would let one call through for each signature at best.
    assert!(scene.answered.get() >= 10, "{} calls were answered", scene.answered.get());
}

#[test]
fn a_ban_counts_on_a_connection_that_is_open() {
    let scene = Scene::new("");
    let id = scene.site.agent_ids().unwrap().remove(0);
    let mut client = EntryClient::new(scene.channel());
    let mut ask =
        || scene.runtime.block_on(client.get_authorized_entries(GetAuthorizedEntriesRequest::default()));
    ask().unwrap();
    scene.site.server_command(&["agent", "ban", "-spiffeID", &id]).unwrap().success().unwrap();
    assert_eq!(ask().unwrap_err().code(), Code::PermissionDenied);
    scene.site.server_command(&["agent", "evict", "-spiffeID", &id]).unwrap().success().unwrap();
    assert_eq!(ask().unwrap_err().code(), Code::PermissionDenied);
}

#[test]
fn the_client_a_trusted_proxy_names_is_the_one_on_record() {
    use hardroot_api::spire::api::server::agent::v1::agent_client::AgentClient;
    use hardroot_api::spire::api::server::agent::v1::{
        AgentX509svidParams, AttestAgentRequest, attest_agent_request,
    };
    use hardroot_api::spire::api::types::AttestationData;
    use tokio::io::AsyncWriteExt as _;
    let scene = Scene::new("    proxy_protocol_trusted_cidrs = [\"127.66.0.0/16\"]\n");
    let (to, config) = (scene.address(), Arc::clone(&scene.nobody));
    let channel = |from: std::net::IpAddr| {
        let config = Arc::clone(&config);
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let config = Arc::clone(&config);
            async move {
                let mut tcp = raw::tcp(from, to).await?;
                tcp.write_all(b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 8081\r\n").await?;
                let tls = tokio_rustls::TlsConnector::from(config);
                let stream = tls.connect("localhost".try_into().unwrap(), tcp).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        async move {
            tonic::transport::Endpoint::from_static("http://server").connect_with_connector(connector).await
        }
    };
    scene.runtime.block_on(async {
        let params = attest_agent_request::Params {
            data: Some(AttestationData { r#type: "join_token".into(), payload: b"no-such-token".to_vec() }),
            params: Some(AgentX509svidParams { csr: csr(vec![], None) }),
        };
        let first = AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) };
        let mut client = AgentClient::new(channel(scene::ATTACKER).await.unwrap());
        let answer =
            client.attest_agent(tokio_stream::iter([first])).await.unwrap().into_inner().message().await;
        assert!(answer.is_err());
        let elsewhere = std::net::IpAddr::from([127, 67, 0, 1]);
        assert!(channel(elsewhere).await.is_err(), "nobody else may send a header");
    });
    let server = scene.site.server.as_ref().unwrap();
    server.wait_log("198.51.100.7:4711").unwrap();
    server.wait_log("proxy_addr=127.66.6.6:").unwrap();
    server.wait_log("outside proxy_protocol_trusted_cidrs").unwrap();
}
