//! Callers that mean harm, against the real server: each attack ends, costs a bounded amount of memory, and is not
//! noticed by an agent that works all the while (faults 34 to 37).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests fail loudly"
)]

#[path = "hostile/raw.rs"]
mod raw;
#[path = "hostile/scene.rs"]
mod scene;

use std::sync::Arc;
use std::time::Duration;

use raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS,
    call, field, frame, indexed_field, next_frame,
};
use rustls::ClientConfig;
use scene::{ATTACKER, LIMITS, Scene};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

const GET_BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";
const ATTEST: &str = "/spire.api.server.agent.v1.Agent/AttestAgent";
/// Longest time for the server to end anything here.
const DEADLINE: Duration = Duration::from_secs(240);

/// Runs `many` of these at once; each must end by itself in time.
async fn crowd<F: Future<Output = ()> + Send + 'static>(many: usize, one: impl Fn(usize) -> F) {
    let mut all: JoinSet<()> = (0..many).map(one).collect();
    let ended = timeout(DEADLINE, async {
        while let Some(one) = all.join_next().await {
            one.unwrap();
        }
    });
    ended.await.expect("the server ends them");
}

/// Waits for the server to close the connection.
async fn closed(raw: Raw) {
    let (mut read, _write) = tokio::io::split(raw.0);
    let mut buffer = [0; 4096];
    while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}

/// Sends a byte of `bytes` every 50 ms until the connection is closed.
async fn drip(raw: Raw, bytes: Vec<u8>) {
    let (mut read, mut write) = tokio::io::split(raw.0);
    let mut every = interval(Duration::from_millis(50));
    let mut buffer = [0; 4096];
    for byte in bytes.iter().cycle() {
        tokio::select! {
            read = read.read(&mut buffer) => if !read.is_ok_and(|n| n > 0) { return },
            _ = every.tick() => if write.write_all(&[*byte]).await.is_err() || write.flush().await.is_err() { return },
        }
    }
}

#[test]
fn slow_loris_on_tls() {
    let scene = Scene::new(&LIMITS.replace("\"60s\"", "\"2s\""));
    scene.survives("ClientHello byte by byte, 300 connections", async |scene| {
        let (to, config) = (scene.address(), Arc::clone(&scene.nobody));
        crowd(300, |_| {
            let mut hello = Vec::new();
            let name = "localhost".try_into().unwrap();
            let mut client = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
            client.write_tls(&mut hello).unwrap();
            async move {
                let mut tcp = raw::tcp(ATTACKER, to).await.unwrap();
                let mut every = interval(Duration::from_millis(50));
                for byte in hello {
                    tokio::select! {
                        read = tcp.read_u8() => { read.unwrap_err(); return }
                        _ = every.tick() => if tcp.write_u8(byte).await.is_err() { return },
                    }
                }
                panic!("a whole ClientHello");
            }
        })
        .await;
    });
    // Those who finish the handshake have the time for it.
    let scene = Scene::new(LIMITS);
    let to = scene.address();
    for (name, config) in [("without", Arc::clone(&scene.nobody)), ("with", Arc::clone(&scene.agent))] {
        scene.survives(&format!("handshake, then silence, 200 {name} a certificate"), async |_| {
            crowd(200, |_| {
                let config = Arc::clone(&config);
                async move { closed(Raw::tls(ATTACKER, to, &config).await.unwrap()).await }
            })
            .await;
        });
    }
}

#[test]
fn slow_loris_on_http_2() {
    let scene = Scene::new(LIMITS);
    let to = scene.address();
    let each = |bytes: Vec<u8>, then: Vec<u8>| {
        let config = Arc::clone(&scene.nobody);
        move |_: usize| {
            let (config, bytes, then) = (Arc::clone(&config), bytes.clone(), then.clone());
            async move {
                let mut raw = Raw::http2(ATTACKER, to, &config, &[]).await.unwrap();
                raw.send(&bytes).await;
                if then.is_empty() { closed(raw).await } else { drip(raw, then).await }
            }
        }
    };
    scene.survives("preface, then nothing, 200", async |_| crowd(200, each(vec![], vec![])).await);
    scene.survives("headers one byte a frame, 200", async |_| {
        let begin = frame(HEADERS, 0, 1, &call(GET_BUNDLE)[..1]);
        crowd(200, each(begin, frame(CONTINUATION, 0, 1, b"x"))).await;
    });
    scene.survives("a message one byte at a time, 200", async |_| {
        let config = Arc::clone(&scene.nobody);
        crowd(200, |_| {
            let config = Arc::clone(&config);
            async move {
                let mut raw = Raw::http2(ATTACKER, to, &config, &[]).await.unwrap();
                let begin = [
                    frame(HEADERS, END_HEADERS, 1, &call(GET_BUNDLE)),
                    frame(DATA, 0, 1, &[0, 0, 0, 0xc0, 0]),
                ];
                raw.send(&begin.concat()).await;
                let (mut read, mut write) = tokio::io::split(raw.0);
                let drip = tokio::spawn(async move {
                    let mut every = interval(Duration::from_millis(100));
                    loop {
                        every.tick().await;
                        if write.write_all(&frame(DATA, 0, 1, &[0])).await.is_err()
                            || write.flush().await.is_err()
                        {
                            return;
                        }
                    }
                });
                while let Some((kind, flags, payload)) = next_frame(&mut read).await {
                    assert_ne!(kind, DATA, "an answer: {payload:?}");
                    // The refusal is an answer of headers alone.
                    if kind == HEADERS {
                        assert_ne!(flags & END_STREAM, 0);
                        break;
                    }
                }
                drip.abort();
            }
        })
        .await;
    });
}

#[test]
fn a_peer_that_never_reads() {
    // What is left of an answer may fit into HTTP/2's buffers: then the call is over, and the connection idle.
    let scene = Scene::new(&LIMITS.replace("    }\n", "        idle_timeout = \"8s\"\n    }\n"));
    let to = scene.address();
    for (name, settings) in
        [("no window at all", [0, 4, 0, 0, 0, 0]), ("a window of 100", [0, 4, 0, 0, 0, 100])]
    {
        for (who, config) in [("nobody", Arc::clone(&scene.nobody)), ("an agent", Arc::clone(&scene.agent))] {
            scene.survives(&format!("{name}, by {who}, 50 connections of 100 calls"), async |_| {
                crowd(50, |_| {
                    let config = Arc::clone(&config);
                    async move {
                        let mut raw = Raw::http2(ATTACKER, to, &config, &settings).await.unwrap();
                        for stream in (1..200).step_by(2) {
                            let ask = [
                                frame(HEADERS, END_HEADERS, stream, &call(GET_BUNDLE)),
                                frame(DATA, END_STREAM, stream, &[0; 5]),
                            ];
                            raw.send(&ask.concat()).await;
                        }
                        closed(raw).await;
                    }
                })
                .await;
            });
        }
    }
}

/// A flood from ten connections at once; all must be closed before everything is sent.
fn flood(scene: &Scene, name: &str, most: usize, batch: fn(usize) -> Vec<u8>) {
    let to = scene.address();
    scene.survives(&format!("{name}, 10 connections"), async |scene| {
        let config = Arc::clone(&scene.nobody);
        crowd(10, |_| {
            let config = Arc::clone(&config);
            async move {
                let raw = Raw::http2(ATTACKER, to, &config, &[]).await.unwrap();
                let sent = raw.flood(most, batch).await;
                assert!(sent < most, "{sent} batches were taken");
            }
        })
        .await;
    });
}

#[test]
fn floods_of_frames() {
    let scene = Scene::new(LIMITS);
    // Each batch has a hundred frames.
    flood(&scene, "PING flood", 5_000, |_| frame(PING, 0, 0, &[7; 8]).repeat(100));
    flood(&scene, "SETTINGS flood", 5_000, |_| frame(SETTINGS, 0, 0, &[]).repeat(100));
    flood(&scene, "PRIORITY flood", 5_000, |_| frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]).repeat(100));
    flood(&scene, "empty DATA flood", 5_000, |n| {
        let begin = if n == 0 { frame(HEADERS, END_HEADERS, 1, &call(ATTEST)) } else { Vec::new() };
        [begin, frame(DATA, 0, 1, &[]).repeat(100)].concat()
    });
    flood(&scene, "unknown frame flood", 5_000, |_| frame(0x77, 0, 0, &[]).repeat(100));
}

#[test]
fn continuation_flood() {
    let scene = Scene::new(LIMITS);
    flood(&scene, "CONTINUATION flood", 10_000, |n| {
        let begin = if n == 0 { frame(HEADERS, 0, 1, &call(GET_BUNDLE)) } else { Vec::new() };
        [begin, frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(1_000)))].concat()
    });
}

#[test]
fn rapid_reset() {
    let scene = Scene::new(LIMITS);
    for path in [GET_BUNDLE, ATTEST] {
        let batch: fn(usize) -> Vec<u8> = match path {
            GET_BUNDLE => |n| reset(n, GET_BUNDLE),
            _ => |n| reset(n, ATTEST),
        };
        flood(&scene, &format!("rapid reset of {path}"), 5_000, batch);
    }
}

/// A hundred calls, each reset at once.
fn reset(n: usize, path: &str) -> Vec<u8> {
    (0..100)
        .flat_map(|k| {
            let stream = u32::try_from((n * 100 + k) * 2 + 1).unwrap();
            [
                frame(HEADERS, END_HEADERS, stream, &call(path)),
                frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
            .concat()
        })
        .collect()
}

#[test]
fn headers_without_end() {
    let scene = Scene::new(LIMITS);
    let to = scene.address();
    let many: Vec<u8> = (0..10_000).flat_map(|n| field(&format!("key-{n}"), "v")).collect();
    let large = field("x-large", &"y".repeat(1 << 20));
    // One large entry in the dynamic table, then a byte for each time it is named.
    let bomb = [indexed_field("x-bomb", &"z".repeat(3_900)), vec![0xbe; 12_000]].concat();
    let much = field("x-large", &"y".repeat(20_000));
    for (name, block) in [
        ("10,000 keys", many),
        ("20 KB of metadata", much),
        ("1 MiB of metadata", large),
        ("HPACK bomb", bomb),
    ] {
        scene.survives(&format!("{name}, 50 connections"), async |scene| {
            let config = Arc::clone(&scene.nobody);
            let block = [call(GET_BUNDLE), block.clone()].concat();
            crowd(50, |_| {
                let (config, block) = (Arc::clone(&config), block.clone());
                async move {
                    let mut raw = Raw::http2(ATTACKER, to, &config, &[]).await.unwrap();
                    let mut parts = block.chunks(16_000).peekable();
                    let mut kind = HEADERS;
                    while let Some(part) = parts.next() {
                        let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
                        let end = if kind == HEADERS { END_STREAM } else { 0 };
                        if !raw.send(&frame(kind, last | end, 1, part)).await {
                            break;
                        }
                        kind = CONTINUATION;
                    }
                    refused(raw).await;
                }
            })
            .await;
        });
    }
}

/// The call is answered with an HTTP or gRPC error, reset, or the connection is closed: never a message.
async fn refused(mut raw: Raw) {
    while let Some((kind, flags, payload)) = next_frame(&mut raw.0).await {
        match kind {
            HEADERS => {
                assert_ne!(flags & END_STREAM, 0, "an answer follows");
                return;
            }
            DATA => assert!(payload.is_empty(), "an answer"),
            RST_STREAM | GOAWAY => return,
            _ => {}
        }
    }
}

#[test]
fn thousands_of_connections() {
    let scene = Scene::new(
        "    limits {\n        max_connections_per_address = 1500\n        \
         max_anonymous_connections = 1000\n        idle_timeout = \"1h\"\n    }\n",
    );
    let to = scene.address();
    let most = open_files();
    let count = most.saturating_sub(500).min(3_000);
    scene.survives(&format!("{count} connections of one address"), async |scene| {
        let mut held = Vec::new();
        for _ in 0..count {
            held.extend(raw::tcp(ATTACKER, to).await.ok());
        }
        // Handshakes: 1,000 of one client at most; the others are closed at once.
        let open = async {
            while scene.connections() > 1_100 {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, open).await.expect("closed");
    });
    for (who, config, most) in [("nobody", &scene.nobody, 500), ("an agent", &scene.agent, 1_500)] {
        scene.survives(&format!("2,000 TLS connections of {who}"), async |scene| {
            let config: Arc<ClientConfig> = Arc::clone(config);
            let mut held = Vec::new();
            for _ in 0..2_000 {
                let Ok(mut raw) = Raw::http2(ATTACKER, to, &config, &[]).await else { continue };
                let ask =
                    [frame(HEADERS, END_HEADERS, 1, &call(GET_BUNDLE)), frame(DATA, END_STREAM, 1, &[0; 5])];
                if raw.send(&ask.concat()).await {
                    held.push(raw);
                }
            }
            let open = scene.connections();
            assert!(open <= most + 20, "{open} connections are open");
            assert!(open + 20 >= most, "only {open} of {most} connections are open");
        });
    }
}

/// As many open files as this process may have.
fn open_files() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    usize::try_from(hard).unwrap_or(usize::MAX)
}
