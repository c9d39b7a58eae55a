//! TLS between our own client and server: who is trusted, who is not, and what a bad peer can do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use common::{AGENT, Ca, SERVER, Server, call, id, slot};
use hardroot_hsm_keymanager::memory::MemoryKeyManager;
use hardroot_hsm_keymanager::{
    Custody, Digest, KeyError, KeyId, KeyInfo, KeyManager, KeyType, PublicKey, SignatureScheme,
};
use hardroot_transport::{
    BundleSet, ConnectError, ConnectOptions, Limits, PeerInfo, RemoteKey, ServerTrust, SigningOrder,
    SigningTurn, TlsIdentity, TrustError, client_config, connect, recheck, server_config, server_config_with,
    tls_incoming_with,
};
use rustls::HandshakeKind;
use rustls::sign::SigningKey;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// Tries until it works; each try is an event of its own, and all of them have a deadline.
async fn at_last<T, E>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let tries = async {
        loop {
            if let Ok(value) = attempt().await {
                return value;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), tries).await.unwrap_or_else(|_| panic!("{what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_know_each_other_with_every_kind_of_key() {
    let ca = Ca::new("example.org");
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let server_side = slot(ca.identity_of(SERVER, kind, 1, 2100).await);
        let server = Server::start(server_side, ca.bundles(), Limits::default()).await;
        let agent = ca.identity_of(AGENT, kind, 77, 2100).await;
        let leaf = agent.chain[0].clone();
        let channel = server.connect(ServerTrust::Bundle(ca.bundles()), Some(agent)).await.unwrap();
        call(&channel).await.unwrap();
        let peer = server.last_peer();
        assert_eq!(peer.id, Some(id(AGENT)));
        assert_eq!(peer.leaf_serial.as_deref(), Some("77"));
        assert_eq!(peer.cert_chain, [leaf]);
        assert!(peer.leaf_not_after.is_some_and(|end| end > SystemTime::now()));
        assert!(peer.addr.ip().is_loopback());
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_tls_1_2_only() {
    let ca = Ca::new("example.org");
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let server_side = slot(ca.identity_of(SERVER, kind, 1, 2100).await);
        let server = Server::start(server_side, ca.bundles(), Limits::default()).await;
        let agent = slot(ca.identity_of(AGENT, kind, 2, 2100).await);
        let ours = client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), Some(agent));
        let gullible = common::Gullible::new();
        let mut old = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(gullible))
            .with_client_cert_resolver(ours.client_auth_cert_resolver.clone());
        old.alpn_protocols = vec![b"h2".to_vec()];
        let channel =
            connect(&server.addr.to_string(), Arc::new(old), ConnectOptions::default()).await.unwrap();
        call(&channel).await.unwrap();
        assert_eq!(server.last_peer().id, Some(id(AGENT)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_knows_tls_1_2_only() {
    let ca = Ca::new("example.org");
    let ours = server_config(slot(ca.identity(SERVER).await), ca.bundles());
    let old = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(ours.cert_resolver.clone());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(old));
    for (trust, good) in [(ca.bundles(), true), (Ca::new("example.org").bundles(), false)] {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let acceptor = acceptor.clone();
        tokio::spawn(async move { drop(acceptor.accept(far).await) });
        let tls =
            tokio_rustls::TlsConnector::from(client_config(id(SERVER), ServerTrust::Bundle(trust), None));
        let outcome = tls.connect("localhost".try_into().unwrap(), near).await;
        assert_eq!(outcome.is_ok(), good);
        if let Ok(stream) = outcome {
            assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_needs_no_certificate() {
    let ca = Ca::new("example.org");
    let server = Server::of(&ca).await;
    let channel = server.connect(ServerTrust::Bundle(ca.bundles()), None).await.unwrap();
    call(&channel).await.unwrap();
    let peer = server.last_peer();
    assert_eq!((peer.id.clone(), peer.cert_chain.len()), (None, 0));
}

fn is_untrusted(outcome: Result<impl Sized, ConnectError>, text: &str) {
    match outcome {
        Err(error @ ConnectError::Untrusted { .. }) => {
            assert!(error.is_about_trust());
            assert!(error.to_string().contains(text), "{error} does not say {text:?}");
        }
        Err(other) => panic!("expected untrusted, got {other}"),
        Ok(_) => panic!("trusted"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_the_expected_one_is_refused() {
    let (ca, other) = (Ca::new("example.org"), Ca::new("example.org"));
    let server = Server::of(&ca).await;
    is_untrusted(server.connect(ServerTrust::Bundle(other.bundles()), None).await, SERVER);
    is_untrusted(
        server.connect(ServerTrust::Bundle(Ca::new("other.org").bundles()), None).await,
        "no bundle",
    );
    let foreign = "spiffe://example.org/spire/other";
    is_untrusted(server.connect_as(foreign, ServerTrust::Bundle(ca.bundles()), None).await, foreign);
    let expired = slot(ca.identity_of(SERVER, KeyType::EcP256, 1, 2020).await);
    let server = Server::start(expired, ca.bundles(), Limits::default()).await;
    is_untrusted(server.connect(ServerTrust::Bundle(ca.bundles()), None).await, SERVER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn insecure_bootstrap_takes_any_chain_but_only_the_expected_id() {
    let ca = Ca::new("example.org");
    let server = Server::of(&ca).await;
    let channel = server.connect(ServerTrust::InsecureBootstrap, None).await.unwrap();
    call(&channel).await.unwrap();
    let other = server.connect_as("spiffe://example.org/x", ServerTrust::InsecureBootstrap, None).await;
    is_untrusted(other, "spiffe://example.org/x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_client_certificate_is_refused_and_the_client_is_told_at_once() {
    let (ca, other) = (Ca::new("example.org"), Ca::new("example.org"));
    let server = Server::of(&ca).await;
    for bad in [
        other.identity(AGENT).await,
        Ca::new("foreign.org").identity("spiffe://foreign.org/x").await,
        ca.identity_of(AGENT, KeyType::EcP256, 1, 2020).await,
    ] {
        match server.connect(ServerTrust::Bundle(ca.bundles()), Some(bad)).await {
            Err(error @ ConnectError::Refused { .. }) => assert!(error.is_about_trust()),
            Err(other) => panic!("expected a refusal, got {other}"),
            Ok(_) => panic!("accepted"),
        }
    }
    common::counts(&server.stats.failed_handshakes, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_identity_every_handshake_fails_and_a_new_one_counts_at_once() {
    let ca = Ca::new("example.org");
    let identity: hardroot_transport::IdentitySlot = Arc::new(ArcSwapOption::empty());
    let server = Server::start(identity.clone(), ca.bundles(), Limits::default()).await;
    let trust = || ServerTrust::Bundle(ca.bundles());
    assert!(server.connect(trust(), None).await.is_err());
    for serial in [5, 6] {
        identity.store(Some(Arc::new(ca.identity_of(SERVER, KeyType::EcP256, serial, 2100).await)));
        let config = client_config(id(SERVER), trust(), None);
        let tcp = TcpStream::connect(server.addr).await.unwrap();
        let tls = tokio_rustls::TlsConnector::from(config);
        let stream = tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let svid = hardroot_identity::X509Svid::parse(vec![leaf]).unwrap();
        assert_eq!(svid.serial, serial.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_never_resumed() {
    let ca = Ca::new("example.org");
    let server = Server::of(&ca).await;
    let mut config = client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), None);
    Arc::make_mut(&mut config).resumption = rustls::client::Resumption::in_memory_sessions(8);
    let tls = tokio_rustls::TlsConnector::from(config);
    for _ in 0..3 {
        let tcp = TcpStream::connect(server.addr).await.unwrap();
        let mut stream = tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        // The server's SETTINGS; a ticket would have come before them.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_speak_h2_is_closed() {
    let ca = Ca::new("example.org");
    let server = Server::of(&ca).await;
    let mut config = client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), None);
    Arc::make_mut(&mut config).alpn_protocols.clear();
    let tcp = TcpStream::connect(server.addr).await.unwrap();
    let tls = tokio_rustls::TlsConnector::from(config);
    let mut stream = tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    assert!(stream.read_exact(&mut [0; 9]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_never_finish_the_handshake_stop_nobody_and_are_closed() {
    let ca = Ca::new("example.org");
    let limits = Limits { handshake_timeout: Duration::from_secs(5), ..Limits::default() };
    let server = Server::start(slot(ca.identity(SERVER).await), ca.bundles(), limits).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let channel = server.connect(ServerTrust::Bundle(ca.bundles()), None).await.unwrap();
    call(&channel).await.unwrap();
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0, "closed without a word");
    }
    common::counts(&server.stats.failed_handshakes, 100).await;
}

/// Lets one go each time it is told to.
struct Told {
    turns: tokio::sync::Semaphore,
    waiting: AtomicUsize,
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl SigningOrder for Told {
    async fn turn(&self) -> Result<SigningTurn, Box<dyn std::error::Error + Send + Sync>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _counted = Counted(&self.waiting);
        self.turns.acquire().await?.forget();
        Ok(Box::new(()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_waits_for_its_turn_and_one_whose_peer_is_gone_does_not() {
    let ca = Ca::new("example.org");
    let order = Arc::new(Told { turns: tokio::sync::Semaphore::new(0), waiting: AtomicUsize::new(0) });
    let server = Server::start_in_order(slot(ca.identity(SERVER).await), ca.bundles(), order.clone()).await;
    let waiting = async |count: usize| {
        at_last("so many wait", async || match order.waiting.load(Ordering::SeqCst) {
            seen if seen == count => Ok(()),
            seen => Err(seen),
        })
        .await;
    };
    let (addr, trust) = (server.addr.to_string(), ServerTrust::Bundle(ca.bundles()));
    let channel = |trust| {
        let addr = addr.clone();
        tokio::spawn(async move {
            connect(&addr, client_config(id(SERVER), trust, None), ConnectOptions::default()).await
        })
    };
    let first = channel(trust);
    waiting(1).await;
    let gone = channel(ServerTrust::Bundle(ca.bundles()));
    waiting(2).await;
    gone.abort();
    waiting(1).await;
    assert!(!first.is_finished());
    order.turns.add_permits(1);
    call(&first.await.unwrap().unwrap()).await.unwrap();
    common::counts(&server.stats.failed_handshakes, 1).await;
    // It comes too late for everybody: closed without a signature.
    let late = channel(ServerTrust::Bundle(ca.bundles()));
    waiting(1).await;
    order.turns.close();
    let late = late.await.unwrap();
    assert!(matches!(late, Err(ConnectError::TurnedAway { .. })), "{:?}", late.err());
    common::counts(&server.stats.failed_handshakes, 2).await;
}

/// Asked for another key exchange, a client sends a second ClientHello, and that is the one that costs a signature.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hello_waits_for_a_turn_of_its_own() {
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
    let ca = Ca::new("example.org");
    let order = Arc::new(Told { turns: tokio::sync::Semaphore::new(1), waiting: AtomicUsize::new(0) });
    let post_quantum = server_config_with(
        slot(ca.identity(SERVER).await),
        ca.bundles(),
        hardroot_transport::TlsPolicy::RequirePqKem.into(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut incoming = tls_incoming_with(listener, post_quantum, Limits::default(), order.clone());
    let mut provider = default_provider();
    // The first group is the one whose key share is sent at once.
    provider.kx_groups = vec![kx_group::X25519, kx_group::X25519MLKEM768];
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(common::Gullible::new()))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = tokio::spawn(async move {
        let stream = TcpStream::connect(addr).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    });
    at_last("the first turn is used and the second wanted", async || {
        let (left, waiting) = (order.turns.available_permits(), order.waiting.load(Ordering::SeqCst));
        if (left, waiting) == (0, 1) { Ok(()) } else { Err((left, waiting)) }
    })
    .await;
    assert!(!client.is_finished());
    order.turns.add_permits(1);
    let client = client.await.unwrap();
    assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
    use tokio_stream::StreamExt as _;
    assert!(incoming.next().await.is_some_and(|connection| connection.is_ok()));
}

/// What a stranger sends before anything is known of him is kept within bounds, however he cuts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_without_end_is_not_waited_for() {
    let ca = Ca::new("example.org");
    let limits = Limits { handshake_timeout: Duration::from_secs(3600), ..Limits::default() };
    let server = Server::start(slot(ca.identity(SERVER).await), ca.bundles(), limits).await;
    // A ClientHello of 16 MiB in records of one byte, and change_cipher_spec for ever.
    let begin = [[22, 3, 3, 0, 1, 1], [22, 3, 3, 0, 1, 0xff], [22, 3, 3, 0, 1, 0xff], [22, 3, 3, 0, 1, 0xff]];
    for (begin, then) in [(begin.concat(), [22, 3, 3, 0, 1, 7]), (vec![], [20, 3, 3, 0, 1, 1])] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let (mut read, mut write) = stream.split();
        let sent = async {
            write.write_all(&begin).await?;
            for _ in 0..20_000 {
                write.write_all(&then).await?;
            }
            std::future::pending::<std::io::Result<()>>().await
        };
        let mut answer = Vec::new();
        let closed = async {
            tokio::select! {
                failed = sent => drop(failed),
                _end = read.read_to_end(&mut answer) => {}
            }
        };
        tokio::time::timeout(Duration::from_secs(60), closed).await.expect("it is closed");
    }
    common::counts(&server.stats.failed_handshakes, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited_per_address_and_a_closed_one_makes_room() {
    let ca = Ca::new("example.org");
    let limits = Limits { max_per_ip: 2, ..Limits::default() };
    let server = Server::start(slot(ca.identity(SERVER).await), ca.bundles(), limits).await;
    let trust = || ServerTrust::Bundle(ca.bundles());
    let first = server.connect(trust(), None).await.unwrap();
    call(&first).await.unwrap();
    let second = server.connect(trust(), None).await.unwrap();
    call(&second).await.unwrap();
    assert!(server.connect(trust(), None).await.is_err());
    common::counts(&server.stats.refused, 1).await;
    drop(first);
    let third = at_last("room after one has gone", async || server.connect(trust(), None).await).await;
    call(&third).await.unwrap();
}

/// Signs only once another task has seen that a signature is wanted and lets it go.
struct Patient {
    keys: MemoryKeyManager,
    wanted: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

#[async_trait::async_trait]
impl KeyManager for Patient {
    fn custody(&self) -> Custody {
        self.keys.custody()
    }
    async fn generate(&self, id: &KeyId, kind: KeyType) -> Result<PublicKey, KeyError> {
        self.keys.generate(id, kind).await
    }
    async fn find(&self, id: &KeyId) -> Result<Option<PublicKey>, KeyError> {
        self.keys.find(id).await
    }
    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        self.keys.list().await
    }
    async fn sign(&self, id: &KeyId, scheme: SignatureScheme, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        let (go, gone) = oneshot::channel();
        self.wanted.send(go).unwrap();
        gone.await.unwrap();
        self.keys.sign(id, scheme, digest).await
    }
    async fn destroy(&self, id: &KeyId) -> Result<(), KeyError> {
        self.keys.destroy(id).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_key_stalls_nobody_else_even_on_one_worker() {
    let ca = Ca::new("example.org");
    let (wanted, mut wishes) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    // Runs on the one worker: if a signature held it, none would ever be let go.
    tokio::spawn(async move {
        while let Some(go) = wishes.recv().await {
            go.send(()).unwrap();
        }
    });
    let keys = Arc::new(Patient { keys: MemoryKeyManager::new(), wanted });
    let identity = ca.identity_in(keys, SERVER, KeyType::EcP256, 1, 2100).await;
    let server = Arc::new(Server::start(slot(identity), ca.bundles(), Limits::default()).await);
    let bundles = ca.bundles();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (server, trust) = (server.clone(), ServerTrust::Bundle(bundles.clone()));
            tokio::spawn(async move { call(&server.connect(trust, None).await.unwrap()).await.unwrap() })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

#[test]
fn on_a_runtime_with_one_thread_the_handshake_fails_instead_of_blocking_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let keys = Arc::new(MemoryKeyManager::new());
        let key_id = KeyId::new("k").unwrap();
        let public = keys.generate(&key_id, KeyType::EcP256).await.unwrap();
        let key = RemoteKey::new(keys, key_id, public);
        let signer = key.choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
        assert!(signer.sign(b"message").unwrap_err().to_string().contains("multi-thread"));
        assert!(key.choose_scheme(&[rustls::SignatureScheme::RSA_PSS_SHA256]).is_none());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_authority_is_noticed_at_the_next_call_of_an_open_connection() {
    let ca = Ca::new("example.org");
    let bundles = ca.bundles();
    let server = Server::start(slot(ca.identity(SERVER).await), bundles.clone(), Limits::default()).await;
    let agent = ca.identity(AGENT).await;
    let channel = server.connect(ServerTrust::Bundle(ca.bundles()), Some(agent)).await.unwrap();
    call(&channel).await.unwrap();
    call(&channel).await.unwrap();
    bundles.put(Ca::new("example.org").bundle());
    assert_eq!(call(&channel).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    bundles.put(ca.bundle());
    call(&channel).await.unwrap();
    bundles.remove(&common::td("example.org"));
    assert_eq!(call(&channel).await.unwrap_err().code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn recheck_looks_at_expiry_every_time_and_passes_those_without_a_certificate() {
    let ca = Ca::new("example.org");
    let bundles = ca.bundles();
    let addr = "127.0.0.1:1".parse().unwrap();
    let now = SystemTime::now();
    let chain = ca.identity_of(AGENT, KeyType::EcP256, 1, 2100).await.chain;
    let peer = PeerInfo::from_chain(addr, chain.clone(), &*bundles, now).unwrap();
    let end = peer.leaf_not_after.unwrap();
    recheck(&peer, &*bundles, now).unwrap();
    recheck(&peer, &*bundles, end).unwrap();
    let late = recheck(&peer, &*bundles, end + Duration::from_secs(1));
    assert!(matches!(late, Err(TrustError::Expired { .. })));
    recheck(&PeerInfo::anonymous(addr), &BundleSet::default(), now).unwrap();
    let unknown = PeerInfo::from_chain(addr, chain, &BundleSet::default(), now);
    assert!(matches!(unknown, Err(TrustError::NoBundle { .. })));
}

#[tokio::test]
async fn a_certificate_for_another_key_makes_no_identity() {
    let ca = Ca::new("example.org");
    let (one, two) = (ca.identity(AGENT).await, ca.identity(AGENT).await);
    assert!(TlsIdentity::new(one.chain.clone(), two.key).is_err());
    assert!(TlsIdentity::new(vec![], one.key.clone()).is_err());
    TlsIdentity::new(one.chain, one.key).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_to_connect_are_told_apart() {
    let ca = Ca::new("example.org");
    let config = client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), None);
    let options = || ConnectOptions { timeout: Duration::from_millis(300), ..ConnectOptions::default() };
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = free.local_addr().unwrap().to_string();
    let timed_out = connect(&silent, config.clone(), options()).await;
    assert!(matches!(timed_out, Err(ConnectError::TimedOut { .. })));
    drop(free);
    let refused = connect(&silent, config.clone(), options()).await;
    assert!(matches!(refused, Err(ConnectError::Unreachable { .. })));
    let bad = connect("no port", config, options()).await;
    assert!(matches!(bad, Err(ConnectError::BadAddress { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_mends_itself_when_the_server_comes_back() {
    let ca = Ca::new("example.org");
    let server = Server::of(&ca).await;
    let addr = server.addr;
    let channel = server.connect(ServerTrust::Bundle(ca.bundles()), None).await.unwrap();
    call(&channel).await.unwrap();
    server.stop().await;
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    let config = server_config(slot(ca.identity(SERVER).await), ca.bundles());
    let incoming = hardroot_transport::tls_incoming(listener, config, Limits::default());
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming));
    at_last("the channel mends itself", async || call(&channel).await).await;
}

/// Claims to be the key of a certificate, and signs with another one.
#[derive(Debug)]
struct Thief {
    claimed: Vec<u8>,
    own: Arc<dyn SigningKey>,
}

impl SigningKey for Thief {
    fn choose_scheme(&self, offered: &[rustls::SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        self.own.choose_scheme(offered)
    }
    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.claimed.as_slice()))
    }
    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        self.own.algorithm()
    }
}

/// The certificate of `id` in the hands of somebody without its key.
async fn stolen(ca: &Ca, id: &str) -> TlsIdentity {
    let (victim, own) = (ca.identity(id).await, ca.identity(id).await.key);
    let claimed = victim.key.public_key().unwrap().as_ref().to_vec();
    TlsIdentity::new(victim.chain, Arc::new(Thief { claimed, own })).unwrap()
}

const VERSIONS: [&[&rustls::SupportedProtocolVersion]; 2] =
    [&[&rustls::version::TLS12], &[&rustls::version::TLS13]];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_certificate_is_of_no_use_to_a_client() {
    let ca = Ca::new("example.org");
    let server = Server::of(&ca).await;
    for (number, versions) in VERSIONS.into_iter().enumerate() {
        let thief = slot(stolen(&ca, AGENT).await);
        let ours = client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), Some(thief));
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(common::Gullible::new()))
            .with_client_cert_resolver(ours.client_auth_cert_resolver.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        let outcome = connect(&server.addr.to_string(), Arc::new(config), ConnectOptions::default()).await;
        assert!(matches!(outcome, Err(ConnectError::Refused { .. })), "{versions:?}");
        common::counts(&server.stats.failed_handshakes, number as u64 + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_certificate_is_of_no_use_to_a_server() {
    let ca = Ca::new("example.org");
    for versions in VERSIONS {
        let ours = server_config(slot(stolen(&ca, SERVER).await), ca.bundles());
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(ours.cert_resolver.clone());
        for trust in [ServerTrust::Bundle(ca.bundles()), ServerTrust::InsecureBootstrap] {
            let (near, far) = tokio::io::duplex(16 * 1024);
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.clone()));
            tokio::spawn(async move { drop(acceptor.accept(far).await) });
            let tls = tokio_rustls::TlsConnector::from(client_config(id(SERVER), trust, None));
            let error = tls.connect("localhost".try_into().unwrap(), near).await.unwrap_err();
            assert!(error.to_string().contains("BadSignature"), "{versions:?}: {error}");
        }
    }
}

/// Serves TLS alone, with this configuration.
async fn tls_only(config: rustls::ServerConfig) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let accepted = acceptor.accept(tcp).await;
            tokio::spawn(async move {
                if let Ok(mut stream) = accepted {
                    tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await.unwrap();
                    drop(stream.read(&mut [0; 64]).await);
                }
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_resumes_nothing_even_where_the_server_would() {
    let ca = Ca::new("example.org");
    let mut config = (*server_config(slot(ca.identity(SERVER).await), ca.bundles())).clone();
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    config.send_tls13_tickets = 2;
    let addr = tls_only(config).await;
    let tls =
        tokio_rustls::TlsConnector::from(client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), None));
    for _ in 0..3 {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let mut stream = tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        // Tickets come before the first words.
        stream.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_speak_h2_is_no_server_of_ours() {
    let ca = Ca::new("example.org");
    let mut config = (*server_config(slot(ca.identity(SERVER).await), ca.bundles())).clone();
    config.alpn_protocols.clear();
    let addr = tls_only(config).await;
    let config = client_config(id(SERVER), ServerTrust::Bundle(ca.bundles()), None);
    let outcome = connect(&addr.to_string(), config, ConnectOptions::default()).await;
    assert!(matches!(outcome, Err(ConnectError::NotGrpc { .. })));
}

#[tokio::test]
async fn an_intermediate_that_expires_is_noticed_at_once() {
    let ca = Ca::new("example.org");
    let now = SystemTime::now();
    let chain = ca.chain_over_an_intermediate(AGENT, now + Duration::from_secs(30)).await;
    let bundles = ca.bundles();
    let peer = PeerInfo::from_chain("127.0.0.1:1".parse().unwrap(), chain, &*bundles, now).unwrap();
    recheck(&peer, &*bundles, now + Duration::from_secs(20)).unwrap();
    recheck(&peer, &*bundles, now + Duration::from_secs(29)).unwrap();
    let late = recheck(&peer, &*bundles, now + Duration::from_secs(31));
    assert!(matches!(late, Err(TrustError::Chain { .. })), "{late:?}");
}
