//! Callers that want more than their share, and processes that are not who they were.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use hardroot_agent::workload_api::Limits;
use hardroot_api::workload::{ValidateJwtsvidRequest, X509svidRequest, X509svidResponse};
use tonic::{Code, Request, Streaming};

use crate::common::{Api, bundle, call_bytes, frame, identity, send, until, update, wait_frame};

const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

async fn started(limits: Limits) -> (Api, Streaming<X509svidResponse>) {
    let api = Api::start(limits).await;
    push(&api, 0);
    let mut stream = api.client().await.fetch_x509svid(X509svidRequest {}).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    (api, stream)
}

fn push(api: &Api, n: usize) {
    api.ready(update(vec![identity(&format!("/{n}"), "")], vec![bundle("example.org", b"root")]));
}

/// A workload that behaves still gets its updates.
async fn unharmed(api: &Api, stream: &mut Streaming<X509svidResponse>, n: usize) {
    push(api, n);
    let message = tokio::time::timeout(Duration::from_secs(20), stream.message()).await.expect("in time");
    assert_eq!(message.unwrap().unwrap().svids[0].spiffe_id, format!("spiffe://example.org/{n}"));
}

/// Whether the server closes a connection.
fn closed(stream: &mut UnixStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A call that gets no identity: refused at once, or as a stream without a message.
async fn refused(api: &Api, request: Request<X509svidRequest>) -> bool {
    match api.client().await.fetch_x509svid(request).await {
        Ok(stream) => stream.into_inner().message().await.is_err(),
        Err(_) => true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn giant_metadata_and_messages_are_refused() {
    let (api, mut stream) = started(Limits::default()).await;
    for size in [10 << 10, 20 << 10, 200 << 10] {
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("x", "y".repeat(size).parse().unwrap());
        assert!(refused(&api, request).await, "{size} bytes");
    }
    let mut request = Request::new(X509svidRequest {});
    for i in 0..1_000 {
        let name: tonic::metadata::MetadataKey<tonic::metadata::Ascii> = format!("k{i}").parse().unwrap();
        request.metadata_mut().insert(name, "v".repeat(20).parse().unwrap());
    }
    assert!(refused(&api, request).await);
    let request = ValidateJwtsvidRequest { audience: "a".into(), svid: "x".repeat(1 << 20) };
    let status = api.client().await.validate_jwtsvid(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    unharmed(&api, &mut stream, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_headers_end_the_connection() {
    let (api, mut stream) = started(Limits::default()).await;
    let mut raw = api.raw();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 0, 1, &[]));
    send(&mut raw, &bytes);
    let mut written = 0;
    while raw.write_all(&frame(9, 0, 1, &[0x40; 1_000])).is_ok() {
        written += 1;
        assert!(written < 100_000, "an endless header block is accepted");
    }
    unharmed(&api, &mut stream, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_sockets_leaves_those_who_are_there_alone() {
    let limits =
        Limits { max_connections_per_uid: 30, first_byte: Duration::from_secs(60), ..Limits::default() };
    let (api, mut stream) = started(limits).await;
    let flood: Vec<UnixStream> = (0..1_000).filter_map(|_| UnixStream::connect(api.path()).ok()).collect();
    unharmed(&api, &mut stream, 1).await;
    let refused = api.raw();
    let mut refused = refused;
    let shut = tokio::task::spawn_blocking(move || closed(&mut refused)).await.unwrap();
    assert!(shut, "one more is closed at once");
    drop(flood);
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        // While there is no place, already the connection may be closed under the client's greeting.
        if let Ok(mut client) = api.try_client().await
            && client.fetch_x509svid(X509svidRequest {}).await.is_ok()
        {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "places are given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_idle_connections_are_closed_and_open_streams_are_not() {
    let short = Duration::from_millis(300);
    let limits = Limits { first_byte: short, idle: short, look_again: short, ..Limits::default() };
    let (api, mut stream) = started(limits).await;
    let mut silent = api.raw();
    let mut slow = api.raw();
    send(&mut slow, b"PRI * HT");
    let mut handshaken = api.raw();
    send(&mut handshaken, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat());
    let ends = tokio::task::spawn_blocking(move || {
        [closed(&mut silent), closed(&mut slow), closed(&mut handshaken)]
    });
    assert_eq!(ends.await.unwrap(), [true; 3]);
    // By now the stream has been quiet for longer than any connection may idle.
    unharmed(&api, &mut stream, 1).await;
    assert_eq!(api.streams(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_at_all_is_closed_long_before_who_idles() {
    let limits = Limits { first_byte: Duration::from_millis(200), ..Limits::default() };
    let (api, mut stream) = started(limits).await;
    let mut silent = api.raw();
    assert!(tokio::task::spawn_blocking(move || closed(&mut silent)).await.unwrap());
    unharmed(&api, &mut stream, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_calls_are_answered_and_forgotten() {
    let limits = Limits { answer: Duration::from_millis(200), ..Limits::default() };
    let (api, mut stream) = started(limits).await;
    let mut raw = api.raw();
    send(&mut raw, &call_bytes(FETCH, false));
    tokio::task::spawn_blocking(move || wait_frame(&mut raw, 1)).await.unwrap();
    assert_eq!(api.streams(), 1);
    unharmed(&api, &mut stream, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted() {
    let limits = Limits { max_calls_per_uid: 3, ..Limits::default() };
    let (api, mut stream) = started(limits).await;
    let mut client = api.client().await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(client.fetch_x509svid(X509svidRequest {}).await.unwrap());
    }
    let status = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    drop(held);
    until("places are given back", || api.streams() == 1).await;
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while client.fetch_x509svid(X509svidRequest {}).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "places are given back");
    }
    unharmed(&api, &mut stream, 1).await;
}

/// A process (perl, which every Debian system has) connects, calls, and does `then` once its input ends; the socket survives exec and fork.
fn process(api: &Api, then: &str) -> std::process::Child {
    let bytes: String = call_bytes(FETCH, true).iter().map(|b| format!("{b:02x}")).collect();
    let program = format!(
        "use Socket; use POSIX; $^F=1000; socket(my $s,PF_UNIX,SOCK_STREAM,0)||die; connect($s,pack_sockaddr_un($ARGV[0]))||die; \
         syswrite($s,pack('H*','{bytes}')); <STDIN>; {then}"
    );
    let mut command = Command::new("/usr/bin/perl");
    command.args(["-e", &program]).arg(api.path()).stdin(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_process_is_no_longer_the_one_that_asked() {
    let limits = Limits { look_again: Duration::from_millis(50), ..Limits::default() };
    let mut others = vec![
        ("another program", "exec '/bin/sleep','60'"),
        // The child inherits the socket; the process that asked ends.
        ("another process", "fork() && POSIX::_exit(0); sleep 60"),
    ];
    if nix::unistd::geteuid().is_root() {
        others.push(("another user", "POSIX::setuid(4242); sleep 60"));
    }
    for (what, then) in others {
        let (api, _stream) = started(limits.clone()).await;
        let mut child = process(&api, then);
        until("the process has its stream", || api.streams() == 2).await;
        drop(child.stdin.take());
        until(what, || api.streams() == 1).await;
        drop(child.kill());
        child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_never_reaches_another_process() {
    // Nobody looks on a timer here: only the push itself can notice.
    let limits = Limits { look_again: Duration::from_secs(3_600), ..Limits::default() };
    for then in ["exec '/bin/sleep','60'", "fork() && POSIX::_exit(0); sleep 60"] {
        let (api, _stream) = started(limits.clone()).await;
        let mut child = process(&api, then);
        until("the process has its stream", || api.streams() == 2).await;
        let before = std::fs::read_link(format!("/proc/{}/exe", child.id())).unwrap();
        drop(child.stdin.take());
        until("it is another", || {
            child.try_wait().unwrap().is_some()
                || std::fs::read_link(format!("/proc/{}/exe", child.id())).ok() != Some(before.clone())
        })
        .await;
        assert_eq!(api.streams(), 2, "nothing has happened yet");
        push(&api, 1);
        until("the stream ends instead of being served", || api.streams() == 1).await;
        drop(child.kill());
        drop(child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_streams_are_nothing_special() {
    let (api, mut stream) = started(Limits::default()).await;
    let resident = || -> usize {
        let status = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = status.lines().find(|l| l.starts_with("Rss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = resident();
    let mut sockets = Vec::new();
    for _ in 0..1_000 {
        let mut raw = api.raw();
        send(&mut raw, &call_bytes(FETCH, true));
        sockets.push(raw);
    }
    let mut sockets = tokio::task::spawn_blocking(move || {
        for raw in &mut sockets {
            wait_frame(raw, 0);
        }
        sockets
    })
    .await
    .unwrap();
    assert_eq!(api.streams(), 1_001);
    let each = resident().saturating_sub(before);
    // Other tests run in this process at the same time, so this bound only catches a gross leak; the benchmark measures.
    println!("resident memory for 1,000 streams: {each} KiB");
    assert!(each < 128 << 10, "{each} KiB for a thousand streams");
    unharmed(&api, &mut stream, 1).await;
    tokio::task::spawn_blocking(move || {
        for raw in &mut sockets {
            wait_frame(raw, 0);
        }
    })
    .await
    .unwrap();
    until("all are gone", || api.streams() == 1).await;
}

/// Sends these bytes one at a time, over and over, until the connection is closed.
fn drip(mut raw: UnixStream, bytes: &[u8], each: Duration) -> bool {
    raw.set_read_timeout(Some(each)).unwrap();
    let mut buffer = [0; 4096];
    for byte in bytes.iter().cycle().take(2_000) {
        if raw.write_all(&[*byte]).is_err() {
            return true;
        }
        match raw.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return true,
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_at_a_time_is_ended_whatever_it_is_a_part_of() {
    let short = Duration::from_millis(500);
    let limits = Limits { first_byte: short, idle: short, answer: short, ..Limits::default() };
    let (api, mut stream) = started(limits).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let begun = [preface.clone(), frame(4, 0, 0, &[])].concat();
    let message = [call_bytes(FETCH, false), frame(0, 0, 1, &[0, 0, 0, 0, 200])].concat();
    for (what, begin, then) in [
        ("the preface", vec![], preface.clone()),
        ("a SETTINGS frame", preface, frame(4, 0, 0, &[0; 600])),
        ("a header block", begun, [frame(1, 0, 1, &[0x83]), frame(9, 0, 1, &[0x84]).repeat(100)].concat()),
        ("a message", message, frame(0, 0, 1, &[0]).repeat(100)),
    ] {
        let mut raw = api.raw();
        send(&mut raw, &begin);
        let ended = tokio::task::spawn_blocking(move || drip(raw, &then, Duration::from_millis(20)));
        assert!(ended.await.unwrap(), "{what}");
    }
    unharmed(&api, &mut stream, 1).await;
    assert_eq!(api.streams(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_the_connection() {
    let (api, mut stream) = started(Limits::default()).await;
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    for (what, begin, flood) in [
        ("PING", begin.clone(), frame(6, 1, 0, &[0; 8])),
        ("PRIORITY", begin, frame(2, 0, 3, &[0, 0, 0, 0, 1])),
        ("empty DATA", call_bytes(FETCH, false), frame(0, 0, 1, &[])),
    ] {
        let mut raw = api.raw();
        send(&mut raw, &begin);
        let flood = flood.repeat(100);
        let sent = tokio::task::spawn_blocking(move || (0..20_000).find(|_| raw.write_all(&flood).is_err()));
        assert!(sent.await.unwrap().is_some(), "{what}");
    }
    unharmed(&api, &mut stream, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_sockets_are_bounded_and_given_back() {
    let limits = Limits { first_byte: Duration::from_secs(2), ..Limits::default() };
    let (api, mut stream) = started(limits).await;
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // Both ends of each socket are this process's.
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let count = usize::try_from(hard / 8).unwrap().min(2_000);
    let mut flood: Vec<UnixStream> =
        (0..count).filter_map(|_| UnixStream::connect(api.path()).ok()).collect();
    assert!(flood.len() > count / 2, "only {} of {count} sockets", flood.len());
    unharmed(&api, &mut stream, 1).await;
    let ended = tokio::task::spawn_blocking(move || {
        for raw in &mut flood {
            raw.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            assert!(closed(raw), "a silent socket is open still");
        }
    });
    ended.await.unwrap();
    unharmed(&api, &mut stream, 2).await;
    println!("{} open files after {count} sockets", files());
}
