//! Peers that dawdle, crowd or lie about who they are, and the key exchange that a policy asks for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{AGENT, Ca, SERVER, Server, call, id, slot};
use hardroot_transport::{
    Cidr, ConnectOptions, Limits, PeerInfo, ServerTrust, TlsPolicy, client_config, client_config_with,
    connect,
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

const DEADLINE: Duration = Duration::from_secs(60);

fn cidrs(blocks: &[&str]) -> Vec<Cidr> {
    blocks.iter().map(|block| block.parse().unwrap()).collect()
}

async fn server(ca: &Ca, limits: Limits) -> Server {
    Server::start(slot(ca.identity(SERVER).await), ca.bundles(), limits).await
}

/// A channel over a connection that begins with `header`.
async fn behind_proxy(server: &Server, ca: &Ca, header: Vec<u8>) -> Result<Channel, tonic::transport::Error> {
    let config =
        client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), Some(slot(ca.identity(AGENT).await)));
    let addr = server.addr;
    let connector = tower::service_fn(move |_: http::Uri| {
        let (config, header) = (config.clone(), header.clone());
        async move {
            let mut tcp = TcpStream::connect(addr).await?;
            tcp.write_all(&header).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let tls = TlsConnector::from(config).connect(name, tcp).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

async fn seen(server: &Server, ca: &Ca, header: &[u8]) -> Arc<PeerInfo> {
    call(&behind_proxy(server, ca, header.to_vec()).await.unwrap()).await.unwrap();
    server.last_peer()
}

fn v2(source: [u8; 4], port: u16) -> Vec<u8> {
    let port = port.to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &source, &[192, 0, 2, 1], &port, &[0x1f, 0x91]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_says_who_the_client_is_and_others_may_not() {
    let ca = Ca::new("example.org");
    let trusting = server(&ca, Limits { proxies: cidrs(&["127.0.0.0/8"]), ..Limits::default() }).await;
    let peer = seen(&trusting, &ca, b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 8081\r\n").await;
    assert_eq!(peer.addr, "198.51.100.7:4711".parse().unwrap());
    assert!(peer.via.unwrap().ip().is_loopback());
    assert_eq!(peer.id, Some(id(AGENT)), "TLS begins where the header ends");
    assert_eq!(seen(&trusting, &ca, &v2([203, 0, 113, 9], 99)).await.addr, "203.0.113.9:99".parse().unwrap());
    let peer = seen(&trusting, &ca, b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n").await;
    assert_eq!(peer.addr, "[2001:db8::7]:1".parse().unwrap());
    for own in [&b""[..], b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0"] {
        let peer = seen(&trusting, &ca, own).await;
        assert!(peer.addr.ip().is_loopback() && peer.via.is_none(), "{own:?}");
    }
    for bad in [&b"PROXY TCP4 nonsense\r\n"[..], &[b'P'; 300], b"GET / HTTP/1.1\r\n\r\n"] {
        assert!(behind_proxy(&trusting, &ca, bad.to_vec()).await.is_err(), "{bad:?}");
    }
    for distrusting in [
        server(&ca, Limits { proxies: cidrs(&["192.0.2.0/24"]), ..Limits::default() }).await,
        server(&ca, Limits::default()).await,
    ] {
        let header = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 8081\r\n";
        assert!(behind_proxy(&distrusting, &ca, header.to_vec()).await.is_err());
        assert!(behind_proxy(&distrusting, &ca, v2([203, 0, 113, 9], 99)).await.is_err());
        common::counts(&distrusting.stats.failed_handshakes, 2).await;
        assert!(seen(&distrusting, &ca, b"").await.addr.ip().is_loopback());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_each_client_has_its_own_places() {
    let ca = Ca::new("example.org");
    let limits = Limits { proxies: cidrs(&["127.0.0.0/8"]), max_per_ip: 1, ..Limits::default() };
    let server = server(&ca, limits).await;
    let one = behind_proxy(&server, &ca, v2([203, 0, 113, 1], 1)).await.unwrap();
    call(&one).await.unwrap();
    let two = behind_proxy(&server, &ca, v2([203, 0, 113, 2], 1)).await.unwrap();
    call(&two).await.unwrap();
    assert!(behind_proxy(&server, &ca, v2([203, 0, 113, 1], 2)).await.is_err());
    common::counts(&server.stats.refused, 1).await;
    call(&one).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_that_never_ends_is_given_up() {
    let ca = Ca::new("example.org");
    let limits = Limits {
        proxies: cidrs(&["127.0.0.0/8"]),
        handshake_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = server(&ca, limits).await;
    for part in [&b""[..], b"P", b"PROXY TCP4 198.51", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x07\xff"] {
        let mut peer = TcpStream::connect(server.addr).await.unwrap();
        peer.write_all(part).await.unwrap();
        assert_eq!(peer.read(&mut [0; 64]).await.unwrap_or(0), 0, "{part:?}");
    }
    common::counts(&server.stats.failed_handshakes, 4).await;
}

/// A ClientHello as our client sends it.
fn client_hello(ca: &Ca) -> Vec<u8> {
    let config = client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), None);
    let mut client = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hello_byte_by_byte_is_closed_at_the_deadline_and_stops_nobody() {
    let ca = Ca::new("example.org");
    let limits = Limits { handshake_timeout: Duration::from_secs(4), ..Limits::default() };
    let server = server(&ca, limits).await;
    let hello = client_hello(&ca);
    let drips: Vec<_> = (0..50)
        .map(|_| {
            let (addr, hello) = (server.addr, hello.clone());
            tokio::spawn(async move {
                let mut peer = TcpStream::connect(addr).await.unwrap();
                let mut every = tokio::time::interval(Duration::from_millis(100));
                let mut sent = 0;
                for byte in hello.iter().cycle() {
                    let closed = tokio::select! {
                        read = peer.read_u8() => { read.unwrap_err(); true }
                        _ = every.tick() => false,
                    };
                    if closed || peer.write_u8(*byte).await.is_err() {
                        return sent;
                    }
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    for _ in 0..5 {
        let channel = server.connect(ServerTrust::Bundle(ca.bundles()), None).await.unwrap();
        call(&channel).await.unwrap();
    }
    for drip in drips {
        let sent = tokio::time::timeout(DEADLINE, drip).await.expect("closed").unwrap();
        assert!(sent < hello.len(), "{sent} bytes");
    }
    common::counts(&server.stats.failed_handshakes, 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_under_way_are_limited_per_client() {
    let ca = Ca::new("example.org");
    let limits = Limits { max_handshakes_per_ip: 3, ..Limits::default() };
    let server = server(&ca, limits).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let mut fourth = TcpStream::connect(server.addr).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), fourth.read(&mut [0; 8])).await;
    assert_eq!(read.expect("closed at once, before the handshake's deadline").unwrap_or(0), 0);
    common::counts(&server.stats.refused, 1).await;
    silent.clear();
    let tries = async {
        loop {
            if let Ok(channel) = server.connect(ServerTrust::Bundle(ca.bundles()), None).await {
                return channel;
            }
        }
    };
    call(&tokio::time::timeout(DEADLINE, tries).await.expect("places come back")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nameless_have_fewer_places_than_those_with_a_certificate() {
    let ca = Ca::new("example.org");
    let limits = Limits { max_anonymous: 2, ..Limits::default() };
    let server = server(&ca, limits).await;
    let trust = || ServerTrust::Bundle(ca.bundles());
    let nameless = server.connect(trust(), None).await.unwrap();
    call(&nameless).await.unwrap();
    match server.connect(trust(), None).await {
        Err(_) => {}
        Ok(second) => assert!(call(&second).await.is_err(), "one client has half of the places"),
    }
    for _ in 0..5 {
        let agent = server.connect(trust(), Some(ca.identity(AGENT).await)).await.unwrap();
        call(&agent).await.unwrap();
    }
    call(&nameless).await.unwrap();
    common::reaches(&server.stats.refused, 1).await;
}

fn groups(of: &[rustls::NamedGroup]) -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS
        .iter()
        .copied()
        .filter(|group| of.contains(&group.name()))
        .collect();
    assert_eq!(provider.kx_groups.len(), of.len());
    Arc::new(provider)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_quantum_key_exchange_can_be_required_by_either_side() {
    use rustls::NamedGroup::{X25519, X25519MLKEM768, secp256r1, secp256r1MLKEM768};
    let ca = Ca::new("example.org");
    let identity = || async { slot(ca.identity(SERVER).await) };
    let strict =
        Server::start_with(identity().await, ca.bundles(), Limits::default(), TlsPolicy::RequirePqKem).await;
    // A client of our own knows it without being told.
    let channel = strict.connect(ServerTrust::Bundle(ca.bundles()), None).await.unwrap();
    call(&channel).await.unwrap();
    let ours = client_config_with(
        id(SERVER),
        ServerTrust::Bundle(ca.bundles()),
        None,
        TlsPolicy::RequirePqKem.into(),
    );
    let handshake = |config: Arc<rustls::ClientConfig>, addr: std::net::SocketAddr| async move {
        let tcp = TcpStream::connect(addr).await?;
        let stream = TlsConnector::from(config).connect("localhost".try_into().unwrap(), tcp).await?;
        Ok::<_, std::io::Error>(stream.get_ref().1.negotiated_key_exchange_group().unwrap().name())
    };
    assert_eq!(handshake(ours.clone(), strict.addr).await.unwrap(), X25519MLKEM768);
    let with = |provider: Arc<rustls::crypto::CryptoProvider>,
                versions: &[&'static rustls::SupportedProtocolVersion]| {
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(common::Gullible::new()))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    };
    let tls13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    assert_eq!(
        handshake(with(groups(&[secp256r1MLKEM768]), tls13), strict.addr).await.unwrap(),
        secp256r1MLKEM768
    );
    for classical in [X25519, secp256r1] {
        assert!(handshake(with(groups(&[classical]), tls13), strict.addr).await.is_err());
    }
    assert!(handshake(with(groups(&[X25519]), &[&rustls::version::TLS12]), strict.addr).await.is_err());
    // The other way round: a server that has none of it.
    let usual = hardroot_transport::server_config(identity().await, ca.bundles());
    let classical = rustls::ServerConfig::builder_with_provider(groups(&[X25519]))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(usual.cert_resolver.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(classical));
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            drop(acceptor.accept(tcp).await);
        }
    });
    assert!(connect(&addr.to_string(), ours, ConnectOptions::default()).await.is_err());
    let easy = client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), None);
    assert_eq!(handshake(easy, addr).await.unwrap(), X25519);
}
